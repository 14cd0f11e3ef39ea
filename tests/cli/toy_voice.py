"""A toy audio encoder, for `mien extract --encoder toy_voice:Loud`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from mien.records import Stream


class Loud:
    """Five samples per block, the first invalid. Raises ValueError for audio above 0.9."""

    name, modality, dim, rate_hz, receptive_field_s, licence = "loud", "voice", 1, 10.0, 0.0, "none"

    def __init__(self, source: str | None = None, *, device: str = "cpu") -> None:
        self.provenance = {"version": source or "1"}

    def encode_audio(self, blocks: Iterable[tuple[float, np.ndarray]]) -> Iterator[Stream]:
        for start_s, samples in blocks:
            if abs(samples).max() > 0.9:
                raise ValueError("too loud")
            yield Stream(np.ones((5, 1)), start_s + np.arange(5) / 10, np.arange(5) > 0)
