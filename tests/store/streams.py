"""Random streams for store tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mien.records import Stream
from mien.store import FeatureStore

KEY = {"network": "tiny", "layer": "last", "crop": "112"}


def stream(rows: int = 40, dim: int = 6, seed: int = 0, provenance: dict[str, str] = KEY) -> Stream:
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.uniform(0.01, 0.1, rows))
    return Stream(rng.normal(size=(rows, dim)).astype(np.float32), times, rng.random(rows) > 0.3, provenance)


def write(
    store: FeatureStore, clip: str = "a", encoder: str = "tiny", s: Stream | None = None, **options: object
) -> Path:
    return store.write(encoder, clip, s or stream(), **options)
