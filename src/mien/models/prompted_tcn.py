"""CLIP features, a temporal convolutional network and contrastive learning against text prompts.

Source: Byeon, Kim, Lim 2026, arXiv 2603.11971 (10th ABAW expression challenge). Sizes, losses and the recipe follow the
authors' public code.

Architecture:

* Face: the CLIP embeddings of a window's frames pass dilated causal convolutions (TCN).
* Voice: wav2vec 2.0 features pass an adapter (linear, LayerNorm, ReLU).
* Cross-attention in both directions, each with a residual connection and LayerNorm, then the mean of each modality over
  the window, then an MLP with LayerNorm after its first layer. It predicts one class per window, that of the window's
  last frame.
* Objective: cross-entropy weighted by N / (C n_c), where n_c is the number of windows of a class, plus a contrastive
  loss (InfoNCE) between the fused face features, which are the mean over the window after cross-attention, and the CLIP
  embedding of "A face expressing {label}".
* Prediction: a window ends at every frame. Before the start, the first frame is repeated (`mien.inference`).

Differs:

* Both cross-attentions are safe ones, so that a window without voice or without faces still gives a prediction.
* Time is in seconds (the authors' code counts 90 frames and calls them 3 s), and the voice is resampled to the face's
  tokens (theirs: about 50 a second).
* Voice before the start of a recording is missing. For every frame of the first 3 s, the authors' code reads the sound
  of all of them, which a live prediction cannot do.
* A window without faces adds nothing to the contrastive loss.
* Up to `hold_seconds` of missing faces repeat the last one, as in the authors' code, which then restarts its sequence;
  here the faces that are still missing become a learned token and count in no average.
* Inputs are normalised by the statistics of the training set (ours, as in all systems here).
* The paper has no valence and arousal. The head for them is ours; its loss is off by default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mien.config import Count, DropoutRate, NotNegative, Positive, Section
from mien.labels import UNLABELLED
from mien.layers.attention import SafeAttention
from mien.layers.options import check_face_and_voice, check_heads
from mien.layers.pooling import masked_mean
from mien.layers.score_heads import TASK_OF_KEY, ScoreHeads, ScoreObjective
from mien.layers.system import StreamSystem, last_token
from mien.layers.temporal import TemporalConvolutions, TokenEmbedding, forward_fill
from mien.losses import ccc_loss, cross_entropy, prompt_contrastive
from mien.records import FACE, VOICE, Batch, Output


class Config(Section):
    """Options of the model; defaults are the sizes of the authors' code.

    inputs: `face`, `voice` or both. levels, kernel: of the TCN. text_dim: width of the prompts' embeddings. hidden:
    layer widths of the MLP. hold_seconds: how long the last face replaces missing ones.
    """

    inputs: Annotated[dict[str, Count], Field(min_length=1, max_length=2)]
    classes: Count = 8
    rate_hz: Positive = 30.0
    dim: Count = 512
    levels: Count = 6
    kernel: Count = 3
    heads: Count = 8
    tcn_dropout: DropoutRate = 0.4
    voice_dropout: DropoutRate = 0.3
    attention_dropout: DropoutRate = 0.2
    hidden: Annotated[list[Count], Field(min_length=2, max_length=2)] = Field(default=[512, 256])
    dropout: DropoutRate = 0.5
    text_dim: Count = 512
    hold_seconds: NotNegative = 5 / 30
    clamp: Positive = 8.0

    @model_validator(mode="after")
    def _check(self) -> Config:
        check_heads(self.dim, self.heads)
        check_face_and_voice(self.inputs)
        return self


class Objective(ScoreObjective):
    """`expression * (cross-entropy + contrastive * prompt loss) + valence_arousal * (1 - CCC) + losses of score tasks`,
    see `ScoreObjective`; class weights N / (C n_c), where n_c counts windows. A window's label is the last one in it.

    prompt: text with {label} in it, embedded by the text encoder `text` (name, and options, as under `features`).
    Without `text` the classes get fixed orthogonal vectors, which carry no meaning but are maximally far apart.
    same_label_negative: see `mien.losses.prompt_contrastive`; true as in the authors' code. logit_scale: CLIP's.
    """

    contrastive: NotNegative = 0.1
    prompt: str = "A face expressing {label}"
    text: str | None = None
    text_options: dict[str, str] = Field(default={})
    same_label_negative: bool = True
    logit_scale: Positive = 100.0
    valence_arousal: NotNegative = 0.0


class PromptedTCN(StreamSystem):
    """Network and objective of the prompted TCN; see the module's docstring and `Config`."""

    uses_prompts = True
    predicts_window = True
    possible_score_tasks = tuple(TASK_OF_KEY.values())
    prompts: Tensor

    def __init__(self, config: Config, objective: Objective | None = None) -> None:
        super().__init__(inputs=config.inputs, classes=config.classes, weighting="balanced", clamp=config.clamp)
        self.config, self.loss = config, objective or Objective()
        self.predicts_expression = self.loss.expression > 0
        self.predicts_valence_arousal = self.loss.valence_arousal > 0
        self.score_tasks = tuple(self.loss.score_weights)
        dim = config.dim
        self.hold_tokens = round(config.hold_seconds * config.rate_hz)
        if FACE in config.inputs:
            self.embedding = TokenEmbedding(config.inputs[FACE], dim, skip_equal=True)
            self.tcn = TemporalConvolutions(
                dim=dim, levels=config.levels, kernel=config.kernel, dropout=config.tcn_dropout
            )
            self.to_text = nn.Linear(dim, config.text_dim)
        if VOICE in config.inputs:
            self.adapter = nn.Sequential(
                nn.Linear(config.inputs[VOICE], dim), nn.LayerNorm(dim), nn.ReLU(), nn.Dropout(config.voice_dropout)
            )
        crossed = config.inputs if len(config.inputs) == 2 else {}
        self.cross = nn.ModuleDict(
            {n: SafeAttention(dim=dim, heads=config.heads, dropout=config.attention_dropout) for n in crossed}
        )
        self.norm = nn.ModuleDict({n: nn.LayerNorm(dim) for n in crossed})
        first, second = config.hidden
        self.trunk = nn.Sequential(
            nn.Linear(dim * len(config.inputs), first), nn.LayerNorm(first), nn.ReLU(), nn.Dropout(config.dropout),
            nn.Linear(first, second), nn.ReLU(), nn.Dropout(config.dropout),
        )  # fmt: skip
        self.expression = nn.Linear(second, config.classes)
        self.valence_arousal = nn.Linear(second, 2)
        self.scores = ScoreHeads(second, self.loss)
        size = max(config.classes, config.text_dim)
        orthogonal = torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(0)))[0]
        self.register_buffer("prompts", orthogonal[: config.classes, : config.text_dim].contiguous())

    def set_prompts(self, embeddings: Tensor) -> None:
        """Set the prompts' embeddings in CLIP's space, `(classes, text_dim)`; they are saved with the weights."""
        self.prompts = embeddings.to(self.prompts)

    def prepare_scores(self, means: Mapping[str, Tensor]) -> None:
        """Set the weights of positive labels, see `System.prepare_scores`."""
        self.scores.prepare(means)

    def forward(self, values: Mapping[str, Tensor | None], valid: Mapping[str, Tensor | None]) -> Output:
        """One prediction per window, repeated for each of its tokens; see `StreamSystem.forward`.

        With `vote.trailing` in the recipe, only the window's last `vote.hop_seconds` use it.
        """
        output, _ = self._predict(self.select_inputs(values, valid))
        return output

    def similarity(self, values: Mapping[str, Tensor | None], valid: Mapping[str, Tensor | None]) -> Tensor:
        """Cosine similarities `(batch, classes)` of each window's fused face features and the prompts."""
        _, face = self._predict(self.select_inputs(values, valid))
        return nn.functional.normalize(face, dim=1) @ nn.functional.normalize(self.prompts, dim=1).T

    def prompt_logits(self, values: Mapping[str, Tensor | None], valid: Mapping[str, Tensor | None]) -> Tensor:
        """`similarity` times `logit_scale`, see `StreamSystem.prompt_logits`."""
        return self.similarity(values, valid) * self.loss.logit_scale

    def objective(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of `Objective` and its terms; a window's label is the last one in it."""
        inputs = self.select_inputs(batch.values, batch.valid)
        output, face = self._predict(inputs)
        output, batch = last_token(output, batch)
        logs: dict[str, Tensor] = {}
        loss = output.logits.sum() * 0.0
        if batch.expression is not None and self.loss.expression:
            labels = batch.expression[:, 0].masked_fill(~output.evidence, UNLABELLED)
            logs["expression"] = cross_entropy(output.logits[:, 0], labels, weights=self.class_weight)
            loss = loss + self.loss.expression * logs["expression"]
            if self.loss.contrastive and FACE in inputs:
                face_labels = labels.masked_fill(~inputs[FACE][1].any(dim=1), UNLABELLED)
                logs["contrastive"] = prompt_contrastive(
                    face,
                    self.prompts,
                    face_labels,
                    scale=self.loss.logit_scale,
                    same_label_negative=self.loss.same_label_negative,
                )
                loss = loss + self.loss.expression * self.loss.contrastive * logs["contrastive"]
        if batch.valence_arousal is not None and self.loss.valence_arousal:
            target = batch.valence_arousal[:, 0]
            mask = output.evidence[:, None].expand_as(target)
            logs["valence_arousal"] = ccc_loss(output.valence_arousal[:, 0], target, mask)
            loss = loss + self.loss.valence_arousal * logs["valence_arousal"]
        for name, value in self.scores.losses(output.score_logits, batch.scores, output.evidence[:, None]).items():
            logs[name], loss = value, loss + value
        return loss, {"loss": loss.detach()} | {name: value.detach() for name, value in logs.items()}

    def _face_tokens(self, values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        index, is_filled = forward_fill(valid, self.hold_tokens)
        values = values.gather(1, index[..., None].expand_as(values))
        return self.tcn(self.embedding(values, is_filled)), is_filled

    def _predict(self, inputs: Mapping[str, tuple[Tensor, Tensor]]) -> tuple[Output, Tensor]:
        """The output, and each window's fused face features in the prompts' space `(batch, text_dim)`: the mean over
        the window after cross-attention, projected; zero without a face input."""
        tokens, masks = {}, {}
        for name, (values, valid) in inputs.items():
            is_face = name == FACE
            tokens[name], masks[name] = self._face_tokens(values, valid) if is_face else (self.adapter(values), valid)
        if len(tokens) == 2:
            a, b = tokens
            crossed = {
                a: tokens[a] + self.cross[a](tokens[a], tokens[b], masks[b]),
                b: tokens[b] + self.cross[b](tokens[b], tokens[a], masks[a]),
            }
            tokens = {name: self.norm[name](value) for name, value in crossed.items()}
        means = {name: masked_mean(tokens[name], masks[name]) for name in tokens}
        pooled = torch.cat(list(means.values()), dim=1)
        hidden = self.trunk(pooled)
        time = next(iter(masks.values())).shape[1]
        present = torch.stack([mask.any(dim=1) for mask in masks.values()], dim=-1)
        weights = present.float() / present.sum(dim=-1, keepdim=True).clamp_min(1)
        output = Output(
            logits=self.expression(hidden)[:, None].expand(-1, time, -1),
            valence_arousal=self.valence_arousal(hidden).tanh()[:, None].expand(-1, time, -1),
            weights=weights[:, None].expand(-1, time, -1),
            evidence=present.any(dim=-1),
            modalities=list(masks),
            score_logits={task: logits[:, None].expand(-1, time, -1) for task, logits in self.scores(hidden).items()},
        )
        no_face = pooled.new_zeros(len(pooled), self.config.text_dim)
        return output, self.to_text(means[FACE]) if FACE in means else no_face


#: The name under which `mien.models` finds the system of this file.
System = PromptedTCN
