"""Helpers of the tests of several systems: small recipes, and recordings whose classes can be learnt."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mien import config, models
from mien.records import Batch, Clip, Labels, Recording, Stream

FACE_DIM, VOICE_DIM, CLASSES = 12, 16, 4
SMALL: dict[str, dict[str, Any]] = {
    "prompted_tcn": {"dim": 16, "levels": 2, "heads": 2, "hidden": [16, 16], "text_dim": 8, "tcn_dropout": 0.0,
                     "voice_dropout": 0.0, "attention_dropout": 0.0, "dropout": 0.0},
    "cnn_pdem": {"dim": 16, "face_layers": 1, "face_heads": 2, "voice_dim": 16, "voice_heads": [2], "dropout": 0.0,
                 "weight_draws": 50, "forest_trees": [3, 5], "elm_support": 40, "fusion_dim": 16, "fusion_heads": 2},
    "gated_fusion": {"dim": 16, "dropout": 0.0},
    "safe_cross_attention": {"dim": 16, "heads": 2, "layers": 1, "dropout": 0.0},
    "transfer_ensemble": {"hidden": 16, "cnn14": [4, 8], "channels": [8, 8], "kernels": [5, 3], "pools": [2, 2],
                          "lstm": 8, "weight_draws": 50, "dropout": 0.0, "voice_dropout": 0.0},
}  # fmt: skip


def recipe(name: str, objective: dict[str, Any] | None = None, **model: Any) -> config.Recipe:
    return config.read(
        {
            "paper": {"title": "t", "arxiv": "1"},
            "corpus": {"name": "test", "labels": ["Neutral", "Anger", "Disgust", "Fear"]},
            "features": {"face": {"encoder": "f", "dim": FACE_DIM}, "voice": {"encoder": "v", "dim": VOICE_DIM}},
            "windows": {"seconds": 2.0, "hop_seconds": 1.0, "rate_hz": 5.0},
            "model": {"name": name, **SMALL[name], **model},
            "objective": objective or {},
            "train": {"epochs": 8, "batch": 8, "lr": 1e-2, "threads": 1, "patience": 0},
            "vote": {"hop_seconds": 1.0},
        },
        origin=name,
        check=models.problems,
    )


def batch(size: int = 6, time: int = 10, seed: int = 0, *, missing: float = 0.2) -> Batch:
    """Windows of one label each, which both modalities show clearly; NaN at missing tokens."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(size) % CLASSES
    values, valid = {}, {}
    for name, width in (("face", FACE_DIM), ("voice", VOICE_DIM)):
        pattern = torch.eye(CLASSES, width)[labels] * 2
        features = pattern[:, None] + 0.3 * torch.randn(size, time, width, generator=generator)
        is_valid = torch.rand(size, time, generator=generator) >= missing
        is_valid[:, 0] = True
        values[name], valid[name] = features.masked_fill(~is_valid[..., None], torch.nan), is_valid
    affect = torch.stack((labels / 4 - 0.4, 0.4 - labels / 4), dim=-1)[:, None].expand(-1, time, -1)
    return Batch(values, valid, labels[:, None].expand(-1, time).clone(), affect.clone())


def recordings(count: int, seed: int) -> list[Recording]:
    """Two classes of three seconds each, at 5 Hz."""
    rng, made = np.random.default_rng(seed), []
    for number in range(count):
        times = np.arange(30) / 5 + 0.1
        expression = np.repeat(rng.integers(0, CLASSES, 2), 15)
        streams = {}
        for name, width in (("face", FACE_DIM), ("voice", VOICE_DIM)):
            values = 2 * np.eye(CLASSES, width)[expression] + 0.5 * rng.normal(size=(30, width))
            streams[name] = Stream(values.astype(np.float32), times, rng.random(30) > 0.1)
        labels = Labels(times, expression, np.stack((expression / 4 - 0.4, 0.4 - expression / 4), 1))
        made.append(Recording(Clip(f"{seed}-{number}", None, f"{seed}-{number}", labels=labels), streams))
    return made
