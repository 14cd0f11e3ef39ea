"""Scratch files beside results: names that state their process, removal of abandoned ones, and permissions.

A scratch file is hidden and named `.STEM.HOST.PID-RUN.NUMBER.part.SUFFIX`: host and process that write it, a random
number of that process (process numbers are used again), and a counter, so that no two files of any process or thread
share a name.
"""

from __future__ import annotations

import itertools
import os
import re
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mien.processes import is_running

#: Seconds for which scratch files of other machines are kept: whether their process runs cannot be checked here.
FOREIGN_S = 86_400.0
_NAME = re.compile(r"\..*\.([^.]*)\.(\d+)(?:-([0-9a-f]{6}))?\.\d+\.part(?:\.[^.]*)?", re.DOTALL)
_RUN = secrets.token_hex(3)
_COUNT = itertools.count()
#: Permissions of files with faces or voices: the user alone.
PRIVATE = 0o600


def temporary_path(path: Path) -> Path:
    """A new scratch name for `path`: in the same folder, with the same suffix, different in each call.

    The stem is cut to 80 bytes, because file systems limit names to 255 bytes.
    """
    stem = os.fsencode(path.stem)[:80].decode(errors="ignore")
    return path.with_name(f".{stem}.{process_name()}.{next(_COUNT)}.part{path.suffix}")


def process_name() -> str:
    """This process in the name of a scratch file: `HOST.PID-RUN`."""
    return f"{_host()}.{os.getpid()}-{_RUN}"


def abandoned(folder: Path) -> Iterator[Path]:
    """Scratch files and folders in a folder whose process has ended; of other machines, those older than a day."""
    try:
        names = [entry.name for entry in os.scandir(folder) if ".part" in entry.name]
    except OSError:
        return
    for name in names:
        if (match := _NAME.fullmatch(name)) and is_abandoned(folder / name, match[1], int(match[2]), match[3]):
            yield folder / name


def remove_abandoned(folder: Path) -> None:
    """Remove the scratch files of a folder whose process has ended, as far as permissions allow."""
    for path in abandoned(folder):
        with suppress(OSError):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Context manager of a new scratch folder beside `path`, removed at the end; those of ended processes are removed
    first. Raises OSError."""
    remove_abandoned(path.parent)
    folder = temporary_path(path)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def private_mode(path: Path) -> int:
    """Permissions of a file with faces or voices that is to be written at `path`, before the umask.

    An earlier file of this user keeps its permissions. In a folder that is shared (its setgid bit is set, others may
    write to it and it is not sticky as /tmp is, or a group may that is not the user's own), the file can be read and
    written by whom the folder can. Otherwise only the user can read and write it.
    """
    if not hasattr(os, "getuid"):
        return PRIVATE
    with suppress(OSError):
        earlier = os.lstat(path)
        if stat.S_ISREG(earlier.st_mode) and earlier.st_uid == os.getuid():
            return stat.S_IMODE(earlier.st_mode)
    try:
        folder = os.stat(path.parent)
    except OSError:
        return PRIVATE
    mode = folder.st_mode
    by_others = mode & stat.S_IWOTH and not mode & stat.S_ISVTX
    by_group = mode & stat.S_IWGRP and folder.st_gid != os.getgid() and not mode & stat.S_ISVTX
    return stat.S_IMODE(mode) & 0o666 if mode & stat.S_ISGID or by_others or by_group else PRIVATE


def create_private(temporary: Path, path: Path) -> None:
    """Create the empty scratch file of `path` with the permissions of `private_mode`. Raises OSError."""
    mode = private_mode(path)
    file = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    try:
        if hasattr(os, "fchmod") and os.path.lexists(path):
            os.fchmod(file, mode)  # of the earlier file, which the umask does not change
    finally:
        os.close(file)


def _host() -> str:
    """This machine in a scratch name."""
    return re.sub(r"[^\w-]", "_", socket.gethostname())[:32]


def is_abandoned(path: Path, host: str, process: int, run: str | None) -> bool:
    """Whether the process in a scratch file's name has ended; of another machine, whether the file is a day old."""
    if host != _host():
        with suppress(OSError):
            return time.time() - path.stat().st_mtime > FOREIGN_S
        return False
    if process == os.getpid():
        return run is not None and run != _RUN
    return not is_running(process)
