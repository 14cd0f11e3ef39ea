"""Safe cross-attention: the flagship.

Yu, Zheng, Wang, Zhang, Zhu, Liang, Huang, Liu 2026: Solution to the 10th ABAW Expression Recognition
Challenge: A Robust Multimodal Framework with Safe Cross-Attention and Modality Dropout. arXiv 2603.08034.

Face and voice each pass a Transformer branch, look at each other through attention that is safe when
either is missing, and are weighed token by token into one expression and one valence-arousal point.

Known of the paper: BEiT-Large and WavLM-Large into one embedding space, a dual-branch Transformer, safe
cross-attention, modality dropout that hides the visual branch about 10 % of the time, focal loss, an MLP
classifier, windows of about 2 s with soft voting; without vision the voice answers alone. Everything
marked [?] below is not said anywhere we could find, and what stands there is our choice. [G] marks what
we took from the same group's published code for a sister task.

One token clock serves all modalities, `(batch, time)`; a token's validity says whether its modality has
data there. Dimensions are configuration: 1024 + 1024 for the paper's encoders, under a hundred each for
the starter's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mien.config import Count, NotNegative, Positive, Section, Share
from mien.labels import UNLABELLED
from mien.layers.attention import SafeCrossBlock, SharedDropout
from mien.layers.gating import GatedFusion, ModalityDropout
from mien.layers.system import InputNorm
from mien.layers.temporal import TransformerLayer, sinusoidal_positions
from mien.losses import ccc_loss, class_weights, focal
from mien.records import Batch, Output


class Hide(Section):
    """Modality dropout, see `ModalityDropout`. The paper hides the visual branch, about 10 % of the time;
    hiding the voice, and bursts, are ours [?]: a timeline must also survive silence and a head that turns
    away. So is noise: with its probability a sample's features get Gaussian noise of a level drawn evenly from 0 to
    `noise_level` deviations of the training set, so that the gate learns to doubt what is there but spoilt."""

    whole: dict[str, Share] = Field(default={"face": 0.1})
    bursts: dict[str, Share] = Field(default={})
    burst_seconds: list[Positive] = Field(default=[0.3, 1.5], min_length=2, max_length=2)
    noise: dict[str, Share] = Field(default={})
    noise_level: Positive = 3.0

    @model_validator(mode="after")
    def _sums(self) -> Hide:
        if sum(self.whole.values()) > 1:
            raise ValueError(f"probabilities exclude each other and must sum to <= 1, got {self.whole}")
        if self.burst_seconds[0] > self.burst_seconds[1]:
            raise ValueError(f"burst_seconds must be [shortest, longest], got {self.burst_seconds}")
        return self


class Config(Section):
    """Sizes [?]; defaults follow the sister code [G] where it has them (512, 4 heads, dropout .1).

    inputs: modality -> width of its features, one or two modalities. classes: logits. rate_hz: of the
    token clock, read by the bursts only. layers: Transformer layers in each branch. feedforward: hidden
    width over `dim`.
    cross_layers: rounds of mutual cross-attention. clamp: normalised inputs are cut to +- this many
    deviations.
    attention: `naive` swaps in, for the ablation only, what an ordinary implementation does: zeros for
    missing features, -1e9 on their scores and nothing for empty rows, and a gate that shares weight with
    absent modalities.
    """

    inputs: Annotated[dict[str, Count], Field(min_length=1, max_length=2)]
    classes: Count = 8
    rate_hz: Positive = 10.0
    dim: Count = 512
    heads: Count = 4
    layers: Count = 4
    feedforward: Positive = 4.0
    cross_layers: Annotated[int, Field(ge=0)] = 1
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    attention_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clamp: Positive = 8.0
    attention: Literal["safe", "naive"] = "safe"
    hide: Hide = Hide()

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not divisible by heads {self.heads}")
        for name in (*self.hide.whole, *self.hide.bursts, *self.hide.noise):
            if name not in self.inputs and len(self.inputs) > 1:
                raise ValueError(f"hide names {name!r}, which is no modality; features are {sorted(self.inputs)}")
        return self


class Objective(Section):
    """What training lowers: `expression + valence_arousal * (1 - CCC) + unimodal * mean over branches`.

    The paper has focal loss; gamma, class weights and smoothing are [?] (gamma 2 is the focal paper's own
    choice). The valence-arousal head and the branches' own loss are ours: each branch goes through the
    shared head alone, so that it stays a good answer for the case that it must answer alone.
    """

    loss: Literal["focal", "cross_entropy"] = "focal"
    gamma: NotNegative = 2.0
    class_weights: Literal["none", "sqrt", "balanced", "effective"] = "sqrt"
    beta: Annotated[float, Field(ge=0, lt=1)] = 0.9999
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    valence_arousal: NotNegative = 0.5
    unimodal: NotNegative = 0.3


class Branch(nn.Module):
    """One modality: normalise, project, mark what is missing, add positions, look along time."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        self.safe = config.attention == "safe"
        self.norm = InputNorm(width, config.clamp)
        self.project = nn.Linear(width, config.dim)
        self.missing = nn.Parameter(torch.randn(config.dim) * 0.02)
        self.drop = SharedDropout(config.dropout)
        self.layers = nn.ModuleList(
            TransformerLayer(
                dim=config.dim,
                heads=config.heads,
                feedforward=round(config.feedforward * config.dim),
                dropout=config.dropout,
                attention_dropout=config.attention_dropout,
                kind=config.attention,
            )
            for _ in range(config.layers)
        )

    def forward(self, values: Tensor, valid: Tensor) -> Tensor:
        tokens = self.project(self.norm(values, valid))
        if self.safe:
            # [G] has a learned missing token and lets it answer as well; ours asks only, so that padding,
            # which is missing too, cannot change its row (invariant 4).
            tokens = torch.where(valid[..., None], tokens, self.missing.to(tokens.dtype))
        # [?] positions: sinusoidal, in tokens from the window's start
        positions = sinusoidal_positions(tokens.shape[1], tokens.shape[2], tokens.device)
        tokens = self.drop(tokens + positions.to(tokens.dtype))
        for layer in self.layers:
            tokens = layer(tokens, valid)
        return tokens


