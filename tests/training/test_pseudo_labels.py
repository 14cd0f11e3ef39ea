"""Pseudo-labels of `dynamic_threshold`: which network gives them, from which views, and what the teacher averages."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from mien.records import ImageBatch
from tests.training.test_semi_supervised import given, system

RULES = {"dynamic": ("teacher", 2), "fixed": ("student", 1), "freematch": ("student", 1), "adaptive": ("student", 2)}


def prepared(**changes: Any) -> tuple[Any, ImageBatch]:
    """A system whose student and teacher differ, and a batch whose two weak views differ."""
    made, batch = system(map_dropout=0.0, warmup_steps=0, **changes), given()
    with torch.no_grad():
        made.student[1].bias.copy_(torch.tensor([3.0, 0.0, 0.0]))
        made.teacher[1].bias.copy_(torch.tensor([0.0, 0.0, 3.0]))
    batch.weak = (batch.weak[0], batch.weak[0].flip(0))
    return made.train(), batch


def labels_of(network: nn.Module, batch: ImageBatch, views: int) -> torch.Tensor:
    copied = copy.deepcopy(network).train()
    with torch.no_grad():
        return torch.stack([copied(view).softmax(1) for view in batch.weak[:views]]).mean(0)


@pytest.mark.parametrize("kind", RULES)
def test_pseudo_labels_come_from_the_network_and_views_of_the_publication(kind: str) -> None:
    made, batch = prepared(threshold=kind)
    giver, views = RULES[kind]
    expected = labels_of(getattr(made, giver), batch, views)
    confidence, predicted, probabilities = made._update_statistics(batch)
    torch.testing.assert_close(probabilities, expected)
    assert torch.equal(predicted, expected.argmax(1))
    torch.testing.assert_close(confidence, expected.max(1).values)


def test_the_network_can_be_chosen_apart_from_the_threshold() -> None:
    for kind, giver, views in (("fixed", "teacher", 2), ("dynamic", "student", 1)):
        made, batch = prepared(threshold=kind, pseudo_labels=giver)
        expected = labels_of(getattr(made, giver), batch, views)
        torch.testing.assert_close(made._update_statistics(batch)[2], expected)


def test_thresholds_of_ada_cm_read_the_teacher_on_labelled_images() -> None:
    """The mean confidence of the images of a class that the teacher predicts correctly; its statistics stay."""
    made, batch = prepared(threshold="adaptive", momentum=0.0)
    before = {name: value.clone() for name, value in made.teacher.named_buffers()}
    teacher = copy.deepcopy(made.teacher).eval()
    with torch.no_grad():
        p, predicted = teacher(batch.labelled).softmax(1).max(1)
    batch.labels = torch.where(torch.arange(6) < 4, predicted, (predicted + 1) % 3)
    made.objective(batch)
    correct = predicted == batch.labels
    for c in range(3):
        expected = p[correct & (predicted == c)].mean() if (correct & (predicted == c)).any() else torch.tensor(1 / 3)
        torch.testing.assert_close(made.correct_confidence[c], expected)
    assert all(torch.equal(before[name], value) for name, value in made.teacher.named_buffers())


@pytest.mark.parametrize("kind", ["fixed", "freematch", "adaptive"])
def test_a_teacher_that_gives_no_labels_averages_the_batch_statistics_too(kind: str) -> None:
    made, batch = prepared(threshold=kind, ema=0.9)
    before = {name: value.clone() for name, value in made.teacher.named_buffers()}
    loss, _ = made.objective(batch)
    loss.backward()
    assert all(p.grad is None for p in made.teacher.parameters())
    assert all(p.grad is not None for p in made.student.parameters())
    made.after_step()
    decay = 1 / 10  # of the first step
    student, checked = dict(made.student.named_buffers()), 0
    for name, value in made.teacher.named_buffers():
        if value.is_floating_point():
            torch.testing.assert_close(value, decay * before[name] + (1 - decay) * student[name], msg=name)
            checked += not torch.equal(before[name], student[name])
        else:
            assert torch.equal(value, student[name])
    assert checked, "the statistics moved"
