"""Directed cross-modal experts: valence and arousal from cross-attention between ordered pairs of modalities.

Source: Ryumina et al. (team RAS) 2026, arXiv 2603.13056 (10th ABAW, valence-arousal). The text describes a gate over
experts (through notes on the paper); the authors' public code holds one expert without a gate. `reading` chooses:

* `gated`, the text: M (M - 1) experts for M modalities. Expert "a to b" has the tokens of modality a as queries and
  those of modality b as keys. A gate, the softmax over the experts of a linear map of each expert's mean state, weights
  them; the fused token is the weighted sum of their states.
* `stack`, the code: one expert. Its keys are those of one modality, or the mean of all modalities at each token.

The default is `gated`, because the published scores of the experts (face and voice, and all three) are those of the
text; the configuration in the code reads face and behaviour only.

An expert is the stack of the public code in both readings: 5 layers (`PositionedLayer`) over 400 frames, with
sinusoidal positions of queries and keys in every layer. The head has one hidden layer. Objective: `valence (1 - CCC_v)
+ arousal (1 - CCC_a) + mse MSE`, with CCC over each window and equal weights in the public code.

The inputs are embeddings and predictions of trained streams (`va_streams`, written by `mien derive`), or any features.

Differs:

* Missing modalities: an expert whose query modality is missing has weight 0; one whose key modality is missing answers
  from its queries. So any set of modalities gives a prediction, one alone through the experts that query with it. In
  the `stack`, learned tokens query in place of missing ones. The authors take the nearest frame.
* Predictions pass through a tanh, because valence and arousal lie in [-1, 1].
* Modality dropout in training. Ours.
* Residual prediction (`residual`): the network corrects the streams' own predictions, weighted by the experts that
  query with them (in the `stack`: equally). Ours, as in `va_reliability`; off by default.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from typing import Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn

from mien.config import Count
from mien.layers.attention import masked_softmax
from mien.layers.pooling import masked_mean
from mien.layers.temporal import PositionedLayer
from mien.layers.valence_arousal import (
    FusionConfig,
    StreamEmbedding,
    ValenceArousalFusion,
    ValenceArousalObjective,
    valence_arousal_output,
)
from mien.records import Output

#: Keys of the `stack` that are the mean of all modalities.
MEAN = "mean"


class Config(FusionConfig):
    """Options, beside those of `FusionConfig`.

    reading: `gated` or `stack`. query, keys: modalities of the `stack`; keys may be `mean`. layers, heads: of each
    expert (16 heads in notes on the text, 8 in the code).
    """

    reading: Literal["gated", "stack"] = "gated"
    query: str = "face"
    keys: str = MEAN
    layers: Count = 5
    heads: Count = 16

    @model_validator(mode="after")
    def _check_stack(self) -> Config:
        if self.reading == "gated":
            return self
        for key, name in (("query", self.query), ("keys", self.keys)):
            if name not in self.inputs and (key, name) != ("keys", MEAN):
                raise ValueError(f"{key} {name!r} is not a feature: {sorted(self.inputs)}")
        if self.keys != MEAN and (unused := sorted(set(self.inputs) - {self.query, self.keys})):
            raise ValueError(f"{unused} are features that neither query nor keys names")
        return self


class Objective(ValenceArousalObjective):
    """`valence (1 - CCC_v) + arousal (1 - CCC_a) + mse MSE`."""


class Expert(nn.Module):
    """Layers of cross-attention from the tokens of one modality to others on the same clock."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            PositionedLayer(dim=config.dim, heads=config.heads, dropout=config.dropout) for _ in range(config.layers)
        )

    def forward(self, query: Tensor, keys: Tensor, valid_keys: Tensor, share: Tensor | None = None) -> Tensor:
        """query, keys: `(batch, time, dim)`; valid_keys: `(batch, time)` bool -> `(batch, time, dim)`.

        share: `(batch, time, 1)`, the part of the query in the keys; what a layer adds to the query is then added to
        the keys in that part, because they are a mean that contains it. None for keys without it.
        """
        for layer in self.layers:
            output = layer(query, keys, valid_keys)
            if share is not None:
                keys = keys + share * (output - query)
            query = output
        return query


