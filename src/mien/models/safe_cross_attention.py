"""Safe cross-attention of face and voice with modality dropout.

Source: Yu, Zheng, Wang, Zhang, Zhu, Liang, Huang, Liu 2026: Solution to the 10th ABAW Expression Recognition Challenge:
A Robust Multimodal Framework with Safe Cross-Attention and Modality Dropout. arXiv 2603.08034.

[?]: not stated anywhere we could find; our choice.
[G]: taken from the public code that the same group wrote for a sister task, the 10th ABAW Emotional Mimicry Intensity
challenge.

Architecture, as far as the paper states it:

* BEiT-Large face features and WavLM-Large voice features are projected into one embedding space.
* A dual-branch Transformer, one branch per modality, then safe cross-attention between the branches.
* An MLP classifier with focal loss.
* Modality dropout that hides the visual branch about 10 % of the time; without vision the voice predicts alone.
* Windows of about 2 s with soft voting.

Differs:

* The fusion of the branches is a learned gate per token [?], shared by the expression head and a valence-arousal head
  (ours).
* Each branch also has a loss of its own (ours, see `Objective`).
* Modality dropout can also hide the voice, hide bursts and add noise (ours, off in the published recipe), see
  `ModalityDropoutConfig`. [G] hides each modality with probability .1.
* Cross-attention normalises queries and keys before their projections and has a residual connection; [G] normalises
  after the projections, leaves values as they are, and has no residual, because its one query is a summary of the text.
* A missing token is learned, as in [G], but is a query only: as a key, as in [G], it would change the other tokens.
* Dropout of attention weights is off (`attention_dropout`; [G] has .1), because on a CPU it more than doubles the time.
* Sizes, positions and loss weights marked [?] below.

All modalities share one token clock, `(batch, time)`; the validity of a token states whether its modality has data
there. The widths of the inputs come from the recipe: 1024 + 1024 for the paper's encoders.

The names of parameters and buffers are keys of saved checkpoints: do not rename them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mien.config import Count, DropoutRate, NotNegative, Positive, Section, Share
from mien.labels import UNLABELLED
from mien.layers.attention import SafeCrossBlock, SharedDropout
from mien.layers.gated_fusion import GatedFusion
from mien.layers.modality_dropout import ModalityDropout
from mien.layers.options import check_heads
from mien.layers.score_heads import TASK_OF_KEY, ScoreHeads, ScoreObjective
from mien.layers.system import StreamSystem
from mien.layers.temporal import TransformerLayer, sinusoidal_positions
from mien.losses import ccc_loss, focal
from mien.records import Batch, Output


class ModalityDropoutConfig(Section):
    """Options of modality dropout and noise in training; probabilities per sample.

    whole, bursts: see `ModalityDropout`; burst_seconds: shortest and longest block. The paper hides the visual branch
    about 10 % of the time. Hiding the voice and bursts are ours [?], because a timeline must also work in silence and
    when a head turns away. noise: probability of Gaussian noise on the features, with a level drawn uniformly from 0 to
    `noise_level` standard deviations of the training set. Ours [?], so that the gate learns to give corrupted features
    a low weight.
    """

    whole: dict[str, Share] = Field(default={"face": 0.1})
    bursts: dict[str, Share] = Field(default={})
    burst_seconds: list[Positive] = Field(default=[0.3, 1.5], min_length=2, max_length=2)
    noise: dict[str, Share] = Field(default={})
    noise_level: Positive = 3.0

    @model_validator(mode="after")
    def _check(self) -> ModalityDropoutConfig:
        if sum(self.whole.values()) > 1:
            raise ValueError(f"probabilities exclude each other and must sum to <= 1, got {self.whole}")
        if self.burst_seconds[0] > self.burst_seconds[1]:
            raise ValueError(f"burst_seconds must be [shortest, longest], got {self.burst_seconds}")
        return self


class Config(Section):
    """Options of the model. Sizes [?]; defaults follow the sister task [G] if it has them (512, 4 heads, dropout .1).

    inputs: modality -> width of its features, one or two modalities. classes: number of logits. rate_hz: of the token
    clock, used by the bursts only. layers: Transformer layers in each branch. feedforward: hidden width over `dim`.
    cross_layers: layers of mutual cross-attention. clamp: see `StreamSystem`.
    attention: `naive`, for the ablation only, is the common implementation: zeros for missing features, -1e9 on their
    scores and no treatment of empty rows, and a gate that shares weight with absent modalities.
    """

    inputs: Annotated[dict[str, Count], Field(min_length=1, max_length=2)]
    classes: Count = 8
    rate_hz: Positive = 10.0
    dim: Count = 512
    heads: Count = 4
    layers: Count = 4
    feedforward: Positive = 4.0
    cross_layers: Annotated[int, Field(ge=0)] = 1
    dropout: DropoutRate = 0.1
    attention_dropout: DropoutRate = 0.0
    clamp: Positive = 8.0
    attention: Literal["safe", "naive"] = "safe"
    modality_dropout: ModalityDropoutConfig = ModalityDropoutConfig()

    @model_validator(mode="after")
    def _check(self) -> Config:
        check_heads(self.dim, self.heads)
        for name in (*self.modality_dropout.whole, *self.modality_dropout.bursts, *self.modality_dropout.noise):
            if name not in self.inputs and len(self.inputs) > 1:
                raise ValueError(
                    f"modality_dropout names {name!r}, which is no modality; features are {sorted(self.inputs)}"
                )
        return self


class Objective(ScoreObjective):
    """`expression * (focal loss + unimodal * mean of the branches' own expression losses) + valence_arousal * (1 -
    CCC) + losses of score tasks`, see `ScoreObjective`.

    logit_adjustment: strength of `mien.losses.logit_adjustment`, 0 for none (ours, for a long tail of classes).

    The paper has focal loss; gamma, class weights and smoothing are [?] (gamma 2 is the default of the focal loss
    paper). The valence-arousal head and the unimodal loss are ours: each branch passes the shared head alone, so that
    it also predicts well when the other modality is missing.
    """

    loss: Literal["focal", "cross_entropy"] = "focal"
    gamma: NotNegative = 2.0
    class_weights: Literal["none", "sqrt", "balanced", "effective"] = "sqrt"
    beta: Annotated[float, Field(ge=0, lt=1)] = 0.9999
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    logit_adjustment: NotNegative = 0.0
    valence_arousal: NotNegative = 0.5
    unimodal: NotNegative = 0.3


class Branch(nn.Module):
    """One modality's branch: projection, learned token for missing features, positions, Transformer layers."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        self.safe = config.attention == "safe"
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
        """values: `(batch, time, width)`, normalised; valid: `(batch, time)` bool -> `(batch, time, dim)`."""
        tokens = self.project(values)
        if self.safe:
            # [G] has a learned missing token that is a query and a key. Ours is a query only, so that padding, which is
            # missing too, changes nothing (invariant 4).
            tokens = torch.where(valid[..., None], tokens, self.missing.to(tokens.dtype))
        # [?] sinusoidal positions, in tokens from the start of the window
        positions = sinusoidal_positions(tokens.shape[1], tokens.shape[2], tokens.device)
        tokens = self.drop(tokens + positions.to(tokens.dtype))
        for layer in self.layers:
            tokens = layer(tokens, valid)
        output: Tensor = tokens
        return output


