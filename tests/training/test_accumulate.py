"""Gradient accumulation: a step of several batches trains what one large batch does (by processes: test_ddp.py)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mien import checkpoint, config
from mien.layers.system import System
from mien.records import Batch
from mien.training.fit import fit
from mien.training.loop import TrainingLoop, make_fabric
from mien.training.resume import RunState
from mien.training.semi_supervised import steps_of
from tests.training.test_fit import TRAIN, recipe
from tests.training.test_semi_supervised import recipe as image_recipe
from tests.training.test_semi_supervised import shapes


class Regression(System[Batch]):
    """Mean squared error of a linear map; keeps the gradients that each step sees."""

    input_kind = "streams"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.map = nn.Linear(3, 1)
        self.gradients: list[Tensor] = []

    def objective(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss = (self.map(batch.values["x"]) - batch.values["y"]).square().mean()
        return loss, {"loss": loss.detach()}

    def before_step(self) -> None:
        assert self.map.weight.grad is not None
        self.gradients.append(self.map.weight.grad.clone())


@dataclass
class Rows:
    """Twelve rows in batches of a size."""

    size: int
    counted: str = "rows"
    epochs: int = 1
    total_steps: int = 3

    def batches(self, epoch: int, part: tuple[int, int]) -> Iterator[Batch]:
        values = torch.randn(12, 4, generator=torch.Generator().manual_seed(1))
        for rows in values.split(self.size):
            known = torch.ones(len(rows), 1, dtype=torch.bool)
            yield Batch({"x": rows[:, None, :3], "y": rows[:, None, 3:]}, {"x": known, "y": known}, None, None)

    def validate(self, system: System[Any], epoch: int) -> dict[str, float]:
        return {}


def trained(size: int, accumulate: int) -> tuple[Regression, list[dict[str, float]]]:
    system, settings = Regression(), config.Train(lr=0.1, clip=0.0, threads=1, accumulate=accumulate)
    state = RunState("", 12, "rows")
    TrainingLoop(system, Rows(size), settings, make_fabric("cpu", settings), state).run()
    return system, state.history


def test_the_gradient_of_accumulated_batches_is_that_of_one_large_batch() -> None:
    (large, report), (small, other) = trained(4, 1), trained(2, 2)
    assert len(large.gradients) == len(small.gradients) == 3
    for one, two in zip(large.gradients, small.gradients, strict=True):
        torch.testing.assert_close(one, two)
    torch.testing.assert_close(large.map.weight, small.map.weight)
    assert report[0]["loss"] == pytest.approx(other[0]["loss"], rel=1e-5)
    assert report[0]["step"] == other[0]["step"] == 3


def test_the_last_step_averages_the_batches_that_are_left() -> None:
    large, small = trained(8, 1)[0], trained(2, 4)[0]  # 8 + 4 rows
    assert len(large.gradients) == len(small.gradients) == 2
    torch.testing.assert_close(large.gradients[1], small.gradients[1])


def test_windows_and_images_take_fewer_steps_an_epoch(tmp_path: Path) -> None:
    steps = []
    for accumulate in (1, 3):
        settings = recipe(epochs=2, batch=16, accumulate=accumulate)
        run = fit(settings, TRAIN, [], tmp_path / str(accumulate), device="cpu", progress=False)
        steps.append(json.loads((run / checkpoint.METRICS).read_text())["steps"])
    batches = -(-16 * 7 // 16)
    assert steps == [2 * batches, 2 * -(-batches // 3)]
    accumulated = config.changed(image_recipe(), train={"accumulate": 2, "epochs": 3})
    assert steps_of(accumulated, shapes(9, 0), shapes(6 * 4 * 2 * 150, 1)) == 3 * 150
