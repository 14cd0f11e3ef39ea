"""Linear layers in 8-bit integers on a CPU, accurate enough to be worth it.

A layer is linear, so the mean over the tokens of a picture goes through it in float32, one row, and only what
deviates from the mean is rounded: to 8 bits with a scale for each token, times weights in 8 bits with a scale for
each output. The mean carries the few huge channels that trained transformers have, and most of what pooling over
tokens keeps, so taking it out leaves about the error of bfloat16 (random BEiT: 5e-3 of a pooled feature; 1e-2
without taking it out). Other pictures of the batch have no influence.

Nothing promises that figure for weights not tried, so `switch` compares with float32 on the first batch. Sound goes
through in the same way, a chunk in the place of a picture.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.errors import ConfigError

#: Relative error of features beyond which 8 bits are refused.
TOLERANCE = 1e-2

#: What stands for 0 in unsigned bytes. Processors without VNNI add two products in 16 bits, which 8-bit times
#: 8-bit can overflow: there the deviations get 7 bits (their errors average out over tokens; the weights' do not).
_ZERO = 128 if torch.cpu._is_vnni_supported() else 64


#: Weights of a layer worth it. WavLM's gates, 8 outputs a head, are none and are not given `(batch, tokens, width)`.
_LARGE = 1 << 10


class Int8Linear(nn.Module):
    """`nn.Linear` over tokens: `(batch, tokens, in)` -> `(batch, tokens, out)`. Keeps the float32 weights, for
    the mean: memory grows by a quarter."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        weight = linear.weight.detach()
        scale = (weight.abs().amax(dim=1) / 127).clamp(min=1e-30)
        self._scale, self._zero = scale, torch.zeros(len(weight), dtype=torch.int32)
        rounded = (weight / scale[:, None]).round().to(torch.int8)
        self._packed = torch.ops.onednn.qlinear_prepack(rounded, None)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, width = tokens.shape
        mean = tokens.mean(dim=1, keepdim=True)
        deviation = tokens - mean
        # Two reductions: `aminmax` and the maximum norm are not vectorised, and cost ten times as much.
        largest = torch.maximum(deviation.amax(dim=2, keepdim=True), -deviation.amin(dim=2, keepdim=True))
        scale = largest.div_(_ZERO - 1).clamp_(min=1e-30)
        # Unsigned, because products of unsigned and signed bytes are what processors have; adding a half and
        # cutting off rounds.
        rounded = deviation.div_(scale).add_(_ZERO + 0.5).to(torch.uint8).view(-1, width)
        product = torch.ops.onednn.qlinear_pointwise(
            rounded, 1.0, _ZERO, self._packed, self._scale, self._zero, None, 1.0, 0, torch.float32, "none", [], ""
        )
        through = F.linear(mean, self.linear.weight, self.linear.bias)
        product = product.view(batch, count, -1)
        return torch.addcmul(through, product, scale, out=product)


def switch(name: str, network: nn.Module, encode: Callable[[], np.ndarray], *, leave: str = "$^") -> np.ndarray:
    """Brings the layers of `network` to 8 bits, but for those whose dotted name `leave` finds (a regular expression);
    returns what `encode` gives through them.

    Raises ConfigError where the processor has no such products, the network no such layers, or the relative error
    against float32 on this batch is beyond `TOLERANCE` (the float32 layers are gone then).
    """
    exact = encode()
    if not (available() and quantise(network, leave)):
        raise ConfigError(
            f"{name} cannot run in 8 bits here: "
            + ("it has no linear layers over tokens." if available() else "this processor has no products for it."),
            follows="No feature was given out.",
            remedy="Use precision=auto.",
        )
    rounded = encode()
    error = float(np.linalg.norm(rounded - exact)) / max(float(np.linalg.norm(exact)), 1e-30)
    if not error <= TOLERANCE:
        raise ConfigError(
            f"{name} in 8 bits differs from float32 by {error:.1%} on the first batch; {TOLERANCE:.0%} is allowed.",
            follows="No feature of it was given out.",
            remedy="Use precision=float32, or bfloat16 where the processor has it.",
        )
    return rounded


def available() -> bool:
    """Whether this processor and this build of torch have the products."""
    return torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() != "DEFAULT"


def quantise(network: nn.Module, leave: str = "$^") -> int:
    """Replaces the large linear layers in every list of layers inside `network`, which are given
    `(batch, tokens, width)`, but for those whose dotted name `leave` finds. Returns how many."""
    stacks = [name for name, module in network.named_modules() if isinstance(module, nn.ModuleList)]
    found = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear)
        and module.weight.numel() >= _LARGE
        and any(name.startswith(f"{stack}.") for stack in stacks)
        and not re.search(leave, name)
    ]
    for name in found:
        parent, _, attribute = name.rpartition(".")
        setattr(network.get_submodule(parent), attribute, Int8Linear(network.get_submodule(name)))  # type: ignore[arg-type]
    return len(found)
