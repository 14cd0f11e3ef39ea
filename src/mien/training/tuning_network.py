"""A pretrained encoder with a classifier, of which some weights are trained: settings, batches and network.

A LayerNorm and a linear classifier stand on the encoder's vector, for sound on its mean over the frames of a window
(our choice; published systems also pool with attention there, `mien.layers.pooling`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mien.config import DropoutRate, NotNegative, Positive, Section
from mien.encoders import adaptation
from mien.encoders.images import ImageEncoder
from mien.encoders.speech import SpeechEncoder
from mien.layers.system import System
from mien.losses import class_weights, logit_adjustment, soft_focal


class TuningOptions(Section):
    """`corpus.options` of the run's recipe.

    data: corpus -> folder. maps: corpus -> its class -> class of the training, null to leave it out. base_revision:
    hash of the base weights; the run fills it in.

    align: detect the face in each image of an image dataset and align it as prediction does; otherwise its images are
    taken in full. augment: views of training examples. Faces: `weak` mirrors and shifts, `strong` adds two operations
    and a grey square (`mien.data.image_augment`). Sound: `weak` changes the level, `strong` adds noise. window_s:
    length of the windows of sound, seconds.
    """

    data: dict[str, str]
    maps: dict[str, dict[str, str | None]] = Field(default={})
    base_revision: str = ""
    align: bool = True
    augment: Literal["none", "weak", "strong"] = "weak"
    window_s: Positive = 4.0


class Adaptation(Section):
    """Which weights are trained (`model` of the run's recipe).

    lora: rank of the updates of all linear layers of the blocks, 0 for none. lora_alpha: their scale, null for twice
    the rank. lora_dropout: of their inputs. last_blocks: number of blocks trained, from the top. Exactly one of lora
    and last_blocks is above 0. dropout: before the classifier. head_lr: learning rate of the classifier; `train.lr` is
    that of the encoder.
    """

    lora: Annotated[int, Field(ge=0)] = 0
    lora_alpha: Positive | None = None
    lora_dropout: DropoutRate = 0.0
    last_blocks: Annotated[int, Field(ge=0)] = 0
    dropout: DropoutRate = 0.1
    head_lr: Positive = 1e-3

    @property
    def alpha(self) -> float:
        """Scale of the updates."""
        return float(2 * self.lora if self.lora_alpha is None else self.lora_alpha)

    def __str__(self) -> str:
        return f"lora, rank {self.lora}, alpha {self.alpha:g}" if self.lora else f"last {self.last_blocks} blocks"


class Objective(Section):
    """Loss over soft labels, see `mien.losses.soft_focal`.

    gamma: focusing exponent; 0 is cross-entropy. class_weights, logit_adjustment (strength, 0 for none): of
    `mien.losses`.
    """

    gamma: NotNegative = 0.0
    class_weights: Literal["none", "sqrt", "balanced", "effective"] = "none"
    logit_adjustment: NotNegative = 0.0


@dataclass(slots=True)
class TuningBatch:
    """inputs: preprocessed faces `(batch, 3, side, side)` or samples `(batch, n)`, float32. lengths: `(batch,)` samples
    that are no padding. targets: `(batch, classes)` soft labels."""

    inputs: Tensor
    lengths: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> TuningBatch:
        """The batch on another device."""
        return TuningBatch(self.inputs.to(device), self.lengths.to(device), self.targets.to(device))


class TunedNetwork(System[Any]):
    """The encoder's network and the classifier; only the chosen weights and the classifier are trainable.

    Args:
        encoder: its network is changed. classes: number of classes.
    """

    input_kind = "images"
    predicts_valence_arousal = False
    has_fixed_base = True
    class_weight: Tensor
    logit_offset: Tensor

    def __init__(
        self,
        encoder: ImageEncoder | SpeechEncoder,
        classes: int,
        settings: Adaptation,
        objective: Objective,
        *,
        lr: float,
    ) -> None:
        super().__init__()
        self.loss, self._head_scale = objective, settings.head_lr / lr
        self._encoder = (encoder,)  # in a tuple, so that torch does not take its network for a second module
        self.network: Any = encoder.trainable_network()
        if settings.lora:
            adaptation.add_lora(
                self.network, encoder.name, rank=settings.lora, alpha=settings.alpha, dropout=settings.lora_dropout
            )
        else:
            adaptation.train_last_blocks(self.network, encoder.name, settings.last_blocks)
        self.head = nn.Sequential(
            nn.LayerNorm(encoder.dim), nn.Dropout(settings.dropout), nn.Linear(encoder.dim, classes)
        ).to(encoder.device)
        self.register_buffer("class_weight", torch.ones(classes, device=encoder.device))
        self.register_buffer("logit_offset", torch.zeros(classes, device=encoder.device))

    @property
    def encoder(self) -> ImageEncoder | SpeechEncoder:
        """The encoder, which reads the weights of `network`."""
        return self._encoder[0]

    def prepare(self, mean: Mapping[str, Tensor], deviation: Mapping[str, Tensor], counts: Tensor) -> None:
        """Set class weights and offsets of the logits, see `System.prepare`."""
        self.class_weight.copy_(class_weights(counts, self.loss.class_weights))
        self.logit_offset.copy_(logit_adjustment(counts, self.loss.logit_adjustment))

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Trainable weights of the encoder, and the classifier with its own learning rate; matrices decay."""
        groups = []
        for module, scale in ((self.network, 1.0), (self.head, self._head_scale)):
            trained = [p for p in module.parameters() if p.requires_grad]
            matrices, others = ([p for p in trained if (p.ndim >= 2) == is_matrix] for is_matrix in (True, False))
            for chosen, decay in ((matrices, weight_decay), (others, 0.0)):
                groups += [{"params": chosen, "weight_decay": decay, "scale": scale}] if chosen else []
        return groups

    def forward(self, batch: TuningBatch) -> Tensor:
        """Logits `(batch, classes)`."""
        vectors = self.encoder.embed(batch.inputs)
        if vectors.ndim == 3:
            assert isinstance(self.encoder, SpeechEncoder)
            grid = self.encoder.chunking.grid
            frames = ((batch.lengths - grid.field) // grid.hop + 1).clamp(1, vectors.shape[1])
            inside = torch.arange(vectors.shape[1], device=vectors.device) < frames[:, None]
            vectors = torch.where(inside[..., None], vectors, 0.0).sum(dim=1) / frames[:, None]
        logits: Tensor = self.head(vectors)
        return logits

    def objective(self, batch: TuningBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of `Objective`."""
        loss = self.classification_loss(self(batch), batch.targets)
        return loss, {"loss": loss.detach()}

    def classification_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of `Objective` of logits and soft labels, both `(batch, classes)`."""
        return soft_focal(logits + self.logit_offset, targets, gamma=self.loss.gamma, weights=self.class_weight)
