"""Gated fusion of a tuned face encoder and a voice encoder, frame by frame: the winner of the 10th ABAW challenge.

Source: the winner's public code, github.com/ora942878/ABAW_10_EXPR; no paper was found. Known: DINOv2-Large tuned on
AffectNet and RAF-DB, crops of three scales averaged; wav2vec 2.0 Large, the mean of its last four layers in half a
second around each frame; gated fusion of 1024 + 1024 values to 512; input dropout, .20 of the face and .25 of the
voice; a median over 101 frames; five folds averaged. The form of the gate, the loss and the optimiser are not known.

Architecture:

* Each modality: a linear layer to `dim`, GELU, dropout. The voice is averaged over `voice_seconds` around each token.
* `mien.layers.gated_fusion`: the weighted sum of the modalities that a token has, LayerNorm, a linear classifier.
* No token reads another one, except through the mean of the voice; time enters by the median after the vote.

Differs:

* Input dropout hides a modality in a whole window, not in single frames, because batches are windows here.
* A token whose modality is missing is a mask: the other one then has weight 1.

The face encoder is tuned by `mien tune` before; the recipe `winner_2026` names the commands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from mien.config import Count, DropoutRate, NotNegative, Positive, Section, Share
from mien.labels import UNLABELLED
from mien.layers.gated_fusion import GatedFusion as Gate
from mien.layers.modality_dropout import ModalityDropout
from mien.layers.options import check_dropout_names, check_face_and_voice
from mien.layers.system import StreamSystem
from mien.losses import ccc_loss, focal
from mien.records import VOICE, Batch, Output


class Config(Section):
    """Options of the model.

    inputs: modality -> width of its features, one or two of `face` and `voice`. dim: width of the fusion. dropout:
    after the first linear layers. voice_seconds: the voice of a token is the mean of this long around it, 0 for the
    token alone. modality_dropout: modality -> probability that a training window loses it; the sum is at most 1. clamp:
    see `StreamSystem`.
    """

    inputs: Annotated[dict[str, Count], Field(min_length=1, max_length=2)]
    classes: Count = 8
    rate_hz: Positive = 10.0
    dim: Count = 512
    dropout: DropoutRate = 0.3
    voice_seconds: NotNegative = 0.5
    modality_dropout: dict[str, Share] = Field(default={"face": 0.2, "voice": 0.25})
    clamp: Positive = 8.0

    @model_validator(mode="after")
    def _check(self) -> Config:
        check_face_and_voice(self.inputs)
        if len(self.inputs) > 1:
            check_dropout_names(self.modality_dropout, self.inputs)
        if sum(self.modality_dropout.values()) > 1:
            raise ValueError(f"probabilities exclude each other and must sum to <= 1, got {self.modality_dropout}")
        return self


class Objective(Section):
    """Focal loss (gamma 0: cross-entropy) plus `valence_arousal` times 1 - CCC; class_weights and
    logit_adjustment (strength, 0 for none) as in `mien.losses`."""

    gamma: NotNegative = 0.0
    class_weights: Literal["none", "sqrt", "balanced", "effective"] = "none"
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    logit_adjustment: NotNegative = 0.0
    valence_arousal: NotNegative = 0.0


class GatedFusion(StreamSystem):
    """Network and objective of the gated fusion; see the module's docstring and `Config`."""

    is_padding_neutral = True

    def __init__(self, config: Config, objective: Objective | None = None) -> None:
        loss = objective or Objective()
        super().__init__(
            inputs=config.inputs,
            classes=config.classes,
            weighting=loss.class_weights,
            adjustment=loss.logit_adjustment,
            clamp=config.clamp,
        )
        self.config, self.loss = config, loss
        self.predicts_valence_arousal = loss.valence_arousal > 0
        self.reach = round(config.voice_seconds * config.rate_hz / 2)
        self.hide = ModalityDropout(whole=config.modality_dropout if len(config.inputs) > 1 else {}, bursts={})
        self.project = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(width, config.dim), nn.GELU(), nn.Dropout(config.dropout))
                for name, width in config.inputs.items()
            }
        )
        self.fusion = Gate(dim=config.dim, modalities=list(config.inputs))
        self.norm = nn.LayerNorm(config.dim)
        self.expression = nn.Linear(config.dim, config.classes)
        self.affect = nn.Linear(config.dim, 2)

    def forward(self, values: Mapping[str, Tensor | None], valid: Mapping[str, Tensor | None]) -> Output:
        """Predict every token, see `StreamSystem.forward`."""
        inputs = self.select_inputs(values, valid)
        names = list(inputs)
        tokens: dict[str, Tensor] = {}
        present: dict[str, Tensor] = {}
        for name, (value, mask) in inputs.items():
            value, mask = self._around(value, mask) if name == VOICE else (value, mask)
            # The gate weighs modalities of a sample. Here every token is one, because no token reads another.
            tokens[name], present[name] = self.project[name](value).flatten(0, 1)[:, None], mask.flatten()
        fused, weights = self.fusion(tokens, present)
        batch, time = next(iter(inputs.values()))[1].shape
        hidden = self.norm(fused.reshape(batch, time, -1))
        return Output(
            logits=self.expression(hidden),
            valence_arousal=self.affect(hidden).tanh(),
            weights=weights.reshape(batch, time, -1),
            evidence=torch.stack([mask.any(dim=1) for _, mask in inputs.values()]).any(dim=0),
            modalities=names,
        )

    def objective(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of `Objective` and its terms; windows without evidence and unlabelled tokens add nothing."""
        output = self(batch.values, self.hide(batch.valid))
        logs: dict[str, Tensor] = {}
        loss = output.logits.sum() * 0.0
        if batch.expression is not None:
            labels = batch.expression.masked_fill(~output.evidence[:, None], UNLABELLED)
            logs["expression"] = focal(
                output.logits + self.logit_offset,
                labels,
                gamma=self.loss.gamma,
                weights=self.class_weight,
                smoothing=self.loss.smoothing,
            )
            loss = loss + logs["expression"]
        if batch.valence_arousal is not None and self.loss.valence_arousal:
            mask = output.evidence[:, None].expand(output.valence_arousal.shape[:2])
            logs["valence_arousal"] = ccc_loss(output.valence_arousal, batch.valence_arousal, mask)
            loss = loss + self.loss.valence_arousal * logs["valence_arousal"]
        return loss, {"loss": loss.detach()} | {name: value.detach() for name, value in logs.items()}

    def _around(self, values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of the valid tokens within `voice_seconds` around each token, and whether there is one."""
        if not self.reach:
            return values, valid
        kernel = 2 * self.reach + 1

        def share(rows: Tensor) -> Tensor:
            return F.avg_pool1d(rows.transpose(1, 2), kernel, 1, self.reach).transpose(1, 2)

        known = share(valid[..., None].to(values.dtype))
        mean = share(torch.where(valid[..., None], values, 0.0)) / known.clamp_min(0.5 / kernel)
        return mean, known[..., 0] > 0


#: The name under which `mien.models` finds the system of this file.
System = GatedFusion
