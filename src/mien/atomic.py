"""Atomic writes: temporary file in the same folder, then rename.

A file is either complete or unchanged, even if the process is killed or the disk fills up.
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
from mien.scratch import create_private, remove_abandoned, temporary_path

#: Error numbers for "no space": the disk is full, the user's quota is used up, or the file is too large.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: Error numbers for "no permission", a read-only file system included.
NO_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS)
_FOLLOWS = "No part of it was left behind; an earlier file of that name is unchanged."


def commit(temporary: Path, path: Path, *, sync: bool = False) -> None:
    """Rename a complete temporary file to `path`, replacing an earlier file.

    Args:
        sync: also flush the folder to the disk, so that the name survives a power cut.

    Raises OSError.
    """
    os.replace(temporary, path)
    if sync:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk. Raises OSError."""
    if hasattr(os, "O_DIRECTORY"):
        file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def sync_file(path: Path) -> None:
    """Flush a file to the disk. Raises OSError."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def write_bytes(path: Path, data: bytes, *, sync: bool = False) -> None:
    """Write a whole file atomically. Raises OSError; an earlier file at `path` is then unchanged.

    Args:
        sync: also flush the file and its name to the disk, so that both survive a power cut.
    """
    temporary = temporary_path(path)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        commit(temporary, path, sync=sync)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_path(path: Path, *, private: bool = False) -> Iterator[Path]:
    """Yield a temporary path to write to; rename it to `path` when the block ends, remove it if the block raises.

    Creates the folder if necessary. Removes temporary files in it whose process has ended.

    Args:
        private: the file shows faces or holds voices: only the user may read it, unless the folder says otherwise
            (`mien.scratch.private_mode`). The temporary file exists then, empty.

    Raises:
        OutputError: no permission, no space, or an invalid name.
    """
    temporary = temporary_path(path)
    make_folder(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "a folder has this name")
        if private:
            create_private(temporary, path)
        yield temporary
        commit(temporary, path)
    except OSError as error:
        # An error that names a file elsewhere comes from reading an input, not from this output.
        if error.filename is not None and not _concerns(error, path):
            raise
        raise _output_error(path, error) from error
    finally:
        if _exists(temporary):
            temporary.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Create the parent folder of `path`, or remove abandoned temporary files in it. Raises OutputError, as
    `atomic_path`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _output_error(path, error) from error
    remove_abandoned(path.parent)


def check_folder(folder: Path) -> None:
    """Check before any work that files can be written into a folder; create it if necessary, and remove temporary
    files in it whose process has ended.

    Raises:
        OutputError: the folder cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"mien")
    except OSError as error:
        raise _output_error(folder / "*", error, what=f"the folder {folder}") from error
    remove_abandoned(folder)


def _concerns(error: OSError, path: Path) -> bool:
    """Whether the file that the error names is in the folder of `path` or above it."""
    named = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else path
    return named.parent == path.parent or named in path.parents


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _output_error(path: Path, error: OSError, what: str = "") -> OutputError:
    """The error of a file. what: could not be written, if it is not the path itself."""
    number = error.errno
    if number is None and (match := re.search(r"\(os error (\d+)\)", str(error))):
        number = int(match[1])  # Polars states the error number only in the text.
    if number in FULL:
        reason = "the disk is full"
        remedy = f"Free some space, or choose another folder with --out (this one: {path.parent})."
    elif number in NO_PERMISSION:
        reason = f"no permission to write in {path.parent}"
        remedy = "Choose a folder of your own with --out, or change the permissions of this one."
    else:
        remedy = "Remove the obstacle, or choose another folder with --out."
        if number in (errno.EEXIST, errno.ENOTDIR):
            reason = f"{path.parent} is a file or lies in one, and a folder is needed there"
        else:
            reason = os.strerror(number).lower() if number else str(error)
    return OutputError(f"{what or path} could not be written: {reason}.", follows=_FOLLOWS, remedy=remedy)
