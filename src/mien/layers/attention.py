"""Attention that stays right when keys are missing.

The five invariants of docs/ARCHITECTURE.md ("Safe attention") are kept here and tested in tests/layers.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: `safe` keeps the invariants; `naive` is the plain masked softmax that the ablation compares with.
Kind = Literal["safe", "naive"]


class SafeAttention(nn.Module):
    """Multi-head attention of queries over the valid ones among the keys (Vaswani et al. 2017, §3.2.2).

    1. No mask, the empty one included, gives NaN or inf in the output or a gradient.
    2. A query without any valid key gets exactly zero, the output bias included; a residual carries it.
    3. What stands at an invalid key, NaN included, never changes any output bit: it is replaced before it is
       projected, so it reaches neither a sum nor a gradient.
    4. Invalid keys appended as padding change nothing.

    How: rows without a valid key are shown all keys, whose values are zeroed, so that the softmax has
    something to normalise, and their output is then set to zero. (The other published ways, a learned
    missing key or dropping the rows, break 2 or need ragged batches.)

    `kind="naive"` is what an ordinary implementation does, for the ablation: -1e9 is added to the scores of
    invalid keys and nothing else. A row without a valid key then gets the mean of whatever stands there (float32
    rounds the scores away beside -1e9), scores that no longer matter still get a gradient, and a NaN at an
    invalid key spreads to every row.

    Args:
        dim: width of queries and output; divisible by `heads`.
        key_dim: width of the keys, `dim` if not given.
        dropout: of the attention weights, in training. Off by default: on a CPU it more than doubles the
            time.
    """

    def __init__(
        self, *, dim: int, heads: int, dropout: float = 0.0, key_dim: int | None = None, kind: Kind = "safe"
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} is not divisible by heads {heads}")
        self.heads, self.dropout, self.kind = heads, dropout, kind
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(key_dim or dim, 2 * dim)
        self.output = nn.Linear(dim, dim)

    def forward(self, query: Tensor, keys: Tensor, valid_keys: Tensor) -> Tensor:
        """query `(batch, query, dim)`, keys `(batch, key, key_dim)`, valid_keys `(batch, key)` bool
        -> `(batch, query, dim)`."""
        batch, queries, dim = query.shape
        if keys.shape[1] == 0:
            return torch.zeros_like(query)
        if self.kind == "naive":
            mask = torch.zeros_like(valid_keys, dtype=query.dtype).masked_fill(~valid_keys, -1e9)
        else:
            answered = valid_keys.any(dim=1, keepdim=True)
            mask = valid_keys | ~answered
            keys = keys.masked_fill(~valid_keys[..., None], 0.0)
        q = self.query(query).view(batch, queries, self.heads, -1).transpose(1, 2)
        k, v = self.key_value(keys).view(batch, keys.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask[:, None, None, :], dropout_p=self.dropout if self.training else 0.0
        )
        out = self.output(mixed.transpose(1, 2).reshape(batch, queries, dim))
        return out if self.kind == "naive" else out.masked_fill(~answered[..., None], 0.0)


class SharedDropout(nn.Module):
    """Dropout whose mask is one for all tokens of a sample: `(batch, time, dim)` with a `(batch, 1, dim)`
    mask.

    Neighbouring tokens say nearly the same, so a unit dropped in one token is read off the next; sharing
    the mask hides it (Gal and Ghahramani 2016, arXiv 1512.05287). It also draws `time` times fewer
    numbers, which on a CPU is a fifth of a training step.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {probability}")
        self.probability = probability

    def forward(self, tokens: Tensor) -> Tensor:
        if not self.training or not self.probability:
            return tokens
        keep = torch.rand(tokens.shape[0], 1, tokens.shape[2], device=tokens.device) >= self.probability
        return tokens * (keep.to(tokens.dtype) / (1 - self.probability))


class SafeCrossBlock(nn.Module):
    """Pre-norm cross-attention: `query + dropout(attention(norm(query), norm(keys)))`.

    LayerNorm on the queries and on the keys and values, as in the flagship's sister code (PAPERS §1). A
    row without a valid key passes unchanged, bit by bit.
    """

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        kind: Kind = "safe",
    ) -> None:
        super().__init__()
        self.norm_query, self.norm_keys = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = SafeAttention(dim=dim, heads=heads, dropout=attention_dropout, kind=kind)
        self.drop = SharedDropout(dropout)

    def forward(self, query: Tensor, keys: Tensor, valid_keys: Tensor) -> Tensor:
        """Shapes as `SafeAttention.forward`, with keys as wide as the queries."""
        if self.attention.kind == "safe":
            keys = keys.masked_fill(~valid_keys[..., None], 0.0)  # a NaN would pass the norm's gradient
        return query + self.drop(self.attention(self.norm_query(query), self.norm_keys(keys), valid_keys))
