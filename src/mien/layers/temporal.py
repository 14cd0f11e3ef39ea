"""Blocks over time: token embedding, positional encoding, Transformer layers, causal convolutions, forward fill."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mien.layers.attention import AttentionKind, SafeAttention, SharedDropout


class TokenEmbedding(nn.Module):
    """Features to tokens: a linear projection, and one learned token in place of every missing one.

    Args:
        width: of the features. dim: of the tokens. skip_equal: leave the projection out if width equals dim.
    """

    def __init__(self, width: int, dim: int, *, skip_equal: bool = False) -> None:
        super().__init__()
        self.project = nn.Identity() if skip_equal and width == dim else nn.Linear(width, dim)
        self.missing = nn.Parameter(torch.randn(dim) * 0.02)

    def forward(self, values: Tensor, valid: Tensor) -> Tensor:
        """values `(batch, time, width)`, valid `(batch, time)` bool -> `(batch, time, dim)`."""
        return torch.where(valid[..., None], self.project(values), self.missing)


def sinusoidal_positions(length: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Sinusoidal positional encoding of positions 0..length-1, `(length, dim)` float32: sines, then cosines.

    Wavelengths run geometrically from 2 pi to 10000 * 2 pi (Vaswani et al. 2017, arXiv 1706.03762, section 3.5). An odd
    `dim` drops the last cosine.
    """
    half = (dim + 1) // 2
    # 9.21... is ln 10000
    rates = torch.exp(torch.arange(half, device=device, dtype=torch.float32) * (-9.210340371976184 / half))
    angles = torch.arange(length, device=device, dtype=torch.float32)[:, None] * rates
    return torch.cat((angles.sin(), angles.cos()), dim=1)[:, :dim]


class TransformerLayer(nn.Module):
    """Pre-norm Transformer encoder layer over tokens of which some are missing (Xiong et al. 2020, arXiv 2002.04745).

    Every token is a query, only valid tokens are keys (`SafeAttention`): a missing token reads its neighbours and
    influences none of them.
    """

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        feedforward: int,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        kind: AttentionKind = "safe",
    ) -> None:
        super().__init__()
        self.norm_attention, self.norm_feedforward = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = SafeAttention(dim=dim, heads=heads, dropout=attention_dropout, kind=kind)
        self.feedforward = nn.Sequential(
            nn.Linear(dim, feedforward), nn.GELU(), SharedDropout(dropout), nn.Linear(feedforward, dim)
        )
        self.drop = SharedDropout(dropout)

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """tokens `(batch, time, dim)`, finite everywhere; valid `(batch, time)` bool -> `(batch, time, dim)`."""
        normed = self.norm_attention(tokens)
        tokens = tokens + self.drop(self.attention(normed, normed, valid))
        output: Tensor = tokens + self.drop(self.feedforward(self.norm_feedforward(tokens)))
        return output


class PositionedLayer(nn.Module):
    """Post-norm attention layer with sinusoidal positions inside and a residual connection around it.

    With the positions added, q is the query and k the keys:

        x = norm(attention(q, k) + dropout(q))
        output = query + norm(feedforward(x) + dropout(x))

    Because every layer adds the positions again, the layer sees the order of the tokens. Source: the authors' public
    code of arXiv 2603.13056, with the hidden width of the feedforward network equal to `dim`. Differs: attention
    weights are not dropped, and dropout has one mask for all tokens (`SharedDropout`), both to save time on a CPU.
    """

    def __init__(self, *, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = SafeAttention(dim=dim, heads=heads)
        self.feedforward = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), SharedDropout(dropout), nn.Linear(dim, dim))
        self.norm_attention, self.norm_feedforward = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.drop = SharedDropout(dropout)

    def forward(self, query: Tensor, keys: Tensor, valid_keys: Tensor) -> Tensor:
        """Attend from `query` to `keys`, both `(batch, time, dim)` on one clock, where `valid_keys` `(batch, time)`
        bool is true -> `(batch, time, dim)`. A query without a valid key passes through the rest of the layer."""
        positions = sinusoidal_positions(query.shape[1], query.shape[2], query.device)
        positioned = self.drop(query + positions)
        attended = self.attention(positioned, self.drop(keys + positions), valid_keys)
        hidden = self.norm_attention(attended + self.drop(positioned))
        output: Tensor = query + self.norm_feedforward(self.feedforward(hidden) + self.drop(hidden))
        return output


