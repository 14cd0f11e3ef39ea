"""Encoders whose output can be computed by hand. `source` makes them misbehave: see each class.

The tests name them `tests.extract.toy_encoders:Colour` and so on; worker processes import them by that name.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from mien.encoders.protocol import Crop, Segments
from mien.records import Stream

#: Sizes of the batches that `Colour` encoded in this process.
BATCH_SIZES: list[int] = []


class ToyEncoder:
    """Declarations that all toy encoders share. source: `1` or `2` is the version in the provenance."""

    name = ""
    rate_hz: float | None = None
    receptive_field_s = 0.0
    licence = "none"

    def __init__(self, source: str | None = None, *, device: str = "cpu") -> None:
        self.source = source
        self.provenance = {"network": self.name, "version": source if source in ("1", "2") else "1"}


class Colour(ToyEncoder):
    """Mean colour of a crop. `picky` raises ValueError for a red crop."""

    name, modality, dim, crop, batch_size = "colour", "face", 3, Crop(16), 8

    def encode_crops(self, crops: np.ndarray) -> np.ndarray:
        assert crops.dtype == np.uint8
        assert crops.shape[1:] == (16, 16, 3)
        BATCH_SIZES.append(len(crops))
        values: np.ndarray = crops.reshape(len(crops), -1, 3).mean(1)
        if self.source == "picky" and (values[:, 0] > 200).any():
            raise ValueError("too red")
        return values


class Shape(ToyEncoder):
    """Position of the first mesh point, minus its mean over the recording."""

    name, modality, dim = "shape", "face", 2

    def measure(self, meshes: np.ndarray) -> np.ndarray:
        return meshes[:, 0, :2].astype(np.float32)

    def encode_measures(self, measures: np.ndarray, times: np.ndarray, valid: np.ndarray) -> Stream:
        return Stream(measures - measures[valid].mean(0), times, valid)


class Loud(ToyEncoder):
    """Root mean square of the sound, ten times a second.

    `full` limits the size of files, as a full disk does; `slow` sleeps; on loud sound, `deadly` kills its process and
    `nan` returns NaN.
    """

    name, modality, dim = "loud", "voice", 1
    rate_hz = 10.0

    def encode_audio(self, blocks: Iterable[tuple[float, np.ndarray]]) -> Iterator[Stream]:
        if self.source == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        for start_s, samples in blocks:
            if self.source == "slow":
                time.sleep(0.15)
            is_loud = abs(samples).max() > 0.9
            if self.source == "deadly" and is_loud:
                os.kill(os.getpid(), signal.SIGKILL)
            n = len(samples) // 1600
            values = np.sqrt((samples[: n * 1600].reshape(n, 1600) ** 2).mean(1))[:, None]
            if self.source == "nan" and is_loud:
                values[0] = np.nan
            yield Stream(values, start_s + (np.arange(n) + 0.5) / 10, np.ones(n, bool))


class Louder(Loud):
    """`Loud` under another name."""

    name = "louder"


class Scene(ToyEncoder):
    """Number of pictures in a segment, and the mean of the first one."""

    name, modality, dim, batch_size = "scene", "behaviour", 2, 3
    segments = Segments(length_s=1.0, hop_s=0.5, rate_hz=4.0, pictures=4, max_side=24)

    def encode_segments(self, segments: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
        assert all(max(image.shape) <= 24 for segment in segments for image in segment)
        return np.array([[len(segment), np.mean(segment[0])] for segment in segments], np.float32)


class Undeclared:
    """Lacks every declaration except its name."""

    name = "undeclared"

    def __init__(self, source: str | None = None, *, device: str = "cpu") -> None:
        pass


class WithoutMethod(ToyEncoder):
    """Declares everything and has no method that encodes."""

    name, modality, dim = "without-method", "face", 1
