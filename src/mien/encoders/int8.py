"""Int8 quantisation of linear layers on a CPU, with the mean over tokens kept in float32.

A layer is linear, so the mean over the tokens of a picture passes through it in float32 (one row), and only the
deviations from the mean are quantised: 8 bits with one scale per token, times 8-bit weights with one scale per output.
The mean carries the few very large channels of trained transformers and most of what pooling over tokens retains, so
the error is about that of bfloat16 (random BEiT: 5e-3 of a pooled feature, against 1e-2 without removing the mean).
Other pictures of the batch have no influence. Audio is treated alike, a chunk in the place of a picture.

The error of other weights is unknown, so `quantise_with_check` compares with float32 on the first batch.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.errors import ConfigError

#: Largest accepted relative error of features. Our choice: about twice the error of bfloat16.
TOLERANCE = 1e-2

#: Pattern that matches no layer name.
NO_LAYER = "$^"

#: The unsigned byte that represents 0. Processors without VNNI add two 8-bit products in 16 bits, which can overflow:
#: there the deviations get 7 bits (their errors average out over tokens; those of the weights do not).
_ZERO = 128 if torch.cpu._is_vnni_supported() else 64

#: Fewest weights of a layer worth quantising. Excludes the gates of WavLM (8 outputs per head), whose input has another
#: shape than `(batch, tokens, width)`.
_MIN_WEIGHTS = 1 << 10


class Int8Linear(nn.Module):
    """`nn.Linear` in int8 over tokens: `(batch, tokens, in)` -> `(batch, tokens, out)` float32.

    Keeps the float32 weights for the mean, so the memory grows by a quarter.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        weight = linear.weight.detach()
        scale = (weight.abs().amax(dim=1) / 127).clamp(min=1e-30)
        self._scale, self._zero = scale, torch.zeros(len(weight), dtype=torch.int32)
        rounded = (weight / scale[:, None]).round().to(torch.int8)
        self._packed = torch.ops.onednn.qlinear_prepack(rounded, None)

    def forward(self, tokens: Tensor) -> Tensor:
        """Apply the layer."""
        batch, count, width = tokens.shape
        mean = tokens.mean(dim=1, keepdim=True)
        deviation = tokens - mean
        # Two reductions: `aminmax` and the maximum norm are not vectorised and take ten times as long.
        largest = torch.maximum(deviation.amax(dim=2, keepdim=True), -deviation.amin(dim=2, keepdim=True))
        scale = largest.div_(_ZERO - 1).clamp_(min=1e-30)
        # Unsigned, because processors multiply unsigned by signed bytes. Adding a half and truncating rounds.
        rounded = deviation.div_(scale).add_(_ZERO + 0.5).to(torch.uint8).view(-1, width)
        product = torch.ops.onednn.qlinear_pointwise(
            rounded, 1.0, _ZERO, self._packed, self._scale, self._zero, None, 1.0, 0, torch.float32, "none", [], ""
        )
        from_mean = F.linear(mean, self.linear.weight, self.linear.bias)
        product = product.view(batch, count, -1)
        return torch.addcmul(from_mean, product, scale, out=product)


def quantise_with_check(
    name: str, network: nn.Module, encode: Callable[[], np.ndarray], *, exclude: str = NO_LAYER
) -> np.ndarray:
    """Quantise the layers of `network` in place, and compare `encode()` before and after.

    Args:
        name: name of the encoder, for error texts.
        network: network in float32.
        encode: encodes the first batch with `network`.
        exclude: regular expression, searched in dotted layer names, of layers that stay in float32.

    Returns:
        The result of `encode` with the quantised network.

    Raises:
        ConfigError: the processor has no int8 products, the network has no such layers, or the relative error is
            beyond `TOLERANCE`. The network is then already changed and must not be used.
    """
    exact = encode()
    if not (is_available() and quantise_layers(network, exclude)):
        raise ConfigError(
            f"{name} cannot run in 8 bits here: "
            + ("it has no linear layers over tokens." if is_available() else "this processor has no int8 products."),
            follows="No features were returned.",
            remedy="Use precision=auto.",
        )
    rounded = encode()
    error = float(np.linalg.norm(rounded - exact)) / max(float(np.linalg.norm(exact)), 1e-30)
    if not error <= TOLERANCE:
        raise ConfigError(
            f"{name} in 8 bits differs from float32 by {error:.1%} on the first batch; {TOLERANCE:.0%} is allowed.",
            follows="No features were returned.",
            remedy="Use precision=float32, or bfloat16 where the processor supports it.",
        )
    return rounded


def is_available() -> bool:
    """Whether this processor and this build of torch have int8 products."""
    return torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() != "DEFAULT"


def quantise_layers(network: nn.Module, exclude: str = NO_LAYER) -> int:
    """Replace the large linear layers in every list of layers of `network` by `Int8Linear`; return their number.

    Layers whose dotted name `exclude` finds stay. The replaced ones must take `(batch, tokens, width)`.
    """
    stacks = [name for name, module in network.named_modules() if isinstance(module, nn.ModuleList)]
    layers = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear)
        and module.weight.numel() >= _MIN_WEIGHTS
        and any(name.startswith(f"{stack}.") for stack in stacks)
        and not re.search(exclude, name)
    }
    for name, layer in layers.items():
        parent, _, attribute = name.rpartition(".")
        setattr(network.get_submodule(parent), attribute, Int8Linear(layer))
    return len(layers)
