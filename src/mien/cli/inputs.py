"""Media files among the command line's arguments, and the folder for the results of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mien.errors import MediaError, MienError
from mien.printable import printable

#: Suffixes of the media files that are taken from a folder. A file named by itself is tried whatever its suffix.
# fmt: off
SUFFIXES = frozenset((
    ".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mts", ".m2ts", ".ts", ".wmv", ".flv", ".3gp",
    ".ogv", ".mjpeg", ".vob", ".m2v", ".asf", ".3g2",
    ".wav", ".mp3", ".m4a", ".flac", ".ogg", ".oga", ".opus", ".aac", ".wma", ".aif", ".aiff",
    ".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".apng",
    ".heic", ".heif", ".avif",
    ".mka", ".caf", ".ac3",
))
# fmt: on


#: Name of the file beside each timeline that says how it was made (`mien.cli.provenance`).
PROVENANCE = "timeline.json"
#: Name of the page that lists the results of an output folder.
INDEX = "index.html"
#: Name of the folder for a recording whose name consists of dots.
NAMELESS = "recording"


@dataclass(frozen=True, slots=True)
class MediaJob:
    """A media file and the folder for its results. digest: of the file, where it has been read already; else ""."""

    media: Path
    folder: Path
    digest: str = ""


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A file or folder that is not predicted. reason: why, as the end of a sentence."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a command predicts. errors: one for each folder without media. passed: what folders hold besides media, and
    inputs named twice."""

    jobs: list[MediaJob]
    errors: list[MienError]
    passed: list[PassedOver]


def plan_jobs(paths: Sequence[Path], out: Path) -> Plan:
    """Find the media files of `paths`, each once and in order, and choose a folder in `out` for each.

    Folders are searched recursively, by suffix, without hidden files and without results of mien: `out`, and every
    folder that holds a timeline.json. A file that does not exist becomes a job too: decoding it raises the error.
    """
    media: dict[Path, Path] = {}
    errors: list[MienError] = []
    passed: list[PassedOver] = []
    for path in paths:
        if not path.is_dir():
            if path.absolute() in media:
                passed.append(PassedOver(path, "named twice"))
            media.setdefault(path.absolute(), path)
            continue
        files = _media_in(path, out, passed)
        if not files:
            errors.append(
                MediaError(
                    f"the folder {printable(path)} holds no media",
                    follows="Nothing was predicted from it.",
                    remedy="Name files, or a folder of files with suffixes such as .mp4, .wav or .jpg.",
                )
            )
        for file in files:
            media.setdefault(file.absolute(), file)
    files = list(media.values())
    jobs = [MediaJob(file, out / name) for file, name in zip(files, _unique_names(files), strict=True)]
    return Plan(jobs, errors, passed)


def _media_in(folder: Path, out: Path, passed: list[PassedOver]) -> list[Path]:
    """The media files of a folder, sorted; everything else, except what is inside `out`, is appended to `passed`."""
    results, found = out.absolute(), []
    hidden: set[Path] = set()
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if results == path.absolute() or results in path.absolute().parents:
            continue
        first = next((i for i, part in enumerate(parts) if part.startswith(".")), None)
        if first is not None:  # a hidden folder is named once, not with all that it holds
            hidden.add(folder.joinpath(*parts[: first + 1]))
        elif not path.is_file():
            if path.is_symlink() and not path.exists():
                passed.append(PassedOver(path, "a link to a file that does not exist"))
        elif any((place / PROVENANCE).is_file() for place in path.parents if folder in place.parents):
            if path.name == PROVENANCE:
                passed.append(PassedOver(path.parent, "results of mien"))
        elif path.suffix.lower() in SUFFIXES:
            found.append(path)
        else:
            passed.append(PassedOver(path, "no suffix of media"))
    passed += [PassedOver(path, "hidden") for path in sorted(hidden)]
    return found


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
    used = {INDEX}
    for i, name in enumerate(names):
        # The stem of `...mp4` is `..`, which would be the folder above.
        unique, number = name if name.strip(".") else NAMELESS, 2
        base = unique
        while unique.casefold() in used:
            unique, number = f"{base}-{number}", number + 1
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
