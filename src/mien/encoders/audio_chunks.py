"""Overlapping chunks of long audio: constant memory, and context on both sides of all frames but the outermost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from mien.encoders.wavlm_forward import receptive_field


@dataclass(frozen=True, slots=True)
class FrameGrid:
    """Frames of a stack of convolutions over samples: frame i covers samples `[i * hop, i * hop + field)`."""

    hop: int
    field: int

    @classmethod
    def from_convolutions(cls, kernels: tuple[int, ...], strides: tuple[int, ...]) -> FrameGrid:
        """Grid of a stack of convolutions without padding."""
        return cls(*receptive_field(kernels, strides))

    def frames(self, samples: int) -> int:
        """Number of complete frames in `samples` samples."""
        return (samples - self.field) // self.hop + 1 if samples >= self.field else 0

    def samples(self, frames: int) -> int:
        """Number of samples that `frames` frames cover."""
        return (frames - 1) * self.hop + self.field

    def centre(self, frame: np.ndarray) -> np.ndarray:
        """Centres of frames in samples. Sample k is at k, so the 400 samples of frame 0 are centred at 199.5."""
        return frame * self.hop + (self.field - 1) / 2


@dataclass(frozen=True, slots=True)
class Chunk:
    """Chunk of audio.

    samples: `(n,)` float32.
    first: index in the recording of the chunk's first frame.
    keep: frames `[keep[0], keep[1])` of the chunk are the result; the others are context.
    """

    samples: np.ndarray
    first: int
    keep: tuple[int, int]


def cut_chunks(blocks: Iterable[np.ndarray], grid: FrameGrid, length: int, context: int) -> Iterator[Chunk]:
    """Cut audio into chunks of `length` frames that overlap by `2 * context` frames.

    Exactly one chunk keeps each frame, at least `context` frames from the chunk's borders (except at the borders of the
    recording). The last chunk ends with the recording and is as long as the others. A recording of at most `length`
    frames is one chunk of its own length, including the samples after its last frame: they count in the mean and
    variance of the whole. At most two chunks of samples and one block are in memory.
    """
    buffer, first = np.zeros(0, np.float32), 0  # the buffer begins with frame `first`
    start, kept = 0, 0  # frame where the next full chunk begins, and the first frame that no chunk has kept
    for block in blocks:
        buffer = np.concatenate([buffer, block])
        while first + grid.frames(len(buffer)) > start + length:  # more frames follow, so this chunk is not the last
            buffer, first = buffer[(start - first) * grid.hop :], start  # the last chunk may begin as early as here
            yield Chunk(buffer[: grid.samples(length)], start, (kept - start, length - context))
            start, kept = start + length - 2 * context, start + length - context
    total = first + grid.frames(len(buffer))
    if total > kept:
        begin = max(0, total - length)
        yield Chunk(buffer[(begin - first) * grid.hop :], begin, (kept - begin, total - begin))
