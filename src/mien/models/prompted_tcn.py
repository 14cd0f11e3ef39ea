"""Prompted CLIP features and a temporal convolutional network.

Byeon, Kim, Lim 2026: arXiv 2603.11971 (10th ABAW expression challenge). Sizes, losses and the recipe follow the
authors' public code.

Frames of a window go through dilated causal convolutions, wav2vec 2.0 frames through an adapter; each looks at the
other; both are averaged over the window, and a small network names one class: that of the window's last frame. A
contrastive loss pulls the averaged faces to CLIP's embedding of "A face expressing {label}".

Differs: the two cross-attentions are safe ones, so that a window without sound or faces stands; time is in seconds (the
code counts 90 frames and calls them 3 s); up to `hold_seconds` of missing faces take the last one, as in the code, that
then restarts its sequence: here what is still missing is a learned token, and counts in no average. Values are
normalised by the training set's statistics (ours, as in all systems here). There are no valences in the paper: the head
for them is ours, off by default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mien.config import Count, NotNegative, Positive, Section
from mien.layers.attention import SafeAttention
from mien.layers.pooling import masked_mean
from mien.layers.system import StreamSystem, last_labelled
from mien.layers.temporal import TemporalConvolutions, hold_last
from mien.losses import ccc_loss, cross_entropy, prompt_contrastive
from mien.records import FACE, VOICE, Batch, Output

Dropout = Annotated[float, Field(ge=0, lt=1)]


class Config(Section):
    """Sizes of the authors' code. inputs: `face`, `voice` or both. levels, kernel: of the convolutions, causal.
    text_dim: width of the prompts' embeddings. hidden: of the classifier."""

    inputs: Annotated[dict[str, Count], Field(min_length=1, max_length=2)]
    classes: Count = 8
    rate_hz: Positive = 30.0
    dim: Count = 512
    levels: Count = 6
    kernel: Count = 3
    heads: Count = 8
    tcn_dropout: Dropout = 0.4
    voice_dropout: Dropout = 0.3
    attention_dropout: Dropout = 0.2
    hidden: Annotated[list[Count], Field(min_length=2, max_length=2)] = Field(default=[512, 256])
    dropout: Dropout = 0.5
    text_dim: Count = 512
    hold_seconds: NotNegative = 5 / 30
    clamp: Positive = 8.0

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not divisible by heads {self.heads}")
        if unknown := sorted(set(self.inputs) - {FACE, VOICE}):
            raise ValueError(f"inputs are face and voice; got {unknown}")
        return self


class Objective(Section):
    """Cross-entropy weighted by N / (C n_c), and `contrastive` times the loss against the prompts.

    prompt: with {label} in it, through the text encoder `text` (name and options, as under `features`); without `text`
    the classes get fixed orthogonal vectors in place of embeddings, which mean nothing but are as far apart as can be.
    same_label_negative: the code's quirk; false mends it. scale: CLIP's logit scale."""

    contrastive: NotNegative = 0.1
    prompt: str = "A face expressing {label}"
    text: str | None = None
    text_options: dict[str, str] = Field(default={})
    same_label_negative: bool = True
    scale: Positive = 100.0
    valence_arousal: NotNegative = 0.0


