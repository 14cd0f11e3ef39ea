"""Directed cross-modal experts: valence and arousal from one expert for every ordered pair of modalities.

Source: Ryumina et al. (team RAS) 2026, arXiv 2603.13056 (10th ABAW, valence-arousal). The details come from notes on
the paper; there is no public code of this part.

[?]: not stated there; our choice.

Architecture, for M modalities:

* M (M - 1) experts. Expert "a to b" has the tokens of modality a as queries and those of modality b as keys, in 5
  layers of cross-attention with 16 heads. A feedforward network follows each cross-attention [?].
* A gate: the softmax over the experts of a linear map of each expert's mean state. The fused token is the weighted sum
  of the experts' states.
* Objective: `valence (1 - CCC_v) + arousal (1 - CCC_a) + mse MSE` [?: weights as in the reliability-aware fusion].

The inputs are embeddings and predictions of trained streams (`va_streams`, written by `mien derive`), or any features.

Differs:

* Missing modalities: an expert whose query modality is missing has weight 0; one whose key modality is missing passes
  its queries through. So any set of modalities gives a prediction, one alone through the experts that query with it.
* Modality dropout in training [?].
* Residual prediction (`residual`): the network corrects the streams' own predictions, weighted by the experts that
  query with them. Ours, as in `va_reliability`; off by default.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations

import torch
from torch import Tensor, nn

from mien.config import Count, Positive
from mien.layers.attention import SafeCrossBlock, masked_softmax
from mien.layers.pooling import masked_mean
from mien.layers.valence_arousal import (
    FusionConfig,
    ValenceArousalFusion,
    ValenceArousalObjective,
    valence_arousal_output,
)
from mien.records import Output


class Config(FusionConfig):
    """Options, beside those of `FusionConfig`.

    layers, heads: of each expert. feedforward: hidden width over `dim`, after each cross-attention [?].
    """

    layers: Count = 5
    heads: Count = 16
    feedforward: Positive = 2.0


class Objective(ValenceArousalObjective):
    """`valence (1 - CCC_v) + arousal (1 - CCC_a) + mse MSE` [?: as in the reliability-aware fusion]."""


class Expert(nn.Module):
    """Cross-attention from one modality to another, with a feedforward network after each layer."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        dim, hidden = config.dim, round(config.feedforward * config.dim)
        self.cross = nn.ModuleList(
            SafeCrossBlock(dim=dim, heads=config.heads, dropout=config.dropout) for _ in range(config.layers)
        )
        self.feedforward = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(config.dropout),
                          nn.Linear(hidden, dim))
            for _ in range(config.layers)
        )  # fmt: skip
        self.norm = nn.LayerNorm(dim)

    def forward(self, query: Tensor, keys: Tensor, valid_keys: Tensor) -> Tensor:
        """query, keys: `(batch, time, dim)`; valid_keys: `(batch, time)` bool -> `(batch, time, dim)`."""
        for cross, feedforward in zip(self.cross, self.feedforward, strict=True):
            query = cross(query, keys, valid_keys)
            query = query + feedforward(query)
        output: Tensor = self.norm(query)
        return output


class DirectedExperts(ValenceArousalFusion):
    """Network and objective of the directed experts; see the module's docstring and `Config`."""

    is_padding_neutral = True

    def __init__(self, config: Config, objective: Objective | None = None) -> None:
        super().__init__(config, objective or Objective())
        self.config = config
        #: (query modality, key modality) of each expert, in the order of `experts`.
        self.pairs = list(permutations(config.inputs, 2))
        self.project = nn.ModuleDict({n: nn.Linear(width, config.dim) for n, width in config.inputs.items()})
        self.missing = nn.ParameterDict({n: nn.Parameter(torch.randn(config.dim) * 0.02) for n in config.inputs})
        self.experts = nn.ModuleDict({f"{query} to {key}": Expert(config) for query, key in self.pairs})
        self.gate = nn.Linear(config.dim, 1)
        self.valence_arousal = self.head(config)

    def forward(self, values: Mapping[str, Tensor | None], valid: Mapping[str, Tensor | None]) -> Output:
        """Predict every token, see `StreamSystem.forward`. `Output.weights` are the experts' in the order of
        `modalities`, which holds their names."""
        inputs = self.select_inputs(values, valid)
        masks = {n: mask for n, (_, mask) in inputs.items()}
        tokens = {
            n: torch.where(mask[..., None], self.project[n](value), self.missing[n])
            for n, (value, mask) in inputs.items()
        }
        states = [self.experts[f"{q} to {k}"](tokens[q], tokens[k], masks[k]) for q, k in self.pairs]
        scores = [self.gate(masked_mean(s, masks[q]))[:, 0] for s, (q, _) in zip(states, self.pairs, strict=True)]
        has_query = torch.stack([masks[q].any(dim=1) for q, _ in self.pairs], dim=-1)
        weights = masked_softmax(torch.stack(scores, dim=-1), has_query)
        fused = torch.zeros_like(states[0])
        for weight, state in zip(weights.unbind(dim=-1), states, strict=True):
            fused = fused + weight[:, None, None] * state
        logits, time = self.valence_arousal(fused), fused.shape[1]
        if self.config.residual:
            experts_of = {n: [i for i, (q, _) in enumerate(self.pairs) if q == n] for n in inputs}
            stream_weights = {n: weights[:, i].sum(dim=1)[:, None].expand(-1, time) for n, i in experts_of.items()}
            logits = logits + self.mean_stream_prediction(inputs, stream_weights)
        return valence_arousal_output(
            logits.tanh(), weights[:, None].expand(-1, time, -1), has_query.any(dim=-1), list(self.experts),
            self.config.classes,
        )  # fmt: skip


#: The name under which `mien.models` finds the system of this file.
System = DirectedExperts
