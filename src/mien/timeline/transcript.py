"""Transcripts: turns and words with times, and the expression, valence and arousal of who speaks during each.

Reads whisperX and Whisper JSON, SRT, WebVTT and RTTM. docs/TURNS.md explains the columns.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mien.clock import row_durations
from mien.errors import ConfigError, MediaError
from mien.labels import probability_column
from mien.timeline.formats import rttm, srt, webvtt
from mien.timeline.formats.annotations import decode
from mien.timeline.table import Timeline

#: Formats of transcripts by suffix.
SUFFIXES = (".json", ".srt", ".vtt", ".rttm")
#: Share of a speaker's turns in which a person must be seen to speak to be that speaker. Our choice: in ten
#: rendered conversations the true person has 0.33 to 0.97, and the other one at most 0.11.
MIN_OWN_SHARE = 0.25
#: A word between two rows takes the nearest one within this time, in seconds. Our choice: the step of rows of sound.
NEAREST_ROW_S = 0.1


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of speech. start_s, stop_s: seconds. text: "" if unknown. speaker: label of the transcript, "" if none.
    words: of a turn, each a span; empty if the transcript has no times of words."""

    start_s: float
    stop_s: float
    text: str = ""
    speaker: str = ""
    words: tuple[Span, ...] = ()