class PromptedTCN(StreamSystem):
    """The whole system: network and objective. See the module's page and `Config`."""

    prompts: Tensor

    def __init__(self, config: Config, objective: Objective | None = None) -> None:
        super().__init__(inputs=config.inputs, classes=config.classes, weighting="balanced", clamp=config.clamp)
        self.config, self.loss = config, objective or Objective()
        dim = config.dim
        self.hold = round(config.hold_seconds * config.rate_hz)
        if FACE in config.inputs:
            width = config.inputs[FACE]
            self.enter = nn.Identity() if width == dim else nn.Linear(width, dim)
            self.missing = nn.Parameter(torch.randn(dim) * 0.02)
            self.tcn = TemporalConvolutions(
                dim=dim, levels=config.levels, kernel=config.kernel, dropout=config.tcn_dropout
            )
            self.to_text = nn.Linear(dim, config.text_dim)
        if VOICE in config.inputs:
            self.adapter = nn.Sequential(
                nn.Linear(config.inputs[VOICE], dim), nn.LayerNorm(dim), nn.ReLU(), nn.Dropout(config.voice_dropout)
            )
        both = len(config.inputs) == 2
        self.cross = nn.ModuleDict(
            {n: SafeAttention(dim=dim, heads=config.heads, dropout=config.attention_dropout) for n in config.inputs}
            if both
            else {}
        )
        self.norm = nn.ModuleDict({n: nn.LayerNorm(dim) for n in config.inputs} if both else {})
        first, second = config.hidden
        self.trunk = nn.Sequential(
            nn.Linear(dim * len(config.inputs), first), nn.ReLU(), nn.Dropout(config.dropout),
            nn.Linear(first, second), nn.ReLU(), nn.Dropout(config.dropout),
        )  # fmt: skip
        self.expression = nn.Linear(second, config.classes)
        self.affect = nn.Linear(second, 2)
        wide = max(config.classes, config.text_dim)
        apart = torch.linalg.qr(torch.randn(wide, wide, generator=torch.Generator().manual_seed(0)))[0]
        self.register_buffer("prompts", apart[: config.classes, : config.text_dim].contiguous())

    def set_prompts(self, embeddings: Tensor) -> None:
        """The classes' prompts in CLIP's space, `(classes, text_dim)`; they travel with the weights."""
        self.prompts = embeddings.to(self.prompts)

    def forward(self, values: Mapping[str, Tensor | None], valid: Mapping[str, Tensor | None]) -> Output:
        """One answer a window, said at each of its tokens; `vote.trailing` lets it count at the last ones only.
        See `StreamSystem.given` for what may be left out."""
        given = self.given(values, valid)
        out, _ = self._answer(given)
        return out

    def similarity(self, values: Mapping[str, Tensor | None], valid: Mapping[str, Tensor | None]) -> Tensor:
        """Zero-shot: `(batch, classes)` cosines of the window's faces with the prompts, whichever are set."""
        _, face = self._answer(self.given(values, valid))
        return nn.functional.normalize(face, dim=1) @ nn.functional.normalize(self.prompts, dim=1).T

    def objective(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and its parts. A window's label is the last one in it."""
        given = self.given(batch.values, batch.valid)
        out, face = self._answer(given)
        logs: dict[str, Tensor] = {}
        loss = out.logits.sum() * 0.0
        if batch.expression is not None:
            labels, _ = last_labelled(batch.expression)
            labels = labels.masked_fill(~out.evidence, -1)
            logs["expression"] = cross_entropy(out.logits[:, -1], labels, weights=self.class_weight)
            loss = loss + logs["expression"]
            if self.loss.contrastive and FACE in given:
                seen = labels.masked_fill(~given[FACE][1].any(dim=1), -1)
                logs["contrastive"] = prompt_contrastive(
                    face, self.prompts, seen, scale=self.loss.scale, same_label_negative=self.loss.same_label_negative
                )
                loss = loss + self.loss.contrastive * logs["contrastive"]
        if batch.valence_arousal is not None and self.loss.valence_arousal:
            truth = batch.valence_arousal[:, -1]
            logs["valence_arousal"] = ccc_loss(
                out.valence_arousal[:, -1], truth, out.evidence[:, None].expand_as(truth)
            )
            loss = loss + self.loss.valence_arousal * logs["valence_arousal"]
        return loss, {"loss": loss.detach()} | {name: value.detach() for name, value in logs.items()}

    def _face(self, values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        place, held = hold_last(valid, self.hold)
        values = values.gather(1, place[..., None].expand_as(values))
        tokens = torch.where(held[..., None], self.enter(values), self.missing)
        return self.tcn(tokens), held

    def _answer(self, given: Mapping[str, tuple[Tensor, Tensor]]) -> tuple[Output, Tensor]:
        tokens, masks = {}, {}
        for name, (values, valid) in given.items():
            tokens[name], masks[name] = self._face(values, valid) if name == FACE else (self.adapter(values), valid)
        alone = masked_mean(tokens[FACE], masks[FACE]) if FACE in tokens else None
        if len(tokens) == 2:
            a, b = tokens
            looked = {
                a: tokens[a] + self.cross[a](tokens[a], tokens[b], masks[b]),
                b: tokens[b] + self.cross[b](tokens[b], tokens[a], masks[a]),
            }
            tokens = {name: self.norm[name](value) for name, value in looked.items()}
        pooled = torch.cat([masked_mean(tokens[name], masks[name]) for name in tokens], dim=1)
        inner = self.trunk(pooled)
        time = next(iter(masks.values())).shape[1]
        there = torch.stack([mask.any(dim=1) for mask in masks.values()], dim=-1)
        weights = there.float() / there.sum(dim=-1, keepdim=True).clamp_min(1)
        out = Output(
            logits=self.expression(inner)[:, None].expand(-1, time, -1),
            valence_arousal=self.affect(inner).tanh()[:, None].expand(-1, time, -1),
            weights=weights[:, None].expand(-1, time, -1),
            evidence=there.any(dim=-1),
            modalities=list(masks),
        )
        face = self.to_text(alone) if alone is not None else pooled.new_zeros(len(pooled), self.config.text_dim)
        return out, face


#: The name under which `mien.models` finds this file's system.
System = PromptedTCN
