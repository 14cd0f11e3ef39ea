"""Dataset reader for EMO-DB, the Berlin database of emotional speech, and its leave-speakers-out folds.

Source: Burkhardt, Paeschke, Rolfes, Sendlmeier, Weiss 2005, A Database of German Emotional Speech, Interspeech. Actors
speak German sentences, one speaker and one emotion in each file. The file name gives all labels: `03a01Fa.wav` is
speaker 03, text a01, happiness (German Freude), version a.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np
import soundfile

from mien.datasets.frame_times import label_times
from mien.datasets.index_entries import ERROR, CorpusContents, Entry, Problem, Stamp
from mien.datasets.named_clips import subject_splits
from mien.errors import CorpusError, MediaError
from mien.labels import EMODB_LETTERS, EXPRESSIONS
from mien.media.probe import probe
from mien.records import Clip, Labels

MEN, WOMEN = ("03", "10", "11", "12", "15"), ("08", "09", "13", "14", "16")
_NAME = re.compile(r"(?P<speaker>\d\d)(?P<text>[a-z]\d\d)(?P<emotion>[A-Z])(?P<version>[a-z]?)")
#: Files named in an error text; the rest is counted.
_LISTED = 5


def read(root: Path, *, progress: Callable[[int, int], None] | None = None) -> CorpusContents:
    """List all utterances under `root` and the files that cannot be decoded.

    Splits are by speaker (`named_clips.subject_splits`); `speaker_folds` makes folds instead.

    Args:
        progress: called with (files probed, files in total).

    Raises:
        CorpusError: as `read_utterances`.
    """
    root = Path(root)
    utterances = _utterances(root)
    entries: list[Entry] = []
    problems: list[Problem] = []
    splits = subject_splits({item.speaker: "male" if item.speaker in MEN else "female" for _, item in utterances})
    for count, (path, utterance) in enumerate(utterances, 1):
        name = path.relative_to(root).as_posix()
        try:
            info = probe(path)
        except MediaError as error:
            problems.append(Problem(ERROR, "unreadable media", name, None, error.what, "the clip is left out"))
            continue
        entries.append(
            Entry(
                path.stem,
                name,
                subject=utterance.speaker,
                splits={"expr": splits[utterance.speaker]},
                labels={"expr": utterance.expression},
                stamp=Stamp.of(path),
                duration_s=info.audio_stop_s or info.duration_s,
                has_audio=info.has_audio,
                has_video=info.has_video,
            )
        )
        if progress:
            progress(count, len(utterances))
    counts = Counter(EXPRESSIONS[int(entry.labels["expr"])] for entry in entries)
    return CorpusContents(entries, problems, counts={"utterances": {k: counts[k] for k in EXPRESSIONS if counts[k]}})


def labels(root: Path, entry: Entry, tasks: Sequence[str], classes: Sequence[str] = EXPRESSIONS) -> Labels | None:
    """Labels of an utterance: its expression every 1/25 s over its length, and no valence or arousal (NaN)."""
    return utterance_labels(entry.duration_s or 0.0, int(entry.labels["expr"]))


def utterance_labels(duration_s: float, expression: int) -> Labels:
    """Labels of a recording with one expression (class index) over its whole length, every 1/25 s."""
    times = label_times(duration_s)
    return Labels(times, np.full(len(times), expression), np.full((len(times), 2), np.nan))


def read_utterances(root: Path) -> list[Clip]:
    """List all utterances under `root` as labelled clips, sorted by id, without an index.

    The id is the file's stem and the subject the speaker's two digits.

    Raises:
        CorpusError: `root` is no folder, holds no `.wav` file, or holds one that is not an utterance of EMO-DB: its
            name does not follow the scheme, it cannot be opened, or its name occurs twice.
    """
    return [
        Clip(path.stem, path, subject=item.speaker, labels=utterance_labels(item.duration_s, item.expression))
        for path, item in _utterances(Path(root))
    ]


@dataclass(frozen=True, slots=True)
class _Utterance:
    speaker: str
    expression: int
    duration_s: float


def _utterances(root: Path) -> list[tuple[Path, _Utterance]]:
    example = "Name the folder that holds 03a01Fa.wav and the other utterances."
    if not root.is_dir():
        raise CorpusError(
            f"{root} {'is a file' if root.exists() else 'does not exist'}; the root of EMO-DB is a folder",
            follows="Nothing was read.",
            remedy=example,
        )
    files = sorted((p for p in root.rglob("*") if p.suffix.lower() == ".wav"), key=lambda p: (p.stem, p))
    if not files:
        raise CorpusError(
            f"{root} holds no .wav file, so no utterance of EMO-DB", follows="Nothing was read.", remedy=example
        )
    utterances: list[tuple[Path, _Utterance]] = []
    errors: list[str] = []
    for path in files:
        if utterances and utterances[-1][0].stem == path.stem:
            errors.append(f"{path.relative_to(root)}: its name occurs twice, first as {utterances[-1][0]}")
            continue
        try:
            utterances.append((path, _parse_file(path)))
        except ValueError as error:
            errors.append(f"{path.relative_to(root)}: {error}")
    if errors:
        more = f" (and {len(errors) - _LISTED} more)" if len(errors) > _LISTED else ""
        raise CorpusError(
            f"{root}: {len(errors)} of {len(files)} files are not utterances of EMO-DB: "
            + "; ".join(errors[:_LISTED])
            + more,
            follows="Nothing was read, because other files could add wrong labels.",
            remedy="Move these files elsewhere, or copy the corpus again.",
        )
    return utterances


def _parse_file(path: Path) -> _Utterance:
    """Speaker, expression and duration of a file. Raises ValueError with the reason where it is no utterance."""
    name = _NAME.fullmatch(path.stem)
    if name is None:
        raise ValueError("the name is not speaker (2 digits), text (a letter, 2 digits), emotion (a letter), version")
    letter = name["emotion"]
    if letter not in EMODB_LETTERS:
        raise ValueError(f"emotion {letter!r} is none of {', '.join(EMODB_LETTERS)}")
    try:
        info = soundfile.info(str(path))
    except (soundfile.LibsndfileError, OSError) as error:
        raise ValueError(f"it cannot be opened ({error})") from None
    return _Utterance(name["speaker"], EMODB_LETTERS[letter], info.frames / info.samplerate)


@dataclass(frozen=True, slots=True)
class Fold:
    """One leave-speakers-out fold. speakers: the held-out ones. train, test: clips of the others, and of them."""

    speakers: tuple[str, ...]
    train: list[Clip]
    test: list[Clip]


def speaker_folds(clips: Sequence[Clip], held_out: int = 2) -> list[Fold]:
    """Split clips into leave-speakers-out folds. Each speaker is held out once, `held_out` speakers at a time.

    With two at a time and as many men as women, each fold holds out a man and a woman. Of all pairings, the one with
    the most utterances of the rarest class in any fold is taken, the first of equals in the order of speakers. Our
    choice, because a fold with one utterance of a class does not measure it (for disgust, speaker 08 has none, 03 and
    10 have one each). The pairing reads labels only. Otherwise, neighbours in the order of speakers form a fold.

    Raises:
        CorpusError: `held_out` does not divide the number of speakers, or gives fewer than two folds.
    """
    speakers = sorted({clip.subject for clip in clips})
    if held_out < 1 or len(speakers) % held_out or len(speakers) < 2 * held_out:
        raise CorpusError(
            f"{len(speakers)} speakers ({', '.join(speakers)}) cannot be held out {held_out} at a time",
            follows="No folds were made.",
            remedy="Choose a number that divides the number of speakers and leaves at least as many for training.",
        )
    groups = [tuple(speakers[i : i + held_out]) for i in range(0, len(speakers), held_out)]
    men, women = ([s for s in speakers if s in known] for known in (MEN, WOMEN))
    if held_out == 2 and len(men) == len(women) == len(groups):
        groups = _pair_speakers(clips, men, women)
    return [Fold(g, [c for c in clips if c.subject not in g], [c for c in clips if c.subject in g]) for g in groups]


def _pair_speakers(clips: Sequence[Clip], men: list[str], women: list[str]) -> list[tuple[str, ...]]:
    count = Counter((c.subject, int(c.labels.expression[0])) for c in clips if c.labels is not None)
    classes = sorted({expression for _, expression in count})

    def rarest_count(order: tuple[str, ...]) -> int:
        return min(count[man, k] + count[woman, k] for man, woman in zip(men, order, strict=True) for k in classes)

    best = max(permutations(women), key=rarest_count)  # max returns the first of equals
    return [tuple(sorted(pair)) for pair in zip(men, best, strict=True)]
