"""One stream of the valence-arousal system: face, behaviour or voice.

Source: Ryumina et al. (team RAS) 2026, arXiv 2603.13056 (10th ABAW, valence-arousal). Sizes and losses follow the
authors' public code.

Three recipes train this file: `va_face`, `va_behaviour` and `va_voice`. `mien derive` then writes each stream's output,
an embedding of 256 values and its two predictions per token, into the feature store; `va_directed_experts` and
`va_reliability` read it.

Architecture, by `kind`:

* face: a Transformer of 5 layers over 400 frames; sinusoidal positions are added before every layer, and the input is
  added again after the last (outer residual).
* behaviour: 12 Mamba layers over 16 segments of a vision-language model's embeddings.
* voice: attentive statistics pooling in one-second bins of a 4-s window, then a projection to 256.

Differs:

* The face features are those of the recipe's encoder (the authors' multi-corpus extractor GRADA is not public).
* The voice encoder stays as published (the authors train its last four layers).
* A missing face is masked; the authors replace it by the nearest one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mien.config import Count, DropoutRate, NotNegative, Positive, Section
from mien.layers.options import check_heads
from mien.layers.pooling import AttentionStatistics, any_valid
from mien.layers.state_space import MambaLayer
from mien.layers.system import StreamSystem
from mien.layers.temporal import TokenEmbedding, TransformerLayer, sinusoidal_positions
from mien.layers.valence_arousal import (
    ValenceArousalObjective,
    target_of,
    valence_arousal_loss,
    valence_arousal_output,
)
from mien.records import Batch, Output


class Config(Section):
    """Options of the model.

    inputs: one modality of any name. kind: which of the three networks. layers, heads: of the Transformer (8 heads in
    the authors' code, 16 in notes on the paper). mamba_layers, state_dim, kernel: of Mamba. pooling_dim: hidden width
    of the pooling's attention. bin_seconds: length of a pooled bin.
    """

    inputs: Annotated[dict[str, Count], Field(min_length=1, max_length=1)]
    classes: Count = 8
    rate_hz: Positive = 30.0
    kind: Literal["face", "behaviour", "voice"] = "face"
    dim: Count = 256
    layers: Count = 5
    heads: Count = 8
    mamba_layers: Count = 12
    state_dim: Count = 8
    kernel: Count = 5
    pooling_dim: Count = 128
    bin_seconds: Positive = 1.0
    dropout: DropoutRate = 0.1
    clamp: Positive = 8.0

    @model_validator(mode="after")
    def _check(self) -> Config:
        check_heads(self.dim, self.heads)
        return self


class Objective(ValenceArousalObjective):
    """`valence (1 - CCC_v) + arousal (1 - CCC_a) + mse MSE`.

    per_sequence: compute CCC's moments over each window and average the losses, as the authors' code does for the face
    stream; otherwise over the batch.
    """

    valence: NotNegative = 0.5
    arousal: NotNegative = 0.5
    mse: NotNegative = 0.0
    per_sequence: bool = False


class FaceNetwork(nn.Module):
    """Transformer with positions added before every layer and an outer residual."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(width, config.dim)
        self.layers = nn.ModuleList(
            TransformerLayer(dim=config.dim, heads=config.heads, feedforward=4 * config.dim, dropout=config.dropout)
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, values: Tensor, valid: Tensor) -> Tensor:
        """values `(batch, time, width)`, valid `(batch, time)` bool -> `(batch, time, dim)`."""
        embedded = self.embedding(values, valid)
        positions = sinusoidal_positions(embedded.shape[1], embedded.shape[2], embedded.device)
        tokens = embedded
        for layer in self.layers:
            tokens = layer(tokens + positions, valid)
        output: Tensor = self.norm(tokens + embedded)
        return output


class BehaviourNetwork(nn.Module):
    """Mamba layers; a missing segment leaves their state unchanged."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(width, config.dim)
        self.layers = nn.ModuleList(
            MambaLayer(dim=config.dim, state=config.state_dim, kernel=config.kernel, dropout=config.dropout)
            for _ in range(config.mamba_layers)
        )
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, values: Tensor, valid: Tensor) -> Tensor:
        """values `(batch, time, width)`, valid `(batch, time)` bool -> `(batch, time, dim)`."""
        tokens = self.embedding(values, valid)
        for layer in self.layers:
            tokens = layer(tokens, valid)
        output: Tensor = self.norm(tokens)
        return output


class VoiceNetwork(nn.Module):
    """Attentive statistics of each bin, repeated for its tokens; a bin without voice gets those of the whole window."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        self.bin_tokens = max(1, round(config.bin_seconds * config.rate_hz))
        self.pool = AttentionStatistics(dim=width, hidden=config.pooling_dim)
        self.project = nn.Sequential(
            nn.Linear(2 * width, config.dim), nn.LayerNorm(config.dim), nn.GELU(), nn.Dropout(config.dropout)
        )

    def forward(self, values: Tensor, valid: Tensor) -> Tensor:
        """values `(batch, time, width)`, valid `(batch, time)` bool -> `(batch, time, dim)`."""
        batch, time, width = values.shape
        bins = (time + self.bin_tokens - 1) // self.bin_tokens
        padding = bins * self.bin_tokens - time
        bin_values = nn.functional.pad(values, (0, 0, 0, padding)).view(batch * bins, self.bin_tokens, width)
        bin_valid = nn.functional.pad(valid, (0, padding)).view(batch * bins, self.bin_tokens)
        pooled = self.pool(bin_values, bin_valid).view(batch, bins, -1)
        pooled_window = self.pool(values, valid)[:, None]
        projected = self.project(torch.where(bin_valid.any(dim=1).view(batch, bins, 1), pooled, pooled_window))
        output: Tensor = projected.repeat_interleave(self.bin_tokens, dim=1)[:, :time]
        return output


class VAStream(StreamSystem):
    """Network and objective of one stream; see the module's docstring and `Config`."""

    predicts_expression = False
    is_padding_neutral = True

    def __init__(self, config: Config, objective: Objective | None = None) -> None:
        super().__init__(inputs=config.inputs, classes=config.classes, clamp=config.clamp)
        self.config, self.loss = config, objective or Objective()
        self.modality, width = next(iter(config.inputs.items()))
        network = {"face": FaceNetwork, "behaviour": BehaviourNetwork, "voice": VoiceNetwork}[config.kind]
        self.network = network(width, config)
        self.valence_arousal = nn.Linear(config.dim, 2)
        self.embedding_dim = config.dim + 2

    def embed(self, values: Mapping[str, Tensor | None], valid: Mapping[str, Tensor | None]) -> tuple[Tensor, Tensor]:
        """Features for the fusions, `(batch, time, dim + 2)`: the embedding, then valence and arousal. And `(batch,
        time)` bool, true throughout a window that has a valid token."""
        inputs, mask = self.select_inputs(values, valid)[self.modality]
        tokens = self.network(inputs, mask)
        return torch.cat((tokens, self.valence_arousal(tokens).tanh()), dim=-1), any_valid(mask)

    def forward(self, values: Mapping[str, Tensor | None], valid: Mapping[str, Tensor | None]) -> Output:
        """Predict every token, see `StreamSystem.forward`."""
        features, present = self.embed(values, valid)
        weights = present[..., None].to(features.dtype)
        return valence_arousal_output(features[..., -2:], weights, present[:, 0], [self.modality], self.config.classes)

    def objective(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of `Objective`; windows without evidence and unlabelled tokens add nothing."""
        features, present = self.embed(batch.values, batch.valid)
        prediction = features[..., -2:]
        target = target_of(batch, prediction)
        if self.loss.per_sequence:
            windows = zip(prediction.split(1), target.split(1), present.split(1), strict=True)
            loss = torch.stack([valence_arousal_loss(*window, self.loss) for window in windows]).mean()
        else:
            loss = valence_arousal_loss(prediction, target, present, self.loss)
        return loss, {"loss": loss.detach()}


#: The name under which `mien.models` finds the system of this file.
System = VAStream
