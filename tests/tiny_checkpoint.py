"""A small checkpoint of the flagship with random weights, for tests of everything around the model."""

from __future__ import annotations

from pathlib import Path

import torch

from mien import checkpoint, config, models
from mien.encoders import face_geometry
from mien.encoders.voice_prosody import ProsodyExtractor


def save_tiny(folder: Path, seed: int = 0, objective: dict[str, float] | None = None) -> Path:
    """Save it in a folder. objective: weights of the tasks that it counts as trained for."""
    raw = {
        "paper": {"title": "random weights", "arxiv": ""},
        "corpus": {"name": "none"},
        "features": {
            "face": {"encoder": face_geometry.NAME, "dim": face_geometry.DIM},
            "voice": {"encoder": ProsodyExtractor.NAME, "dim": ProsodyExtractor.DIM},
        },
        "windows": {"seconds": 2.0, "hop_seconds": 1.0},
        "model": {"name": "safe_cross_attention", "dim": 16, "heads": 2, "layers": 1},
        "objective": objective or {},
        "train": {},
        "vote": {},
    }
    recipe = config.read(raw, origin="test", check=models.problems)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return checkpoint.save(folder, models.build(recipe), recipe)
