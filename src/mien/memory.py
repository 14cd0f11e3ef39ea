"""The C library's heap, where that is glibc: what it keeps of freed memory, and when it gives it back."""

from __future__ import annotations

import ctypes
from contextlib import suppress

import numpy as np
from numpy.typing import DTypeLike

#: mallopt's names for: the least that is taken from the system by itself, and the most free memory that is kept.
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
_MOST = 2**31 - 1


def release_freed_memory() -> None:
    """Give freed memory back; glibc otherwise keeps what each thread freed for itself."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def keep_freed_memory() -> None:
    """Keep freed memory for the next tensor. A tensor of some MB otherwise comes from the system, a page fault every
    4 KB, and goes back when it is freed, layer after layer: 11 to 15 % of an encoder's time on a CPU
    (`bench/encoders.py`)."""
    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, _MOST)
        library.mallopt(_TRIM_THRESHOLD, _MOST)


#: Bytes of a block. Our choice: ten minutes of what prediction keeps of one face or voice fit into one.
BLOCK = 8 << 20


class GrowingArray:
    """Rows of `width` numbers (0: plain numbers) of one kind, appended and read."""

    def __init__(self, width: int, dtype: DTypeLike = np.float32) -> None:
        self._shape = (width,) if width else ()
        self._dtype = np.dtype(dtype)
        self._room = max(1, BLOCK // (self._dtype.itemsize * max(1, width)))
        self._blocks: list[np.ndarray] = []
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def extend(self, rows: np.ndarray) -> None:
        """Append `(n, width)` rows. Raises ValueError for rows of another width."""
        if rows.shape[1:] != self._shape:
            raise ValueError(f"rows of shape {rows.shape[1:]} do not fit among rows of shape {self._shape}")
        while len(rows):
            used = self._length % self._room
            if not used:
                self._blocks.append(np.empty((self._room, *self._shape), self._dtype))
            part = rows[: self._room - used]
            self._blocks[-1][used : used + len(part)] = part
            self._length += len(part)
            rows = rows[len(part) :]

    def array(self) -> np.ndarray:
        """All rows, `(length, width)`: a view as long as they lie in one block."""
        if len(self._blocks) != 1:
            whole = np.empty((self._length, *self._shape), self._dtype)
            for number, block in enumerate(self._blocks):
                part = whole[number * self._room : (number + 1) * self._room]
                part[:] = block[: len(part)]
            return whole
        return self._blocks[0][: self._length]
