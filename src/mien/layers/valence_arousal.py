"""Valence-arousal systems: loss, output without classes, blocks, options, and the base class of their fusions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mien.config import Count, DropoutRate, NotNegative, Positive, Section, Share
from mien.errors import ConfigError
from mien.layers.modality_dropout import ModalityDropout
from mien.layers.options import check_dropout_names, check_heads
from mien.layers.system import StreamSystem
from mien.layers.temporal import TokenEmbedding
from mien.losses import ccc_loss
from mien.records import Batch, Output


class ValenceArousalObjective(Section):
    """Weights of the terms of `valence_arousal_loss`.

    per_sequence: compute CCC's moments over each window and average the losses; otherwise over the batch.
    """

    valence: NotNegative = 0.7
    arousal: NotNegative = 0.3
    mse: NotNegative = 0.01
    per_sequence: bool = False


def valence_arousal_loss(prediction: Tensor, target: Tensor, mask: Tensor, weights: ValenceArousalObjective) -> Tensor:
    """`valence (1 - CCC_v) + arousal (1 - CCC_a) + mse MSE`, moments pooled over the batch or over each window.

    Args:
        prediction, target: `(batch, time, 2)`. mask: `(batch, time)` bool, tokens to use; targets that are not finite
            are never used.

    Returns a scalar; zero, with a zero gradient, if nothing is used.
    """
    if weights.per_sequence and len(prediction) > 1:
        windows = zip(prediction.split(1), target.split(1), mask.split(1), strict=True)
        return torch.stack([valence_arousal_loss(*window, weights) for window in windows]).mean()
    ccc_losses = [ccc_loss(prediction[..., i : i + 1], target[..., i : i + 1], mask) for i in range(2)]
    is_used = torch.isfinite(target) & mask[..., None]
    error = torch.where(is_used, prediction - torch.where(is_used, target, 0.0), 0.0)
    mse_term = weights.mse * error.square().sum() / is_used.sum().clamp_min(1)
    return weights.valence * ccc_losses[0] + weights.arousal * ccc_losses[1] + mse_term


def target_of(batch: Batch, like: Tensor) -> Tensor:
    """Valence and arousal labels of a batch, `(batch, time, 2)`; NaN, in the shape of `like`, if it has none."""
    return torch.full_like(like, torch.nan) if batch.valence_arousal is None else batch.valence_arousal


def valence_arousal_output(
    valence_arousal: Tensor, weights: Tensor, evidence: Tensor, modalities: list[str], classes: int
) -> Output:
    """An `Output` with zero logits, because these systems predict no classes."""
    logits = valence_arousal.new_zeros(*valence_arousal.shape[:2], classes)
    return Output(logits, valence_arousal, weights, evidence, modalities)


def hidden_layer(width: int, dim: int, dropout: float) -> nn.Sequential:
    """Linear, LayerNorm, GELU and dropout: the hidden layer of the heads, `(..., width)` -> `(..., dim)`. Source: the
    authors' public code of arXiv 2603.13056."""
    return nn.Sequential(nn.Linear(width, dim), nn.LayerNorm(dim), nn.GELU(), nn.Dropout(dropout))


class StreamEmbedding(nn.Module):
    """Features of a stream to tokens: linear projection, LayerNorm and dropout; a learned token where one is missing.

    Source: the authors' public code of arXiv 2603.13056; the learned token is ours.
    """

    def __init__(self, width: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(width, dim)
        self.norm, self.drop = nn.LayerNorm(dim), nn.Dropout(dropout)

    def forward(self, values: Tensor, valid: Tensor) -> Tensor:
        """values `(batch, time, width)`, valid `(batch, time)` bool -> `(batch, time, dim)`."""
        output: Tensor = self.drop(self.norm(self.embedding(values, valid)))
        return output


class FusionConfig(Section):
    """Options that the fusions share.

    inputs: modality -> width, two or more. dim: width of the tokens. modality_dropout: modality -> probability that a
    training window loses it whole (ours: not in the paper). residual: predict a correction of the streams' own
    predictions, see `ValenceArousalFusion.mean_stream_prediction` (ours: streams trained on the same recordings look
    better there than they are, and a fusion learns to trust them too much). Needs inputs that `mien derive` wrote.
    clamp: see `StreamSystem`.
    """

    inputs: Annotated[dict[str, Count], Field(min_length=2)]
    classes: Count = 8
    rate_hz: Positive = 30.0
    dim: Count = 256
    heads: Count = 4
    dropout: DropoutRate = 0.1
    modality_dropout: dict[str, Share] = Field(default={})
    residual: bool = False
    clamp: Positive = 8.0

    @model_validator(mode="after")
    def _check_shared(self) -> FusionConfig:
        check_heads(self.dim, self.heads)
        check_dropout_names(self.modality_dropout, self.inputs)
        return self


class ValenceArousalFusion(StreamSystem):
    """Base of the fusions of streams into valence and arousal, trained with modality dropout.

    Subclasses implement `forward`.

    Raises ConfigError if `residual` is set and an input is narrower than an embedding and two predictions.
    """

    predicts_expression = False

    def __init__(self, config: FusionConfig, objective: ValenceArousalObjective) -> None:
        super().__init__(inputs=config.inputs, classes=config.classes, clamp=config.clamp)
        too_narrow = sorted(name for name, width in config.inputs.items() if width < 3)
        if config.residual and too_narrow:
            raise ConfigError(
                "model.residual reads an embedding and two predictions of every stream; "
                f"too narrow: {', '.join(too_narrow)}",
                follows="Nothing was started.",
                remedy="Use streams that `mien derive` wrote, or set model.residual=false.",
            )
        self.loss = objective
        self.modality_dropout = ModalityDropout(whole=config.modality_dropout, bursts={})

    def head(self, config: FusionConfig) -> nn.Sequential:
        """Hidden layer and linear layer from `dim` to valence and arousal; the latter is zero at first if it predicts
        a correction."""
        last = nn.Linear(config.dim, 2)
        if config.residual:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        return nn.Sequential(hidden_layer(config.dim, config.dim, config.dropout), last)

    def mean_stream_prediction(
        self, inputs: Mapping[str, tuple[Tensor, Tensor]], weights: Mapping[str, Tensor]
    ) -> Tensor:
        """The streams' own predictions, averaged, before the tanh: `(batch, time, 2)`; zero where none is valid.

        `mien derive` writes a stream's valence and arousal as the last two values of its features.

        Args:
            inputs: modality -> normalised values and validity, see `StreamSystem.select_inputs`.
            weights: modality -> weight of its prediction, `(batch, time)`; invalid tokens have none.
        """
        total: Tensor | float = 0.0
        total_weight: Tensor | float = 0.0
        statistics = self.normalisation()
        for name, weight in weights.items():
            values, valid = inputs[name]
            mean, deviation = statistics[name]
            weight = (weight * valid)[..., None]
            total = total + weight * (values[..., -2:] * deviation[-2:] + mean[-2:])
            total_weight = total_weight + weight
        return (total / torch.as_tensor(total_weight).clamp_min(1e-6)).clamp(-0.99, 0.99).atanh()

    def objective(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """`valence_arousal_loss`; windows without evidence and unlabelled tokens add nothing."""
        out = self(batch.values, self.modality_dropout(batch.valid))
        target = target_of(batch, out.valence_arousal)
        mask = out.evidence[:, None].expand(target.shape[:2])
        loss = valence_arousal_loss(out.valence_arousal, target, mask, self.loss)
        return loss, {"loss": loss.detach()}
