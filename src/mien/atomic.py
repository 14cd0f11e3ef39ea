"""Atomic writes: temporary file in the same folder, then rename.

A file of mien is either whole or as it was before, also when the process is killed or the disk fills up.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mien.errors import OutputError

#: The operating system's words for "no room": the disk, the user's quota, or the largest file allowed.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def temporary_path(path: Path) -> Path:
    """The temporary name for `path`: hidden, in the same folder, with the same suffix, one for each process."""
    return path.with_name(f".{path.stem[:80]}.{os.getpid()}.part{path.suffix}")


def commit(temporary: Path, path: Path, *, sync: bool = False) -> None:
    """Rename a finished temporary file to `path`, replacing what was there.

    Args:
        sync: also flush the folder to the disk, so that the name survives a power cut.

    Raises OSError.
    """
    os.replace(temporary, path)
    if sync and hasattr(os, "O_DIRECTORY"):
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file at once. Raises OSError; what stood at `path` is then unchanged."""
    temporary = temporary_path(path)
    try:
        temporary.write_bytes(data)
        commit(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; it becomes `path` when the block ends, and is removed if the block raises.

    The folder is made if need be.

    Raises:
        OutputError: no permission, no space, or a name that cannot be written; it names the path and the fix.
    """
    scratch = temporary_path(path)
    make_folder(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "a folder has this name")
        yield scratch
        commit(scratch, path)
    except OSError as fault:
        # An error that names another file is about what was read, and is not ours to explain.
        if fault.filename is not None and not _within(fault, path):
            raise
        raise _explained(path, fault) from fault
    finally:
        scratch.unlink(missing_ok=True) if _reachable(scratch) else None


def make_folder(path: Path) -> None:
    """Makes the folder that `path` is to lie in. Raises OutputError, as `atomic_path`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise _explained(path, fault) from fault


def check_folder(folder: Path) -> None:
    """Makes sure, before any work, that results can be written into a folder; makes it if need be.

    Raises:
        OutputError: they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"mien")
    except OSError as fault:
        raise _explained(folder / "*", fault) from fault


def _within(fault: OSError, path: Path) -> bool:
    named = Path(os.fsdecode(fault.filename)) if isinstance(fault.filename, str | bytes) else path
    return named.parent == path.parent or named in path.parents


def _reachable(scratch: Path) -> bool:
    try:
        return scratch.exists()
    except OSError:
        return False


def _errno(fault: OSError) -> int | None:
    """The system's number of the error. Polars raises OSErrors that give it in words only."""
    words = re.search(r"\(os error (\d+)\)", str(fault))
    return fault.errno or (int(words[1]) if words else None)


def _explained(path: Path, fault: OSError) -> OutputError:
    number = _errno(fault)
    if number in FULL:
        remedy = f"free some space, or choose another folder with --out (this one: {path.parent})"
        return OutputError(f"{path} could not be written: the disk is full", follows=_FOLLOWS, remedy=remedy)
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(
            f"{path} could not be written: no permission to write in {path.parent}",
            follows=_FOLLOWS,
            remedy="choose a folder of your own with --out, or change the permissions of this one",
        )
    if number in (errno.EEXIST, errno.ENOTDIR):
        reason = f"{path.parent} is a file or lies in one, and a folder is needed there"
    else:
        reason = os.strerror(number).lower() if number else str(fault)
    return OutputError(
        f"{path} could not be written: {reason}",
        follows=_FOLLOWS,
        remedy="remove what stands in the way, or choose another folder with --out",
    )


_FOLLOWS = "no part of it was left behind; what stood there before is unchanged"
