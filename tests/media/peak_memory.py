"""Print the peak memory that reading media files adds to a fresh process.

usage: peak_memory.py READER FILE...

One line for each file: megabytes added since the start, then the distinct results of the reader.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from mien.media.audio import blocks, speech_probability
from mien.media.video import frames

READERS: dict[str, Callable[[Path], set[object]]] = {
    "speech_dimensions": lambda path: {p.ndim for _, p in speech_probability(blocks(path))},
    "frame_shapes": lambda path: {f.image.shape for f in frames(path)},
    "frame_shapes_1280": lambda path: {f.image.shape for f in frames(path, max_side=1280)},
}


def peak_kb() -> int:
    """Peak of this process alone; `ru_maxrss` would begin with the parent's."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


if __name__ == "__main__":
    read = READERS[sys.argv[1]]
    before = peak_kb()
    for path in map(Path, sys.argv[2:]):
        results = read(path)
        print((peak_kb() - before) / 1024, *results)
