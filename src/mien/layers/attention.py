"""Attention over tokens of which some, or all, are missing.

`SafeAttention` has the five invariants of docs/ARCHITECTURE.md ("Missing data is a mask"), tested in tests/layers.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: `safe` has the invariants; `naive` is the common masked softmax, for comparison in the ablation only.
AttentionKind = Literal["safe", "naive"]


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis of the entries where `mask` is true; exactly zero elsewhere.

    Args:
        scores: `(..., n)`, finite. mask: bool, broadcastable to scores. A row without a true entry gives zeros.
    """
    has_entries = mask.any(dim=-1, keepdim=True)
    return scores.masked_fill(~mask & has_entries, -torch.inf).softmax(dim=-1).masked_fill(~mask, 0.0)


class SafeAttention(nn.Module):
    """Multi-head attention over the valid keys (Vaswani et al. 2017, arXiv 1706.03762, section 3.2.2).

    1. No mask, the empty one included, gives NaN or infinity in the output or a gradient.
    2. A query without a valid key gets exactly zero, the output bias included; a residual carries it.
    3. The value at an invalid key, NaN included, never changes any output bit: it is replaced before the projection,
       so it reaches neither a sum nor a gradient.
    4. Invalid keys appended as padding change nothing.

    Method: a row without a valid key attends to all its keys, zeroed, so that the softmax is defined; its output is
    then set to zero. (Other published methods, a learned missing key or dropping the rows, break 2 or need ragged
    batches.)

    `kind="naive"` is the common implementation, for the ablation: it adds -1e9 to the scores of invalid keys and does
    nothing else. A row without a valid key then gets the mean of all keys' values (next to -1e9, float32 rounds the
    scores away), scores without effect still get a gradient, and a NaN at an invalid key spreads to every row.

    Args:
        dim: width of queries and output; divisible by `heads`.
        key_dim: width of the keys, `dim` if None.
        dropout: probability of dropping an attention weight in training. 0 by default, because on a CPU it more than
            doubles the time.

    Raises ValueError if `dim` is not divisible by `heads`.
    """

    def __init__(
        self, *, dim: int, heads: int, dropout: float = 0.0, key_dim: int | None = None, kind: AttentionKind = "safe"
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} is not divisible by heads {heads}")
        self.heads, self.dropout, self.kind = heads, dropout, kind
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(key_dim or dim, 2 * dim)
        self.output = nn.Linear(dim, dim)

    def forward(self, query: Tensor, keys: Tensor, valid_keys: Tensor) -> Tensor:
        """Attend from `query` `(batch, query, dim)` to `keys` `(batch, key, key_dim)` where `valid_keys` `(batch, key)`
        bool is true -> `(batch, query, dim)`."""
        batch, queries, dim = query.shape
        if keys.shape[1] == 0:
            return torch.zeros_like(query)
        if self.kind == "naive":
            mask = torch.zeros_like(valid_keys, dtype=query.dtype).masked_fill(~valid_keys, -1e9)
        else:
            has_valid_key = valid_keys.any(dim=1, keepdim=True)
            mask = valid_keys | ~has_valid_key
            keys = keys.masked_fill(~valid_keys[..., None], 0.0)
        q = self.query(query).view(batch, queries, self.heads, -1).transpose(1, 2)
        k, v = self.key_value(keys).view(batch, keys.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask[:, None, None, :], dropout_p=self.dropout if self.training else 0.0
        )
        output: Tensor = self.output(attended.transpose(1, 2).reshape(batch, queries, dim))
        return output if self.kind == "naive" else output.masked_fill(~has_valid_key[..., None], 0.0)


class SharedDropout(nn.Module):
    """Variational dropout: one mask for all tokens of a sample (Gal and Ghahramani 2016, arXiv 1512.05287).

    Neighbouring tokens are nearly equal, so with a mask per token a dropped unit can be read from the next token. One
    mask also needs `time` times fewer random numbers, which on a CPU is a fifth of a training step.

    Raises ValueError if the probability is not in [0, 1).
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {probability}")
        self.probability = probability

    def forward(self, tokens: Tensor) -> Tensor:
        """`(batch, time, dim)` -> the same shape, with a `(batch, 1, dim)` mask in training."""
        if not self.training or not self.probability:
            return tokens
        keep = torch.rand(tokens.shape[0], 1, tokens.shape[2], device=tokens.device) >= self.probability
        return tokens * (keep.to(tokens.dtype) / (1 - self.probability))


class SafeCrossBlock(nn.Module):
    """Pre-norm cross-attention: `query + dropout(attention(norm(query), norm(keys)))`.

    Queries and keys each have a LayerNorm, as in the public code that the authors of arXiv 2603.08034 wrote for a
    sister task. A row without a valid key passes unchanged, bit for bit.
    """

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        kind: AttentionKind = "safe",
    ) -> None:
        super().__init__()
        self.norm_query, self.norm_keys = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = SafeAttention(dim=dim, heads=heads, dropout=attention_dropout, kind=kind)
        self.drop = SharedDropout(dropout)

    def forward(self, query: Tensor, keys: Tensor, valid_keys: Tensor) -> Tensor:
        """Attend from `query` to `keys`; shapes as in `SafeAttention.forward`, with keys of width `dim`."""
        if self.attention.kind == "safe":
            keys = keys.masked_fill(~valid_keys[..., None], 0.0)  # the gradient of the norm would pass a NaN on
        output: Tensor = query + self.drop(self.attention(self.norm_query(query), self.norm_keys(keys), valid_keys))
        return output
