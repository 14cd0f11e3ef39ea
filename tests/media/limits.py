"""What tests need beside odd files: how far memory rose, a disk that is full, a user who may not."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mien.media.audio import load
from mien.media.video import frames


def times_of(path: Path, **options: object) -> list[float]:
    return [frame.time_s for frame in frames(path, **options)]


def start_and_peak(path: Path) -> tuple[float, float]:
    start_s, sound = load(path)
    return start_s, start_s + float(np.argmax(sound)) / 16_000


PEAK = """
import sys
from pathlib import Path
from mien.media.audio import blocks, speech
from mien.media.video import frames

def peak():  # of this process alone; ru_maxrss would begin with its parent's
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

before = peak()
for path in map(Path, sys.argv[1:]):
    seen = {%s}
    print((peak() - before) / 1024, *seen)
"""


def peaks_mb(reading: str, *paths: Path) -> list[tuple[float, str]]:
    """Megabytes that reading the files, one after the other, has added to a fresh process so far, and what
    was seen. reading: a set comprehension over `path`."""
    command = [sys.executable, "-c", PEAK % reading, *map(str, paths)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [(float(line.split(" ", 1)[0]), line.split(" ", 1)[1]) for line in lines]


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """Files of this process can grow to `size` bytes: the kernel fails writes beyond, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def as_nobody(folder: Path) -> Iterator[None]:
    """Without root's rights, where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    for parent in (folder, *folder.parents):
        if parent.owner() == "root" and "pytest" in str(parent):
            parent.chmod(0o755)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
