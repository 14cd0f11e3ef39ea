"""CNN face embeddings and dimensional voice features, each with its own temporal model, and their fusions.

Source: Dresvyanskiy, Markitantov, Yu, Kaya, Karpov 2024, arXiv 2403.12609 (6th ABAW: expressions, valence-arousal).
Sizes and losses follow the authors' public code.

[?]: not stated in the paper; our choice.

Architecture:

* Face: embeddings of a static CNN at 5 Hz, in windows of 4 s, pass a Transformer or a GRU.
* Voice: features of the public dimensional emotion model (PDEM) pass a GRU (V1) or two Transformer layers that predict
  once per second (V2, V3).
* Fusion, one of: weights per class drawn from a Dirichlet distribution, where the voice counts only while the entropy
  of its prediction is low; a random forest or a kernel extreme learning machine on statistics of the predictions; or
  cross-attention.
* Objective: focal loss for the face, cross-entropy with class weights and label smoothing for the voice.

Differs:

* PDEM stays as published (the paper trains its last blocks).
* Both modalities share one token clock of 5 Hz, so voice features are averaged to it before their network.
* The static stage is any image encoder of a recipe (the paper's is `cnn_static`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mien.config import Count, DropoutRate, NotNegative, Positive, Section, Share
from mien.labels import UNLABELLED
from mien.layers.attention import SafeCrossBlock
from mien.layers.ensemble import Ensemble, MemberOutput, stack_members
from mien.layers.late_fusion import ForestFusion, KernelELMFusion, WeightedFusion
from mien.layers.options import check_face_and_voice, check_heads
from mien.layers.pooling import any_valid
from mien.layers.temporal import TokenEmbedding, TransformerLayer, sinusoidal_positions
from mien.losses import cross_entropy, focal
from mien.records import FACE, VOICE, Batch, Output

#: Width of the GRU of the voice model V1.
V1_DIM = 256


class Config(Section):
    """Options of the model.

    inputs: `face`, `voice` or both.

    face: `transformer` (8 heads) or `gru`. face_layers: Transformer layers [?]. voice: `v1` (GRU, 2 layers of 256),
    `v2` or `v3` (Transformer layers of 32 and 16 heads, one prediction every `step_seconds`; V3 differs from V2 only in
    which blocks of PDEM the paper trains, so here they are equal). dim: width of the face network; voice_dim: of V2 and
    V3.

    fusion: `dirichlet`, `forest`, `elm`, `attention` (256-d, 16 heads) or `mean`. weight_draws, entropy_threshold: of
    `dirichlet`; the voice is left out while the entropy of its prediction exceeds the threshold, in nats. forest_trees,
    elm_support: of `forest` and `elm`. fusion_dim, fusion_heads: of `attention`.
    """

    inputs: Annotated[dict[str, Count], Field(min_length=1, max_length=2)]
    classes: Count = 8
    rate_hz: Positive = 5.0
    dim: Count = 256
    face: Literal["transformer", "gru"] = "transformer"
    face_layers: Count = 2
    face_heads: Count = 8
    voice: Literal["v1", "v2", "v3"] = "v2"
    voice_dim: Count = 1024
    voice_heads: Annotated[list[Count], Field(min_length=1)] = Field(default=[32, 16])
    step_seconds: Positive = 1.0
    dropout: DropoutRate = 0.1
    fusion: Literal["dirichlet", "forest", "elm", "attention", "mean"] = "dirichlet"
    weight_draws: Count = 1000
    entropy_threshold: NotNegative = 1.8
    forest_trees: Count = 100
    elm_support: Count = 1000
    fusion_dim: Count = 256
    fusion_heads: Count = 16
    clamp: Positive = 8.0

    @model_validator(mode="after")
    def _check(self) -> Config:
        check_face_and_voice(self.inputs)
        check_heads(self.dim, self.face_heads, keys=("dim", "face_heads"))
        for heads in self.voice_heads:
            check_heads(self.voice_dim, heads, keys=("voice_dim", "voice_heads"))
        check_heads(self.fusion_dim, self.fusion_heads, keys=("fusion_dim", "fusion_heads"))
        return self


class Objective(Section):
    """Focal loss (`gamma`) for the face; cross-entropy with class weights and `smoothing` for the voice.

    valence_arousal: weight of 1 - CCC of each member.
    """

    gamma: NotNegative = 2.0
    smoothing: Share = 0.2
    valence_arousal: NotNegative = 0.0


class Head(nn.Module):
    """Tokens to class logits, and to valence and arousal."""

    def __init__(self, dim: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.expression, self.valence_arousal = nn.Linear(dim, classes), nn.Linear(dim, 2)

    def forward(self, tokens: Tensor, present: Tensor) -> MemberOutput:
        """tokens: `(batch, time, dim)`; present: `(batch, time)` bool."""
        tokens = self.drop(tokens)
        return MemberOutput(self.expression(tokens), self.valence_arousal(tokens).tanh(), present, tokens)


class GRUMember(nn.Module):
    """Two GRU layers over time; missing tokens are zeros."""

    def __init__(self, width: int, dim: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.gru = nn.GRU(width, dim, num_layers=2, batch_first=True, dropout=dropout)
        self.head = Head(dim, classes, dropout)

    def forward(self, values: Tensor, valid: Tensor) -> MemberOutput:
        """values: `(batch, time, width)`, zero where invalid; valid: `(batch, time)` bool."""
        output: MemberOutput = self.head(self.gru(values)[0], any_valid(valid))
        return output


class TransformerMember(nn.Module):
    """Transformer layers over time, one for each entry of `heads`.

    Args:
        step_tokens: number of consecutive tokens that share one prediction.
    """

    def __init__(
        self, width: int, dim: int, heads: list[int], classes: int, dropout: float, step_tokens: int = 1
    ) -> None:
        super().__init__()
        self.step_tokens = step_tokens
        self.embedding = TokenEmbedding(width, dim, skip_equal=True)
        self.layers = nn.ModuleList(
            TransformerLayer(dim=dim, heads=h, feedforward=4 * dim, dropout=dropout) for h in heads
        )
        self.norm, self.head = nn.LayerNorm(dim), Head(dim, classes, dropout)

    def forward(self, values: Tensor, valid: Tensor) -> MemberOutput:
        """values: `(batch, time, width)`; valid: `(batch, time)` bool."""
        tokens = self.embedding(values, valid)
        tokens = tokens + sinusoidal_positions(tokens.shape[1], tokens.shape[2], tokens.device)
        for layer in self.layers:
            tokens = layer(tokens, valid)
        if self.step_tokens > 1:
            tokens = self._average_steps(tokens, valid)
        output: MemberOutput = self.head(self.norm(tokens), any_valid(valid))
        return output

    def _average_steps(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Replace each token by the mean of the valid tokens of its step (of all its tokens, if none is valid)."""
        batch, time, dim = tokens.shape
        steps = (time + self.step_tokens - 1) // self.step_tokens
        step = (torch.arange(time, device=tokens.device) // self.step_tokens).expand(batch, -1)
        step_of_values = step[..., None].expand(-1, -1, dim)
        has_valid = torch.zeros(batch, steps, device=tokens.device).scatter_add_(1, step, valid.to(tokens.dtype)) > 0
        weight = (valid | ~has_valid.gather(1, step)).to(tokens.dtype)
        sums = tokens.new_zeros(batch, steps, dim).scatter_add_(1, step_of_values, tokens * weight[..., None])
        counts = tokens.new_zeros(batch, steps).scatter_add_(1, step, weight)
        return (sums / counts.clamp_min(1)[..., None]).gather(1, step_of_values)


class AttentionFusion(nn.Module):
    """Cross-attention between the members' tokens, their mean, and a classifier. Trained together with the members."""

    def __init__(self, config: Config, widths: Mapping[str, int]) -> None:
        super().__init__()
        dim = config.fusion_dim
        self.project = nn.ModuleDict({n: nn.Linear(w, dim) for n, w in widths.items()})
        self.cross = nn.ModuleDict(
            {n: SafeCrossBlock(dim=dim, heads=config.fusion_heads, dropout=config.dropout) for n in widths}
        )
        self.norm, self.expression = nn.LayerNorm(dim), nn.Linear(dim, config.classes)

    def forward(self, outputs: Mapping[str, MemberOutput]) -> Tensor:
        """The outputs of one or two members, with tokens -> logits `(batch, time, classes)`."""
        projected = {n: self.project[n](o.tokens) for n, o in outputs.items()}
        crossed = projected
        if len(projected) == 2:
            a, b = projected
            crossed = {
                a: self.cross[a](projected[a], projected[b], outputs[b].present),
                b: self.cross[b](projected[b], projected[a], outputs[a].present),
            }
        tokens = torch.stack(list(crossed.values()), dim=-2)
        weight = torch.stack([o.present for o in outputs.values()], dim=-1)[..., None].to(tokens.dtype)
        mean = (tokens * weight).sum(dim=-2) / weight.sum(dim=-2).clamp_min(1)
        logits: Tensor = self.expression(self.norm(mean))
        return logits


class CnnPdem(Ensemble):
    """Members, fusion and objective; see the module's docstring and `Config`."""

    def __init__(self, config: Config, objective: Objective | None = None) -> None:
        super().__init__(inputs=config.inputs, classes=config.classes, weighting="balanced", clamp=config.clamp)
        self.config, self.loss = config, objective or Objective()
        self.predicts_valence_arousal = self.loss.valence_arousal > 0
        self.valence_arousal_weight = self.loss.valence_arousal
        self.weight_draws = config.weight_draws if config.fusion == "dirichlet" else 0
        members: dict[str, nn.Module] = {}
        widths: dict[str, int] = {}
        if FACE in config.inputs:
            members[FACE], widths[FACE] = _face_member(config), config.dim
        if VOICE in config.inputs:
            members[VOICE] = _voice_member(config)
            widths[VOICE] = V1_DIM if config.voice == "v1" else config.voice_dim
        self.members, self.modality_of = nn.ModuleDict(members), {n: n for n in members}
        self.attention = AttentionFusion(config, widths) if config.fusion == "attention" else None
        self.fusion = _late_fusion(config, list(members))

    def member_loss(self, name: str, logits: Tensor, labels: Tensor) -> Tensor:
        """Focal loss for the face, smoothed cross-entropy for the voice; see `Ensemble.member_loss`."""
        if name == FACE:
            return focal(logits, labels, gamma=self.loss.gamma, weights=self.class_weight)
        return cross_entropy(logits, labels, weights=self.class_weight, smoothing=self.loss.smoothing)

    def fuse(self, outputs: Mapping[str, MemberOutput]) -> Output:
        """See `Ensemble.fuse`; with `fusion: attention` the logits come from `AttentionFusion`."""
        output = super().fuse(outputs)
        if self.attention is not None:
            output.logits = self.attention(outputs)
        return output

    def objective(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The members' losses and, with `fusion: attention`, the cross-entropy of the fusion."""
        outputs = self.member_outputs(batch.values, batch.valid)
        loss, logs = self.losses(outputs, batch)
        if self.attention is None or batch.expression is None:
            return loss, logs
        has_member = stack_members(outputs)[1].any(dim=-1)
        labels = batch.expression.masked_fill(~has_member, UNLABELLED)
        fusion_loss = cross_entropy(self.attention(outputs), labels, weights=self.class_weight)
        loss = loss + fusion_loss
        return loss, logs | {"loss": loss.detach(), "fusion": fusion_loss.detach()}


def _face_member(config: Config) -> nn.Module:
    width = config.inputs[FACE]
    if config.face == "gru":
        return GRUMember(width, config.dim, config.classes, config.dropout)
    heads = [config.face_heads] * config.face_layers
    return TransformerMember(width, config.dim, heads, config.classes, config.dropout)


def _voice_member(config: Config) -> nn.Module:
    width = config.inputs[VOICE]
    if config.voice == "v1":
        return GRUMember(width, V1_DIM, config.classes, config.dropout)
    step_tokens = max(1, round(config.step_seconds * config.rate_hz))
    return TransformerMember(width, config.voice_dim, config.voice_heads, config.classes, config.dropout, step_tokens)


def _late_fusion(config: Config, members: list[str]) -> nn.Module:
    count, classes = len(members), config.classes
    if config.fusion == "forest":
        return ForestFusion(models=count, classes=classes, trees=config.forest_trees)
    if config.fusion == "elm":
        return KernelELMFusion(models=count, classes=classes, support=config.elm_support)
    entropy = config.entropy_threshold if config.fusion == "dirichlet" else None
    return WeightedFusion(models=count, classes=classes, entropy=entropy, filtered=[n == VOICE for n in members])


#: The name under which `mien.models` finds the system of this file.
System = CnnPdem
