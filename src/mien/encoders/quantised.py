"""Linear layers in 8-bit integers on a CPU, accurate enough to be worth it.

A layer is linear, so the mean over the tokens of a picture goes through it in float32, one row, and only what
deviates from the mean is rounded: to 8 bits with a scale for each token, times weights in 8 bits with a scale for
each output. The mean carries the few huge channels that trained transformers have, and most of what pooling over
tokens keeps, so taking it out leaves about the error of bfloat16 (random BEiT: 5e-3 of a pooled feature; 1e-2
without taking it out). Other pictures of the batch have no influence.

Nothing promises that figure for weights not tried, so `check` compares with float32 on the first pictures.
"""

from __future__ import annotations

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
        return torch.addcmul(through, product.view(batch, count, -1), scale)


def available() -> bool:
    """Whether this processor and this build of torch have the products."""
    return torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() != "DEFAULT"


def quantise(layers: nn.Module) -> int:
    """Replaces every `nn.Linear` inside `layers`, all of which must be given `(batch, tokens, width)`. Returns
    how many."""
    count = 0
    for module in list(layers.modules()):
        if isinstance(module, Int8Linear):
            continue
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and not isinstance(module, Int8Linear):
                setattr(module, name, Int8Linear(child))
                count += 1
    return count


def check(name: str, rounded: np.ndarray, exact: np.ndarray) -> float:
    """The relative error of features `(batch, dim)`. Raises ConfigError beyond `TOLERANCE`."""
    error = float(np.linalg.norm(rounded - exact)) / max(float(np.linalg.norm(exact)), 1e-30)
    if not error <= TOLERANCE:
        raise ConfigError(
            f"{name} in 8 bits differs from float32 by {error:.1%} on the first crops; {TOLERANCE:.0%} is allowed.",
            follows="No feature of them was given out.",
            remedy="Use precision=float32, or bfloat16 where the processor has it.",
        )
    return error
