"""Optimiser groups, learning-rate schedule, averaged weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn


def groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters in two groups: matrices decay; biases, norms and single tokens do not (the common
    practice)."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def rate(step: int, total: int, warmup: float, schedule: Literal["cosine", "constant"]) -> float:
    """Factor on the learning rate in step `step` of `total`, counted from 0, in (0, 1].

    Rises linearly over the first `warmup * total` steps, then falls as half a cosine to 0 after the last,
    or stays.
    """
    rise = round(warmup * total)
    if step < rise:
        return (step + 1) / rise
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))


class WeightAverage:
    """Exponential moving average of a model's parameters: `a = d a + (1 - d) w` after every step.

    d is `decay`, and lower at first, `(1 + n) / (10 + n)` in step n, so that the start is soon forgotten.
    With decay 0 the average is the weights themselves. Buffers are the model's own.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.live = dict(model.named_parameters())
        self.kept = {name: p.detach().clone() for name, p in self.live.items()} if decay else {}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the current weights."""
        if not self.decay:
            return
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        torch._foreach_lerp_(list(self.kept.values()), [p.detach() for p in self.live.values()], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model has the averaged weights; afterwards its own, bit by bit."""
        if not self.decay:
            yield
            return
        own: dict[str, Tensor] = {name: p.detach().clone() for name, p in self.live.items()}
        self._set(self.kept)
        try:
            yield
        finally:
            self._set(own)

    @torch.no_grad()
    def _set(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self.live.items():
            parameter.copy_(values[name])
