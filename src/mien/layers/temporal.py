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


class CausalBlock(nn.Module):
    """Two causal convolutions, each with ReLU and dropout, and a residual: a level of a temporal convolutional
    network (Bai et al. 2018, arXiv 1803.01271, fig. 1; without its weight norm: our choice)."""

    def __init__(self, *, dim: int, kernel: int, dilation: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.reach = (kernel - 1) * dilation
        self.first = nn.Conv1d(dim, dim, kernel, dilation=dilation)
        self.second = nn.Conv1d(dim, dim, kernel, dilation=dilation)
        self.drop = nn.Dropout(dropout)

    def forward(self, values: Tensor) -> Tensor:
        """`(batch, dim, time)` -> the same; an output depends on nothing later than itself."""
        inner = self.drop(self.first(nn.functional.pad(values, (self.reach, 0))).relu())
        inner = self.drop(self.second(nn.functional.pad(inner, (self.reach, 0))).relu())
        return (inner + values).relu()


class TemporalConvolutions(nn.Module):
    """`levels` causal blocks with dilations 1, 2, 4, ...: sees `receptive_field` tokens up to and with its own."""

    def __init__(self, *, dim: int, levels: int, kernel: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(CausalBlock(dim=dim, kernel=kernel, dilation=2**level, dropout=dropout) for level in range(levels))
        )
        self.receptive_field = 1 + 2 * (kernel - 1) * (2**levels - 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """`(batch, time, dim)` -> `(batch, time, dim)`."""
        return self.blocks(tokens.transpose(1, 2)).transpose(1, 2)


def hold_last(valid: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """Where to read each token from if the last valid one is held for up to `reach` missing tokens. valid `(batch,
    time)` -> places `(batch, time)` and whether there is one, `(batch, time)` bool."""
    place = torch.arange(valid.shape[1], device=valid.device)
    last = torch.where(valid, place, -1).cummax(dim=1).values
    return last.clamp_min(0), (last >= 0) & (place - last <= reach)
