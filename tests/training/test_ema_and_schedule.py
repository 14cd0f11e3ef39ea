"""Learning rate schedule, parameter groups and weight average, against closed forms."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mien.layers.system import System
from mien.records import Batch
from mien.training.ema import WeightAverage
from mien.training.schedule import learning_rate_factor as rate
from mien.training.schedule import plateau_factor


def test_learning_rate_schedule() -> None:
    factors = [rate(s, 100, 0.1, "cosine") for s in range(100)]
    assert factors[:10] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5)
    assert 0 < factors[99] < 1e-3
    assert all(a >= b for a, b in itertools.pairwise(factors[10:]))
    assert [rate(s, 100, 0.0, "constant") for s in (0, 50, 99)] == [1.0, 1.0, 1.0]
    assert rate(0, 1, 0.0, "cosine") == 1.0
    assert [rate(s, 100, 0.0, "cosine", 0.1) for s in (0, 50, 100)] == pytest.approx([1.0, 0.55, 0.1])
    assert rate(4, 100, 0.1, "cosine", 0.1) == pytest.approx(0.5), "warm-up begins at 0"


def test_weight_decay_applies_to_matrices_only() -> None:
    system: System[Batch] = System()
    system.network = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    decayed, free = system.parameter_groups(0.1)
    assert [p.shape for p in decayed["params"]] == [(4, 3)]
    assert decayed["weight_decay"] == 0.1
    assert len(free["params"]) == 3
    assert free["weight_decay"] == 0.0


def test_weight_average_is_the_recursion_and_restores_the_weights() -> None:
    model = nn.Linear(2, 1)
    average = WeightAverage(model, 0.5)
    expected = model.weight.detach().clone()
    for n in range(6):
        with torch.no_grad():
            model.weight.fill_(float(n))
        average.update()
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * n
    live = model.weight.detach().clone()
    with average.applied():
        torch.testing.assert_close(model.weight.detach(), expected)
    assert torch.equal(model.weight, live)


def test_zero_decay_keeps_no_average() -> None:
    model = nn.Linear(2, 1)
    average = WeightAverage(model, 0.0)
    average.update()
    before = model.weight.detach().clone()
    with average.applied():
        assert torch.equal(model.weight, before)


@given(
    st.lists(st.integers(0, 5).map(lambda n: n / 5), max_size=30),
    st.integers(0, 4),
    st.sampled_from([0.1, 0.5]),
)
def test_plateau_equals_torch(scores: list[float], patience: int, factor: float) -> None:
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimiser, mode="max", patience=patience, factor=factor, threshold=0.0, eps=0.0
    )
    for score in scores:
        reference.step(score)
    assert plateau_factor(scores, patience=patience, factor=factor) == pytest.approx(optimiser.param_groups[0]["lr"])


def test_plateau_in_closed_form() -> None:
    factors = [plateau_factor([0.5, 0.4, 0.5, 0.3, 0.6, 0.1, 0.2, 0.1][:n], patience=2, factor=0.1) for n in range(9)]
    assert factors == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01])
    assert plateau_factor([0.1, math.nan], patience=0, factor=0.5) == 0.5