class SafeCrossAttention(StreamSystem):
    """Network and objective of safe cross-attention; see the module's docstring and `Config`."""

    possible_score_tasks = tuple(TASK_OF_KEY.values())

    def __init__(self, config: Config, objective: Objective | None = None) -> None:
        loss = objective or Objective()
        super().__init__(
            inputs=config.inputs,
            classes=config.classes,
            weighting=loss.class_weights,
            beta=loss.beta,
            adjustment=loss.logit_adjustment,
            clamp=config.clamp,
        )
        self.config, self.loss = config, loss
        self.predicts_expression, self.predicts_valence_arousal = loss.expression > 0, loss.valence_arousal > 0
        self.score_tasks = tuple(loss.score_weights)
        self.is_padding_neutral = config.attention == "safe"
        dim, names = config.dim, list(config.inputs)
        low, high = (max(1, round(s * config.rate_hz)) for s in config.modality_dropout.burst_seconds)
        self.modality_dropout = ModalityDropout(
            whole=config.modality_dropout.whole, bursts=config.modality_dropout.bursts, burst_tokens=(low, high)
        )
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
        self.scores = ScoreHeads(dim, loss, gamma=loss.gamma if loss.loss == "focal" else 0.0)

    def prepare_scores(self, means: Mapping[str, Tensor]) -> None:
        """Set the weights of positive labels, see `System.prepare_scores`."""
        self.scores.prepare(means)

    def forward(self, values: Mapping[str, Tensor | None], valid: Mapping[str, Tensor | None]) -> Output:
        """Predict every token, see `StreamSystem.forward`.

        An omitted modality gives the same prediction as one that is invalid throughout.
        """
        inputs = self.select_inputs(values, valid, fill=False)
        return self._fuse(self._branch_tokens(inputs), {name: mask for name, (_, mask) in inputs.items()})

    def objective(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of `Objective` and its terms; windows without evidence and unlabelled tokens add nothing."""
        valid = self.modality_dropout(batch.valid)
        inputs = self.select_inputs(self._add_noise(batch.values), valid, fill=False)
        masks = {name: mask for name, (_, mask) in inputs.items()}
        tokens = self._branch_tokens(inputs)
        out = self._fuse(tokens, masks)
        logs: dict[str, Tensor] = {}
        loss = out.logits.sum() * 0.0
        if batch.expression is not None and self.loss.expression:
            logs["expression"] = self._expression_loss(out.logits, batch.expression, out.evidence)
            loss = loss + self.loss.expression * logs["expression"]
            if self.loss.unimodal and len(tokens) > 1:
                branch_losses = [
                    self._expression_loss(self.expression(self.norm(t)), batch.expression, masks[n].any(dim=1))
                    for n, t in tokens.items()
                ]
                logs["unimodal"] = torch.stack(branch_losses).mean()
                loss = loss + self.loss.expression * self.loss.unimodal * logs["unimodal"]
        if batch.valence_arousal is not None and self.loss.valence_arousal:
            mask = out.evidence[:, None].expand(out.valence_arousal.shape[:2])
            logs["valence_arousal"] = ccc_loss(out.valence_arousal, batch.valence_arousal, mask)
            loss = loss + self.loss.valence_arousal * logs["valence_arousal"]
        known = out.evidence[:, None].expand(out.logits.shape[:2])
        for name, value in self.scores.losses(out.score_logits, batch.scores, known).items():
            logs[name], loss = value, loss + value
        return loss, {"loss": loss.detach()} | {name: value.detach() for name, value in logs.items()}

    def _add_noise(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Add noise to the features of some samples, in training only; see `ModalityDropoutConfig`."""
        out = dict(values)
        for name, probability in self.config.modality_dropout.noise.items() if self.training else ():
            if name not in out:
                continue
            value = out[name]
            level = torch.rand(len(value), 1, 1, device=value.device) * self.config.modality_dropout.noise_level
            is_noisy = torch.rand(len(value), 1, 1, device=value.device) < probability
            out[name] = value + torch.randn_like(value) * (level * is_noisy) * self.norm_of(name).deviation
        return out

    def _branch_tokens(self, inputs: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        return {name: self._branch_of(name, values, mask) for name, (values, mask) in inputs.items()}

    def _branch_of(self, name: str, values: Tensor, valid: Tensor) -> Tensor:
        """Tokens of one branch. In training, samples without a valid token are left out and get zeros: nothing reads
        their tokens, and modality dropout makes a tenth of the samples such."""
        present = valid.any(dim=1)
        if not self.training or self.config.attention == "naive" or present.all() or not present.any():
            tokens: Tensor = self.branch[name](values, valid)
            return tokens
        rows = present.nonzero()[:, 0]
        known: Tensor = self.branch[name](values[rows], valid[rows])
        return known.new_zeros(len(values), *known.shape[1:]).index_copy(0, rows, known)

    def _fuse(self, tokens: Mapping[str, Tensor], valid: Mapping[str, Tensor]) -> Output:
        names = list(tokens)
        tokens = dict(tokens)
        for layer in self.cross if len(names) == 2 else ():
            assert isinstance(layer, nn.ModuleDict)
            a, b = names
            tokens = {a: layer[a](tokens[a], tokens[b], valid[b]), b: layer[b](tokens[b], tokens[a], valid[a])}
        present = {name: mask.any(dim=1) for name, mask in valid.items()}
        fused, weights = self.fusion(tokens, present)
        normed = self.norm(fused)
        return Output(
            logits=self.expression(normed),
            valence_arousal=self.affect(normed),
            weights=weights,
            evidence=torch.stack(list(present.values())).any(dim=0),
            modalities=names,
            score_logits=self.scores(normed),
        )

    def _expression_loss(self, logits: Tensor, labels: Tensor, has_evidence: Tensor) -> Tensor:
        labels = labels.masked_fill(~has_evidence[:, None], UNLABELLED)
        gamma = self.loss.gamma if self.loss.loss == "focal" else 0.0
        logits = logits + self.logit_offset
        return focal(logits, labels, gamma=gamma, weights=self.class_weight, smoothing=self.loss.smoothing)


#: The name under which `mien.models` finds the system of this file.
System = SafeCrossAttention
