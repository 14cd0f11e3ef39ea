"""Reliability-aware fusion of face, behaviour and voice into valence and arousal.

Ryumina et al. 2026, arXiv 2603.13056; sizes, priors and losses follow the authors' public code (test .62 in the
10th ABAW's valence-arousal). Frames' streams (face, behaviour) become one token: a gate per stream and token,
the softmax of a small network plus the logarithm of a prior (.85, .15), minus 10,000 where the stream is missing, zero
where all are. Four learned latents look at the voice, the tokens look at the latents, rows without voice skip both; one
Transformer layer follows.

Differs: a token exists also where neither frame stream does, as a learned one, so that the voice alone answers (the
published code has no row there). Smoothing is one moving mean of the recipe for both dimensions (published: 7 frames
for valence, 13 for arousal). Inputs are what the streams derived (`va_streams`), or any features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mien.config import Count, NotNegative, Positive, Section, Share
from mien.layers.attention import SafeCrossBlock
from mien.layers.gating import ModalityDropout
from mien.layers.temporal import TransformerLayer
from mien.layers.valence_arousal import AffectFusion, affect_head, affect_output
from mien.records import Output


class Config(Section):
    """inputs: streams by name. prior: of those that are gated into a token. listen: those that are seen through
    latents. A stream may be in both (ours): a window's latents know no moment, so a voice that must answer alone,
    moment by moment, needs a small prior as well. hide: probability that a training window loses a modality whole:
    ours, published is none.
    standing: the answer begins at what the streams said themselves (`AffectFusion.standing`), weighed as here, and the
    network learns what to change; ours, because streams that were trained on the same recordings look better there than
    they are, and a fusion learns to trust what it should not. For inputs that `mien derive` wrote."""

    inputs: Annotated[dict[str, Count], Field(min_length=2)]
    classes: Count = 8
    rate_hz: Positive = 5.0
    dim: Count = 256
    heads: Count = 4
    latents: Count = 4
    prior: dict[str, Positive] = Field(default={"face": 0.85, "behaviour": 0.15})
    listen: list[str] = Field(default=["voice"])
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    hide: dict[str, Share] = Field(default={})
    standing: bool = False
    clamp: Positive = 8.0

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not divisible by heads {self.heads}")
        if not set(self.prior) & set(self.inputs):
            raise ValueError(f"prior names {sorted(self.prior)}, none of which is a feature: {sorted(self.inputs)}")
        if idle := sorted(set(self.inputs) - set(self.prior) - set(self.listen)):
            raise ValueError(f"{idle} are features that neither prior nor listen names")
        if unknown := sorted(set(self.hide) - set(self.inputs)):
            raise ValueError(f"hide names {unknown}, which are no modalities; features are {sorted(self.inputs)}")
        return self


class Objective(Section):
    """`valence (1 - CCC_v) + arousal (1 - CCC_a) + mse MSE`."""

    valence: NotNegative = 0.7
    arousal: NotNegative = 0.3
    mse: NotNegative = 0.01


class ReliabilityFusion(AffectFusion):
    """The whole system: network and objective. See the module's page and `Config`."""

    log_prior: Tensor

    def __init__(self, config: Config, objective: Objective | None = None) -> None:
        super().__init__(inputs=config.inputs, classes=config.classes, clamp=config.clamp, standing=config.standing)
        self.config, self.loss = config, objective or Objective()
        dim = config.dim
        self.hide = ModalityDropout(whole=config.hide, bursts={})
        self.frames = [n for n in config.inputs if n in config.prior]
        self.sounds = [n for n in config.inputs if n in config.listen]
        self.enter = nn.ModuleDict(
            {n: nn.Sequential(nn.Linear(w, dim), nn.LayerNorm(dim), nn.GELU()) for n, w in config.inputs.items()}
        )
        self.gate = nn.ModuleDict(
            {n: nn.Sequential(nn.Linear(dim, dim // 2), nn.GELU(), nn.Linear(dim // 2, 1)) for n in self.frames}
        )
        self.register_buffer("log_prior", torch.tensor([config.prior[n] for n in self.frames]).log(), persistent=False)
        self.missing = nn.Parameter(torch.randn(dim) * 0.02)
        self.latents = nn.Parameter(torch.randn(config.latents, dim) * 0.02)
        self.listen, self.ask = (SafeCrossBlock(dim=dim, heads=config.heads, dropout=config.dropout) for _ in range(2))
        self.layer = TransformerLayer(dim=dim, heads=config.heads, feedforward=4 * dim, dropout=config.dropout)
        self.norm, self.affect = nn.LayerNorm(dim), affect_head(dim, standing=config.standing)

    def reliability(self, given: Mapping[str, tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Tokens `(batch, time, dim)` and the weights `(batch, time, frame stream)` of what they are made of."""
        entered = [self.enter[n](given[n][0]) for n in self.frames]
        there = torch.stack([given[n][1] for n in self.frames], dim=-1)
        logit = torch.cat([self.gate[n](e) for n, e in zip(self.frames, entered, strict=True)], dim=-1)
        weights = (logit + self.log_prior).masked_fill(~there, -1e4).softmax(dim=-1)
        weights = weights * there
        tokens = (weights[..., None] * torch.stack(entered, dim=-2)).sum(dim=-2)
        return torch.where(there.any(dim=-1, keepdim=True), tokens, self.missing), weights

    def forward(self, values: Mapping[str, Tensor | None], valid: Mapping[str, Tensor | None]) -> Output:
        """See `StreamSystem.given` for what may be left out. weights: the frames' streams' reliabilities, then, for
        each stream of sound, 1 where the window has any."""
        given = self.given(values, valid)
        tokens, weights = self.reliability(given)
        seen = torch.stack([given[n][1] for n in self.frames], dim=-1).any(dim=-1)
        heard = [given[n][1].any(dim=1) for n in self.sounds]
        evidence = torch.stack([seen.any(dim=1), *heard], dim=-1).any(dim=-1)
        if self.sounds:
            sound = torch.cat([self.enter[n](given[n][0]) for n in self.sounds], dim=1)
            mask = torch.cat([given[n][1] for n in self.sounds], dim=1)
            latents = self.listen(self.latents.expand(len(tokens), -1, -1), sound, mask)
            tokens = self.ask(tokens, latents, mask.any(dim=1, keepdim=True).expand(-1, latents.shape[1]))
        # Where no frame was seen a token still carries what it asked the voice for.
        tokens = self.layer(tokens, seen | (evidence & ~seen.any(dim=1))[:, None])
        time = tokens.shape[1]
        said = torch.stack(heard, dim=-1).to(weights)[:, None].expand(-1, time, -1) if heard else weights[..., :0]
        answer = self.affect(self.norm(tokens))
        if self.config.standing:
            answer = answer + self.standing(given, dict(zip(self.frames, weights.unbind(dim=-1), strict=True)))
        return affect_output(
            answer.tanh(), torch.cat((weights, said), dim=-1), evidence,
            [*self.frames, *(f"{n} heard" for n in self.sounds)], self.config.classes,
        )  # fmt: skip


#: The name under which `mien.models` finds this file's system.
System = ReliabilityFusion
