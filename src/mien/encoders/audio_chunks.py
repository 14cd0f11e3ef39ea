"""Overlapping chunks of long audio: constant memory, and context on both sides of all frames but the outermost.

`encode_in_chunks` is the whole way from audio to a stream, for networks in torch (`mien.encoders.speech`) and in ONNX
Runtime (`mien.encoders.exported`) alike. It imports neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from mien.records import Stream

#: Samples per second of all audio that encoders read.
SAMPLE_RATE = 16_000


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


@dataclass(frozen=True, slots=True)
class Chunking:
    """How the audio of a recording is cut for a network.

    grid: frames of the network. length, context: frames in a chunk, and how many at each end are context only.
    normalise: scale each chunk to mean 0 and variance 1. batch_size: chunks per call of the network.
    """

    grid: FrameGrid
    length: int
    context: int
    normalise: bool
    batch_size: int


def encode_in_chunks(
    blocks: Iterable[tuple[float, np.ndarray]],
    chunking: Chunking,
    network: Callable[[np.ndarray], np.ndarray],
    provenance: Mapping[str, str],
) -> Iterator[Stream]:
    """Encode the audio of one recording in chunks.

    Frames of digital silence (a filled gap, a muted track) are not valid.

    Args:
        blocks: `(start in seconds, (n,) float32 samples)` at 16 kHz, consecutive.
        network: `(batch, samples)` float32 -> `(batch, frames, dim)` float32.
        provenance: of the streams.

    Yields:
        Pieces of one stream, in order; none for audio shorter than a frame.
    """
    start_s: float | None = None

    def samples() -> Iterator[np.ndarray]:
        nonlocal start_s
        for block_start_s, block in blocks:
            start_s = block_start_s if start_s is None else start_s
            yield np.asarray(block, np.float32)

    grid = chunking.grid
    for batch in _batches(cut_chunks(samples(), grid, chunking.length, chunking.context), chunking.batch_size):
        stacked = np.stack([chunk.samples for chunk in batch])
        values = network(normalise(stacked) if chunking.normalise else stacked)
        for chunk, value in zip(batch, values, strict=True):
            yield _piece(chunk, value, start_s or 0.0, grid, provenance)


def normalise(samples: np.ndarray) -> np.ndarray:
    """Scale every row of `(batch, n)` to mean 0 and variance 1, as the feature extractor of wav2vec 2.0 does."""
    mean = samples.mean(axis=1, keepdims=True)
    scaled: np.ndarray = (samples - mean) / np.sqrt(samples.var(axis=1, keepdims=True) + 1e-7)
    return scaled


def _piece(chunk: Chunk, values: np.ndarray, start_s: float, grid: FrameGrid, provenance: Mapping[str, str]) -> Stream:
    frames = np.arange(*chunk.keep)
    times = start_s + grid.centre(chunk.first + frames) / SAMPLE_RATE
    nonzero = np.concatenate([[0], np.cumsum(chunk.samples != 0)])
    begin = frames * grid.hop
    valid = nonzero[begin + grid.field] > nonzero[begin]
    return Stream(values[chunk.keep[0] : chunk.keep[1]], times, valid, provenance)


def _batches(chunks: Iterable[Chunk], size: int) -> Iterator[list[Chunk]]:
    """Group up to `size` consecutive chunks of equal length."""
    batch: list[Chunk] = []
    for chunk in chunks:
        if batch and (len(batch) == size or len(batch[0].samples) != len(chunk.samples)):
            yield batch
            batch = []
        batch.append(chunk)
    if batch:
        yield batch


def receptive_field(kernels: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, int]:
    """Hop and receptive field, in samples, of one frame after a stack of convolutions without padding.

    320 and 400 for WavLM and wav2vec 2.0.
    """
    hop, field = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        field += (kernel - 1) * hop
        hop *= stride
    return hop, field
