"""Base class of encoders that run a network of transformers: weights, device, precision and choice of layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mien import memory
from mien.encoders import pretrained
from mien.encoders.int8 import NO_LAYER, quantise_with_check
from mien.encoders.precision import choose, name_of
from mien.encoders.pretrained import WeightSource
from mien.errors import ConfigError


class PretrainedEncoder:
    """Weights, device and precision of a pretrained encoder.

    Args:
        name: name of the encoder in the feature store.
        about: Hub id or folder of the weights, their size and licence.
        types: values of `model_type` in config.json that the encoder can read.
        device: `cpu`, `cuda` or `cuda:N`.
        revision: commit, tag or branch on the Hub; None takes the newest.
        precision: `auto`, `float32`, `bfloat16` or `float16`; with `int8=True` also `int8` (see `mien.encoders.int8`).
        allow_pickle: read a pickle where there are no safetensors.

    Raises:
        ConfigError: the source is neither a folder nor a Hub id, or the precision is unknown.
        ArtefactError: the weights are missing, damaged or of another architecture (`mien.encoders.pretrained`).
    """

    _network: Any

    def __init__(
        self,
        name: str,
        about: WeightSource,
        types: tuple[str, ...],
        *,
        device: str | torch.device,
        revision: str | None,
        precision: str,
        allow_pickle: bool,
        int8: bool = False,
    ) -> None:
        self.name, self.licence, self.device = name, about.licence, torch.device(device)
        if self.device.type == "cpu":
            memory.keep_freed_memory()
        self._about, self._types = about, types
        self._weights = pretrained.fetch(about, revision=revision, allow_pickle=allow_pickle)
        pretrained.check_architecture(self._weights, types)
        self._dtype = choose(precision, self.device, int8=int8)
        self._precision = "int8" if precision == "int8" else name_of(self._dtype)
        self._must_quantise = precision == "int8"

    def _load(self, class_name: str, **options: Any) -> Any:
        """Load the network on the device. Arguments as `pretrained.load_network`."""
        network = pretrained.load_network(self._weights, class_name, self._types, dtype=self._dtype, **options)
        return network.to(self.device)

    @property
    def network(self) -> Any:
        """The network, an `nn.Module`."""
        return self._network

    @property
    def weights_folder(self) -> Path:
        """The folder of the weights, with the files that preprocessing is read from."""
        return self._weights.folder

    def _provenance(self, **keys: str) -> Mapping[str, str]:
        return pretrained.provenance(self._about, self._weights, **keys, precision=self._precision)

    def _run(self, encode: Callable[[], np.ndarray], *, exclude: str = NO_LAYER) -> np.ndarray:
        """Return `encode()`. The first call under int8 quantises the network and checks the error of this batch.

        exclude: regular expression of layers that stay in float32.
        """
        if not self._must_quantise:
            return encode()
        self._must_quantise = False
        return quantise_with_check(self.name, self._network, encode, exclude=exclude)


def select_layers(name: str, count: int, layer: int | None, last: int) -> range | None:
    """Indices of the hidden states to average, or None for the output of the network.

    Args:
        name: name of the encoder, for error texts.
        count: number of layers; the hidden states are 0 (input of the first layer) to `count` (output of the last).
        layer: index of a hidden state, negative from the end, or None.
        last: how many hidden states to average: `layer` and the `last - 1` before it.

    Raises:
        ConfigError: there is no such hidden state, or `last` is given without `layer`.
    """
    if layer is None:
        if last != 1:
            raise ConfigError(
                f"{name}: last={last} needs `layer`, the last of the layers to average.",
                follows="No encoder was created.",
                remedy="Add layer=-1 for the last layers of the network, or omit `last`.",
            )
        return None
    index = layer + count + 1 if layer < 0 else layer
    if not 0 <= index <= count or not 1 <= last <= index + 1:
        raise ConfigError(
            f"{name}: layer={layer} with last={last} does not exist; it has hidden layers 0 to {count}.",
            follows="No encoder was created.",
            remedy=f"Use a layer from 0 to {count}, or -1 for the last, and average no more layers than precede it.",
        )
    return range(index - last + 1, index + 1)
