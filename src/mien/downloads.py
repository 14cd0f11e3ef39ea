"""What downloads have in common: whether they are allowed, how they are announced, digests and sizes of files."""

from __future__ import annotations

import hashlib
import logging
import os
from functools import lru_cache
from pathlib import Path

#: A logger of its own, so that commands which hide other warnings still show what is downloaded.
log = logging.getLogger("mien.downloads")


def is_offline() -> bool:
    """Whether `MIEN_OFFLINE` forbids downloads."""
    return os.environ.get("MIEN_OFFLINE", "") not in ("", "0")


def announce(what: str, source: str, target: Path | str) -> None:
    """Log, before it starts, what is downloaded, from where, and where it is kept."""
    log.warning("downloading %s from %s into %s (MIEN_OFFLINE=1 forbids downloads)", what, source, target)


def human_size(size: int) -> str:
    """A size in bytes as text in kB or MB: 229714 -> `230 kB`."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def digest_of(path: Path, kind: str) -> str:
    """Digest of a file, `sha256:HEX` or `git:HEX`. kind: `sha256` or `git`."""
    digest = hashlib.sha256() if kind == "sha256" else hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return f"{kind}:{digest.hexdigest()}"


def digest_once(path: Path, kind: str) -> str:
    """As `digest_of`, but a file is read once by a process until its size, time or inode changes."""
    status = path.stat()
    return _digest_once(path, kind, (status.st_ino, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=64)
def _digest_once(path: Path, kind: str, version: tuple[int, int, int]) -> str:
    return digest_of(path, kind)
