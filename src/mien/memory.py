"""Memory: append-only arrays that grow in blocks, and control of memory that the C library keeps after it is freed."""

from __future__ import annotations

import ctypes
import mmap
import tempfile
from contextlib import suppress
from typing import IO

import numpy as np
from numpy.typing import DTypeLike

#: glibc's `mallopt` parameters: size from which an allocation uses mmap, free memory kept at the top of the heap, and
#: the largest number of heaps.
_MMAP_THRESHOLD, _TRIM_THRESHOLD, _ARENA_MAX = -3, -1, -8
_MAX_INT = 2**31 - 1
#: Seconds of media after which freed memory is returned to the system. Otherwise fragmentation of the heap adds 60 MB
#: in an hour of video, and up to 100 MB in ten minutes of a live session. Our choice: a call takes some milliseconds.
RELEASE_EVERY_S = 10.0
#: Number of rows above which the steps that build a table return freed memory to the system. Our choice: a call takes
#: as long as 100 rows, and without it each step of an hour's table adds to the peak.
MANY_ROWS = 10_000
#: Bytes of a block. Our choice: a recording has ten such arrays, so that with 8 MB an hour of one face and voice takes
#: 40 MB more than a minute; a block is filled in ten seconds at the earliest.
BLOCK = 1 << 18
#: Bytes of an array that are kept in memory; a longer one is in a file.
IN_MEMORY = BLOCK


def _c_library() -> ctypes.CDLL | None:
    """The C library of this process; None on Windows, where it has no name by which to load it."""
    try:
        return ctypes.CDLL(None)
    except (TypeError, OSError):
        return None


def release_freed_memory() -> None:
    """Return freed memory to the system; glibc otherwise keeps what each thread has freed. No-op without glibc."""
    if (library := _c_library()) is not None:
        with suppress(AttributeError):
            library.malloc_trim(0)


def release_after_rows(count: int) -> None:
    """`release_freed_memory` where work on a table of so many rows has freed enough to be worth it."""
    if count > MANY_ROWS:
        release_freed_memory()


class PeriodicRelease:
    """Calls `release_freed_memory` every `RELEASE_EVERY_S` seconds of a recording or a live session."""

    def __init__(self) -> None:
        self._last_s: float | None = None

    def __call__(self, time_s: float) -> None:
        """time_s: position in the recording in seconds, increasing."""
        if self._last_s is None:
            self._last_s = time_s
        elif time_s - self._last_s >= RELEASE_EVERY_S:
            release_freed_memory()
            self._last_s = time_s


def keep_freed_memory() -> None:
    """Keep freed memory for the next allocation. No-op without glibc.

    By default glibc takes a tensor of some MB from the system, with a page fault every 4 KB, and returns it when it is
    freed, in every layer: 11 to 15 % of an encoder's time on a CPU (`bench/encoders.py`).
    """
    if (library := _c_library()) is not None:
        with suppress(AttributeError):
            library.mallopt(_MMAP_THRESHOLD, _MAX_INT)
            library.mallopt(_TRIM_THRESHOLD, _MAX_INT)


def share_heap() -> None:
    """Let all threads of this process allocate from one heap. No-op without glibc.

    By default glibc gives each thread a heap, and what one thread has freed the others cannot use. With one, predicting
    a minute of video takes 30 MB less and no more time.
    """
    if (library := _c_library()) is not None:
        with suppress(AttributeError):
            library.mallopt(_ARENA_MAX, 1)


def release_pages(array: np.ndarray) -> None:
    """Drop the pages of a memory-mapped array from this process's memory; they are read again when they are needed.

    No-op for other arrays, and where the system has no `madvise`.
    """
    mapping = getattr(array, "_mmap", None)
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


class GrowingArray:
    """Append-only array that grows in blocks of `BLOCK` bytes; from `IN_MEMORY` bytes on, blocks are in a file.

    The file has no name and is gone when the array is freed or the process ends.

    Args:
        width: numbers in a row; 0 for a one-dimensional array.
        dtype: of the array.
    """

    def __init__(self, width: int, dtype: DTypeLike = np.float32) -> None:
        self._shape = (width,) if width else ()
        self._dtype = np.dtype(dtype)
        self._row_bytes = self._dtype.itemsize * max(1, width)
        self._block_rows = max(1, BLOCK // self._row_bytes)
        self._blocks: list[np.ndarray] = []
        self._length = 0
        self._file: IO[bytes] | None = None
        self._rows_in_file = 0

    def __len__(self) -> int:
        return self._length

    def extend(self, rows: np.ndarray) -> None:
        """Append `(n, width)` rows. Raises ValueError for rows of another width."""
        if rows.shape[1:] != self._shape:
            raise ValueError(f"rows of shape {rows.shape[1:]} cannot be appended to rows of shape {self._shape}")
        while len(rows):
            used = self._length % self._block_rows
            if not used:
                self._spill()
                self._blocks.append(np.empty((self._block_rows, *self._shape), self._dtype))
            part = rows[: self._block_rows - used]
            self._blocks[-1][used : used + len(part)] = part
            self._length += len(part)
            rows = rows[len(part) :]

    def array(self) -> np.ndarray:
        """All rows, `(length, width)`: a view while they fit into one block, a memory map of the file if there is one,
        else a copy."""
        if self._file is not None:
            self._write(self._rows_in_file, self._length)
            mapped = np.memmap(self._file, self._dtype, "r+", shape=(self._length, *self._shape))
            release_pages(mapped)
            return mapped
        if len(self._blocks) == 1:
            return self._blocks[0][: self._length]
        used = self._length - (len(self._blocks) - 1) * self._block_rows
        parts = [*self._blocks[:-1], *(block[:used] for block in self._blocks[-1:])]
        return np.concatenate([np.empty((0, *self._shape), self._dtype), *parts])

    def _spill(self) -> None:
        """Move full blocks to the file once there is too much for memory."""
        if self._file is None:
            if len(self._blocks) * BLOCK < IN_MEMORY:
                return
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the array)
        self._write(self._rows_in_file, self._length)
        self._rows_in_file, self._blocks = self._length, []

    def _write(self, start: int, stop: int) -> None:
        """Write the rows that are in memory, which are `[start, stop)`, to their place in the file."""
        assert self._file is not None
        self._file.seek(start * self._row_bytes)
        left = stop - start
        for block in self._blocks:
            self._file.write(np.ascontiguousarray(block[:left]).data)
            left -= len(block[:left])
        self._file.flush()


def scatter(known: np.ndarray, rows: np.ndarray, length: int) -> np.ndarray:
    """`(length, width)` float32 with `known` `(n, width)` at `rows` `(n,)`, increasing, and zero elsewhere.

    Blocks are filled one by one, so that a memory-mapped array stays on disk.
    """
    if len(rows) == length:
        return known
    result = GrowingArray(known.shape[1])
    step = max(1, BLOCK // (4 * max(1, known.shape[1])))
    for start in range(0, length, step):
        stop = min(length, start + step)
        first, last = np.searchsorted(rows, (start, stop))
        block = np.zeros((stop - start, known.shape[1]), np.float32)
        block[rows[first:last] - start] = known[first:last]
        result.extend(block)
        release_pages(known)
    return result.array()