class DirectedExperts(ValenceArousalFusion):
    """Network and objective of the directed experts; see the module's docstring and `Config`."""

    is_padding_neutral = True

    def __init__(self, config: Config, objective: Objective | None = None) -> None:
        super().__init__(config, objective or Objective())
        self.config = config
        gated = config.reading == "gated"
        #: (query modality, key modality) of each expert, in the order of `experts`.
        self.pairs = list(permutations(config.inputs, 2)) if gated else [(config.query, config.keys)]
        self.embeddings = nn.ModuleDict(
            {n: StreamEmbedding(width, config.dim, config.dropout) for n, width in config.inputs.items()}
        )
        self.experts = nn.ModuleDict({f"{query} to {key}": Expert(config) for query, key in self.pairs})
        self.gate = nn.Linear(config.dim, 1) if gated else None
        self.valence_arousal = self.head(config)

    def forward(self, values: Mapping[str, Tensor | None], valid: Mapping[str, Tensor | None]) -> Output:
        """Predict every token, see `StreamSystem.forward`. `Output.weights` are the experts' in the order of
        `modalities`, which holds their names."""
        inputs = self.select_inputs(values, valid)
        masks = {n: mask for n, (_, mask) in inputs.items()}
        tokens = {n: self.embeddings[n](value, mask) for n, (value, mask) in inputs.items()}
        fused, weights, evidence = (self._stack if self.gate is None else self._gated)(tokens, masks)
        logits, time = self.valence_arousal(fused), fused.shape[1]
        if self.config.residual:
            logits = logits + self.mean_stream_prediction(inputs, self._stream_weights(inputs, weights, time))
        return valence_arousal_output(
            logits.tanh(), weights[:, None].expand(-1, time, -1), evidence, list(self.experts), self.config.classes
        )

    def _gated(self, tokens: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The experts' weighted sum `(batch, time, dim)`, their weights `(batch, expert)`, and the evidence."""
        assert self.gate is not None
        states = [self.experts[f"{q} to {k}"](tokens[q], tokens[k], masks[k]) for q, k in self.pairs]
        scores = [self.gate(masked_mean(s, masks[q]))[:, 0] for s, (q, _) in zip(states, self.pairs, strict=True)]
        has_query = torch.stack([masks[q].any(dim=1) for q, _ in self.pairs], dim=-1)
        weights = masked_softmax(torch.stack(scores, dim=-1), has_query)
        fused = torch.zeros_like(states[0])
        for weight, state in zip(weights.unbind(dim=-1), states, strict=True):
            fused = fused + weight[:, None, None] * state
        return fused, weights, has_query.any(dim=-1)

    def _stack(self, tokens: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The expert's state `(batch, time, dim)`, its weight `(batch, 1)`: 1 with evidence, and the evidence."""
        query, keys = self.pairs[0]
        share = None
        if keys == MEAN:
            is_valid = torch.stack(list(masks.values()), dim=-1)
            weights = is_valid / is_valid.sum(dim=-1, keepdim=True).clamp_min(1)
            mean = (weights[..., None] * torch.stack(list(tokens.values()), dim=-2)).sum(dim=-2)
            share, valid = weights[..., list(masks).index(query), None], is_valid.any(dim=-1)
        else:
            mean, valid = tokens[keys], masks[keys]
        state = self.experts[f"{query} to {keys}"](tokens[query], mean, valid, share)
        evidence = torch.stack([mask.any(dim=1) for mask in masks.values()], dim=-1).any(dim=-1)
        return state, evidence[:, None].to(state.dtype), evidence

    def _stream_weights(self, inputs: Mapping[str, object], weights: Tensor, time: int) -> dict[str, Tensor]:
        """Weight of each stream's own prediction, `(batch, time)`: that of the experts that query with it, or 1."""
        if self.gate is None:
            return {n: torch.ones_like(weights[:, :1]).expand(-1, time) for n in inputs}
        experts_of = {n: [i for i, (q, _) in enumerate(self.pairs) if q == n] for n in inputs}
        return {n: weights[:, i].sum(dim=1)[:, None].expand(-1, time) for n, i in experts_of.items()}


#: The name under which `mien.models` finds the system of this file.
System = DirectedExperts