class CausalBlock(nn.Module):
    """Residual block of a temporal convolutional network: two causal convolutions, each with ReLU and dropout.

    Source: Bai et al. 2018, arXiv 1803.01271, fig. 1; without its weight norm (our choice).
    """

    def __init__(self, *, dim: int, kernel: int, dilation: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.padding = (kernel - 1) * dilation
        self.first = nn.Conv1d(dim, dim, kernel, dilation=dilation)
        self.second = nn.Conv1d(dim, dim, kernel, dilation=dilation)
        self.drop = nn.Dropout(dropout)

    def forward(self, values: Tensor) -> Tensor:
        """`(batch, dim, time)` -> the same shape; no output depends on a later input."""
        hidden = self.drop(self.first(nn.functional.pad(values, (self.padding, 0))).relu())
        hidden = self.drop(self.second(nn.functional.pad(hidden, (self.padding, 0))).relu())
        output: Tensor = (hidden + values).relu()
        return output


class PostNormLayer(nn.Module):
    """Post-norm Transformer layer with sinusoidal positions and a feedforward network as wide as the tokens.

    Source: the authors' public code of arXiv 2403.12609. Dropout has one mask for all tokens, and none is on attention
    weights (ours, to save time on a CPU).
    """

    def __init__(self, *, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = SafeAttention(dim=dim, heads=heads)
        self.feedforward = nn.Sequential(nn.Linear(dim, dim), SharedDropout(dropout), nn.ReLU(), nn.Linear(dim, dim))
        self.norm_attention, self.norm_feedforward = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.drop = SharedDropout(dropout)

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """tokens `(batch, time, dim)`, finite everywhere; valid `(batch, time)` bool -> `(batch, time, dim)`."""
        tokens = self.drop(tokens + sinusoidal_positions(tokens.shape[1], tokens.shape[2], tokens.device))
        tokens = self.norm_attention(tokens + self.drop(self.attention(tokens, tokens, valid)))
        output: Tensor = self.norm_feedforward(tokens + self.drop(self.feedforward(tokens)))
        return output


class TemporalConvolutions(nn.Module):
    """Temporal convolutional network: `levels` causal blocks with dilations 1, 2, 4, ...

    Attributes:
        receptive_field: number of tokens that an output depends on, its own included.
    """

    def __init__(self, *, dim: int, levels: int, kernel: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(CausalBlock(dim=dim, kernel=kernel, dilation=2**level, dropout=dropout) for level in range(levels))
        )
        self.receptive_field = 1 + 2 * (kernel - 1) * (2**levels - 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """`(batch, time, dim)` -> `(batch, time, dim)`."""
        output: Tensor = self.blocks(tokens.transpose(1, 2)).transpose(1, 2)
        return output


def forward_fill(valid: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Indices that fill up to `limit` missing tokens with the last valid one.

    Args:
        valid: `(batch, time)` bool.

    Returns the index to read each token from, `(batch, time)` int, and whether that index is valid, `(batch, time)`
    bool.
    """
    index = torch.arange(valid.shape[1], device=valid.device)
    # Looked up by the number of valid tokens so far, because ONNX has no cumulative maximum.
    count = valid.cumsum(dim=1)
    places = torch.zeros(valid.shape[0], valid.shape[1] + 1, dtype=index.dtype, device=valid.device)
    last_valid = places.scatter_add(1, count, torch.where(valid, index, 0)).gather(1, count)
    return last_valid, (count > 0) & (index - last_valid <= limit)
