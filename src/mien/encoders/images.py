"""Image encoders: BEiT, CLIP, DINOv2, ViT, ResNet and EfficientNet of transformers over aligned face crops.

One class serves all; `FAMILIES` holds the differences. A feature vector is the network's own embedding (BEiT: mean of
the patch tokens after its LayerNorm; CLIP: the projection it shares with text; DINOv2 and ViT: the class token; ResNet
and EfficientNet: global average) or, with `layer`, the mean of the patch tokens of hidden layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mien.encoders.preprocessing import Preprocessing
from mien.encoders.pretrained import PretrainedWeights, WeightSource, load_clip_config
from mien.encoders.pretrained_encoder import PretrainedEncoder, select_layers
from mien.encoders.protocol import Crop
from mien.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Family:
    """How to use one architecture.

    network: class of transformers.
    embedding: output of the network -> `(batch, dim)`.
    dim: config of the network -> dim of the embedding.
    has_tokens: it has hidden layers of tokens, the first of them a class token.
    options: weights -> further arguments of `from_pretrained`.
    """

    network: str
    embedding: Callable[[Any], Tensor]
    dim: Callable[[Any], int]
    has_tokens: bool = True
    options: Callable[[PretrainedWeights], Mapping[str, Any]] = lambda _: {}


def _pooled(output: Any) -> Tensor:
    pooled: Tensor = output.pooler_output
    return pooled.flatten(1)


_CLIP = Family(
    "CLIPVisionModelWithProjection",
    lambda output: output.image_embeds,
    lambda config: config.projection_dim,
    options=lambda weights: {"config": load_clip_config(weights, "CLIPVisionConfig")},
)
#: By `model_type` of config.json.
FAMILIES: dict[str, Family] = {
    "beit": Family("BeitModel", _pooled, lambda config: config.hidden_size),
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "dinov2": Family("Dinov2Model", _pooled, lambda config: config.hidden_size),
    "vit": Family(
        "ViTModel",
        lambda output: output.last_hidden_state[:, 0],
        lambda config: config.hidden_size,
        options=lambda _: {"add_pooling_layer": False},
    ),
    "resnet": Family("ResNetModel", _pooled, lambda config: config.hidden_sizes[-1], has_tokens=False),
    "efficientnet": Family("EfficientNetModel", _pooled, lambda config: config.hidden_dim, has_tokens=False),
}


class ImageEncoder(PretrainedEncoder):
    """Pretrained image network as a `CropEncoder`.

    Args:
        layer: index of a hidden layer (0: the embedded patches, -1: the last), whose patch tokens are averaged; None
            for the network's own embedding.
        last: average that layer and the `last - 1` before it.
        margin: extra border around the face (`mien.encoders.protocol.Crop`).
        scales: sides of several crops around the same centre, as multiples of the crop with that margin, such as 1.0,
            1.15 and 1.3; the vector is the mean of their vectors. One crop, of scale 1, by default. Crops that a corpus
            provides are taken as those of the largest scale.
        precision: `auto`, `float32`, `bfloat16`, `float16`, or `int8` on a CPU.
        batch_size: crops per call of the network; None takes 64 on a GPU and 8 on a CPU.
        name, about, types, device, revision, allow_pickle: see `PretrainedEncoder`.

    Raises:
        ConfigError: an option that does not fit the network.
        ArtefactError: see `PretrainedEncoder` and `Preprocessing`.
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
        scales: tuple[float, ...] = (1.0,),
        precision: str = "auto",
        batch_size: int | None = None,
        allow_pickle: bool = False,
    ) -> None:
        super().__init__(
            name,
            about,
            types,
            device=device,
            revision=revision,
            precision=precision,
            allow_pickle=allow_pickle,
            int8=True,
        )
        self._family = FAMILIES[self._weights.config["model_type"]]
        self._network = self._load_model()
        config = self._network.config
        if layer is not None and not self._family.has_tokens:
            raise ConfigError(
                f"{name} has no hidden layers of tokens; layer={layer} cannot be read.",
                follows="No encoder was created.",
                remedy="Omit `layer`: its embedding is the global average.",
            )
        self._layers = select_layers(name, getattr(config, "num_hidden_layers", 0), layer, last)
        self.preprocessing = Preprocessing(self._weights.folder)
        _freeze_position_bias(self._network, self.preprocessing.output_size)
        self.dim = int(self._family.dim(config) if layer is None else config.hidden_size)
        self.scales = _check_scales(name, scales)
        self.crop = Crop(
            round(self.preprocessing.input_size * max(scales) / min(scales)), (1 + margin) * max(scales) - 1
        )
        self.batch_size = batch_size or (64 if self.device.type == "cuda" else 8)
        self.provenance = self._provenance(
            layer="embedding" if layer is None else f"{layer}, mean of {last}, mean of patches",
            preprocessing=str(self.preprocessing),
            crop=f"aligned by five points, {self.preprocessing.input_size} px, margin {margin:g}{_describe(scales)}",
        )

    def encode_crops(self, crops: np.ndarray) -> np.ndarray:
        """Encode crops: `(batch, size, size, 3)` uint8 RGB -> `(batch, dim)` float32.

        Crops of any size are resized as the network's own processor does. A row does not depend on the rows beside it,
        except for rounding.
        """
        rows = [self._encode(crops[i : i + self.batch_size]) for i in range(0, len(crops), self.batch_size)]
        return np.concatenate(rows) if rows else np.zeros((0, self.dim), np.float32)

    @torch.inference_mode()
    def _encode(self, crops: np.ndarray) -> np.ndarray:
        vectors = []
        for scale in self.scales:
            pixels = self.preprocessing(self.at_scale(crops, scale), self.device).to(self._dtype)
            vectors.append(self._run(partial(self._vectors, pixels)))
        return vectors[0] if len(vectors) == 1 else np.mean(vectors, axis=0)

    def _vectors(self, pixels: Tensor) -> np.ndarray:
        vectors: np.ndarray = self.embed(pixels).float().cpu().numpy()
        return vectors

    def at_scale(self, crops: np.ndarray, scale: float) -> np.ndarray:
        """The central part of crops that has a scale: `(batch, size, size, 3)` -> `(batch, part, part, 3)`."""
        size = crops.shape[1]
        part = round(size * scale / max(self.scales))
        start = (size - part) // 2
        return crops[:, start : start + part, start : start + part]

    def trainable_network(self) -> Any:
        """The network as transformers loads it, whose parameters `embed` reads from now on; for training and saving it.

        It is loaded again, because encoding keeps the position biases of BEiT as constants.
        """
        del self._network
        self._network = self._load_model()
        return self._network

    def _load_model(self) -> Any:
        return self._load(self._family.network, **self._family.options(self._weights))

    def embed(self, pixels: Tensor) -> Tensor:
        """Preprocessed pixels `(batch, 3, side, side)` in the network's number format -> `(batch, dim)`."""
        if self._layers is None:
            return self._family.embedding(self._network(pixels))
        hidden = self._network(pixels, output_hidden_states=True).hidden_states
        return torch.stack([hidden[i][:, 1:].mean(dim=1) for i in self._layers]).mean(dim=0)


