"""Where the parts of Aff-Wild2 lie under a root: videos, crop folders, label files, test lists.

Copies of the corpus differ in how archives were unpacked (`batch1`, `batch1 (1)/cropped_aligned`,
`6th ABAW Annotations/EXPR_Recognition_Challenge`, ...), so parts are known by what they are: a folder named
`cropped_aligned*` with folders of pictures, a folder named `Train_Set` or `Validation_Set` with text files
whose header says the task, a text file of clip names whose own name says test set, and everything that is a
video.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from mien.datasets.affwild2_labels import task_of
from mien.datasets.index_entries import ERROR, NOTE, WARNING, Problem
from mien.errors import CorpusError

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mkv", ".mov", ".webm", ".mpg", ".mpeg", ".m4v", ".wmv", ".flv"})
PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
SPLIT_FOLDERS = {"train_set": "train", "validation_set": "val", "test_set": "test"}
#: Folders are followed this deep; deeper lies nothing of the corpus.
_DEPTH = 6


@dataclass
class Layout:
    """All paths are relative to the root, in order. videos: stem -> files. crops: clip -> folders.
    labels: (file, split). lists: task -> clip -> (file, line, rows or None)."""

    root: Path
    videos: dict[str, list[Path]] = field(default_factory=dict)
    crops: dict[str, list[Path]] = field(default_factory=dict)
    crop_roots: list[Path] = field(default_factory=list)
    labels: list[tuple[Path, str]] = field(default_factory=list)
    lists: dict[str, dict[str, tuple[str, int, int | None]]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def find(root: Path) -> Layout:
    """Walks the root once. Raises CorpusError where it is no folder or holds no part of the corpus."""
    root = Path(root)
    if not root.is_dir():
        raise CorpusError(
            f"{root} is {'a file' if root.exists() else 'not there'}; the root of a corpus is a folder",
            remedy="mien index aff-wild2 ROOT, ROOT being the folder above batch1, batch2 ...",
        )
    layout = Layout(root)
    _walk(layout, Path("."), 0)
    if not layout.labels and not layout.lists:
        have = f"{sum(map(len, layout.videos.values()))} videos and {len(layout.crops)} crop folders"
        raise CorpusError(
            f"{root} holds no annotations of Aff-Wild2: no folder Train_Set or Validation_Set with label "
            f"files and no test list was found {_DEPTH} levels deep (but {have})",
            follows="nothing was indexed",
            remedy="name the folder above both the videos and the annotations; your own videos are read by "
            "`mien index folder ROOT`",
        )
    return layout


def _walk(layout: Layout, folder: Path, depth: int) -> None:
    with os.scandir(layout.root / folder) as found:
        entries = sorted((e for e in found if not e.name.startswith(".")), key=lambda e: e.name)
    lower = folder.name.lower()
    for entry in entries:
        path = folder / entry.name
        if entry.is_dir():
            if lower.startswith("cropped_aligned") and not entry.name.lower().startswith("cropped_aligned"):
                layout.crops.setdefault(entry.name, []).append(path)
                if folder not in layout.crop_roots:
                    layout.crop_roots.append(folder)
            elif depth < _DEPTH:
                _walk(layout, path, depth + 1)
        elif path.suffix.lower() in VIDEO_SUFFIXES:
            layout.videos.setdefault(path.stem, []).append(path)
        elif path.suffix.lower() == ".txt":
            if lower in SPLIT_FOLDERS:
                layout.labels.append((path, SPLIT_FOLDERS[lower]))
            elif any(word in entry.name.lower() for word in ("test_set", "sample")):
                _read_list(layout, path)


def _read_list(layout: Layout, path: Path) -> None:
    """A list of names, or a sample submission whose rows begin `clip/00001.jpg`."""
    with open(layout.root / path, encoding="utf-8-sig", errors="replace") as file:
        lines = [line.strip() for line in file]
    sample = lines[:1] and lines[0].replace('"', "").lower().startswith("image_location")
    task = task_of(lines[0]) if sample else _task_by_name(path)
    if task not in ("expr", "va"):
        what = f"a test list of {'action units' if task == 'au' else 'an unknown task'}"
        layout.problems.append(Problem(NOTE, "other task", str(path), None, what, "it is not read"))
        return
    names = layout.lists.setdefault(task, {})
    for number, line in enumerate(lines, 1):
        if not line or (sample and number == 1):
            continue
        name = line.split("/")[0] if sample else line.removesuffix(".txt")
        if sample:
            first = names.get(name, (str(path), number, None))
            names[name] = (first[0], first[1], (first[2] or 0) + 1)
        elif name not in names:
            names[name] = (str(path), number, None)
        elif names[name][0] == str(path):
            what = f"{name!r} is listed again (first at line {names[name][1]})"
            layout.problems.append(Problem(WARNING, "listed twice", str(path), number, what, "it counts once"))


def _task_by_name(path: Path) -> str:
    name = path.name.lower()
    marks = {"va": ("valence", "va_"), "expr": ("expr",), "au": ("action_unit", "au_")}
    found = [task for task, words in marks.items() if any(word in name for word in words)]
    return found[0] if len(found) == 1 else ""


def recording_of(layout: Layout, clip: str) -> tuple[Path | None, str, list[Problem]]:
    """The video a clip was cut from, which side of it the clip shows, and problems.

    A clip whose own name is a video's is that one. Else `_left` or `_right` is stripped: two subjects, one
    recording.
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


def crops_of(layout: Layout, clip: str, rows: int | None) -> tuple[Path | None, list[int], list[Problem]]:
    """A clip's crop folder and the frame numbers (from 1) that have a picture."""
    folders = layout.crops.get(clip, [])
    if not folders:
        return None, [], []
    problems = []
    if len(folders) > 1:
        what = f"{clip!r} has {len(folders)} crop folders: also {', '.join(map(str, folders[1:]))}"
        problems.append(Problem(WARNING, "two crop folders", str(folders[0]), None, what, "the first by name is used"))
    numbers, strange = [], []
    for name in os.listdir(layout.root / folders[0]):
        stem, suffix = os.path.splitext(name)
        if name.startswith("."):
            continue
        if suffix.lower() in PICTURE_SUFFIXES and stem.isdigit() and int(stem) > 0:
            numbers.append(int(stem))
        else:
            strange.append(name)
    if strange:
        what = f"{len(strange)} entries are no frame numbers, such as {sorted(strange)[0]!r}"
        problems.append(Problem(WARNING, "strange crops", str(folders[0]), None, what, "they are not read"))
    beyond = sorted(n for n in numbers if rows is not None and n > rows)
    if beyond:
        what = f"{len(beyond)} crops from {beyond[0]:05d} on, but the labels have {rows} rows"
        problems.append(Problem(NOTE, "crops beyond labels", str(folders[0]), None, what, "they are unlabelled"))
    return folders[0], sorted(numbers), problems
