"""Shared steps of readers for acted corpora: list media, probe clips, split by subject, labels of whole clips.

Such a corpus has one subject and one emotion in each file. A reader parses its files into `NamedClip`s and calls
`index_clips`.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

import numpy as np

from mien.datasets.affwild2_layout import VIDEO_SUFFIXES
from mien.datasets.csv_folder import MEDIA_SUFFIXES
from mien.datasets.frame_times import frame_times, label_times
from mien.datasets.index_entries import ERROR, NOTE, CorpusContents, Entry, Problem, Stamp
from mien.errors import CorpusError, MediaError
from mien.labels import EXPRESSIONS
from mien.media.probe import probe
from mien.records import Labels

LEFT_OUT = "the file is left out"
#: Share of the subjects in `val` and in `test`. Our choice: with 24 subjects (RAVDESS), five each.
HELD_OUT_SHARE = 0.2
#: Audio formats, those without loss first: of two files with one name, the first of this order is used.
_AUDIO_ORDER = (".wav", ".flac")


@dataclass(frozen=True, slots=True)
class NamedClip:
    """One clip before its file is opened.

    id: unique name. files: relative to the root, the preferred one first; the first readable one is used. subject:
    identifier of the person. expression: class index of EXPRESSIONS. sex: `female`, `male` or "" (unknown). split:
    `train`, `val`, `test`, or "" for a split by subject.
    """

    id: str
    files: tuple[str, ...]
    subject: str
    expression: int
    sex: str = ""
    split: str = ""


def list_media(root: Path, corpus: str, example: str) -> list[str]:
    """List the media files under `root`: paths relative to it, sorted.

    Args:
        corpus: name for the error text. example: what the root holds, such as "Actor_01 to Actor_24".

    Raises:
        CorpusError: `root` is no folder, or holds no media file.
    """
    remedy = f"Name the folder that holds {example}."
    if not root.is_dir():
        state = "is a file" if root.exists() else "does not exist"
        raise CorpusError(
            f"{root} {state}; the root of {corpus} is a folder", follows="Nothing was indexed.", remedy=remedy
        )
    files = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if is_media(p) and p.is_file())
    if not files:
        raise CorpusError(
            f"{root} holds no audio or video file, so no clip of {corpus}",
            follows="Nothing was indexed.",
            remedy=remedy,
        )
    return files


def is_media(path: Path) -> bool:
    """Whether the suffix is that of an audio or video file."""
    return path.suffix.lower() in MEDIA_SUFFIXES


def preference(file: str) -> tuple[int, str]:
    """Sort key of files of one take: video, then audio without loss, then other audio; equals by path."""
    suffix = Path(file).suffix.lower()
    rank = _AUDIO_ORDER.index(suffix) + 1 if suffix in _AUDIO_ORDER else len(_AUDIO_ORDER) + 1
    return (0 if suffix in VIDEO_SUFFIXES else rank), file


def misnamed(file: str, what: str) -> Problem:
    """Problem of a media file whose name does not follow the scheme of the corpus."""
    return Problem(ERROR, "file name", file, None, what, LEFT_OUT)


def class_of(emotion: str, classes: Mapping[str, int]) -> int:
    """Class of the emotion in a file name. Raises ValueError, as `parse_files` expects, for an unknown one.

    Args:
        classes: emotion in lower case -> class index.
    """
    if emotion.lower() not in classes:
        raise ValueError(f"emotion {emotion!r} is none of {', '.join(classes)}")
    return classes[emotion.lower()]


def without_duplicates(takes: Mapping[str, Sequence[str]]) -> tuple[dict[str, str], list[Problem]]:
    """Choose one file for each name, by `preference`, and add a note for each other file.

    Args:
        takes: name -> files relative to the root, at least one.
    """
    chosen, problems = {}, []
    for name, files in takes.items():
        chosen[name], *others = sorted(files, key=preference)
        rule = f"{chosen[name]} is used"
        problems += [Problem(NOTE, "duplicate", file, None, f"{name!r} occurs twice", rule) for file in others]
    return chosen, problems


def parse_files(
    root: Path, corpus: str, example: str, parse: Callable[[Path], NamedClip]
) -> tuple[list[NamedClip], list[Problem]]:
    """Parse the names of all media files under `root`; files with the same id are one clip.

    Args:
        corpus, example: as `list_media`.
        parse: file, relative to `root`, -> its clip. Raises ValueError with the reason for another file.

    Returns:
        Clips sorted by id. Of several files of one id, the preferred by `preference` comes first. Another file of the
        same format is a duplicate, which is not used.

    Raises:
        CorpusError: as `list_media`.
    """
    problems: list[Problem] = []
    by_take: dict[tuple[str, str], list[str]] = {}
    parsed: dict[str, NamedClip] = {}
    for file in list_media(root, corpus, example):
        try:
            clip = parse(Path(file))
        except ValueError as error:
            problems.append(misnamed(file, str(error)))
            continue
        by_take.setdefault((clip.id, Path(file).suffix.lower()), []).append(file)
        parsed.setdefault(clip.id, clip)
    by_clip: dict[str, list[str]] = {}
    for (name, _), files in by_take.items():
        chosen, duplicates = without_duplicates({name: files})
        by_clip.setdefault(name, []).append(chosen[name])
        problems += duplicates
    clips = [
        replace(parsed[name], files=tuple(sorted(files, key=preference))) for name, files in sorted(by_clip.items())
    ]
    return clips, problems


def read_named_files(
    root: Path,
    corpus: str,
    example: str,
    parse: Callable[[Path], NamedClip],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> CorpusContents:
    """Index a corpus whose file names give all labels: `parse_files`, then `index_clips`."""
    clips, problems = parse_files(root, corpus, example, parse)
    return index_clips(root, clips, problems, progress=progress)


def read_csv(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Read named columns of a table with a header: (line from 1, column -> stripped text) for each row.

    Bytes that are not UTF-8 become U+FFFD: published tables have such bytes in columns of text that mien does not read.
    Missing cells are "".

    Raises:
        CorpusError: the file cannot be read, or has not all columns.
    """
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise CorpusError(
            f"{path}: {error.strerror or error}", follows="Nothing was indexed.", remedy="Copy the corpus again."
        ) from None
    reader = csv.DictReader(io.StringIO(text))
    rows = []
    try:
        for row in reader:
            rows.append((reader.line_num, {name: (row.get(name) or "").strip() for name in columns}))
    except csv.Error as error:
        raise CorpusError(
            f"{path}:{reader.line_num}: {error}",
            follows="Nothing was indexed.",
            remedy="Copy the file of the corpus again.",
        ) from None
    missing = [name for name in columns if name not in (reader.fieldnames or [])]
    if missing:
        raise CorpusError(
            f"{path}: no column {', '.join(missing)}; the header is {', '.join(reader.fieldnames or []) or 'empty'}",
            follows="Nothing was indexed.",
            remedy="Copy the file of the corpus again.",
        )
    return rows


