"""One stream of the valence-arousal system: face, behaviour or voice.

Source: Ryumina et al. (team RAS) 2026, arXiv 2603.13056 (10th ABAW, valence-arousal). Sizes, layers and losses follow
the authors' public code.

Three recipes train this file: `va_face`, `va_behaviour` and `va_voice`. `mien derive` then writes each stream's output,
an embedding of 256 values and its two predictions per token, into the feature store; `va_directed_experts` and
`va_reliability` read it.

Architecture, by `kind`:

* face: a Transformer of 5 layers over 400 frames, see `PositionedLayer`: post-norm, a feedforward network of the
  width of the tokens, sinusoidal positions inside every layer, and a residual connection around each. The head is a
  network with one hidden layer, whose activations are the embedding.
* behaviour: 12 Mamba layers (post-norm, inner width equal to the outer) over 16 segments of a vision-language model's
  embeddings. The head is a network with one hidden layer of 512; the embedding is its input.
* voice: attentive statistics pooling in one-second bins of a 4-s window, then a hidden layer of 256, whose activations
  are the embedding, and a linear head.

Differs:

* The face features are those of the recipe's encoder (the authors' multi-corpus extractor GRADA is not public).
* The voice encoder stays as published (the authors train its last four layers).
* A missing face is masked; the authors replace it by the nearest one.
* Predictions pass through a tanh, because valence and arousal lie in [-1, 1]; the authors' heads are linear.
* The selective scan discretises as in Mamba's paper; the authors' code multiplies exp(A) by the step size.
* The voice is compared with the label of each token; the authors compare a bin with the mean of its labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mien.config import Count, DropoutRate, NotNegative, Positive, Section
from mien.layers.options import check_heads
from mien.layers.pooling import AttentionStatistics, any_valid, split_bins
from mien.layers.state_space import MambaLayer
from mien.layers.system import StreamSystem
from mien.layers.temporal import PositionedLayer
from mien.layers.valence_arousal import (
    StreamEmbedding,
    ValenceArousalObjective,
    hidden_layer,
    target_of,
    valence_arousal_loss,
    valence_arousal_output,
)
from mien.records import Batch, Output


class Config(Section):
    """Options of the model.

    inputs: one modality of any name. kind: which of the three networks. layers, heads: of the Transformer (8 heads in
    the authors' code, 16 in notes on the paper). mamba_layers, state_dim, kernel: of Mamba. head_dim: hidden width of
    the behaviour's head. pooling_dim: hidden width of the pooling's attention. bin_seconds: length of a pooled bin.
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
    head_dim: Count = 512
    pooling_dim: Count = 128
    bin_seconds: Positive = 1.0
    dropout: DropoutRate = 0.1
    clamp: Positive = 8.0

    @model_validator(mode="after")
    def _check(self) -> Config:
        check_heads(self.dim, self.heads)
        return self


class Objective(ValenceArousalObjective):
    """`valence (1 - CCC_v) + arousal (1 - CCC_a) + mse MSE`; in the authors' code `per_sequence` for the face."""

    valence: NotNegative = 0.5
    arousal: NotNegative = 0.5
    mse: NotNegative = 0.0


class StreamNetwork(nn.Module):
    """Base of the three networks: `forward` gives the embedding `(batch, time, dim)`, `head` maps it to 2 numbers."""

    head: nn.Module

    def predict(self, embedding: Tensor) -> Tensor:
        """Valence and arousal in (-1, 1), `(batch, time, 2)`."""
        output: Tensor = self.head(embedding).tanh()
        return output


class FaceNetwork(StreamNetwork):
    """Transformer with positions inside every layer, and a hidden layer."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        self.embedding = StreamEmbedding(width, config.dim, config.dropout)
        self.layers = nn.ModuleList(
            PositionedLayer(dim=config.dim, heads=config.heads, dropout=config.dropout) for _ in range(config.layers)
        )
        self.hidden = hidden_layer(config.dim, config.dim, config.dropout)
        self.head = nn.Linear(config.dim, 2)

    def forward(self, values: Tensor, valid: Tensor) -> Tensor:
        """values `(batch, time, width)`, valid `(batch, time)` bool -> `(batch, time, dim)`."""
        tokens = self.embedding(values, valid)
        for layer in self.layers:
            tokens = layer(tokens, tokens, valid)
        output: Tensor = self.hidden(tokens)
        return output


class BehaviourNetwork(StreamNetwork):
    """Mamba layers; a missing segment leaves their state unchanged."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        self.embedding = StreamEmbedding(width, config.dim, config.dropout)
        self.layers = nn.ModuleList(
            MambaLayer(dim=config.dim, state=config.state_dim, kernel=config.kernel, dropout=config.dropout)
            for _ in range(config.mamba_layers)
        )
        self.head = nn.Sequential(
            hidden_layer(config.dim, config.head_dim, config.dropout), nn.Linear(config.head_dim, 2)
        )

    def forward(self, values: Tensor, valid: Tensor) -> Tensor:
        """values `(batch, time, width)`, valid `(batch, time)` bool -> `(batch, time, dim)`."""
        tokens: Tensor = self.embedding(values, valid)
        for layer in self.layers:
            tokens = layer(tokens, valid)
        return tokens


class VoiceNetwork(StreamNetwork):
    """Attentive statistics of each bin, repeated for its tokens; a bin without voice gets those of the whole window."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        self.bin_tokens = max(1, round(config.bin_seconds * config.rate_hz))
        self.pool = AttentionStatistics(dim=width, hidden=config.pooling_dim)
        self.project = nn.Sequential(
            nn.LayerNorm(2 * width), nn.Dropout(config.dropout), nn.Linear(2 * width, config.dim), nn.GELU()
        )
        self.head = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(config.dim, 2))

    def forward(self, values: Tensor, valid: Tensor) -> Tensor:
        """values `(batch, time, width)`, valid `(batch, time)` bool -> `(batch, time, dim)`."""
        bin_values, bin_valid = split_bins(values, valid, self.bin_tokens)
        batch, bins = bin_valid.shape[:2]
        pooled = self.pool(bin_values.flatten(0, 1), bin_valid.flatten(0, 1)).view(batch, bins, -1)
        pooled_window = self.pool(values, valid)[:, None]
        projected = self.project(torch.where(bin_valid.any(dim=2)[..., None], pooled, pooled_window))
        output: Tensor = projected.repeat_interleave(self.bin_tokens, dim=1)[:, : values.shape[1]]
        return output


class VAStream(StreamSystem):
    """Network and objective of one stream; see the module's docstring and `Config`."""

    predicts_expression = False
    is_padding_neutral = True

    def __init__(self, config: Config, objective: Objective | None = None) -> None:
        super().__init__(inputs=config.inputs, classes=config.classes, clamp=config.clamp)
        self.config, self.loss = config, objective or Objective()
        self.modality, width = next(iter(config.inputs.items()))
        networks: dict[str, type[FaceNetwork | BehaviourNetwork | VoiceNetwork]] = {
            "face": FaceNetwork, "behaviour": BehaviourNetwork, "voice": VoiceNetwork
        }  # fmt: skip
        self.network = networks[config.kind](width, config)
        self.embedding_dim = config.dim + 2

    def embed(self, values: Mapping[str, Tensor | None], valid: Mapping[str, Tensor | None]) -> tuple[Tensor, Tensor]:
        """Features for the fusions, `(batch, time, dim + 2)`: the embedding, then valence and arousal. And `(batch,
        time)` bool, true throughout a window that has a valid token."""
        inputs, mask = self.select_inputs(values, valid)[self.modality]
        embedding = self.network(inputs, mask)
        prediction = self.network.predict(embedding)
        return torch.cat((embedding, prediction), dim=-1), any_valid(mask)

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
        loss = valence_arousal_loss(prediction, target, present, self.loss)
        return loss, {"loss": loss.detach()}


#: The name under which `mien.models` finds the system of this file.
System = VAStream
