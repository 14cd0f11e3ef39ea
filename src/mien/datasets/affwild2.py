"""Dataset reader for Aff-Wild2 (EXPR, VA and AU), and for the synthetic corpus, which is written in the same layout.

Source: Kollias and Zafeiriou, Aff-Wild2 (arXiv:1811.07770); expression, valence-arousal and action-unit annotations of
the ABAW challenges (arXiv:2303.01498). The recordings of C-EXPR-DB (compound expressions), laid out likewise with a
test list or a sample file, are read too. Copies on disk deviate from their descriptions. The rules here are our choice:

* Label row i belongs to frame i. There may be one or two rows more than frames, or one fewer; rows beyond the last
  frame are placed after it at the median frame step.
* A missing crop means that the corpus found no face in that frame.
* `_left` and `_right` mark two subjects of one recording. A clip without suffix beside a `_right` one is the left one.
* Frame times come from the timestamps of each container, never from a nominal frame rate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mien.datasets.affwild2_labels import LabelFile, read_labels
from mien.datasets.affwild2_layout import Layout, find_crops, find_layout, find_recording
from mien.datasets.frame_times import FrameTimes, frame_times
from mien.datasets.index_entries import ERROR, NOTE, WARNING, CorpusContents, Entry, Problem, Stamp
from mien.errors import CorpusError, MediaError
from mien.labels import EXPRESSIONS, SCORE_TASKS, TASKS, UNLABELLED
from mien.media.probe import MediaInfo, probe
from mien.records import Labels

#: Known differences of the number of label rows and of frames; any other difference is a warning.
EXPECTED_EXCESS = range(-1, 3)
#: Audio and video whose lengths differ by more than this get a note (5 of 539 recordings do).
_LENGTHS_DIFFER_S = 0.5


@dataclass(frozen=True)
class VideoFile:
    """Properties of one video file: probe result, frame times, and the stamp that detects later changes."""

    info: MediaInfo
    times: FrameTimes
    stamp: Stamp


@dataclass(frozen=True)
class _SplitLabels:
    path: Path
    split: str
    file: LabelFile


#: Task -> words in the names of the folders that hold its labels.
_FOLDER_WORDS = {"expr": ("expr",), "va": ("va_", "valence"), "au": ("au_", "action_unit")}
#: (task, clip, split) -> label file.
_LabelFiles = dict[tuple[str, str, str], _SplitLabels]


def read(root: Path, *, progress: Callable[[int, int], None] | None = None) -> CorpusContents:
    """List the clips, splits and problems of a copy of Aff-Wild2.

    Args:
        root: the folder above videos, crops and annotations.
        progress: called with (recordings probed, recordings in total).

    Raises:
        CorpusError: `root` is no folder, or holds no annotations.
    """
    layout = find_layout(root)
    files = _read_label_files(layout)
    problems = layout.problems + [p for f in files.values() for p in f.file.problems]
    clips, split_problems = _assign_splits(layout, files)
    recordings = {clip: find_recording(layout, clip) for clip in clips}
    paths = sorted({path for path, _, _ in recordings.values() if path})
    videos, video_problems = _probe_videos(layout, paths, progress)
    problems += split_problems + video_problems
    entries: list[Entry] = []
    for clip in sorted(clips):
        path, side, recording_problems = recordings[clip]
        problems += recording_problems
        if path in videos and path is not None:
            entry, entry_problems = _make_entry(layout, clip, clips[clip], files, path, videos[path])
            entries.append(replace(entry, side=side))
            problems += entry_problems
    entries = _complete_sides(entries)
    problems += _find_leaks(entries) + _find_unused(layout, set(clips))
    counts = _count_labels(entries, files)
    excess = Counter(e.rows - len(e.times) for e in entries if e.rows is not None and e.times is not None)
    counts["label rows minus frames"] = {f"{k:+d}": n for k, n in sorted(excess.items())}
    rates = Counter(f"{e.times.rate_hz:.2f}" for e in entries if e.times is not None)
    counts["frames a second"] = dict(sorted(rates.items(), key=lambda item: -item[1]))
    return CorpusContents(entries, sorted(problems, key=_severity_order), EXPRESSIONS, counts)


def labels(root: Path, entry: Entry, tasks: Sequence[str], classes: Sequence[str] = EXPRESSIONS) -> Labels | None:
    """Read a clip's labels for the given tasks, at the times of its frames.

    Where one task has fewer rows than another, its missing rows are unlabelled. None if there are no rows or no
    frame times. Raises CorpusError for a label file that can no longer be read, or is of another task.
    """
    files = {task: read_labels(root / str(entry.labels[task])) for task in tasks if task in entry.labels}
    for task, file in files.items():
        if file.task != task:
            what = file.problems[0].what if file.problems else f"labels of the task {file.task}, not {task}"
            raise CorpusError(
                f"{root / str(entry.labels[task])}: {what}",
                follows="Its labels were not read.",
                remedy="Copy the file of the corpus again, or index the corpus again: mien index.",
            )
    values = {task: file.values for task, file in files.items()}
    rows = max(map(len, values.values()), default=0)
    if not rows or entry.times is None:
        return None
    expression, valence_arousal = np.full(rows, UNLABELLED, np.int64), np.full((rows, 2), np.nan)
    if "expr" in values:
        expression[: len(values["expr"])] = values["expr"]
    if "va" in values:
        valence_arousal[: len(values["va"])] = values["va"]
    scores = {}
    for task, read in ((t, v) for t, v in values.items() if t in SCORE_TASKS):
        scores[task] = np.full((rows, read.shape[1]), np.nan)
        scores[task][: len(read)] = read
    return Labels(entry.times.row_times(rows), expression, valence_arousal, scores)


def _read_label_files(layout: Layout) -> _LabelFiles:
    files: _LabelFiles = {}
    for path, split in layout.labels:
        file = read_labels(layout.root / path, str(path))
        folder_tasks = [task for task in _FOLDER_WORDS if _is_in_task_folder(path, task)]
        if file.task and folder_tasks and file.task not in folder_tasks:
            what = f"it lies among {folder_tasks[0].upper()} labels, but its header is that of {file.task.upper()}"
            file.problems.append(Problem(ERROR, "swapped folders", str(path), 1, what, "the header decides"))
        files[(file.task or (folder_tasks or [""])[0], path.stem, split)] = _SplitLabels(path, split, file)
    return files


def _is_in_task_folder(path: Path, task: str) -> bool:
    return any(word in part.lower() for part in path.parts[:-1] for word in _FOLDER_WORDS[task])


def _assign_splits(layout: Layout, files: _LabelFiles) -> tuple[dict[str, dict[str, str]], list[Problem]]:
    """clip -> task -> split, with a problem for each clip that is in two splits of one task."""
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
    for task, names in layout.test_lists.items():
        for clip, (file, line, _) in names.items():
            earlier = clips.setdefault(clip, {}).get(task)
            if earlier in ("train", "val"):
                what = f"{clip!r} is in the test list and has {earlier} labels of {task.upper()}"
                problems.append(Problem(ERROR, "in two splits", file, line, what, "it counts as test only"))
            clips[clip][task] = "test"
    return clips, problems


def _probe_videos(
    layout: Layout, paths: list[Path], progress: Callable[[int, int], None] | None
) -> tuple[dict[Path, VideoFile], list[Problem]]:
    def probe_video(path: Path) -> VideoFile | Problem:
        try:
            full = layout.root / path
            info = probe(full)
            return VideoFile(info, frame_times(full, info.origin), Stamp.of(full))
        except MediaError as error:
            return Problem(ERROR, "unreadable video", str(path), None, error.what, "its clips are left out")

    videos: dict[Path, VideoFile] = {}
    problems = []
    with ThreadPoolExecutor(4) as pool:  # reading containers waits for the disk most of the time
        for count, (path, result) in enumerate(zip(paths, pool.map(probe_video, paths), strict=True), 1):
            if isinstance(result, Problem):
                problems.append(result)
            else:
                videos[path] = result
                problems += _check_tracks(path, result.info)
            if progress:
                progress(count, len(paths))
    return videos, problems


def _check_tracks(path: Path, info: MediaInfo) -> list[Problem]:
    """Notes about a recording without audio, or whose audio and video lengths differ."""
    if not info.has_audio:
        return [Problem(NOTE, "no sound", str(path), None, "the recording has no sound track", "voice is absent")]
    if info.video_stop_s is not None and info.audio_stop_s is not None:
        lag_s = info.audio_stop_s - info.video_stop_s
        if abs(lag_s) > _LENGTHS_DIFFER_S:
            what = f"the sound ends {abs(lag_s):.2f} s {'after' if lag_s > 0 else 'before'} the pictures"
            return [Problem(NOTE, "lengths differ", str(path), None, what, "both are used in full")]
    return []


def _make_entry(
    layout: Layout, clip: str, splits: dict[str, str], files: _LabelFiles, path: Path, video: VideoFile
) -> tuple[Entry, list[Problem]]:
    labelled = {task: files[(task, clip, split)] for task, split in splits.items() if (task, clip, split) in files}
    test_lists = [layout.test_lists.get(task, {}) for task, split in splits.items() if split == "test"]
    lengths = [len(item.file.values) for item in labelled.values()]
    lengths += [rows for names in test_lists if clip in names and (rows := names[clip][2])]
    rows = max(lengths, default=None)
    problems = [p for item in labelled.values() if (p := _check_row_count(item, video))]
    folder, numbers, crop_problems = find_crops(layout, clip, rows)
    problems += crop_problems
    present = None
    if folder is None and layout.crop_roots:
        what = f"no crop folder for clip {clip!r}"
        problems.append(Problem(WARNING, "no crops", str(layout.crop_roots[0]), None, what, "use --faces video for it"))
    elif folder is not None:
        count = max(rows or len(video.times), max(numbers, default=0))
        present = np.zeros(count, bool)
        present[np.array(numbers, int) - 1] = True
        if missing := int((~present).sum()):
            what = f"{missing} of {count} frames have no crop"
            problems.append(Problem(NOTE, "missing crops", str(folder), None, what, "those frames have no face"))
    entry = Entry(
        clip,
        path.as_posix(),
        subject=clip,
        splits=splits,
        labels={task: item.path.as_posix() for task, item in labelled.items()},
        rows=rows,
        stamp=video.stamp,
        duration_s=_duration_s(video),
        has_audio=video.info.has_audio,
        has_video=video.info.has_video,
        times=video.times,
        crops=folder.as_posix() if folder else "",
        crops_stamp=Stamp.of(layout.root / folder) if folder else None,
        present=present,
    )
    return entry, problems


def _duration_s(video: VideoFile) -> float:
    seconds = video.times.seconds
    end = float(seconds[-1]) + video.times.step_s if len(seconds) else 0.0
    return max(end, video.info.audio_stop_s or 0.0)


def _check_row_count(labelled: _SplitLabels, video: VideoFile) -> Problem | None:
    rows, frames = len(labelled.file.values), len(video.times)
    if rows == frames:
        return None
    what = f"{rows} label rows, {frames} frames in the container ({rows - frames:+d})"
    rule = "the last rows are placed after the last frame" if rows > frames else "the last frames are unlabelled"
    if rows - frames in EXPECTED_EXCESS:
        return Problem(NOTE, "rows and frames", str(labelled.path), rows + 1, what, rule)
    rule += "; are these the labels of this recording?"
    return Problem(WARNING, "rows far from frames", str(labelled.path), rows + 1, what, rule)


def _complete_sides(entries: list[Entry]) -> list[Entry]:
    """Give a clip without suffix the side opposite to the other clip of its recording."""
    sides: dict[str | None, set[str]] = {}
    for entry in entries:
        sides.setdefault(entry.media, set()).add(entry.side)
    opposite = {"right": "left", "left": "right"}
    return [
        replace(e, side=opposite[next(iter(sides[e.media] - {""}))]) if not e.side and len(sides[e.media]) == 2 else e
        for e in entries
    ]


def _find_leaks(entries: list[Entry]) -> list[Problem]:
    """Recordings whose clips are in several splits: they share one voice and often one scene."""
    problems = []
    by_media: dict[str | None, list[Entry]] = {}
    for entry in entries:
        by_media.setdefault(entry.media, []).append(entry)
    for media, group in by_media.items():
        for task in TASKS:
            splits = {e.splits[task] for e in group if task in e.splits}
            if len(splits) > 1:
                names = ", ".join(e.id for e in group)
                what = f"clips {names} share this recording but are {', '.join(sorted(splits))}"
                rule = "the corpus's splits are used; note that these clips share one voice"
                problems.append(Problem(WARNING, "recording in two splits", str(media), None, what, rule))
    for entry in entries:
        if len(set(entry.splits.values())) > 1:
            what = ", ".join(f"{task.upper()} {split}" for task, split in sorted(entry.splits.items()))
            rule = "each task uses its own split; training on one task does not read labels of the other"
            problems.append(Problem(NOTE, "splits by task", entry.id, None, what, rule))
    return problems


def _find_unused(layout: Layout, clips: set[str]) -> list[Problem]:
    recordings = {clip.removesuffix("_left").removesuffix("_right") for clip in clips} | clips
    problems = []
    for kind, names in (
        ("crop folders", sorted(set(layout.crops) - clips)),
        ("videos", sorted(set(layout.videos) - recordings)),
    ):
        if names:
            what = f"{len(names)} {kind} without labels or test list, such as {names[0]!r}"
            problems.append(Problem(NOTE, f"unused {kind}", str(layout.root), None, what, "they are not indexed"))
    return problems


def _count_labels(entries: list[Entry], files: _LabelFiles) -> dict[str, dict[str, int]]:
    """Labelled frames by class, as papers report them; with crops, only frames that have one."""
    counts: dict[str, Counter[str]] = {}
    for entry in entries:
        for task, split in entry.splits.items():
            if (task, entry.id, split) not in files:
                continue
            values = files[(task, entry.id, split)].file.values
            has_face = np.ones(len(values), bool) if entry.present is None else entry.present[: len(values)]
            count = counts.setdefault(f"{task} {split} frames", Counter())
            if task == "expr":
                frames = np.bincount(values[has_face & (values >= 0)], minlength=len(EXPRESSIONS))
                count.update({name: int(n) for name, n in zip(EXPRESSIONS, frames, strict=True)})
            elif SCORE_TASKS.get(task):
                names = SCORE_TASKS[task].columns
                active = np.nansum(values[has_face[: len(values)]], axis=0).astype(int)
                count.update(dict(zip(names, active.tolist(), strict=True)))
            else:
                count.update({"labelled": int((has_face & np.isfinite(values).all(axis=1)).sum())})
    return {name: dict(count) for name, count in sorted(counts.items())}


def _severity_order(problem: Problem) -> tuple[int, str, str, int]:
    severity = (ERROR, WARNING, NOTE).index(problem.severity)
    return severity, problem.kind, problem.file, problem.line or 0
