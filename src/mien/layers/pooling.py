"""From tokens to one vector, past what is missing."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def masked_mean(tokens: Tensor, valid: Tensor) -> Tensor:
    """Mean of the valid tokens: `(batch, time, dim)`, `(batch, time)` bool -> `(batch, dim)`; zero where none is."""
    kept = torch.where(valid[..., None], tokens, 0.0)
    return kept.sum(dim=1) / valid.sum(dim=1, keepdim=True).clamp_min(1)


class AttentionStatistics(nn.Module):
    """Weighted mean and deviation side by side, the weights a softmax of a small network over the valid tokens
    (Okabe et al. 2018, arXiv 1803.10963, eq. 3-6). Zero where no token is valid."""

    def __init__(self, *, dim: int, hidden: int = 128) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, 1))

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """`(batch, time, dim)`, `(batch, time)` bool -> `(batch, 2 * dim)`."""
        tokens = torch.where(valid[..., None], tokens, 0.0)
        some = valid.any(dim=1, keepdim=True)
        score = self.score(tokens)[..., 0].masked_fill(~valid & some, -torch.inf)
        weight = score.softmax(dim=1).masked_fill(~valid, 0.0)[..., None]
        mean = (weight * tokens).sum(dim=1)
        variance = (weight * (tokens - mean[:, None]).square()).sum(dim=1)
        return torch.cat((mean, (variance + 1e-8).sqrt() * some), dim=1)
