"""From what a user names to the media that are meant, and the folder that each one's results go to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mien.errors import MediaError, MienError

#: Endings taken from a folder. A file named by itself is tried whatever it ends in.
SUFFIXES = frozenset(
    f".{s}"
    for s in [
        "mp4",
        "mov",
        "m4v",
        "mkv",
        "webm",
        "avi",
        "mpg",
        "mpeg",
        "mts",
        "m2ts",
        "ts",
        "wmv",
        "flv",
        "3gp",
        "ogv",
        "mjpeg",
        "wav",
        "mp3",
        "m4a",
        "flac",
        "ogg",
        "oga",
        "opus",
        "aac",
        "wma",
        "aif",
        "aiff",
        "jpg",
        "jpeg",
        "png",
        "bmp",
        "webp",
        "tif",
        "tiff",
    ]
)


@dataclass(frozen=True, slots=True)
class MediaJob:
    """One medium and the folder its results go to."""

    media: Path
    folder: Path


def expand(named: Sequence[Path], out: Path) -> tuple[list[MediaJob], list[MienError]]:
    """The jobs of files and folders (searched all the way down, by ending), each medium once, in the order
    named; and the errors of folders without any. Files that do not exist stay in: reading them says so.

    Hidden files, and what an earlier run left in `out`, are passed over.
    """
    media: dict[Path, Path] = {}
    errors: list[MienError] = []
    for name in named:
        if not name.is_dir():
            media.setdefault(_absolute(name), name)
            continue
        found = _within(name, out)
        if not found:
            errors.append(
                MediaError(
                    f"the folder {name} holds no media",
                    follows="nothing was predicted from it",
                    remedy="name files, or a folder of files that end in .mp4, .wav, .jpg and the like",
                )
            )
        for path in found:
            media.setdefault(_absolute(path), path)
    paths = list(media.values())
    return [MediaJob(path, out / name) for path, name in zip(paths, _names(paths), strict=True)], errors


def _within(folder: Path, out: Path) -> list[Path]:
    results = _absolute(out)
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and results not in _absolute(path).parents
        and path.is_file()
    ]


def _names(paths: list[Path]) -> list[str]:
    """A folder name for each: the stem where no other has it; else with as little before and behind it as
    tells them apart: `clip-mp4` beside `clip-wav`, `monday-clip` beside `tuesday-clip`."""
    names = [path.stem for path in paths]
    # Names that differ in case alone would meet in one folder on macOS and Windows.
    for stem, count in Counter(name.casefold() for name in names).items():
        if count > 1:
            clashing = [i for i, name in enumerate(names) if name.casefold() == stem]
            for i, name in zip(clashing, _told_apart([_absolute(paths[i]) for i in clashing]), strict=True):
                names[i] = name
    taken: set[str] = set()
    for i, name in enumerate(names):
        free, number = name, 2
        while free.casefold() in taken:
            free, number = f"{name}-{number}", number + 1
        taken.add(free.casefold())
        names[i] = free
    return names


def _told_apart(paths: list[Path]) -> list[str]:
    for before in range(max(len(path.parts) for path in paths)):
        for ending in (False, True):
            names = [_name(path, before, ending) for path in paths]
            if len({name.casefold() for name in names}) == len(names):
                return names
    return [_name(path, 0, True) for path in paths]


def _name(path: Path, before: int, ending: bool) -> str:
    folders = path.parts[:-1][-before:] if before else ()
    words = [*(part for part in folders if part != path.anchor), path.stem]
    return "-".join(words) + (path.suffix.replace(".", "-") if ending else "")


def _absolute(path: Path) -> Path:
    return path.absolute()