def index_clips(
    root: Path,
    clips: Sequence[NamedClip],
    problems: Iterable[Problem],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> CorpusContents:
    """Probe the files of clips and make entries with labels, splits and counts.

    Clips without a split get one by subject (`subject_splits`).

    Args:
        problems: those that the reader found; unreadable files are added.
        progress: called with (clips probed, clips in total).
    """
    all_problems = list(problems)
    entries: list[Entry] = []
    sexes = {clip.subject: clip.sex for clip in clips}
    splits = subject_splits(sexes)
    with ThreadPoolExecutor(4) as pool:  # reading containers waits for the disk most of the time
        results = pool.map(lambda clip: _make_entry(root, clip, splits), clips)
        for count, (entry, found) in enumerate(results, 1):
            all_problems += found
            if entry is not None:
                entries.append(entry)
            if progress:
                progress(count, len(clips))
    classes = Counter(EXPRESSIONS[int(entry.labels["expr"])] for entry in entries)
    counts = {"labelled clips": {name: classes[name] for name in EXPRESSIONS if classes[name]}}
    present = Counter(sexes[subject] for subject in {entry.subject for entry in entries})
    if any(sex for sex in present):
        counts["subjects by sex"] = {sex or "unknown": n for sex, n in sorted(present.items())}
    return CorpusContents(entries, all_problems, counts=counts)


def subject_splits(sexes: Mapping[str, str], seed: int = 0) -> dict[str, str]:
    """Assign a random split to each subject: about one fifth `val`, one fifth `test`, the rest `train`.

    Women and men alternate in the held-out splits, so that both splits have both where the corpus allows. Our choice,
    because voice features differ by sex. From three subjects on, `val` and `test` have at least one; two subjects are
    `train` and `val`, a single one is `train`.

    Args:
        sexes: subject -> sex; subjects of one sex form a group.
    """
    generator = np.random.default_rng(seed)
    groups = []
    for sex in sorted(set(sexes.values())):
        group = sorted(subject for subject, other in sexes.items() if other == sex)
        generator.shuffle(group)
        groups.append(group)
    order = [subject for row in zip_longest(*groups) for subject in row if subject is not None]
    held_out = max(1, round(HELD_OUT_SHARE * len(order)))
    val = held_out if len(order) > 1 else 0
    test = held_out if len(order) > 2 else 0
    return {subject: "val" if i < val else "test" if i < val + test else "train" for i, subject in enumerate(order)}


def clip_labels(root: Path, entry: Entry, tasks: Sequence[str], classes: Sequence[str] = EXPRESSIONS) -> Labels | None:
    """Labels of an entry of `index_clips`: its expression every 1/25 s over its length; valence and arousal are NaN."""
    times = label_times(entry.duration_s or 0.0)
    return Labels(times, np.full(len(times), int(entry.labels["expr"])), np.full((len(times), 2), np.nan))


def _make_entry(root: Path, clip: NamedClip, splits: Mapping[str, str]) -> tuple[Entry | None, list[Problem]]:
    problems: list[Problem] = []
    for number, file in enumerate(clip.files, 1):
        path = root / file
        try:
            info = probe(path)
            times = frame_times(path, info.origin) if info.kind == "video" else None
            stamp = Stamp.of(path)
        except (MediaError, OSError) as error:
            what = error.what if isinstance(error, MediaError) else str(error)
            rule = f"{clip.files[number]} is used" if number < len(clip.files) else "the clip is left out"
            problems.append(Problem(ERROR, "unreadable media", file, None, what, rule))
            continue
        ends = [info.audio_stop_s, info.video_stop_s, info.duration_s]
        ends += [float(times.seconds[-1]) + times.step_s] if times and len(times) else []
        entry = Entry(
            clip.id,
            file,
            subject=clip.subject,
            splits={"expr": clip.split or splits[clip.subject]},
            labels={"expr": clip.expression},
            stamp=stamp,
            duration_s=max((end for end in ends if end is not None), default=0.0),
            has_audio=info.has_audio,
            has_video=info.has_video,
            times=times,
        )
        return entry, problems
    return None, problems
