"""Aff-Wild2 (Kollias & Zafeiriou), EXPR and VA, as its copies lie on disks, and the synthetic corpus, which has its
layout.

Known oddities and their rules (counts from public code, see docs): label rows exceed the frames by one or
two, or fall short by one: row i is frame i, rows beyond the last frame are placed after it at the usual step.
A missing crop means that no face was found in that frame. `_left` and `_right` are two subjects of one
recording, as are a bare name and its `_right`. Frame rates come from each container's timestamps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mien.datasets.affwild2_labels import LabelFile, read_labels
from mien.datasets.affwild2_layout import Layout, crops_of, find, recording_of
from mien.datasets.frame_times import FrameTimes, frame_times
from mien.datasets.index_entries import ERROR, NOTE, WARNING, CorpusContents, Entry, Problem, Stamp
from mien.errors import MediaError
from mien.labels import EXPRESSIONS, UNLABELLED
from mien.media.probe import MediaInfo, probe
from mien.records import Labels

#: Label rows minus frames that the corpus is known to have; anything else is suspicious.
USUAL_EXCESS = range(-1, 3)
#: Sound and pictures whose lengths differ by more than this are noted (5 of 539 recordings do).
_LENGTHS_DIFFER_S = 0.5


@dataclass(frozen=True)
class RecordingFiles:
    """What one video file says of itself."""

    info: MediaInfo
    times: FrameTimes
    stamp: Stamp


def read(root: Path, *, progress: Callable[[int, int], None] | None = None) -> CorpusContents:
    """Everything under `root`, with every problem. Raises CorpusError where it is no copy of the corpus."""
    layout = find(root)
    files = _label_files(layout)
    problems = layout.problems + [p for f in files.values() for p in f.file.problems]
    clips, more = _splits(layout, files)
    problems += more
    wanted = {clip: recording_of(layout, clip) for clip in clips}
    paths = sorted({path for path, _, _ in wanted.values() if path})
    recordings, more = _recordings(layout, paths, progress)
    problems += more
    entries: list[Entry] = []
    for clip in sorted(clips):
        path, side, more = wanted[clip]
        problems += more
        if path in recordings and path is not None:
            entry, more = _entry(layout, clip, clips[clip], files, path, recordings[path])
            entries.append(replace(entry, side=side))
            problems += more
    entries = _sides(entries)
    problems += _leaks(entries) + _strays(layout, set(clips))
    counts = _counts(entries, files)
    excess = Counter(e.rows - len(e.times) for e in entries if e.rows is not None and e.times is not None)
    counts["label rows minus frames"] = {f"{k:+d}": n for k, n in sorted(excess.items())}
    rates = Counter(f"{e.times.rate_hz:.2f}" for e in entries if e.times is not None)
    counts["frames a second"] = dict(sorted(rates.items(), key=lambda item: -item[1]))
    return CorpusContents(entries, sorted(problems, key=_order), EXPRESSIONS, counts)


def labels(root: Path, entry: Entry, tasks: Sequence[str], classes: Sequence[str] = EXPRESSIONS) -> Labels | None:
    """A clip's labels for some of its tasks, at the times of its frames. None where it has none of them."""
    found = {task: read_labels(root / entry.labels[task]).values for task in tasks if task in entry.labels}
    rows = max(map(len, found.values()), default=0)
    if not rows or entry.times is None:
        return None
    expression, affect = np.full(rows, UNLABELLED, np.int64), np.full((rows, 2), np.nan)
    if "expr" in found:
        expression[: len(found["expr"])] = found["expr"]
    if "va" in found:
        affect[: len(found["va"])] = found["va"]
    return Labels(entry.times.first(rows), expression, affect)


@dataclass(frozen=True)
class _Labelled:
    path: Path
    split: str
    file: LabelFile


def _label_files(layout: Layout) -> dict[tuple[str, str, str], _Labelled]:
    """(task, clip, split) -> the file."""
    files: dict[tuple[str, str, str], _Labelled] = {}
    for path, split in layout.labels:
        file = read_labels(layout.root / path, str(path))
        if file.task == "au":
            continue  # action units: another challenge of the same corpus
        said = [task for task in ("expr", "va") if _says(path, task)]
        if file.task and said and file.task not in said:
            what = f"it lies among {said[0].upper()} labels, but its header is that of {file.task.upper()}"
            file.problems.append(Problem(ERROR, "swapped folders", str(path), 1, what, "the header decides"))
        files[(file.task or (said or [""])[0], path.stem, split)] = _Labelled(path, split, file)
    return files


