"""Exponential moving average (EMA) of weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average (EMA) of a model's parameters: `a = d a + (1 - d) w` after every step.

    d is `decay`, and lower at first, `(1 + n) / (10 + n)` in step n, so that the random start is soon forgotten. With
    decay 0 the average is the weights themselves. Buffers and weights that are not
    trained are not averaged.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
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
