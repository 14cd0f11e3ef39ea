"""Faces from a CNN, voice from PDEM, each with its own dynamics, and the fusions of both.

Dresvyanskiy, Markitantov, Yu, Kaya, Karpov 2024: arXiv 2403.12609 (6th ABAW: expressions, valence-arousal). Sizes and
losses follow the authors' public code.

Face: embeddings of a static CNN at 5 a second, windows of 4 s, a Transformer or GRU over them. Voice: frames of the
public dimensional emotion model (PDEM), a GRU (V1) or two Transformer layers that answer once a second (V2, V3). Then a
fusion of the two: weights per class drawn from a Dirichlet distribution, where sound counts only while it is sure; a
random forest or a kernel extreme learning machine on the predictions' statistics; or cross-attention.

Differs: PDEM stays as published (the paper trains its last blocks), and both modalities share one token clock of 5 Hz,
so sound is averaged to it before its network. The static stage is any image encoder of a recipe. What the paper does
not give is marked [?].
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mien.config import Count, NotNegative, Positive, Section, Share
from mien.layers.attention import SafeCrossBlock
from mien.layers.ensemble import Answer, Ensemble, over_window, stacked
from mien.layers.late_fusion import ForestFusion, KernelELMFusion, WeightedFusion
from mien.layers.temporal import TransformerLayer, sinusoidal_positions
from mien.losses import cross_entropy, focal
from mien.records import FACE, VOICE, Batch, Output

Dropout = Annotated[float, Field(ge=0, lt=1)]


class Config(Section):
    """inputs: `face`, `voice` or both.

    face, face_layers: `transformer` (8 heads) or `gru` over the embeddings; layers [?]. voice: `v1` (GRU, 2 layers of
    256), `v2`, `v3` (Transformer layers of 32 and 16 heads, an answer every `step_seconds`; V3 differs in how much of
    PDEM is trained, which is nothing here). dim: of the face network; voice_dim: of V2 and V3.

    fusion: `dirichlet`, `forest`, `elm`, `attention` (256-d, 16 heads) or `mean`. draws, entropy: of the Dirichlet
    search; sound less sure than `entropy` nats does not count. trees, support: of the other two.
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
    dropout: Dropout = 0.1
    fusion: Literal["dirichlet", "forest", "elm", "attention", "mean"] = "dirichlet"
    draws: Count = 1000
    entropy: NotNegative = 1.8
    trees: Count = 100
    support: Count = 1000
    fusion_dim: Count = 256
    fusion_heads: Count = 16
    clamp: Positive = 8.0

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if unknown := sorted(set(self.inputs) - {FACE, VOICE}):
            raise ValueError(f"inputs are face and voice; got {unknown}")
        for width, heads in [(self.dim, self.face_heads), *((self.voice_dim, h) for h in self.voice_heads)]:
            if width % heads:
                raise ValueError(f"width {width} is not divisible by {heads} heads")
        if self.fusion_dim % self.fusion_heads:
            raise ValueError(f"fusion_dim {self.fusion_dim} is not divisible by fusion_heads {self.fusion_heads}")
        return self


class Objective(Section):
    """Face: focal loss, gamma 2. Voice: cross-entropy with class weights and smoothing .2. valence_arousal: weight of
    1 - CCC of each."""

    gamma: NotNegative = 2.0
    smoothing: Share = 0.2
    valence_arousal: NotNegative = 0.0