def _check_scales(name: str, scales: tuple[float, ...]) -> tuple[float, ...]:
    """The scales; ConfigError for none, or for one that is not positive."""
    if not scales or min(scales) <= 0:
        raise ConfigError(
            f"{name}: scales={list(scales)} cannot be cut; each is the side of a crop, a number above 0.",
            follows="No encoder was created.",
            remedy="Use scales=[1.0,1.15,1.3], or omit it for one crop.",
        )
    return scales


def _describe(scales: tuple[float, ...]) -> str:
    """Scales in provenance; nothing for one crop, which keeps the provenance of stores from before this option."""
    return "" if scales == (1.0,) else f", mean of scales {' '.join(f'{scale:g}' for scale in scales)}"


class _Constant(torch.nn.Module):
    """Module that returns a fixed tensor for any arguments."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value, persistent=False)

    def forward(self, *_args: object, **_named: object) -> Tensor:
        return self.get_buffer("value")


@torch.no_grad()  # not inference_mode: transformers caches a table of indices, which training then could not use
def _freeze_position_bias(network: Any, size: int) -> None:
    """Compute the relative position biases of BEiT once; no effect on networks without them.

    BEiT computes the bias of every layer anew for each batch. It is constant at one picture size (60 MB for the large
    network in float32).
    """
    for module in list(network.modules()):
        bias = getattr(module, "relative_position_bias", None)
        if isinstance(bias, torch.nn.Module) and not isinstance(bias, _Constant):
            patches = size // network.config.patch_size
            module.relative_position_bias = _Constant(bias((patches, patches), dim_size=patches**2 + 1).clone())
