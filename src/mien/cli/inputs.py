"""Media files among the command line's arguments, and the folder for the results of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mien.errors import MediaError, MienError

#: Suffixes of the media files that are taken from a folder. A file named by itself is tried whatever its suffix.
# fmt: off
SUFFIXES = frozenset((
    ".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mts", ".m2ts", ".ts", ".wmv", ".flv", ".3gp",
    ".ogv", ".mjpeg",
    ".wav", ".mp3", ".m4a", ".flac", ".ogg", ".oga", ".opus", ".aac", ".wma", ".aif", ".aiff",
    ".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".apng",
    ".heic", ".heif", ".avif",
))
# fmt: on


@dataclass(frozen=True, slots=True)
class MediaJob:
    """A media file and the folder for its results."""

    media: Path
    folder: Path


def plan_jobs(paths: Sequence[Path], out: Path) -> tuple[list[MediaJob], list[MienError]]:
    """Find the media files of `paths`, each once and in order, and choose a folder in `out` for each.

    Folders are searched recursively, by suffix, without hidden files and without earlier results in `out`. A file that
    does not exist becomes a job too: decoding it raises the error.

    Returns:
        The jobs, and one error for each folder without media.
    """
    media: dict[Path, Path] = {}
    errors: list[MienError] = []
    for path in paths:
        if not path.is_dir():
            media.setdefault(path.absolute(), path)
            continue
        files = _media_in(path, out)
        if not files:
            errors.append(
                MediaError(
                    f"the folder {path} holds no media",
                    follows="Nothing was predicted from it.",
                    remedy="Name files, or a folder of files with suffixes such as .mp4, .wav or .jpg.",
                )
            )
        for file in files:
            media.setdefault(file.absolute(), file)
    files = list(media.values())
    return [MediaJob(file, out / name) for file, name in zip(files, _unique_names(files), strict=True)], errors


def _media_in(folder: Path, out: Path) -> list[Path]:
    results = out.absolute()
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and results not in path.absolute().parents
        and path.is_file()
    ]


def _unique_names(paths: list[Path]) -> list[str]:
    """A folder name for each file: its stem if unique, else with the parent folders and the suffix that distinguish
    it: `monday-clip` and `tuesday-clip`, `clip-mp4` and `clip-wav`."""
    names = [path.stem for path in paths]
    # Names are compared without case, because macOS and Windows do so.
    for stem, count in Counter(name.casefold() for name in names).items():
        if count > 1:
            clashing = [i for i, name in enumerate(names) if name.casefold() == stem]
            for i, name in zip(clashing, _distinguish([paths[i].absolute() for i in clashing]), strict=True):
                names[i] = name
    used: set[str] = set()
    for i, name in enumerate(names):
        unique, number = name, 2
        while unique.casefold() in used:
            unique, number = f"{name}-{number}", number + 1
        used.add(unique.casefold())
        names[i] = unique
    return names


def _distinguish(paths: list[Path]) -> list[str]:
    """Names with as few parent folders, and then as few suffixes, as make them unique."""
    for parents in range(max(len(path.parts) for path in paths)):
        for with_suffix in (False, True):
            names = [_name(path, parents, with_suffix) for path in paths]
            if len({name.casefold() for name in names}) == len(names):
                return names
    return [_name(path, 0, True) for path in paths]


def _name(path: Path, parents: int, with_suffix: bool) -> str:
    folders = path.parts[:-1][-parents:] if parents else ()
    words = [*(part for part in folders if part != path.anchor), path.stem]
    return "-".join(words) + (path.suffix.replace(".", "-") if with_suffix else "")
