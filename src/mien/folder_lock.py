"""Locks on folders: one process at a time writes the results of a folder."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mien.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class BusyError(OutputError):
    """Another process writes into the folder."""


@contextmanager
def lock_folder(folder: Path, *, writer: str, remedy: str) -> Iterator[None]:
    """Context manager that holds a folder; creates it, and removes it at the end if it is empty.

    The operating system holds the lock on the folder itself, so no file is left, and it ends with the process. File
    systems without such locks, and Windows, have none: then each file is still replaced as a whole.

    Args:
        writer: what holds the folder, for the error: "another `mien predict`".
        remedy: of the error.

    Raises:
        BusyError: another process, or another thread of this one, holds it. OSError: it cannot be created.
    """
    file = None if fcntl is None else _lock(folder, writer, remedy)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        with suppress(OSError):  # it has files
            folder.rmdir()
        if file is not None:
            os.close(file)


def _lock(folder: Path, writer: str, remedy: str) -> int:
    """The open folder, locked."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            file = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue  # its last holder removed it
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN):
                return file  # the file system has no locks
            os.close(file)
            raise BusyError(
                f"{folder}: {writer} is writing there", follows="Nothing was written.", remedy=remedy
            ) from None
        with suppress(OSError):
            if os.path.samestat(os.fstat(file), os.stat(folder)):
                return file
        os.close(file)  # its last holder removed it
