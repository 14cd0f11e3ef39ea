"""File layout of Aff-Wild2: find its videos, crop folders, label files and test lists under a root.

Copies of the corpus differ in how archives were unpacked (`batch1`, `batch1 (1)/cropped_aligned`,
`6th ABAW Annotations/EXPR_Recognition_Challenge`, ...). Parts are therefore recognised by name and content:

* crops: folders of pictures in a folder named `cropped_aligned*`
* labels: text files in a folder named `Train_Set` or `Validation_Set`; the header of each file gives the task
* test lists: text files of clip names whose file name contains `test_set` or `sample`
* videos: every file with a video suffix
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from mien.datasets.affwild2_labels import task_of_header
from mien.datasets.index_entries import ERROR, NOTE, WARNING, Problem
from mien.errors import CorpusError

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mkv", ".mov", ".webm", ".mpg", ".mpeg", ".m4v", ".wmv", ".flv"})
PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
SPLIT_FOLDERS = {"train_set": "train", "validation_set": "val", "test_set": "test"}
#: Folders are searched this deep; no known copy of the corpus goes deeper.
_DEPTH = 6


@dataclass
class Layout:
    """Parts of a copy of the corpus. All paths are relative to `root` and sorted.

    videos: file stem -> files. crops: clip -> folders. crop_roots: folders that hold crop folders. labels: (file,
    split). test_lists: task -> clip -> (file, line, number of rows or None).
    """

    root: Path
    videos: dict[str, list[Path]] = field(default_factory=dict)
    crops: dict[str, list[Path]] = field(default_factory=dict)
    crop_roots: list[Path] = field(default_factory=list)
    labels: list[tuple[Path, str]] = field(default_factory=list)
    test_lists: dict[str, dict[str, tuple[str, int, int | None]]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def find_layout(root: Path) -> Layout:
    """Search `root` for the parts of the corpus.

    Raises:
        CorpusError: `root` is no folder, or holds no annotations.
    """
    root = Path(root)
    if not root.is_dir():
        raise CorpusError(
            f"{root} {'is a file' if root.exists() else 'does not exist'}; the root of a corpus is a folder",
            follows="Nothing was indexed.",
            remedy="Run `mien index aff-wild2 ROOT`, where ROOT is the folder above batch1, batch2, ...",
        )
    layout = Layout(root)
    _walk(layout, Path("."), 0)
    if not layout.labels and not layout.test_lists:
        parts = f"{sum(map(len, layout.videos.values()))} videos and {len(layout.crops)} crop folders"
        raise CorpusError(
            f"{root} holds no annotations of Aff-Wild2: no folder Train_Set or Validation_Set with label "
            f"files and no test list was found {_DEPTH} levels deep (but {parts})",
            follows="Nothing was indexed.",
            remedy="Name the folder above both the videos and the annotations. To index your own videos, use "
            "`mien index folder ROOT`.",
        )
    return layout


def _walk(layout: Layout, folder: Path, depth: int) -> None:
    with os.scandir(layout.root / folder) as listing:
        entries = sorted((e for e in listing if not e.name.startswith(".")), key=lambda e: e.name)
    folder_name = folder.name.lower()
    for entry in entries:
        path = folder / entry.name
        if entry.is_dir():
            if folder_name.startswith("cropped_aligned") and not entry.name.lower().startswith("cropped_aligned"):
                layout.crops.setdefault(entry.name, []).append(path)
                if folder not in layout.crop_roots:
                    layout.crop_roots.append(folder)
            elif depth < _DEPTH:
                _walk(layout, path, depth + 1)
        elif path.suffix.lower() in VIDEO_SUFFIXES:
            layout.videos.setdefault(path.stem, []).append(path)
        elif path.suffix.lower() == ".txt":
            if folder_name in SPLIT_FOLDERS:
                layout.labels.append((path, SPLIT_FOLDERS[folder_name]))
            elif any(word in entry.name.lower() for word in ("test_set", "sample")):
                _read_test_list(layout, path)


def _read_test_list(layout: Layout, path: Path) -> None:
    """Read a list of clip names, or a sample submission whose rows begin with `clip/00001.jpg`."""
    with open(layout.root / path, encoding="utf-8-sig", errors="replace") as file:
        lines = [line.strip() for line in file]
    is_sample = bool(lines) and lines[0].replace('"', "").lower().startswith("image_location")
    task = task_of_header(lines[0]) if is_sample else _task_of_file_name(path)
    if not task:
        what = "a test list of an unknown task"
        layout.problems.append(Problem(NOTE, "other task", str(path), None, what, "it is not read"))
        return
    names = layout.test_lists.setdefault(task, {})
    for number, line in enumerate(lines, 1):
        if not line or (is_sample and number == 1):
            continue
        name = line.split("/")[0] if is_sample else line.removesuffix(".txt")
        if is_sample:
            first = names.get(name, (str(path), number, None))
            names[name] = (first[0], first[1], (first[2] or 0) + 1)
        elif name not in names:
            names[name] = (str(path), number, None)
        elif names[name][0] == str(path):
            what = f"{name!r} is listed again (first at line {names[name][1]})"
            layout.problems.append(Problem(WARNING, "listed twice", str(path), number, what, "it counts once"))


def _task_of_file_name(path: Path) -> str:
    name = path.name.lower()
    task_words = {"va": ("valence", "va_"), "expr": ("expr",), "au": ("action_unit", "au_"), "ce": ("compound", "ce_")}
    tasks = [task for task, words in task_words.items() if any(word in name for word in words)]
    return tasks[0] if len(tasks) == 1 else ""


def find_recording(layout: Layout, clip: str) -> tuple[Path | None, str, list[Problem]]:
    """Find the video of a clip. Returns its path or None, the clip's side of it (`left`, `right` or ""), and problems.

    A video with the clip's own name comes first. Otherwise the suffix `_left` or `_right` is removed: two clips then
    share one recording.
    """
    stem, side = clip, ""
    for suffix in ("_left", "_right"):
        if clip.endswith(suffix):
            side = suffix[1:]
            stem = clip if clip in layout.videos else clip.removesuffix(suffix)
    paths = layout.videos.get(stem, [])
    problems = []
    if len(paths) > 1:
        others = ", ".join(map(str, paths[1:]))
        what = f"{clip!r} has {len(paths)} recordings: also {others}"
        problems.append(Problem(WARNING, "two recordings", str(paths[0]), None, what, "the first by name is used"))
    if not paths:
        what = f"no video {stem!r} for clip {clip!r}"
        rule = "without it there are no times and no sound: the clip is left out"
        problems.append(Problem(ERROR, "no recording", str(layout.root), None, what, rule))
    return (paths[0] if paths else None), side, problems


def find_crops(layout: Layout, clip: str, rows: int | None) -> tuple[Path | None, list[int], list[Problem]]:
    """Find the crops of a clip. Returns its folder or None, the frame numbers (from 1) with a picture, and problems.

    rows: number of label rows, if known.
    """
    folders = layout.crops.get(clip, [])
    if not folders:
        return None, [], []
    problems = []
    if len(folders) > 1:
        what = f"{clip!r} has {len(folders)} crop folders: also {', '.join(map(str, folders[1:]))}"
        problems.append(Problem(WARNING, "two crop folders", str(folders[0]), None, what, "the first by name is used"))
    numbers, unknown = [], []
    for name in os.listdir(layout.root / folders[0]):
        stem, suffix = os.path.splitext(name)
        if name.startswith("."):
            continue
        if suffix.lower() in PICTURE_SUFFIXES and stem.isdigit() and int(stem) > 0:
            numbers.append(int(stem))
        else:
            unknown.append(name)
    if unknown:
        what = f"{len(unknown)} entries are not pictures named by frame number, such as {sorted(unknown)[0]!r}"
        problems.append(Problem(WARNING, "strange crops", str(folders[0]), None, what, "they are not read"))
    beyond = sorted(n for n in numbers if rows is not None and n > rows)
    if beyond:
        what = f"{len(beyond)} crops from {beyond[0]:05d} on, but the labels have {rows} rows"
        problems.append(Problem(NOTE, "crops beyond labels", str(folders[0]), None, what, "they are unlabelled"))
    return folders[0], sorted(numbers), problems
