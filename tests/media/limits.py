"""Helpers for media tests: frame times, peak memory, a limited disk, an unprivileged user."""

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


def frame_times(path: Path, **options: object) -> list[float]:
    return [frame.time_s for frame in frames(path, **options)]


def start_and_peak(path: Path) -> tuple[float, float]:
    """Seconds at which the audio begins and at which it is loudest."""
    start_s, sound = load(path)
    return start_s, start_s + float(np.argmax(sound)) / 16_000


def peaks_mb(reader: str, *paths: Path) -> list[tuple[float, str]]:
    """(megabytes of peak memory added so far, distinct results) for each file, read in turn by a fresh process.

    reader: a name of `peak_memory.READERS`.
    """
    command = [sys.executable, str(Path(__file__).with_name("peak_memory.py")), reader, *map(str, paths)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [(float(line.split(" ", 1)[0]), line.split(" ", 1)[1]) for line in lines]


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Limit files of this process to `size` bytes: the kernel fails further writes, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def unprivileged(folder: Path) -> Iterator[None]:
    """Drop root's rights where the tests run as root."""
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
