"""Reliability-aware fusion of face, behaviour and voice streams into valence and arousal.

Source: Ryumina et al. (team RAS) 2026, arXiv 2603.13056 (10th ABAW, valence-arousal; test score .62). Sizes, layers,
priors and losses follow the authors' public code.

Architecture, over windows of 4 s:

* Reliability gate: the frame streams (face, behaviour) become one token per time step, their weighted sum. The weights
  are `softmax(score + log prior)`, with the score of a small network per stream and token and priors .85 and .15. A
  missing stream has -10,000 in place of its score, and all weights are zero where all streams are missing.
* Voice latents: the voice of the window is 4 tokens, one for each second. 4 learned latent queries attend to them, then
  the frame tokens attend to the latents. Windows without voice skip both.
* One Transformer layer and a head with one hidden layer follow.
* Objective: `valence (1 - CCC_v) + arousal (1 - CCC_a) + mse MSE`.

The published network has no positions: within a window it sees which seconds of voice there are, and not their order.
Time enters through the windows, which are therefore short.

The inputs are embeddings and predictions of trained streams (`va_streams`, written by `mien derive`), or any features.

Differs:

* A voice token is the mean of the voice stream over a second. That stream is averaged where its windows overlap; the
  authors keep the four values of each window.
* Where no frame stream is valid there is a learned token, so that the voice alone gives a prediction (the published
  code has a zero there). Such frames are no keys of the Transformer layer; in the published code they are.
* Predictions pass through a tanh, because valence and arousal lie in [-1, 1].
* An input may be both gated and attended to through latents. Latents describe a whole window, so a voice that must
  predict each moment alone needs a small prior as well. Ours.
* Modality dropout in training. Ours; the published code has none.
* Residual prediction (`residual`): the network corrects the streams' own predictions. Ours; off by default.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mien.config import Count, Positive
from mien.layers.attention import SafeAttention
from mien.layers.pooling import masked_mean, split_bins
from mien.layers.temporal import TransformerLayer
from mien.layers.valence_arousal import (
    FusionConfig,
    ValenceArousalFusion,
    ValenceArousalObjective,
    valence_arousal_output,
)
from mien.records import Output


class Config(FusionConfig):
    """Options, beside those of `FusionConfig`.

    prior: input -> prior weight of those that the gate sums into a token. latent_inputs: those that the tokens attend
    to through latents. latents: their number. bin_seconds: length of one token of a latent input. An input is in one
    of the two, or in both.
    """

    latents: Count = 4
    bin_seconds: Positive = 1.0
    prior: dict[str, Positive] = Field(default={"face": 0.85, "behaviour": 0.15})
    latent_inputs: list[str] = Field(default=["voice"])

    @model_validator(mode="after")
    def _check_inputs(self) -> Config:
        if not set(self.prior) & set(self.inputs):
            raise ValueError(f"prior names {sorted(self.prior)}, none of which is a feature: {sorted(self.inputs)}")
        if unused := sorted(set(self.inputs) - set(self.prior) - set(self.latent_inputs)):
            raise ValueError(f"{unused} are features that neither prior nor latent_inputs names")
        return self


class Objective(ValenceArousalObjective):
    """`valence (1 - CCC_v) + arousal (1 - CCC_a) + mse MSE`."""


class ReliabilityFusion(ValenceArousalFusion):
    """Network and objective of the reliability-aware fusion; see the module's docstring and `Config`."""

    is_padding_neutral = True
    log_prior: Tensor

    def __init__(self, config: Config, objective: Objective | None = None) -> None:
        super().__init__(config, objective or Objective())
        self.config = config
        dim = config.dim
        self.gated = [n for n in config.inputs if n in config.prior]
        self.latent_inputs = [n for n in config.inputs if n in config.latent_inputs]
        self.bin_tokens = max(1, round(config.bin_seconds * config.rate_hz))
        self.project = nn.ModuleDict({n: nn.Linear(width, dim) for n, width in config.inputs.items()})
        self.gate = nn.ModuleDict(
            {
                n: nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(dim, 1))
                for n in self.gated
            }
        )
        prior = torch.tensor([config.prior[n] for n in self.gated])
        self.register_buffer("log_prior", (prior / prior.sum()).log(), persistent=False)
        self.missing = nn.Parameter(torch.randn(dim) * 0.02)
        self.latents = nn.Parameter(torch.randn(config.latents, dim) * 0.02)
        self.to_latents, self.from_latents = (SafeAttention(dim=dim, heads=config.heads) for _ in range(2))
        self.norm_latents, self.norm_query, self.norm_tokens = (nn.LayerNorm(dim) for _ in range(3))
        self.layer = TransformerLayer(dim=dim, heads=config.heads, feedforward=4 * dim, dropout=config.dropout)
        self.norm, self.valence_arousal = nn.LayerNorm(dim), self.head(config)

    def gate_streams(self, inputs: Mapping[str, tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Sum the gated streams into tokens `(batch, time, dim)`; returns them and the streams' weights `(batch, time,
        stream)`, in the order of `gated`. inputs: see `StreamSystem.select_inputs`."""
        projected = [self.project[n](inputs[n][0]) for n in self.gated]
        is_valid = torch.stack([inputs[n][1] for n in self.gated], dim=-1)
        score = torch.cat([self.gate[n](p) for n, p in zip(self.gated, projected, strict=True)], dim=-1)
        weights = (score + self.log_prior).masked_fill(~is_valid, -1e4).softmax(dim=-1)
        weights = weights * is_valid
        tokens = (weights[..., None] * torch.stack(projected, dim=-2)).sum(dim=-2)
        return torch.where(is_valid.any(dim=-1, keepdim=True), tokens, self.missing), weights

    def attend_to_latents(self, tokens: Tensor, inputs: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
        """Add to tokens `(batch, time, dim)` what they read from the latent inputs, through the latents."""
        keys, valid = [], []
        for name in self.latent_inputs:
            bins, is_valid = split_bins(*inputs[name], self.bin_tokens)
            means = masked_mean(bins.flatten(0, 1), is_valid.flatten(0, 1)).view(*bins.shape[:2], -1)
            keys.append(self.project[name](means))
            valid.append(is_valid.any(dim=-1))
        all_keys, all_valid = torch.cat(keys, dim=1), torch.cat(valid, dim=1)
        latents = self.latents.expand(tokens.shape[0], -1, -1)
        latents = self.norm_latents(latents + self.to_latents(latents, all_keys, all_valid))
        has_keys = all_valid.any(dim=1, keepdim=True)
        context = self.from_latents(self.norm_query(tokens), latents, has_keys.expand(-1, latents.shape[1]))
        return torch.where(has_keys[..., None], self.norm_tokens(tokens + context), tokens)

    def forward(self, values: Mapping[str, Tensor | None], valid: Mapping[str, Tensor | None]) -> Output:
        """Predict every token, see `StreamSystem.forward`. `Output.weights` are the gated streams' weights, then, for
        each latent input, 1 where the window has a valid token of it (in `modalities`: `NAME heard`)."""
        inputs = self.select_inputs(values, valid)
        tokens, weights = self.gate_streams(inputs)
        has_frame = torch.stack([inputs[n][1] for n in self.gated], dim=-1).any(dim=-1)
        has_latent_input = [inputs[n][1].any(dim=1) for n in self.latent_inputs]
        evidence = torch.stack([has_frame.any(dim=1), *has_latent_input], dim=-1).any(dim=-1)
        if self.latent_inputs:
            tokens = self.attend_to_latents(tokens, inputs)
        # In a window without any frame all tokens are equal, and what they read from the latents: they are keys too.
        tokens = self.layer(tokens, has_frame | (evidence & ~has_frame.any(dim=1))[:, None])
        logits = self.valence_arousal(self.norm(tokens))
        if self.config.residual:
            stream_weights = dict(zip(self.gated, weights.unbind(dim=-1), strict=True))
            logits = logits + self.mean_stream_prediction(inputs, stream_weights)
        for present in has_latent_input:
            weights = torch.cat((weights, present.to(weights)[:, None, None].expand(-1, weights.shape[1], -1)), dim=-1)
        return valence_arousal_output(
            logits.tanh(), weights, evidence,
            [*self.gated, *(f"{n} heard" for n in self.latent_inputs)], self.config.classes,
        )  # fmt: skip


#: The name under which `mien.models` finds the system of this file.
System = ReliabilityFusion
