"""Learning-rate schedule and averaged weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn


def learning_rate_factor(step: int, total: int, warmup: float, schedule: Literal["cosine", "constant"]) -> float:
    """Factor on the learning rate in step `step` of `total`, counted from 0, in (0, 1].

    It rises linearly over the first `warmup * total` steps, then falls as half a cosine to 0 after the last
    (`cosine`), or stays at 1 (`constant`).
    """
    rise = round(warmup * total)
    if step < rise:
        return (step + 1) / rise
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))


class WeightAverage:
    """Exponential moving average (EMA) of a model's parameters: `a = d a + (1 - d) w` after every step.

    d is `decay`, and lower at first, `(1 + n) / (10 + n)` in step n, so that the random start is soon forgotten. With
    decay 0 the average is the weights themselves. Buffers are not averaged.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.weights = dict(model.named_parameters())
        self.averages = {name: p.detach().clone() for name, p in self.weights.items()} if decay else {}

    @torch.no_grad()
    def update(self) -> None:
        """Update the average with the current weights."""
        if not self.decay:
            return
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        torch._foreach_lerp_(list(self.averages.values()), [p.detach() for p in self.weights.values()], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Context manager: put the averaged weights into the model; on exit restore its own, bit for bit."""
        if not self.decay:
            yield
            return
        own: dict[str, Tensor] = {name: p.detach().clone() for name, p in self.weights.items()}
        self._set(self.averages)
        try:
            yield
        finally:
            self._set(own)

    @torch.no_grad()
    def _set(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self.weights.items():
            parameter.copy_(values[name])