def read_transcript(path: Path) -> list[Span]:
    """The turns of a transcript by time. Raises MediaError: it is missing, or not of its format."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise _unreadable(path, f"its suffix is none of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise _unreadable(path, "there is no such file")
    try:
        text = decode(path.read_bytes())
        if suffix == ".json":
            turns = _from_json(json.loads(text))
        elif suffix == ".rttm":
            turns = [Span(i.start_s, i.stop_s, "", i.person) for i in rttm.loads(text).items]
        else:
            cues = (srt if suffix == ".srt" else webvtt).cue_texts(text)
            turns = [Span(start, stop, " ".join(words.split()), speaker) for start, stop, speaker, words in cues]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _unreadable(path, str(error).splitlines()[0]) from error
    return sorted(turns, key=lambda turn: (turn.start_s, turn.stop_s))


def _from_json(content: Any) -> list[Span]:
    """Turns of whisperX: `segments` with start, end, text and, if aligned and diarised, words and speaker."""
    segments = content.get("segments") if isinstance(content, dict) else content
    if not isinstance(segments, list):
        raise ValueError("it has no list of segments, as whisperX writes it")
    turns = []
    for number, segment in enumerate(segments):
        if not isinstance(segment, dict) or "start" not in segment or "end" not in segment:
            raise ValueError(f"segment {number} has no start and end")
        start, stop = float(segment["start"]), float(segment["end"])
        speaker = str(segment.get("speaker") or "")
        words = _words(segment.get("words") or [], start, stop, speaker)
        turns.append(Span(start, stop, str(segment.get("text", "")).strip(), speaker, words))
    return turns


def _words(words: Sequence[Mapping[str, Any]], start: float, stop: float, speaker: str) -> tuple[Span, ...]:
    """Words with times. Those that could not be aligned, such as numbers, share the gap between their neighbours."""
    known = [("start" in w and "end" in w) for w in words]
    spans: list[Span] = []
    i = 0
    while i < len(words):
        j = i
        while j < len(words) and not known[j]:
            j += 1
        left = spans[-1].stop_s if spans else start
        right = float(words[j]["start"]) if j < len(words) else stop
        step = max(right - left, 0.0) / max(1, j - i)
        for k in range(i, j):
            spans.append(_word(words[k], left + (k - i) * step, left + (k - i + 1) * step, speaker))
        if j < len(words):
            spans.append(_word(words[j], float(words[j]["start"]), float(words[j]["end"]), speaker))
        i = j + 1
    return tuple(spans)


def _word(word: Mapping[str, Any], start: float, stop: float, speaker: str) -> Span:
    text = str(word.get("word", word.get("text", ""))).strip()
    return Span(start, stop, text, str(word.get("speaker") or speaker))


def _unreadable(path: Path, reason: str) -> MediaError:
    return MediaError(
        f"{path} cannot be read as a transcript: {reason}",
        follows="Nothing was read.",
        remedy="Give the JSON of whisperX, or an .srt, .vtt or .rttm file.",
    )


# --- who speaks ------------------------------------------------------------------------------------------------


def match_speakers(
    timeline: Timeline, turns: Sequence[Span], chosen: Mapping[str, int] | None = None
) -> dict[str, int]:
    """The subject of each speaker of a transcript; speakers who are nobody in view are left out.

    A speaker is the subject with most seconds of own speech (column `speech`) in the speaker's turns, each subject
    being at most one speaker (the assignment with the largest sum), if that is at least MIN_OWN_SHARE of their time.

    Args:
        chosen: speaker -> subject, which is not questioned.

    Raises ConfigError for a chosen speaker or subject that does not exist.
    """
    from scipy.optimize import linear_sum_assignment

    speakers = list(dict.fromkeys(turn.speaker for turn in turns if turn.speaker))
    matched = dict(chosen or {})
    for speaker, subject in matched.items():
        if speaker not in speakers or subject not in timeline.subjects:
            there = ", ".join(speakers) or "no speakers", ", ".join(map(str, timeline.subjects)) or "nobody"
            raise ConfigError(
                f"there is no speaker {speaker!r} or no subject {subject}: the transcript has {there[0]}, the timeline "
                f"{there[1]}",
                follows="Nothing was written.",
                remedy="Write --speaker SPEAKER_00=1 with names from there.",
            )
    rest = [s for s in speakers if s not in matched]
    subjects = [s for s in timeline.subjects if s not in matched.values()]
    if not rest or not subjects:
        return matched
    seconds, shares = np.zeros((2, len(rest), len(subjects)))
    for j, subject in enumerate(subjects):
        rows = _Rows(timeline, subject)
        for i, speaker in enumerate(rest):
            seconds[i, j], shares[i, j] = rows.own_time([t for t in turns if t.speaker == speaker])
    for i, j in zip(*linear_sum_assignment(-seconds), strict=True):
        if shares[i, j] >= MIN_OWN_SHARE:
            matched[rest[i]] = subjects[j]
    return matched


class _Rows:
    """Rows of one subject, for means over spans of time."""

    def __init__(self, timeline: Timeline, subject: int) -> None:
        table = timeline.rows_of(subject)
        self.times = table["time_s"].to_numpy()
        self.lasts = row_durations(self.times) if len(self.times) > 1 else np.ones(1)
        alone = len(timeline.subjects) == 1  # undecided speech of the only person is theirs
        speech = table["speech"].fill_null("").to_numpy()
        self.own = (speech == "own") | ((speech == "shared") & alone)
        self.classes = timeline.classes
        names = [probability_column(name) for name in timeline.classes]
        values = table.select(*names, "valence", "arousal").cast(pl.Float64).fill_null(float("nan")).to_numpy()
        self.probabilities, self.values = values[:, :-2], values[:, -2:]
        self.face = table["evidence"].is_in(["face", "both"]).to_numpy()

    def weights(self, start: float, stop: float) -> np.ndarray:
        """`(row,)` seconds of each row inside the span; of a span between rows, the nearest row."""
        inside: np.ndarray = np.clip(np.minimum(self.times + self.lasts, stop) - np.maximum(self.times, start), 0, None)
        if not inside.any():
            nearest = int(np.abs(self.times - (start + stop) / 2).argmin())
            if abs(self.times[nearest] - (start + stop) / 2) <= NEAREST_ROW_S:
                inside[nearest] = 1e-3
        return inside

    def own_time(self, spans: Iterable[Span]) -> tuple[float, float]:
        """Time of spans in which the subject is seen to speak, in seconds and as a share."""
        weights = [self.weights(s.start_s, s.stop_s) for s in spans]
        total = sum(float(w.sum()) for w in weights)
        own = sum(float(w[self.own].sum()) for w in weights)
        return own, own / total if total else 0.0


def utterances(timeline: Timeline, turns: Sequence[Span], speakers: Mapping[str, int]) -> pl.DataFrame:
    """One row for each turn and each word, by time: what the speaker shows meanwhile.

    Columns: `level` (turn or word), `turn` (number from 0), `start_s`, `stop_s`, `speaker`, `subject` (null: nobody in
    view), `own_share` (share of the span in which the subject is seen to speak), `text`, `expression` and `confidence`
    (class of the highest mean probability over the span, and that mean), `valence`, `arousal` (means over the span),
    and `face_share` (share of the span with the speaker's face). Without an estimate in the span they are null.

    Args:
        speakers: see `match_speakers`. Without a speaker, a turn is that of the subject who is seen to speak most in
            it, by MIN_OWN_SHARE; a timeline of sound alone has one subject, who speaks all turns.
    """
    rows = {subject: _Rows(timeline, subject) for subject in timeline.subjects}
    sound_alone = next(iter(rows)) if len(rows) == 1 and not next(iter(rows.values())).face.any() else None
    records = []
    for number, turn in enumerate(turns):
        subject = speakers.get(turn.speaker) if turn.speaker else _seen_to_speak(rows, turn)
        subject = sound_alone if subject is None else subject
        records.append(_record("turn", number, turn, subject, rows))
        for word in turn.words:
            own = speakers.get(word.speaker, subject) if word.speaker != turn.speaker else subject
            records.append(_record("word", number, word, own, rows))
    return pl.DataFrame(records, schema=_SCHEMA, orient="row")


_SCHEMA = {
    "level": pl.String,
    "turn": pl.Int64,
    "start_s": pl.Float64,
    "stop_s": pl.Float64,
    "speaker": pl.String,
    "subject": pl.Int64,
    "own_share": pl.Float64,
    "text": pl.String,
    "expression": pl.String,
    "confidence": pl.Float64,
    "valence": pl.Float64,
    "arousal": pl.Float64,
    "face_share": pl.Float64,
}


def _seen_to_speak(rows: Mapping[int, _Rows], turn: Span) -> int | None:
    shares = {subject: own.own_time([turn])[1] for subject, own in rows.items()}
    best = max(shares, key=lambda s: shares[s], default=None)
    return best if best is not None and shares[best] >= MIN_OWN_SHARE else None


def _record(level: str, number: int, span: Span, subject: int | None, rows: Mapping[int, _Rows]) -> tuple[Any, ...]:
    start = level, number, round(span.start_s, 3), round(span.stop_s, 3), span.speaker or None, subject
    if subject is None:
        return (*start, None, span.text or None, None, None, None, None, None)
    own = rows[subject]
    weights = own.weights(span.start_s, span.stop_s)
    total = float(weights.sum())
    means = _means(own.probabilities, weights)
    best = None if means is None else int(means.argmax())
    values = [_means(own.values[:, k : k + 1], weights) for k in (0, 1)]
    return (
        *start,
        round(own.own_time([span])[1], 3),
        span.text or None,
        None if best is None else own.classes[best],
        None if means is None else round(float(means.max()), 5),
        *(None if v is None else round(float(v[0]), 5) for v in values),
        round(float(weights[own.face].sum()) / total, 3) if total else None,
    )


def _means(values: np.ndarray, weights: np.ndarray) -> np.ndarray | None:
    """Means of `(row, k)` over the rows with values; None without any."""
    known = np.isfinite(values).all(axis=1) & (weights > 0)
    return np.asarray(np.average(values[known], axis=0, weights=weights[known])) if known.any() else None


def write_utterances(table: pl.DataFrame, path: Path) -> Path:
    """Writes the table as .csv, .jsonl or .parquet. Raises OutputError."""
    from mien.atomic import atomic_path
    from mien.errors import OutputError

    writers: dict[str, Callable[[Path], object]] = {
        ".csv": table.write_csv,
        ".jsonl": table.write_ndjson,
        ".parquet": table.write_parquet,
    }
    if path.suffix.lower() not in writers:
        raise OutputError(
            f"{path}: a table of turns cannot be written as {path.suffix or 'a file without a suffix'}",
            follows="Nothing was written.",
            remedy=f"End the name in {', '.join(writers)}.",
        )
    with atomic_path(path) as temporary:
        writers[path.suffix.lower()](temporary)
    return path
