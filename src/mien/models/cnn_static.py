"""Static stage of `cnn_pdem`: a CNN or ViT on single face images, for expressions and valence-arousal.

Source: Dresvyanskiy, Markitantov, Yu, Kaya, Karpov 2024, arXiv 2403.12609. Sizes and training follow the authors'
public code.

[?]: not stated in the paper or fixed in its code; our choice.

Architecture:

* EfficientNet-B1 or B4, or ViT-B/16, a layer of 256, and two heads.
* Objective: soft focal loss (gamma 2) plus the root mean squared error of valence and arousal. Images with soft labels,
  such as votes, use them: each class's focal term counts by its share of the label (`mien.losses.soft_focal`).
* Options that the paper does not have (ours), for a small network that is trained from random weights on small faces:
  a stem without a pool, grey input, each image normalised by its own mean and deviation (light and skin colour are not
  expression), the mean over an image and its mirror image (an expression has no side, so a mirrored video gets the same
  prediction), and the logits at the start of the embedding, for a fusion of predictions. `face_expression` uses them.
* Gradual unfreezing: layers are unfrozen from the top during training, and deeper layers have lower learning rates.
  The steps between two layers, and the ratio of their rates, are [?]. The CNN of `transfer_ensemble` is fine-tuned in
  the same way.

A trained run is a face encoder: `mien extract --encoder RUN` gives its 256 values to the temporal stage.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mien.config import Count, DropoutRate, NotNegative, Positive, Section
from mien.layers.system import ImageSystem
from mien.losses import class_weights, focal, soft_focal
from mien.records import ImageBatch

#: Weights of red, green and blue in grey (ITU-R BT.601), as in OpenCV.
LUMA = (0.299, 0.587, 0.114)
#: Added to the deviation of an image, in grey levels: an image of a single colour stays finite and near zero.
MIN_DEVIATION = 8.0


class Config(Section):
    """Options of the model.

    inputs: one modality; its width is the side of the image in pixels. network: architecture, from the package
    transformers. source: folder or hub id of pretrained weights; None for random weights with `options` of its config.
    dim: width of the embedding. stem_pool, grey, mirrored, embed_logits: see the module's docstring. normalise: `fixed`
    scales pixels to -2 to 2, `image` normalises each image. unfreeze_steps: steps until the next layer is unfrozen, 0
    to train all from the start. layer_decay: ratio of a layer's learning rate to that of the layer above.
    """

    inputs: Annotated[dict[str, Count], Field(min_length=1, max_length=1)]
    classes: Count = 8
    rate_hz: Positive = 10.0
    network: Literal["efficientnet", "vit", "resnet"] = "efficientnet"
    source: str | None = "google/efficientnet-b1"
    options: dict[str, Any] = Field(default={})
    dim: Count = 256
    dropout: DropoutRate = 0.3
    stem_pool: bool = True
    grey: bool = False
    normalise: Literal["fixed", "image"] = "fixed"
    mirrored: bool = False
    embed_logits: bool = False
    unfreeze_steps: Annotated[int, Field(ge=0)] = 500
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.85


class Objective(Section):
    """`focal (gamma) + valence_arousal * RMSE`. class_weights: scheme of `mien.losses.class_weights`."""

    gamma: NotNegative = 2.0
    valence_arousal: NotNegative = 1.0
    class_weights: Literal["none", "sqrt", "balanced", "effective"] = "none"


class CnnStatic(ImageSystem):
    """Network and objective of the static stage; see the module's docstring and `Config`."""

    class_weight: Tensor
    steps: Tensor

    def __init__(self, config: Config, objective: Objective | None = None) -> None:
        super().__init__()
        self.config, self.loss = config, objective or Objective()
        self.predicts_valence_arousal = self.loss.valence_arousal > 0
        self.network, width = _network(config)
        self.embedding_dim = config.dim + config.classes * config.embed_logits
        self.hidden = nn.Sequential(nn.Linear(width, config.dim), nn.Tanh(), nn.Dropout(config.dropout))
        self.expression, self.valence_arousal = nn.Linear(config.dim, config.classes), nn.Linear(config.dim, 2)
        self.register_buffer("class_weight", torch.ones(config.classes))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def architecture(self) -> dict[str, Any]:
        """Configuration of the network, see `System.architecture`."""
        network: Any = self.network
        return {"source": None, "options": json.loads(network.config.to_json_string(use_diff=False))}

    def prepare(self, mean: Mapping[str, Tensor], deviation: Mapping[str, Tensor], counts: Tensor) -> None:
        """Set class weights; images need no statistics. See `System.prepare`."""
        self.class_weight.copy_(class_weights(counts, self.loss.class_weights))

    def depths(self) -> list[list[nn.Parameter]]:
        """Parameters by depth, from the top: the heads, then the network block by block, then what is in no block."""
        heads = [p for part in (self.hidden, self.expression, self.valence_arousal) for p in part.parameters()]
        blocks = _blocks(self.network)
        in_blocks = {id(p) for block in blocks for p in block.parameters()}
        rest = [p for p in self.network.parameters() if id(p) not in in_blocks]
        return [heads, *([*block.parameters()] for block in reversed(blocks)), *([rest] if rest else [])]

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """One group per depth, each with a lower learning rate; see `System.parameter_groups`."""
        ratio = self.config.layer_decay
        return [
            {"params": depth, "weight_decay": weight_decay, "scale": ratio**i} for i, depth in enumerate(self.depths())
        ]

    def before_step(self) -> None:
        """Remove the gradients of frozen depths; every `unfreeze_steps` steps one more depth is trained."""
        depths, every = self.depths(), self.config.unfreeze_steps
        trained = 1 + int(self.steps) // every if every else len(depths)
        for parameter in (p for depth in depths[trained:] for p in depth):
            parameter.grad = None

    def _vector(self, images: Tensor) -> Tensor:
        """The layer before the heads, `(n, dim)`, of images `(n, 3, size, size)` uint8."""
        pixels = self._normalise(images)
        if not self.config.mirrored or self.training:
            return self._read(pixels)
        both = self._read(torch.cat((pixels, pixels.flip(3))))
        mean: Tensor = both.unflatten(0, (2, -1)).mean(dim=0)
        return mean

    def _normalise(self, images: Tensor) -> Tensor:
        pixels = images.float()
        if self.config.grey:
            pixels = (pixels * pixels.new_tensor(LUMA)[:, None, None]).sum(dim=1, keepdim=True)
        if self.config.normalise == "fixed":
            return pixels / 64 - 2
        mean = pixels.mean(dim=(2, 3), keepdim=True)
        deviation = (pixels - mean).square().mean(dim=(2, 3), keepdim=True).sqrt()
        return (pixels - mean) / (deviation + MIN_DEVIATION)

    def _read(self, pixels: Tensor) -> Tensor:
        output = self.network(pixels)
        pooled = getattr(output, "pooler_output", None)
        if pooled is None:  # a ViT without pooling: its class token
            pooled = output.last_hidden_state[:, 0]
        vector: Tensor = self.hidden(pooled.flatten(1))
        return vector

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings `(n, embedding_dim)` of images `(n, 3, size, size)` uint8."""
        vector = self._vector(images)
        return torch.cat((self.expression(vector), vector), dim=1) if self.config.embed_logits else vector

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(n, classes)` of images `(n, 3, size, size)` uint8."""
        logits: Tensor = self.expression(self._vector(images))
        return logits

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits, and valence and arousal if the objective trains them; see `ImageSystem.predict`."""
        vector = self._vector(images)
        affect = self.valence_arousal(vector).tanh() if self.predicts_valence_arousal else None
        return self.expression(vector), affect

    def objective(self, batch: ImageBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of `Objective` and its terms, over the labelled images."""
        vector = self._vector(batch.labelled)
        logits, weights = self.expression(vector), self.class_weight.to(vector)
        if batch.soft is None:
            expression = focal(logits, batch.labels, gamma=self.loss.gamma, weights=weights)
        else:
            expression = soft_focal(logits, batch.soft, gamma=self.loss.gamma, weights=weights)
        labelled = torch.isfinite(batch.valence_arousal)
        error = torch.where(
            labelled, self.valence_arousal(vector).tanh() - torch.where(labelled, batch.valence_arousal, 0.0), 0.0
        )
        rmse = (error.square().sum() / labelled.sum().clamp_min(1) + 1e-12).sqrt() * labelled.any()
        loss = expression + self.loss.valence_arousal * rmse
        return loss, {"loss": loss.detach(), "expression": expression.detach(), "valence_arousal": rmse.detach()}

    @torch.no_grad()
    def after_step(self) -> None:
        """Count the step; `before_step` unfreezes by it."""
        self.steps += 1


def _network(config: Config) -> tuple[nn.Module, int]:
    """The network and the width of its output."""
    import transformers

    channels = {"num_channels": 1} if config.grey else {}
    name = {"efficientnet": "EfficientNet", "vit": "ViT", "resnet": "ResNet"}[config.network]
    model_class = getattr(transformers, f"{name}Model")
    options = {"add_pooling_layer": False} if config.network == "vit" else {}
    if config.source:
        network = model_class.from_pretrained(config.source, use_safetensors=True, **options)
    else:
        network = model_class(getattr(transformers, f"{name}Config").from_dict(config.options | channels), **options)
    if not config.stem_pool:
        setattr(network.embedder, "pooler", nn.Identity())  # noqa: B010, torch types it as a pool
    sizes = network.config
    key = {"efficientnet": "hidden_dim", "vit": "hidden_size", "resnet": "hidden_sizes"}[config.network]
    width = getattr(sizes, key)
    return network, int(width[-1] if isinstance(width, list) else width)


def _blocks(network: nn.Module) -> list[nn.Module]:
    """The network's longest list of layers."""
    lists = [list(module.children()) for module in network.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len, default=[])


#: The name under which `mien.models` finds the system of this file.
System = CnnStatic
