"""What a trained stage says of recordings, as streams that the next stage reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from mien import clock
from mien.checkpoint import Checkpoint
from mien.errors import ConfigError
from mien.records import Recording, Stream


def derived(trained: Checkpoint, recording: Recording, provenance: Mapping[str, str]) -> Stream:
    """Windows through the stage's `embed`, averaged where they overlap: `(token, dim + 2)`, the vector and its two
    predictions; valid where a window that covers the token had evidence.

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
    known = np.isfinite(voted).all(axis=1)
    return Stream(np.where(known[:, None], voted, 0.0).astype(np.float32), times, known, dict(provenance))


def _embed(model: Any, values: dict[str, torch.Tensor], valid: dict[str, torch.Tensor]) -> tuple[Any, Any]:
    said, there = model.embed(values, valid)
    return said[0].float().cpu().numpy(), there[0].cpu().numpy()
