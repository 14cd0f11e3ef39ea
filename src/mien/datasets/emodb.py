"""EMO-DB, the Berlin database of emotional speech: acted German sentences, one speaker and one emotion a
file.

Burkhardt, Paeschke, Rolfes, Sendlmeier, Weiss 2005, A Database of German Emotional Speech, Interspeech. A
file's name says it all: `03a01Fa.wav` is speaker 03, text a01, happiness (German Freude), version a.
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

from mien.datasets.csv_folder import LABEL_RATE_HZ
from mien.datasets.index_entries import ERROR, CorpusContents, Entry, Problem, Stamp
from mien.errors import CorpusError, MediaError
from mien.labels import EMODB_LETTERS, EXPRESSIONS
from mien.media.probe import probe
from mien.records import Clip, Labels

MEN, WOMEN = ("03", "10", "11", "12", "15"), ("08", "09", "13", "14", "16")
_NAME = re.compile(r"(?P<speaker>\d\d)(?P<text>[a-z]\d\d)(?P<emotion>[A-Z])(?P<version>[a-z]?)")
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Fold:
    """Speakers left out, and the clips with and without them."""

    speakers: tuple[str, ...]
    train: list[Clip]
    test: list[Clip]


def utterances(root: Path) -> list[Clip]:
    """All utterances under `root`, in the order of their ids.

    A clip's id is its file's stem and its subject the speaker's two digits; its labels hold one expression
    over the whole utterance, every 1/25 s, and no valence or arousal (NaN).

    Raises:
        CorpusError: `root` is no folder, holds no utterance, or holds sound files whose name or header is not
            what the corpus promises, or two of one name; names them.
    """
    root = Path(root)
    if not root.is_dir():
        raise CorpusError(
            f"{root} is {'a file' if root.exists() else 'not there'}; the root of EMO-DB is a folder",
            remedy="name the folder that holds 03a01Fa.wav and its like",
        )
    files = sorted((p for p in root.rglob("*") if p.suffix.lower() == ".wav"), key=lambda p: (p.stem, p))
    if not files:
        raise CorpusError(
            f"{root} holds no .wav file, so no utterance of EMO-DB",
            follows="nothing was read",
            remedy="name the folder that holds 03a01Fa.wav and its like",
        )
    clips: list[Clip] = []
    faults: list[str] = []
    for path in files:
        if clips and clips[-1].id == path.stem:
            faults.append(f"{path.relative_to(root)}: there is already {clips[-1].media}")
            continue
        clip = _clip(path)
        if isinstance(clip, Clip):
            clips.append(clip)
        else:
            faults.append(f"{path.relative_to(root)}: {clip}")
    if faults:
        more = f" (and {len(faults) - _SHOWN} more)" if len(faults) > _SHOWN else ""
        raise CorpusError(
            f"{root}: {len(faults)} of {len(files)} files are not utterances of EMO-DB: "
            + "; ".join(faults[:_SHOWN])
            + more,
            follows="nothing was read: a corpus with strangers in it would teach wrong labels",
            remedy="move these files elsewhere, or copy the corpus again",
        )
    return clips


def _clip(path: Path) -> Clip | str:
    """The file's clip, or what is wrong with it."""
    name = _NAME.fullmatch(path.stem)
    if name is None:
        return "the name is not speaker (2 digits), text (a letter, 2 digits), emotion (a letter), version"
    letter = name["emotion"]
    if letter not in EMODB_LETTERS:
        return f"emotion {letter!r} is none of {', '.join(EMODB_LETTERS)}"
    try:
        info = soundfile.info(str(path))
    except (soundfile.LibsndfileError, OSError) as error:
        return f"it cannot be opened ({error})"
    count = max(1, round(info.frames / info.samplerate * LABEL_RATE_HZ))
    labels = Labels(
        times=(np.arange(count) + 0.5) / LABEL_RATE_HZ,
        expression=np.full(count, EMODB_LETTERS[letter]),
        valence_arousal=np.full((count, 2), np.nan),
    )
    return Clip(path.stem, path, subject=name["speaker"], labels=labels)


