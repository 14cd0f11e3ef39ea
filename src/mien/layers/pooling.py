"""Pooling of the valid tokens of a window, or of bins of it, into vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mien.layers.attention import masked_softmax


def any_valid(valid: Tensor) -> Tensor:
    """Whether the window has a valid token, repeated for each of its tokens: `(batch, time)` bool -> the same shape."""
    return valid.any(dim=1, keepdim=True).expand_as(valid)


def masked_mean(tokens: Tensor, valid: Tensor) -> Tensor:
    """Mean of the valid tokens: `(batch, time, dim)`, `(batch, time)` bool -> `(batch, dim)`; zero where none is."""
    total = torch.where(valid[..., None], tokens, 0.0).sum(dim=1)
    return total / valid.sum(dim=1, keepdim=True).clamp_min(1)


def split_bins(values: Tensor, valid: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Cut windows into bins of `length` tokens; the last one is padded with invalid tokens.

    values `(batch, time, dim)`, valid `(batch, time)` bool -> `(batch, bin, length, dim)` and `(batch, bin, length)`.
    """
    batch, time, width = values.shape
    bins = (time + length - 1) // length
    padding = bins * length - time
    padded = nn.functional.pad(values, (0, 0, 0, padding)).view(batch, bins, length, width)
    return padded, nn.functional.pad(valid, (0, padding)).view(batch, bins, length)


class AttentionStatistics(nn.Module):
    """Attentive statistics pooling: weighted mean and standard deviation, concatenated.

    The weights are a softmax, over the valid tokens, of a two-layer network's score (Okabe et al. 2018, arXiv
    1803.10963, eq. 3-6). The result is zero where no token is valid.
    """

    def __init__(self, *, dim: int, hidden: int = 128) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, 1))

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """`(batch, time, dim)`, `(batch, time)` bool -> `(batch, 2 * dim)`."""
        tokens = torch.where(valid[..., None], tokens, 0.0)
        weight = masked_softmax(self.score(tokens)[..., 0], valid)[..., None]
        mean = (weight * tokens).sum(dim=1)
        variance = (weight * (tokens - mean[:, None]).square()).sum(dim=1)
        # A tensor, because the exporter to ONNX takes an added constant of 1e-8 for zero and leaves it out.
        floor = torch.full_like(variance, 1e-8)
        return torch.cat((mean, (variance + floor).sqrt() * valid.any(dim=1, keepdim=True)), dim=1)
