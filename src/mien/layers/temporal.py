"""Blocks along time: position codes and the Transformer layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mien.layers.attention import Kind, SafeAttention, SharedDropout


def sinusoidal_positions(length: int, dim: int, device: torch.device | None = None) -> Tensor:
    """`(length, dim)` float32 codes of positions 0..length-1, sine and cosine halves side by side.

    Wavelengths run geometrically from 2 pi to 10000 * 2 pi (Vaswani et al. 2017, §3.5). An odd `dim`
    drops the last cosine.
    """
    half = (dim + 1) // 2
    rates = torch.exp(torch.arange(half, device=device, dtype=torch.float32) * (-9.210340371976184 / half))
    angles = torch.arange(length, device=device, dtype=torch.float32)[:, None] * rates
    return torch.cat((angles.sin(), angles.cos()), dim=1)[:, :dim]


class TransformerLayer(nn.Module):
    """Pre-norm Transformer layer over tokens of which some are missing (Xiong et al. 2020 for the order
    of the norms).

    Every position asks; only valid ones answer (`SafeAttention`). A missing position thus learns from its
    neighbours and teaches them nothing.
    """

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        feedforward: int,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        kind: Kind = "safe",
    ) -> None:
        super().__init__()
        self.norm_attention, self.norm_feedforward = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = SafeAttention(dim=dim, heads=heads, dropout=attention_dropout, kind=kind)
        self.feedforward = nn.Sequential(
            nn.Linear(dim, feedforward), nn.GELU(), SharedDropout(dropout), nn.Linear(feedforward, dim)
        )
        self.drop = SharedDropout(dropout)

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """tokens `(batch, time, dim)`, finite everywhere; valid `(batch, time)` bool -> `(batch, time,
        dim)`."""
        asked = self.norm_attention(tokens)
        tokens = tokens + self.drop(self.attention(asked, asked, valid))
        return tokens + self.drop(self.feedforward(self.norm_feedforward(tokens)))