def folds(clips: Sequence[Clip], held_out: int = 2) -> list[Fold]:
    """Leave-speakers-out folds: each speaker is left out once, `held_out` at a time.

    Two at a time, and as many men as women: each fold leaves out a man and a woman, paired so that the rarest
    class of any fold is as frequent as it can be, the first such pairing in the speakers' order. (Disgust:
    speaker 08 has none, 03 and 10 have one each; a fold with one utterance of a class says nothing about it.
    The pairing looks at labels only.) Otherwise: neighbours in the speakers' order.

    Raises:
        CorpusError: fewer than two groups of speakers, or a number of speakers that `held_out` does not
        divide.
    """
    speakers = sorted({clip.subject for clip in clips})
    if held_out < 1 or len(speakers) % held_out or len(speakers) < 2 * held_out:
        raise CorpusError(
            f"{len(speakers)} speakers ({', '.join(speakers)}) cannot be left out {held_out} at a time",
            remedy="held_out must divide the number of speakers and leave at least as many to learn from",
        )
    groups = [tuple(speakers[i : i + held_out]) for i in range(0, len(speakers), held_out)]
    men, women = ([s for s in speakers if s in known] for known in (MEN, WOMEN))
    if held_out == 2 and len(men) == len(women) == len(groups):
        groups = _pairs(clips, men, women)
    return [Fold(g, [c for c in clips if c.subject not in g], [c for c in clips if c.subject in g]) for g in groups]


def _pairs(clips: Sequence[Clip], men: list[str], women: list[str]) -> list[tuple[str, ...]]:
    count = Counter((c.subject, int(c.labels.expression[0])) for c in clips if c.labels is not None)
    classes = sorted({expression for _, expression in count})

    def rarest(order: tuple[str, ...]) -> int:
        return min(count[man, k] + count[woman, k] for man, woman in zip(men, order, strict=True) for k in classes)

    best = max(permutations(women), key=rarest)  # the first of equals
    return [tuple(sorted(pair)) for pair in zip(men, best, strict=True)]


def read(root: Path, *, progress: Callable[[int, int], None] | None = None) -> CorpusContents:
    """All utterances under `root`. Raises CorpusError where there are none."""
    root = Path(root)
    clips = utterances(root)
    entries: list[Entry] = []
    problems: list[Problem] = []
    for done, clip in enumerate(clips, 1):
        if clip.media is None or clip.labels is None:
            raise CorpusError(f"{clip.id} of {root} has no file or no label", remedy="report this, please")
        name = clip.media.relative_to(root).as_posix()
        try:
            info = probe(clip.media)
        except MediaError as error:
            problems.append(Problem(ERROR, "unreadable media", name, None, error.what, "the clip is left out"))
            continue
        entries.append(
            Entry(
                clip.id,
                name,
                subject=clip.subject,
                labels={"expr": int(clip.labels.expression[0])},
                stamp=Stamp.of(clip.media),
                duration_s=info.audio_stop_s or info.duration_s,
                has_audio=info.has_audio,
                has_video=info.has_video,
            )
        )
        if progress:
            progress(done, len(clips))
    counts = Counter(EXPRESSIONS[entry.labels["expr"]] for entry in entries)
    return CorpusContents(entries, problems, counts={"utterances": {k: counts[k] for k in EXPRESSIONS if counts[k]}})


def labels(root: Path, entry: Entry, tasks: Sequence[str], classes: Sequence[str] = EXPRESSIONS) -> Labels | None:
    """The utterance's expression, every 1/25 s over its length."""
    times = (np.arange(max(1, round((entry.duration_s or 0.0) * LABEL_RATE_HZ))) + 0.5) / LABEL_RATE_HZ
    return Labels(times, np.full(len(times), int(entry.labels["expr"])), np.full((len(times), 2), np.nan))
