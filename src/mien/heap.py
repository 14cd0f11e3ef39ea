"""The C library's heap, where that is glibc: what it keeps of freed memory, and when it gives it back."""

from __future__ import annotations

import ctypes
from contextlib import suppress

#: mallopt's names for: the least that is taken from the system by itself, and the most free memory that is kept.
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
_MOST = 2**31 - 1


def let_go() -> None:
    """Give freed memory back; glibc otherwise keeps what each thread freed for itself."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def keep() -> None:
    """Keep freed memory for the next tensor. A tensor of some MB otherwise comes from the system, a page fault every
    4 KB, and goes back when it is freed, layer after layer: 11 to 15 % of an encoder's time on a CPU
    (`bench/encoders.py`)."""
    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, _MOST)
        library.mallopt(_TRIM_THRESHOLD, _MOST)