class Head(nn.Module):
    """Tokens -> classes, and valence and arousal."""

    def __init__(self, dim: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.drop, self.expression, self.affect = nn.Dropout(dropout), nn.Linear(dim, classes), nn.Linear(dim, 2)

    def forward(self, tokens: Tensor, present: Tensor) -> Answer:
        tokens = self.drop(tokens)
        return Answer(self.expression(tokens), self.affect(tokens).tanh(), present, tokens)


class Recurrent(nn.Module):
    """Two GRU layers over time; missing tokens are zeros to it."""

    def __init__(self, width: int, dim: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.gru = nn.GRU(width, dim, num_layers=2, batch_first=True, dropout=dropout)
        self.head = Head(dim, classes, dropout)

    def forward(self, values: Tensor, valid: Tensor) -> Answer:
        return self.head(self.gru(values)[0], over_window(valid))


class Attending(nn.Module):
    """Transformer layers over time, one for each entry of `heads`; `steps`: tokens that get one answer together."""

    def __init__(self, width: int, dim: int, heads: list[int], classes: int, dropout: float, steps: int = 1) -> None:
        super().__init__()
        self.steps = steps
        self.enter = nn.Identity() if width == dim else nn.Linear(width, dim)
        self.missing = nn.Parameter(torch.randn(dim) * 0.02)
        self.layers = nn.ModuleList(
            TransformerLayer(dim=dim, heads=h, feedforward=4 * dim, dropout=dropout) for h in heads
        )
        self.norm, self.head = nn.LayerNorm(dim), Head(dim, classes, dropout)

    def forward(self, values: Tensor, valid: Tensor) -> Answer:
        tokens = torch.where(valid[..., None], self.enter(values), self.missing)
        time = tokens.shape[1]
        tokens = tokens + sinusoidal_positions(time, tokens.shape[2], tokens.device)
        for layer in self.layers:
            tokens = layer(tokens, valid)
        if self.steps > 1:
            tokens = self._stepped(tokens, valid)
        return self.head(self.norm(tokens), over_window(valid))

    def _stepped(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Each token becomes the mean of the valid ones of its step (of all, where none is)."""
        batch, time, dim = tokens.shape
        blocks = -(-time // self.steps)
        step = (torch.arange(time, device=tokens.device) // self.steps).expand(batch, -1)
        some = torch.zeros(batch, blocks, device=tokens.device).scatter_add_(1, step, valid.to(tokens.dtype)) > 0
        weight = (valid | ~some.gather(1, step)).to(tokens.dtype)
        sums = tokens.new_zeros(batch, blocks, dim).scatter_add_(
            1, step[..., None].expand(-1, -1, dim), tokens * weight[..., None]
        )
        counts = tokens.new_zeros(batch, blocks).scatter_add_(1, step, weight)
        return (sums / counts.clamp_min(1)[..., None]).gather(1, step[..., None].expand(-1, -1, dim))


class AttentionFusion(nn.Module):
    """Each modality's tokens look at the other's; what both came to is averaged and named. Trained with the members."""

    def __init__(self, config: Config, widths: dict[str, int]) -> None:
        super().__init__()
        dim = config.fusion_dim
        self.enter = nn.ModuleDict({n: nn.Linear(w, dim) for n, w in widths.items()})
        self.cross = nn.ModuleDict(
            {n: SafeCrossBlock(dim=dim, heads=config.fusion_heads, dropout=config.dropout) for n in widths}
        )
        self.norm, self.expression = nn.LayerNorm(dim), nn.Linear(dim, config.classes)

    def forward(self, tokens: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
        entered = {n: self.enter[n](t) for n, t in tokens.items()}
        names = list(entered)
        looked = {
            n: self.cross[n](entered[n], entered[o], present[o])
            for n, o in zip(names, reversed(names), strict=True)
        } if len(names) == 2 else entered  # fmt: skip
        there = torch.stack([present[n] for n in names], dim=-1)[..., None].to(entered[names[0]].dtype)
        mixed = torch.stack([looked[n] for n in names], dim=-2)
        return self.expression(self.norm((mixed * there).sum(dim=-2) / there.sum(dim=-2).clamp_min(1)))


class CnnPdem(Ensemble):
    """The whole system: members, fusion and objective. See the module's page and `Config`."""

    def __init__(self, config: Config, objective: Objective | None = None) -> None:
        super().__init__(inputs=config.inputs, classes=config.classes, weighting="balanced", clamp=config.clamp)
        self.config, self.loss = config, objective or Objective()
        self.affect_share = self.loss.valence_arousal
        self.draws = config.draws if config.fusion == "dirichlet" else 0
        members: dict[str, nn.Module] = {}
        widths: dict[str, int] = {}
        if FACE in config.inputs:
            members[FACE], widths[FACE] = self._face(config), config.dim
        if VOICE in config.inputs:
            members[VOICE] = self._voice(config)
            widths[VOICE] = 256 if config.voice == "v1" else config.voice_dim
        self.members, self.reads = nn.ModuleDict(members), {n: n for n in members}
        count = {"models": len(members), "classes": config.classes}
        self.attention = AttentionFusion(config, widths) if config.fusion == "attention" else None
        self.fusion = {
            "forest": lambda: ForestFusion(**count, trees=config.trees),
            "elm": lambda: KernelELMFusion(**count, support=config.support),
        }.get(
            config.fusion,
            lambda: WeightedFusion(
                **count,
                entropy=config.entropy if config.fusion == "dirichlet" else None,
                filtered=[n == VOICE for n in members],
            ),
        )()

    def _face(self, config: Config) -> nn.Module:
        width = config.inputs[FACE]
        if config.face == "gru":
            return Recurrent(width, config.dim, config.classes, config.dropout)
        heads = [config.face_heads] * config.face_layers
        return Attending(width, config.dim, heads, config.classes, config.dropout)

    def _voice(self, config: Config) -> nn.Module:
        width = config.inputs[VOICE]
        if config.voice == "v1":
            return Recurrent(width, 256, config.classes, config.dropout)
        steps = max(1, round(config.step_seconds * config.rate_hz))
        return Attending(width, config.voice_dim, config.voice_heads, config.classes, config.dropout, steps)

    def member_loss(self, name: str, logits: Tensor, labels: Tensor) -> Tensor:
        if name == FACE:
            return focal(logits, labels, gamma=self.loss.gamma, weights=self.class_weight)
        return cross_entropy(logits, labels, weights=self.class_weight, smoothing=self.loss.smoothing)

    def joined(self, answers: dict[str, Answer]) -> Output:  # type: ignore[override]
        out = super().joined(answers)
        if self.attention is not None:
            out.logits = self._attended(answers)
        return out

    def _attended(self, answers: dict[str, Answer]) -> Tensor:
        assert self.attention is not None
        tokens = {n: a.tokens for n, a in answers.items() if a.tokens is not None}
        return self.attention(tokens, {n: a.present for n, a in answers.items()})

    def objective(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The members' losses and, with attention, that of the fusion."""
        answers = self.answers(batch.values, batch.valid)
        loss, logs = self.losses(answers, batch)
        if self.attention is None or batch.expression is None:
            return loss, logs
        labels = batch.expression.masked_fill(~stacked(answers)[1].any(dim=-1), -1)
        logs["fusion"] = cross_entropy(self._attended(answers), labels, weights=self.class_weight)
        loss = loss + logs["fusion"]
        return loss, logs | {"loss": loss.detach(), "fusion": logs["fusion"].detach()}


#: The name under which `mien.models` finds this file's system.
System = CnnPdem
