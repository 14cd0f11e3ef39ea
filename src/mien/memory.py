"""Memory: append-only arrays that grow in blocks, and control of memory that the C library keeps after it is freed."""

from __future__ import annotations

import ctypes
from contextlib import suppress

import numpy as np
from numpy.typing import DTypeLike

#: glibc's `mallopt` parameters: size from which an allocation uses mmap, and free memory kept at the top of the heap.
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
_MAX_INT = 2**31 - 1
#: Bytes of a block. Our choice: ten minutes of one face's or voice's features fit into one block.
BLOCK = 8 << 20


def release_freed_memory() -> None:
    """Return freed memory to the system; glibc otherwise keeps what each thread has freed. No-op without glibc."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def keep_freed_memory() -> None:
    """Keep freed memory for the next allocation. No-op without glibc.

    By default glibc takes a tensor of some MB from the system, with a page fault every 4 KB, and returns it when it is
    freed, in every layer: 11 to 15 % of an encoder's time on a CPU (`bench/encoders.py`).
    """
    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, _MAX_INT)
        library.mallopt(_TRIM_THRESHOLD, _MAX_INT)


class GrowingArray:
    """Append-only array that grows in blocks of `BLOCK` bytes.

    Args:
        width: numbers in a row; 0 for a one-dimensional array.
        dtype: of the array.
    """

    def __init__(self, width: int, dtype: DTypeLike = np.float32) -> None:
        self._shape = (width,) if width else ()
        self._dtype = np.dtype(dtype)
        self._block_rows = max(1, BLOCK // (self._dtype.itemsize * max(1, width)))
        self._blocks: list[np.ndarray] = []
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def extend(self, rows: np.ndarray) -> None:
        """Append `(n, width)` rows. Raises ValueError for rows of another width."""
        if rows.shape[1:] != self._shape:
            raise ValueError(f"rows of shape {rows.shape[1:]} cannot be appended to rows of shape {self._shape}")
        while len(rows):
            used = self._length % self._block_rows
            if not used:
                self._blocks.append(np.empty((self._block_rows, *self._shape), self._dtype))
            part = rows[: self._block_rows - used]
            self._blocks[-1][used : used + len(part)] = part
            self._length += len(part)
            rows = rows[len(part) :]

    def array(self) -> np.ndarray:
        """All rows, `(length, width)`; a view while they fit into one block, else a copy."""
        if len(self._blocks) == 1:
            return self._blocks[0][: self._length]
        used = self._length - (len(self._blocks) - 1) * self._block_rows
        parts = [*self._blocks[:-1], *(block[:used] for block in self._blocks[-1:])]
        return np.concatenate([np.empty((0, *self._shape), self._dtype), *parts])
