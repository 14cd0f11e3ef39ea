"""Image networks of transformers over aligned face crops: BEiT, CLIP, ViT, ResNet, EfficientNet.

One class for all; what differs between them is in `FAMILIES`. A value is the network's own embedding (BEiT:
mean of the patch tokens after its LayerNorm; CLIP: the projection it shares with text; ViT: the class token;
ResNet and EfficientNet: global average), or, with `layer`, the mean of the patch tokens of hidden layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mien import memory
from mien.encoders import pretrained
from mien.encoders.int8 import switch
from mien.encoders.precision import choose, name_of
from mien.encoders.preprocessing import Preprocessing
from mien.encoders.pretrained import PretrainedWeights, WeightSource
from mien.encoders.protocol import Crop
from mien.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Family:
    """How one architecture is read. network: class of transformers. embedding: its output -> `(batch, dim)`.
    dim: from its config. tokens: it has hidden layers of tokens, the first of them a class token."""

    network: str
    embedding: Callable[[Any], Tensor]
    dim: Callable[[Any], int]
    tokens: bool = True
    options: Callable[[PretrainedWeights], Mapping[str, Any]] = lambda _: {}


def _clip_options(checkpoint: PretrainedWeights) -> Mapping[str, Any]:
    """A whole CLIP says the width of its projection once, for both towers; its vision part alone would not
    find it and take 512."""
    from transformers import CLIPVisionConfig

    config = CLIPVisionConfig.from_pretrained(checkpoint.folder)
    config.projection_dim = checkpoint.config.get("projection_dim", config.projection_dim)
    return {"config": config}


def _pooled(output: Any) -> Tensor:
    return output.pooler_output.flatten(1)


_CLIP = Family(
    "CLIPVisionModelWithProjection",
    lambda output: output.image_embeds,
    lambda config: config.projection_dim,
    options=_clip_options,
)
#: By `model_type` of config.json.
FAMILIES: dict[str, Family] = {
    "beit": Family("BeitModel", _pooled, lambda config: config.hidden_size),
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "vit": Family(
        "ViTModel",
        lambda output: output.last_hidden_state[:, 0],
        lambda config: config.hidden_size,
        options=lambda _: {"add_pooling_layer": False},
    ),
    "resnet": Family("ResNetModel", _pooled, lambda config: config.hidden_sizes[-1], tokens=False),
    "efficientnet": Family("EfficientNetModel", _pooled, lambda config: config.hidden_dim, tokens=False),
}


class ImageEncoder:
    """A pretrained image network as a `CropEncoder`.

    Args:
        name: what it is called in the store.
        about: where it comes from (hub id or folder), its size and licence.
        types: the `model_type`s it may be.
        layer: None for the network's own embedding; else the index of a hidden layer (0: the embedded
            patches, -1: the last), whose patch tokens are averaged. last: the mean of that layer and the
            `last - 1` before it.
        margin: how much is seen around the face, as `mien.faces.align.align` takes it.
        precision: `auto`, `float32`, `bfloat16`, `float16`, or `int8` (see `quantised`; on a CPU).
        batch_size: the most crops taken at once; None chooses by device.

    Raises:
        ConfigError: an option that does not fit the network. ArtefactError: see `pretrained`.
    """

    modality = "face"
    rate_hz: float | None = None
    receptive_field_s = 0.0

    def __init__(
        self,
        name: str,
        about: WeightSource,
        *,
        types: tuple[str, ...] = tuple(FAMILIES),
        device: str | torch.device = "cpu",
        revision: str | None = None,
        layer: int | None = None,
        last: int = 1,
        margin: float = 0.0,
        precision: str = "auto",
        batch_size: int | None = None,
        allow_pickle: bool = False,
    ) -> None:
        import transformers

        self.name, self.licence, self.device = name, about.licence, torch.device(device)
        if self.device.type == "cpu":
            memory.keep_freed_memory()
        checkpoint = pretrained.fetch(about, revision=revision, allow_pickle=allow_pickle)
        pretrained.check_type(checkpoint, types)
        self._family, self._layer, self._last = FAMILIES[checkpoint.config["model_type"]], layer, last
        self._dtype, self._rounds = choose(precision, self.device, int8=True), precision == "int8"
        self._network = pretrained.load(
            checkpoint,
            getattr(transformers, self._family.network),
            types,
            dtype=self._dtype,
            **self._family.options(checkpoint),
        ).to(self.device)
        self._preprocessing = Preprocessing(checkpoint.folder)
        self._check_layer(name)
        _freeze_position_bias(self._network, self._preprocessing.output_size)
        self.dim = self._dim()
        self.crop = Crop(self._preprocessing.input_size, margin)
        self.batch_size = batch_size or (64 if self.device.type == "cuda" else 8)
        self.provenance = pretrained.provenance(
            about,
            checkpoint,
            layer="embedding" if layer is None else f"{layer}, mean of {last}, mean of patches",
            preprocessing=str(self._preprocessing),
            crop=f"aligned by five points, {self.crop.size} px, margin {margin:g}",
            precision="int8" if self._rounds else name_of(self._dtype),
        )

    def encode_crops(self, crops: np.ndarray) -> np.ndarray:
        """crops: `(batch, size, size, 3)` uint8 RGB; any size is brought to the network's as its own
        processor does. Returns `(batch, dim)` float32. A row does not depend on the rows beside it (but for
        rounding)."""
        rows = [self._encode(crops[i : i + self.batch_size]) for i in range(0, len(crops), self.batch_size)]
        return np.concatenate(rows) if rows else np.zeros((0, self.dim), np.float32)

    @torch.inference_mode()
    def _encode(self, crops: np.ndarray) -> np.ndarray:
        pixels = self._preprocessing(crops, self.device).to(self._dtype)
        if self._rounds:
            self._rounds = False
            return switch(self.name, self._network, lambda: self._values(pixels))
        return self._values(pixels)

    def _values(self, pixels: Tensor) -> np.ndarray:
        if self._layer is None:
            values = self._family.embedding(self._network(pixels))
        else:
            hidden = self._network(pixels, output_hidden_states=True).hidden_states
            chosen = hidden[: len(hidden) + self._layer + 1] if self._layer < 0 else hidden[: self._layer + 1]
            values = torch.stack([h[:, 1:].mean(dim=1) for h in chosen[-self._last :]]).mean(dim=0)
        return values.float().cpu().numpy()

    def _dim(self) -> int:
        config = self._network.config
        return int(config.hidden_size if self._layer is not None else self._family.dim(config))

    def _check_layer(self, name: str) -> None:
        if self._layer is None:
            if self._last != 1:
                raise ConfigError(f"{name}: last={self._last} needs `layer`, the last of the layers to average.")
            return
        if not self._family.tokens:
            raise ConfigError(
                f"{name} has no hidden layers of tokens; layer={self._layer} cannot be read.",
                remedy="Leave `layer` out: its embedding is the global average.",
            )
        layers = self._network.config.num_hidden_layers + 1
        index = self._layer + layers if self._layer < 0 else self._layer
        if not 0 <= index < layers or not 1 <= self._last <= index + 1:
            raise ConfigError(
                f"{name}: layer={self._layer} with last={self._last} does not exist; "
                f"it has hidden layers 0 to {layers - 1}."
            )


class _Fixed(torch.nn.Module):
    """Answers with a tensor made once, whatever it is asked."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value, persistent=False)

    def forward(self, *_args: object, **_named: object) -> Tensor:
        return self.get_buffer("value")


@torch.inference_mode()
def _freeze_position_bias(network: torch.nn.Module, size: int) -> None:
    """BEiT makes the relative position bias of every layer anew for each batch; at one picture size it is a
    constant (60 MB for the large one in float32). Does nothing for networks without it."""
    for module in list(network.modules()):
        bias = getattr(module, "relative_position_bias", None)
        if isinstance(bias, torch.nn.Module) and not isinstance(bias, _Fixed):
            patches = size // network.config.patch_size  # type: ignore[union-attr, operator]
            module.relative_position_bias = _Fixed(bias((patches, patches), dim_size=patches**2 + 1).clone())
