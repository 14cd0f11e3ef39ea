"""Gated fusion: a weighted sum of modalities with learned weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mien.layers.attention import AttentionKind, masked_softmax


class GatedFusion(nn.Module):
    """Weighted sum of modalities; the weights are a softmax of one learned score per modality and token.

    Only modalities that are present in the sample share the weight. With one present, its weight is exactly 1 and the
    sum equals it bit for bit; with none, the sum is zero. `kind="naive"` shares the weight among all modalities, as if
    none could be missing.
    """

    def __init__(self, *, dim: int, modalities: Sequence[str], kind: AttentionKind = "safe") -> None:
        super().__init__()
        self.kind = kind
        self.score = nn.ModuleDict({name: nn.Linear(dim, 1) for name in modalities})

    def forward(self, tokens: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Fuse tokens: modality -> `(batch, time, dim)`; present: modality -> `(batch,)` bool.

        Returns the sum `(batch, time, dim)` and the weights `(batch, time, modality)` in the order of `tokens`.
        """
        names = list(tokens)
        scores = torch.cat([self.score[name](tokens[name]) for name in names], dim=-1)
        is_present = torch.stack([present[name] for name in names], dim=-1)[:, None, :]
        if self.kind == "naive":
            is_present = torch.ones_like(is_present)
        weights = masked_softmax(scores, is_present)
        total = torch.zeros_like(tokens[names[0]])
        for i, name in enumerate(names):
            total = total + (weights[..., i, None] * tokens[name]).masked_fill(~is_present[..., i, None], 0.0)
        return total, weights