def _says(path: Path, task: str) -> bool:
    marks = {"expr": ("expr",), "va": ("va_", "valence")}[task]
    return any(mark in part.lower() for part in path.parts[:-1] for mark in marks)


def _splits(
    layout: Layout, files: dict[tuple[str, str, str], _Labelled]
) -> tuple[dict[str, dict[str, str]], list[Problem]]:
    clips: dict[str, dict[str, str]] = {}
    problems = []
    rank = {"test": 2, "val": 1, "train": 0}
    for (task, clip, split), labelled in sorted(files.items(), key=lambda item: rank[item[0][2]]):
        if not len(labelled.file.values):
            continue
        earlier = clips.setdefault(clip, {}).get(task)
        if earlier:
            what = f"{clip!r} is in the {earlier} set and in the {split} set of {task.upper()}"
            rule = f"it counts as {split} only"
            problems.append(Problem(ERROR, "in two splits", str(labelled.path), None, what, rule))
        clips[clip][task] = split
    for task, names in layout.lists.items():
        for clip, (file, line, _) in names.items():
            earlier = clips.setdefault(clip, {}).get(task)
            if earlier in ("train", "val"):
                what = f"{clip!r} is in the test list and has {earlier} labels of {task.upper()}"
                problems.append(Problem(ERROR, "in two splits", file, line, what, "it counts as test only"))
            clips[clip][task] = "test"
    return clips, problems


def _recordings(
    layout: Layout, paths: list[Path], progress: Callable[[int, int], None] | None
) -> tuple[dict[Path, RecordingFiles], list[Problem]]:
    def look(path: Path) -> RecordingFiles | Problem:
        try:
            full = layout.root / path
            info = probe(full)
            return RecordingFiles(info, frame_times(full, info.origin), Stamp.of(full))
        except MediaError as error:
            return Problem(ERROR, "unreadable video", str(path), None, error.what, "its clips are left out")

    found: dict[Path, RecordingFiles] = {}
    problems = []
    with ThreadPoolExecutor(4) as pool:  # reading containers waits for the disk most of the time
        for done, (path, result) in enumerate(zip(paths, pool.map(look, paths), strict=True), 1):
            if isinstance(result, Problem):
                problems.append(result)
            else:
                found[path] = result
                problems += _recording_notes(path, result)
            if progress:
                progress(done, len(paths))
    return found, problems


def _recording_notes(path: Path, recording: RecordingFiles) -> list[Problem]:
    info, file = recording.info, str(path)
    if not info.has_audio:
        return [Problem(NOTE, "no sound", file, None, "the recording has no sound track", "voice is absent")]
    if info.video_stop_s is not None and info.audio_stop_s is not None:
        differ = info.audio_stop_s - info.video_stop_s
        if abs(differ) > _LENGTHS_DIFFER_S:
            what = f"the sound ends {abs(differ):.2f} s {'after' if differ > 0 else 'before'} the pictures"
            return [Problem(NOTE, "lengths differ", file, None, what, "each is used where it is")]
    return []


def _entry(
    layout: Layout,
    clip: str,
    splits: dict[str, str],
    files: dict[tuple[str, str, str], _Labelled],
    path: Path,
    recording: RecordingFiles,
) -> tuple[Entry, list[Problem]]:
    mine = {task: files[(task, clip, split)] for task, split in splits.items() if (task, clip, split) in files}
    listed = [layout.lists[t][clip][2] for t, s in splits.items() if s == "test" and clip in layout.lists.get(t, {})]
    lengths = [len(labelled.file.values) for labelled in mine.values()] + [n for n in listed if n]
    rows = max(lengths, default=None)
    problems = [p for labelled in mine.values() if (p := _excess(labelled, recording))]
    folder, numbers, more = crops_of(layout, clip, rows)
    present = None
    if folder is None and layout.crop_roots:
        what = f"no crop folder for clip {clip!r}"
        more.append(Problem(WARNING, "no crops", str(layout.crop_roots[0]), None, what, "use --faces video for it"))
    elif folder is not None:
        count = max(rows or len(recording.times), max(numbers, default=0))
        present = np.zeros(count, bool)
        present[np.array(numbers, int) - 1] = True
        if missing := int((~present).sum()):
            what = f"{missing} of {count} frames have no crop"
            more.append(Problem(NOTE, "missing crops", str(folder), None, what, "no face there"))
    entry = Entry(
        clip,
        path.as_posix(),
        subject=clip,
        splits=splits,
        labels={task: labelled.path.as_posix() for task, labelled in mine.items()},
        rows=rows,
        stamp=recording.stamp,
        duration_s=_duration(recording),
        has_audio=recording.info.has_audio,
        has_video=recording.info.has_video,
        times=recording.times,
        crops=folder.as_posix() if folder else "",
        crops_stamp=Stamp.of(layout.root / folder) if folder else None,
        present=present,
    )
    return entry, problems + more


