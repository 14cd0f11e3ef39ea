"""Long audio in overlapping chunks: flat memory, and every frame but those at the ends has context on both
sides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from mien.encoders.wavlm_forward import receptive_field


@dataclass(frozen=True, slots=True)
class Grid:
    """Frames over samples: frame i sees samples `[i * hop, i * hop + field)`."""

    hop: int
    field: int

    @classmethod
    def of(cls, kernels: tuple[int, ...], strides: tuple[int, ...]) -> Grid:
        return cls(*receptive_field(kernels, strides))

    def frames(self, samples: int) -> int:
        return (samples - self.field) // self.hop + 1 if samples >= self.field else 0

    def samples(self, frames: int) -> int:
        return (frames - 1) * self.hop + self.field

    def centre(self, frame: np.ndarray) -> np.ndarray:
        """In samples; sample k is at k, so the 400 samples of frame 0 are centred at 199.5."""
        return frame * self.hop + (self.field - 1) / 2


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of sound and what is kept of it. first: its first frame's number in the recording. keep: its
    frames `[keep[0], keep[1])` go out; the others are there as context."""

    samples: np.ndarray
    first: int
    keep: tuple[int, int]


def cut(blocks: Iterable[np.ndarray], grid: Grid, length: int, context: int) -> Iterator[Chunk]:
    """Chunks of `length` frames that overlap by `2 * context`, so that each frame goes out of exactly one, at
    least `context` frames from the chunk's borders (but for the recording's own). The last chunk ends with the
    recording and is as long as the others; a recording of at most `length` frames is one chunk of its own
    length, with the samples after its last frame too: they count in the mean and variance of the whole. Holds
    two chunks of samples and a block at most.
    """
    held, first = np.zeros(0, np.float32), 0  # samples from frame `first` on
    start, kept = 0, 0  # where the next full chunk begins, and the first frame that has not gone out
    for block in blocks:
        held = np.concatenate([held, block])
        while first + grid.frames(len(held)) > start + length:  # there is more: this chunk is not the last
            held, first = held[(start - first) * grid.hop :], start  # the last one may reach back to here
            yield Chunk(held[: grid.samples(length)], start, (kept - start, length - context))
            start, kept = start + length - 2 * context, start + length - context
    total = first + grid.frames(len(held))
    if total > kept:
        begin = max(0, total - length)
        yield Chunk(held[(begin - first) * grid.hop :], begin, (kept - begin, total - begin))
