"""Directed experts: one for every ordered pair of modalities.

Ryumina et al. 2026, arXiv 2603.13056; known from notes on the paper only, there is no public code. Each of the M (M -
1) experts looks from one modality at another through 5 layers of cross-attention with 16 heads; a gate, a softmax of a
linear map of each expert's mean state, weighs what they came to.

Safe: an expert whose asking modality is missing has no say; one whose asked modality is missing passes what it asked
with. So any set of modalities answers, one alone through the experts that ask with it. What the notes do not give is
marked [?]. Inputs are what the streams derived (`va_streams`), or any features.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mien.config import Count, NotNegative, Positive, Section, Share
from mien.layers.attention import SafeCrossBlock
from mien.layers.gating import ModalityDropout
from mien.layers.pooling import masked_mean
from mien.layers.valence_arousal import AffectFusion, affect_head, affect_output
from mien.records import Output


class Config(Section):
    """inputs: two modalities or more. layers, heads: of each expert. feedforward: over dim, after each cross-attention
    [?]. hide: probability that a training window loses a modality whole [?], ours. standing: the answer begins at
    what the streams said themselves, weighed by the experts that ask with them; ours, as in `va_reliability`."""

    inputs: Annotated[dict[str, Count], Field(min_length=2)]
    classes: Count = 8
    rate_hz: Positive = 5.0
    dim: Count = 256
    layers: Count = 5
    heads: Count = 16
    feedforward: Positive = 2.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    hide: dict[str, Share] = Field(default={})
    standing: bool = False
    clamp: Positive = 8.0

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not divisible by heads {self.heads}")
        if unknown := sorted(set(self.hide) - set(self.inputs)):
            raise ValueError(f"hide names {unknown}, which are no modalities; features are {sorted(self.inputs)}")
        return self


class Objective(Section):
    """`valence (1 - CCC_v) + arousal (1 - CCC_a) + mse MSE` [?: as the reliability fusion]."""

    valence: NotNegative = 0.7
    arousal: NotNegative = 0.3
    mse: NotNegative = 0.01


class Expert(nn.Module):
    """Looks from one modality at another."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        dim, wide = config.dim, round(config.feedforward * config.dim)
        self.cross = nn.ModuleList(
            SafeCrossBlock(dim=dim, heads=config.heads, dropout=config.dropout) for _ in range(config.layers)
        )
        self.inner = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, wide), nn.GELU(), nn.Dropout(config.dropout),
                          nn.Linear(wide, dim))
            for _ in range(config.layers)
        )  # fmt: skip
        self.norm = nn.LayerNorm(dim)

    def forward(self, asking: Tensor, asked: Tensor, valid: Tensor) -> Tensor:
        for cross, inner in zip(self.cross, self.inner, strict=True):
            asking = cross(asking, asked, valid)
            asking = asking + inner(asking)
        return self.norm(asking)


class DirectedExperts(AffectFusion):
    """The whole system: network and objective. See the module's page and `Config`."""

    def __init__(self, config: Config, objective: Objective | None = None) -> None:
        super().__init__(inputs=config.inputs, classes=config.classes, clamp=config.clamp, standing=config.standing)
        self.config, self.loss = config, objective or Objective()
        self.hide = ModalityDropout(whole=config.hide, bursts={})
        self.pairs = list(permutations(config.inputs, 2))
        self.enter = nn.ModuleDict({n: nn.Linear(w, config.dim) for n, w in config.inputs.items()})
        self.missing = nn.ParameterDict({n: nn.Parameter(torch.randn(config.dim) * 0.02) for n in config.inputs})
        self.experts = nn.ModuleDict({f"{a} to {b}": Expert(config) for a, b in self.pairs})
        self.gate = nn.Linear(config.dim, 1)
        self.affect = affect_head(config.dim, standing=config.standing)

    def forward(self, values: Mapping[str, Tensor | None], valid: Mapping[str, Tensor | None]) -> Output:
        """See `StreamSystem.given` for what may be left out. weights: of the experts, in the order of `modalities`,
        which holds their names."""
        given = self.given(values, valid)
        tokens = {
            n: torch.where(mask[..., None], self.enter[n](value), self.missing[n]) for n, (value, mask) in given.items()
        }
        masks = {n: mask for n, (_, mask) in given.items()}
        present = {n: mask.any(dim=1) for n, mask in masks.items()}
        said, scores, there = [], [], []
        for a, b in self.pairs:
            state = self.experts[f"{a} to {b}"](tokens[a], tokens[b], masks[b])
            said.append(state)
            scores.append(self.gate(masked_mean(state, masks[a]))[:, 0])
            there.append(present[a])
        alive = torch.stack(there, dim=-1)
        some = alive.any(dim=-1, keepdim=True)
        weights = torch.stack(scores, dim=-1).masked_fill(~alive & some, -torch.inf).softmax(dim=-1)
        weights = weights.masked_fill(~alive, 0.0)
        mixed = sum(w[:, None, None] * s for w, s in zip(weights.unbind(dim=-1), said, strict=True))
        time, answer = mixed.shape[1], self.affect(mixed)
        if self.config.standing:
            asks = {n: [i for i, (a, _) in enumerate(self.pairs) if a == n] for n in given}
            trust = {n: weights[:, places].sum(dim=1)[:, None].expand(-1, time) for n, places in asks.items()}
            answer = answer + self.standing(given, trust)
        return affect_output(
            answer.tanh(), weights[:, None].expand(-1, time, -1), some[:, 0], list(self.experts),
            self.config.classes,
        )  # fmt: skip


#: The name under which `mien.models` finds this file's system.
System = DirectedExperts
