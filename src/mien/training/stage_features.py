"""Features of a trained stage over recordings, as streams for the next stage of a system."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch

from mien import clock, soft_vote
from mien.checkpoint import Checkpoint
from mien.errors import ConfigError
from mien.records import Recording, Stream

#: How far from a valid input a stage's features are valid, in seconds. Our choice: a face or a voice is evidence for
#: the second around it.
REACH_S = 1.0


def derive_stream(trained: Checkpoint, recording: Recording, provenance: Mapping[str, str]) -> Stream:
    """Run a stage over a recording's windows and average its embeddings where windows overlap.

    Returns a stream at the stage's token rate with values `(token, embedding_dim)`: the embedding, and the stage's two
    predictions last. A token is valid within `REACH_S` of a valid input (within one input period, if that is longer): a
    window with a face in one corner says little about the other.

    Raises ConfigError for a system without an embedding over streams.
    """
    if trained.model.input_kind != "streams" or trained.model.embedding_dim is None:
        raise ConfigError(
            f"{trained.recipe.model.name} has no features for a next stage",
            follows="Nothing was written.",
            remedy="Use a checkpoint of the recipes va_face, va_behaviour or va_voice.",
        )
    settings, model = trained.settings, trained.model.eval()
    ends = [stream.times[-1] for stream in recording.streams.values() if len(stream.times)]
    times = clock.token_times(0.0, float(max(ends, default=0.0)) + 0.5 / settings.rate_hz, settings.rate_hz)
    tokens = {
        name: clock.resample(stream, times, settings.rate_hz)
        for name, stream in recording.streams.items()
        if name in settings.features
    }
    hop = min(settings.tokens, clock.token_count(settings.hop_s, settings.rate_hz))
    rows = []
    device = next(model.parameters()).device
    for window in soft_vote.windows(len(times), settings.tokens, hop) if tokens else ():
        part = slice(window.start, window.stop)
        values = {name: torch.from_numpy(v[None, part]).to(device) for name, (v, _) in tokens.items()}
        valid = {name: torch.from_numpy(mask[None, part]).to(device) for name, (_, mask) in tokens.items()}
        embedding, known = _embed(model, values, valid)
        rows.append((window, np.where(known[:, None], embedding, np.nan)))
    voted = soft_vote.vote(rows, len(times)) if rows else np.full((len(times), trained.model.embedding_dim), np.nan)
    known = np.isfinite(voted).all(axis=1) & _near_input(recording, settings.features, times)
    return Stream(np.where(known[:, None], voted, 0.0).astype(np.float32), times, known, dict(provenance))


def _near_input(recording: Recording, names: Collection[str], times: np.ndarray) -> np.ndarray:
    """`(token,)` bool: whether a valid input is within REACH_S."""
    near = np.zeros(len(times), bool)
    for stream in (stream for name, stream in recording.streams.items() if name in names):
        valid_times = stream.times[np.asarray(stream.valid)]
        if len(valid_times):
            reach = max(REACH_S, clock.median_step(stream.times))
            near |= np.abs(valid_times[clock.nearest(valid_times, times)] - times) <= reach + 1e-6
    return near


@torch.inference_mode()
def _embed(
    model: Any, values: dict[str, torch.Tensor], valid: dict[str, torch.Tensor]
) -> tuple[np.ndarray, np.ndarray]:
    embedding, known = model.embed(values, valid)
    return embedding[0].float().cpu().numpy(), known[0].cpu().numpy()
