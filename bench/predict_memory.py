"""Peak memory of the decoding pass by length of the video: `python bench/predict.py --memory`.

    python bench/predict_memory.py VIDEO

Encodes a video with a crop encoder, a voice encoder and a segment encoder at once, of the widths of BEiT-Large,
WavLM-Large and Qwen3-VL-4B, whose networks are replaced by a random projection of the mean of their input, tracks the
faces, and makes the streams of each person. Imports transformers, as those encoders do, but holds no weights. Prints
the peak in MB.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import transformers  # noqa: F401 (part of the memory of such a process)
from transformers import BeitModel, WavLMModel  # noqa: F401

from mien.encode.encode_media import encode_media
from mien.encoders.protocol import Crop, Encoder, Segments
from mien.media.audio import blocks
from mien.media.video import frames
from mien.records import Stream


class Projection:
    """Declarations that the encoders share; `dim` random numbers times the mean of the input."""

    rate_hz: float | None = None
    receptive_field_s = 0.0
    licence = "none"
    provenance: Mapping[str, str] = {}

    def __init__(self, name: str, modality: str, dim: int) -> None:
        self.name, self.modality, self.dim = name, modality, dim
        self._weights = np.random.default_rng(0).standard_normal(dim).astype(np.float32)

    def project(self, means: np.ndarray) -> np.ndarray:
        """`(n,)` -> `(n, dim)` float32."""
        values: np.ndarray = means.astype(np.float32)[:, None] * self._weights
        return values


class Faces(Projection):
    """Crop encoder of 224 x 224 pixels."""

    crop, batch_size = Crop(224), 8

    def encode_crops(self, crops: np.ndarray) -> np.ndarray:
        """See `CropEncoder`."""
        return self.project(crops.reshape(len(crops), -1).mean(axis=1))


class Voice(Projection):
    """Voice encoder with 50 vectors a second."""

    def encode_audio(self, audio: Iterable[tuple[float, np.ndarray]]) -> Iterator[Stream]:
        """See `AudioEncoder`."""
        for start_s, samples in audio:
            count = len(samples) // 320
            means = samples[: 320 * count].reshape(count, 320).mean(axis=1)
            yield Stream(self.project(means), start_s + (np.arange(count) + 0.5) / 50, np.ones(count, bool))


class Behaviour(Projection):
    """Segment encoder of 4 s every 2 s."""

    segments, batch_size = Segments(), 2

    def encode_segments(self, segments: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
        """See `SegmentEncoder`."""
        return self.project(np.array([np.mean(segment[0]) for segment in segments]))


def main() -> None:
    """Encode one video and print the peak memory of the process."""
    video = Path(sys.argv[1])
    encoders: dict[str, Encoder] = {
        "face": Faces("faces", "face", 1024),
        "voice": Voice("voice", "voice", 1024),
        "behaviour": Behaviour("behaviour", "behaviour", 2560),
    }
    media = encode_media(encoders, frames=lambda: frames(video), audio=lambda: blocks(video))
    for number in range(len(media.faces.subjects)):
        assert media.streams(number).keys() == encoders.keys()
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}")


if __name__ == "__main__":
    main()