class SafeCrossAttention(nn.Module):
    """The whole system: network and objective. See the module's page and `Config`."""

    class_weight: Tensor

    def __init__(self, config: Config, objective: Objective | None = None) -> None:
        super().__init__()
        self.config, self.loss = config, objective or Objective()
        dim, names = config.dim, list(config.inputs)
        low, high = (max(1, round(s * config.rate_hz)) for s in config.hide.burst_seconds)
        self.hide = ModalityDropout(whole=config.hide.whole, bursts=config.hide.bursts, burst_tokens=(low, high))
        self.branch = nn.ModuleDict({name: Branch(width, config) for name, width in config.inputs.items()})
        self.cross = nn.ModuleList(
            nn.ModuleDict(
                {
                    name: SafeCrossBlock(
                        dim=dim,
                        heads=config.heads,
                        dropout=config.dropout,
                        attention_dropout=config.attention_dropout,
                        kind=config.attention,
                    )
                    for name in names
                }
            )
            for _ in range(config.cross_layers if len(names) > 1 else 0)
        )
        # [?] fusion: a learned gate per token. An absent modality has weight exactly 0, the other exactly 1.
        self.fusion = GatedFusion(dim=dim, modalities=names, kind=config.attention)
        self.norm = nn.LayerNorm(dim)
        self.expression = nn.Sequential(
            nn.Linear(dim, dim), nn.GELU(), SharedDropout(config.dropout), nn.Linear(dim, config.classes)
        )
        self.affect = nn.Sequential(nn.Linear(dim, dim // 2), nn.GELU(), nn.Linear(dim // 2, 2), nn.Tanh())
        self.register_buffer("class_weight", torch.ones(config.classes), persistent=False)

    @torch.no_grad()
    def prepare(self, mean: Mapping[str, Tensor], deviation: Mapping[str, Tensor], counts: Tensor) -> None:
        """Set what training data says: per modality mean and deviation `(dim,)`, labels per class
        `(classes,)`."""
        for name, branch in self.branch.items():
            branch.norm.mean.copy_(mean[name])  # type: ignore[operator, union-attr]
            branch.norm.deviation.copy_(deviation[name])  # type: ignore[operator, union-attr]
        self.class_weight.copy_(class_weights(counts, self.loss.class_weights, self.loss.beta))

    def normalisation(self) -> dict[str, tuple[Tensor, Tensor]]:
        """What `prepare` was told of the inputs: modality -> mean and deviation, each `(dim,)`."""
        norms = {name: branch.norm for name, branch in self.branch.items()}
        return {name: (norm.mean, norm.deviation) for name, norm in norms.items()}  # type: ignore[union-attr, misc]

    def forward(self, values: Mapping[str, Tensor | None], valid: Mapping[str, Tensor | None]) -> Output:
        """values: modality -> `(batch, time, dim)`; valid: modality -> `(batch, time)` bool. A modality
        may be left out, or None, which is the same as invalid throughout. Raises ValueError for unknown
        modalities or none."""
        given = self._given(values, valid)
        return self._answer(self._branches(given), {name: mask for name, (_, mask) in given.items()})

    def objective(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and its parts. Windows without evidence and unlabelled tokens add nothing."""
        valid = self.hide(batch.valid)
        given = self._given(self._roughened(batch.values), valid)
        masks = {name: mask for name, (_, mask) in given.items()}
        tokens = self._branches(given)
        out = self._answer(tokens, masks)
        logs: dict[str, Tensor] = {}
        loss = out.logits.sum() * 0.0
        if batch.expression is not None:
            logs["expression"] = self._expression_loss(out.logits, batch.expression, out.evidence)
            loss = loss + logs["expression"]
            if self.loss.unimodal and len(tokens) > 1:
                own = [
                    self._expression_loss(self.expression(self.norm(t)), batch.expression, masks[n].any(dim=1))
                    for n, t in tokens.items()
                ]
                logs["unimodal"] = torch.stack(own).mean()
                loss = loss + self.loss.unimodal * logs["unimodal"]
        if batch.valence_arousal is not None and self.loss.valence_arousal:
            seen = out.evidence[:, None].expand(out.valence_arousal.shape[:2])
            logs["valence_arousal"] = ccc_loss(out.valence_arousal, batch.valence_arousal, seen)
            loss = loss + self.loss.valence_arousal * logs["valence_arousal"]
        return loss, {"loss": loss.detach()} | {name: value.detach() for name, value in logs.items()}

    def _roughened(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Noise on the features of some samples, in training; see `Hide`."""
        out = dict(values)
        for name, share in self.config.hide.noise.items() if self.training else ():
            if name not in out:
                continue
            value = out[name]
            level = torch.rand(len(value), 1, 1, device=value.device) * self.config.hide.noise_level
            struck = torch.rand(len(value), 1, 1, device=value.device) < share
            deviation: Tensor = self.branch[name].norm.deviation  # type: ignore[union-attr, assignment]
            out[name] = value + torch.randn_like(value) * (level * struck) * deviation
        return out

    def _given(
        self, values: Mapping[str, Tensor | None], valid: Mapping[str, Tensor | None]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        unknown = sorted((set(values) | set(valid)) - set(self.branch))
        if unknown:
            raise ValueError(f"modalities {unknown} are not inputs of this model; it has {sorted(self.branch)}")
        given = {}
        for name in self.branch:  # the model's own order, so that sums do not depend on the caller's
            value, mask = values.get(name), valid.get(name)
            if value is not None and mask is not None:
                given[name] = (value, mask)
        if not given:
            raise ValueError(f"no modality given: a window needs at least one of {sorted(self.branch)}, valid or not")
        return given

    def _branches(self, given: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        return {name: self.branch[name](values, mask) for name, (values, mask) in given.items()}

    def _answer(self, tokens: Mapping[str, Tensor], valid: Mapping[str, Tensor]) -> Output:
        names = list(tokens)
        tokens = dict(tokens)
        for layer in self.cross if len(names) == 2 else ():
            a, b = names
            tokens = {
                a: layer[a](tokens[a], tokens[b], valid[b]),  # type: ignore[index]
                b: layer[b](tokens[b], tokens[a], valid[a]),  # type: ignore[index]
            }
        present = {name: mask.any(dim=1) for name, mask in valid.items()}
        fused, weights = self.fusion(tokens, present)
        normed = self.norm(fused)
        return Output(
            logits=self.expression(normed),
            valence_arousal=self.affect(normed),
            weights=weights,
            evidence=torch.stack(list(present.values())).any(dim=0),
            modalities=names,
        )

    def _expression_loss(self, logits: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
        labels = labels.masked_fill(~counts[:, None], UNLABELLED)
        gamma = self.loss.gamma if self.loss.loss == "focal" else 0.0
        return focal(logits, labels, gamma=gamma, weights=self.class_weight, smoothing=self.loss.smoothing)


#: The name under which `mien.models` finds this file's system.
System = SafeCrossAttention