def _duration(recording: RecordingFiles) -> float:
    seconds = recording.times.seconds
    end = float(seconds[-1]) + recording.times.step_s if len(seconds) else 0.0
    return max(end, recording.info.audio_stop_s or 0.0)


def _excess(labelled: _Labelled, recording: RecordingFiles) -> Problem | None:
    rows, frames = len(labelled.file.values), len(recording.times)
    if rows == frames:
        return None
    what = f"{rows} label rows, {frames} frames in the container ({rows - frames:+d})"
    rule = "the last rows are placed after the last frame" if rows > frames else "the last frames are unlabelled"
    usual = rows - frames in USUAL_EXCESS
    return Problem(
        NOTE if usual else WARNING,
        "rows and frames" if usual else "rows far from frames",
        str(labelled.path),
        rows + 1,
        what,
        rule if usual else f"{rule}; are these the labels of this recording?",
    )


def _sides(entries: list[Entry]) -> list[Entry]:
    """A bare name beside its `_right` is the left one of two, and the other way round."""
    sides: dict[str | None, set[str]] = {}
    for entry in entries:
        sides.setdefault(entry.media, set()).add(entry.side)
    other = {"right": "left", "left": "right"}
    return [
        replace(e, side=other[next(iter(sides[e.media] - {""}))]) if not e.side and len(sides[e.media]) == 2 else e
        for e in entries
    ]


def _leaks(entries: list[Entry]) -> list[Problem]:
    """One recording, hence one voice and often one scene, on both sides of a split."""
    problems = []
    by_media: dict[str | None, list[Entry]] = {}
    for entry in entries:
        by_media.setdefault(entry.media, []).append(entry)
    for media, group in by_media.items():
        for task in ("expr", "va"):
            splits = {e.splits[task] for e in group if task in e.splits}
            if len(splits) > 1:
                names = ", ".join(e.id for e in group)
                what = f"clips {names} share this recording but are {', '.join(sorted(splits))}"
                rule = "used as the corpus has it; they share one voice"
                problems.append(Problem(WARNING, "recording in two splits", str(media), None, what, rule))
    for entry in entries:
        if len(set(entry.splits.values())) > 1:
            what = ", ".join(f"{task.upper()} {split}" for task, split in sorted(entry.splits.items()))
            rule = "each task keeps its own; labels of the other are not used in training"
            problems.append(Problem(NOTE, "splits by task", entry.id, None, what, rule))
    return problems


def _strays(layout: Layout, clips: set[str]) -> list[Problem]:
    crops = sorted(set(layout.crops) - clips)
    used = {c.removesuffix("_left").removesuffix("_right") for c in clips} | clips
    videos = sorted(set(layout.videos) - used)
    rule = "they are not indexed"
    found = [("crop folders", crops), ("videos", videos)]
    problems = []
    for kind, names in found:
        if names:
            what = f"{len(names)} {kind} without labels or test list, such as {names[0]!r}"
            problems.append(Problem(NOTE, f"unused {kind}", str(layout.root), None, what, rule))
    return problems


def _counts(entries: list[Entry], files: dict[tuple[str, str, str], _Labelled]) -> dict[str, dict[str, int]]:
    """Labelled frames with a face (or labelled frames, without crops) by class: the figures papers print."""
    counts: dict[str, Counter[str]] = {}
    for entry in entries:
        for task, split in entry.splits.items():
            if (task, entry.id, split) not in files:
                continue
            values: Any = files[(task, entry.id, split)].file.values
            seen = np.ones(len(values), bool) if entry.present is None else entry.present[: len(values)]
            if task == "expr":
                classes = np.bincount(values[seen & (values >= 0)], minlength=len(EXPRESSIONS))
                counts.setdefault(f"expr {split} frames", Counter()).update(
                    {name: int(n) for name, n in zip(EXPRESSIONS, classes, strict=True)}
                )
            else:
                labelled = int((seen & np.isfinite(values).all(axis=1)).sum())
                counts.setdefault(f"va {split} frames", Counter()).update({"labelled": labelled})
    return {name: dict(count) for name, count in sorted(counts.items())}


def _order(problem: Problem) -> tuple[int, str, str, int]:
    severity = (ERROR, WARNING, NOTE).index(problem.severity)
    return severity, problem.kind, problem.file, problem.line or 0
