"""Decoded audio that several encoders read, decoded once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import IO

import numpy as np

#: Bytes of decoded sound kept in memory for further encoders (two minutes); more goes to a temporary file.
_IN_MEMORY = 1 << 23
_RATE = 16_000


class AudioSpool:
    """Decoded audio blocks that can be iterated several times, as (start in seconds, `(n,)` float32 at 16 kHz).

    The source is decoded once. Its exception is raised at the same place in every iteration.

    Args:
        source: blocks of one recording, in order.
        keep: store the blocks for further iterations; without it, iterate once.

    Attributes:
        has_blocks: the source gave at least one block so far.
        stop_s: end of the last block so far, in seconds.
    """

    def __init__(self, source: Iterator[tuple[float, np.ndarray]], *, keep: bool) -> None:
        self._source = source
        self._index: list[tuple[float, int, int]] = []  # start in seconds, offset in the file, samples
        self._file: IO[bytes] | None = tempfile.SpooledTemporaryFile(_IN_MEMORY) if keep else None  # noqa: SIM115
        self._size = 0
        self._error: Exception | None = None
        self.has_blocks = False
        self.stop_s = 0.0

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        number = 0
        while True:
            if self._file is not None and number < len(self._index):
                start_s, offset, count = self._index[number]
                self._file.seek(offset)
                yield start_s, np.frombuffer(self._file.read(4 * count), np.float32).copy()
            else:
                block = self._next()
                if block is None:
                    return
                yield block
            number += 1

    def _next(self) -> tuple[float, np.ndarray] | None:
        if self._error is not None:
            raise self._error
        try:
            block = next(self._source, None)
        except Exception as error:
            self._error = error
            raise
        if block is not None:
            self.has_blocks = True
            self.stop_s = block[0] + len(block[1]) / _RATE
            if self._file is not None:
                raw = block[1].astype(np.float32).tobytes()
                self._file.seek(self._size)
                self._file.write(raw)
                self._index.append((block[0], self._size, len(block[1])))
                self._size += len(raw)
        return block

    def __enter__(self) -> AudioSpool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
