"""What a trained stage says of recordings, as streams that the next stage reads."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch

from mien import clock
from mien.checkpoint import Checkpoint
from mien.errors import ConfigError
from mien.records import Recording, Stream

#: Our choice: about a second of a face or a voice is what its neighbourhood still says something of.
REACH_S = 1.0


def derived(trained: Checkpoint, recording: Recording, provenance: Mapping[str, str]) -> Stream:
    """Windows through the stage's `embed`, averaged where they overlap: `(token, dim + 2)`, the vector and its two
    predictions; valid within `REACH_S` of something valid that was read (of one period of it, if that is longer): a
    window with a face in one corner says little of the other, and the next stage should know.

    Raises ConfigError for a system that derives nothing.
    """
    if not hasattr(trained.model, "embed"):
        raise ConfigError(
            f"{trained.recipe.model.name} says nothing that a next stage reads",
            follows="nothing was written",
            remedy="stages are trained by the recipes va_face, va_behaviour and va_voice",
        )
    settings, model = trained.settings, trained.model.eval()
    ends = [s.times[-1] for s in recording.streams.values() if len(s.times)]
    times = clock.token_times(0.0, float(max(ends, default=0.0)) + 0.5 / settings.rate_hz, settings.rate_hz)
    tokens = {
        n: clock.resample(s, times, settings.rate_hz) for n, s in recording.streams.items() if n in settings.features
    }
    hop = min(settings.tokens, clock.tokens_in(settings.hop_s, settings.rate_hz))
    rows = []
    device = next(model.parameters()).device
    for window in clock.windows(len(times), settings.tokens, hop) if tokens else ():
        values = {n: torch.from_numpy(v[None, window.start : window.stop]).to(device) for n, (v, _) in tokens.items()}
        valid = {n: torch.from_numpy(m[None, window.start : window.stop]).to(device) for n, (_, m) in tokens.items()}
        with torch.inference_mode():
            said, there = _embed(model, values, valid)
        rows.append((window, np.where(there[:, None], said, np.nan)))
    width = rows[0][1].shape[1] if rows else 1
    voted = clock.vote(rows, len(times)) if rows else np.full((len(times), width), np.nan)
    known = np.isfinite(voted).all(axis=1) & _near(recording, settings.features, times)
    return Stream(np.where(known[:, None], voted, 0.0).astype(np.float32), times, known, dict(provenance))


def _near(recording: Recording, names: Collection[str], times: np.ndarray) -> np.ndarray:
    """`(token,)` bool: something valid was read nearby."""
    near = np.zeros(len(times), bool)
    for stream in (s for n, s in recording.streams.items() if n in names):
        there = stream.times[np.asarray(stream.valid)]
        if not len(there):
            continue
        reach = max(REACH_S, clock.median_step(stream.times))
        near |= np.abs(there[clock.nearest(there, times)] - times) <= reach + 1e-6
    return near


def _embed(model: Any, values: dict[str, torch.Tensor], valid: dict[str, torch.Tensor]) -> tuple[Any, Any]:
    said, there = model.embed(values, valid)
    return said[0].float().cpu().numpy(), there[0].cpu().numpy()
