"""Helpers of the save-and-load tests: train a system in memory and compare it with its saved copy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mien import checkpoint, config
from mien.layers.system import System
from mien.records import Stream
from mien.training.fit import MEASURES


def train(system: System[Any], batch: Any, steps: int = 5) -> None:
    """A few optimiser steps on one batch with all hooks, then the late stage, as `mien.training.fit` does."""
    optimiser = torch.optim.AdamW([p for p in system.parameters() if p.requires_grad], lr=1e-2)
    system.train()
    for _ in range(steps):
        loss, _ = system.objective(batch)
        optimiser.zero_grad()
        loss.backward()
        system.before_step()
        optimiser.step()
        system.after_step()
    system.eval()
    if system.has_late_stage:
        system.fit_classical([batch])
        system.fit_fusion([batch], MEASURES)


def save_and_load(system: System[Any], recipe: config.Recipe, folder: Path) -> checkpoint.Checkpoint:
    """The system saved and loaded; the loaded copy starts from other random weights."""
    checkpoint.save(folder, system, recipe)
    torch.manual_seed(12345)
    return checkpoint.load(folder)


def assert_streams_round_trip(
    system: System[Any], recipe: config.Recipe, streams: dict[str, Stream], stop_s: float, folder: Path
) -> checkpoint.Checkpoint:
    """Predictions before saving equal those after loading, for all streams and for each alone."""
    in_memory = checkpoint.Checkpoint(system, recipe, recipe.corpus.labels)
    subsets = [streams, *({name: stream} for name, stream in streams.items())]
    expected = [in_memory.predict_streams(subset, 0.0, stop_s) for subset in subsets]
    loaded = save_and_load(system, recipe, folder)
    for subset, arrays in zip(subsets, expected, strict=True):
        for before, after in zip(arrays, loaded.predict_streams(subset, 0.0, stop_s), strict=True):
            np.testing.assert_array_equal(after, before)
    return loaded
