"""Soft labels in the training on images: one-hot ones train as hard ones do, and votes change the loss as stated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from mien import config, models
from mien.errors import ConfigError
from mien.records import ImageBatch, ImageSet
from mien.training.semi_supervised import ImageData, fit_images
from tests.training.test_semi_supervised import SIZE, given, recipe, shapes, system


def with_soft(images: ImageSet, soft: np.ndarray) -> ImageSet:
    return ImageSet(images.images, images.labels, soft=soft)


def soft_batch(soft: torch.Tensor | None) -> ImageBatch:
    batch = given()
    batch.soft = soft
    return batch


def loss_and_gradient(built: Any, batch: ImageBatch) -> tuple[float, torch.Tensor]:
    torch.manual_seed(0)  # of dropout
    built.zero_grad()
    loss, logs = built.objective(batch)
    loss.backward()
    name = "labelled" if "labelled" in logs else "expression"
    gradient = torch.cat([p.grad.flatten() for p in built.parameters() if p.grad is not None])
    return float(logs[name]), gradient


def static() -> Any:
    torch.manual_seed(0)
    raw = config.load("cnn_pdem_static", check=models.problems).model_dump()
    raw["corpus"]["labels"] = recipe().corpus.labels
    raw["features"]["face"]["dim"] = SIZE
    raw["model"] |= {
        "network": "resnet", "source": None, "dim": 8, "unfreeze_steps": 0,
        "options": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    }  # fmt: skip
    return models.build(config.read(raw, origin="test", check=models.problems))


@pytest.mark.parametrize("build", [system, static])
def test_one_hot_soft_labels_equal_hard_ones(build: Any) -> None:
    hard = given()
    one_hot = F.one_hot(hard.labels, 3).float()
    loss, gradient = loss_and_gradient(build(), hard)
    soft_loss, soft_gradient = loss_and_gradient(build(), soft_batch(one_hot))
    assert soft_loss == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(soft_gradient, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("build", [system, static])
def test_votes_replace_the_hard_labels(build: Any) -> None:
    votes = torch.tensor([[0.6, 0.4, 0], [0, 1, 0], [0.2, 0.2, 0.6], [0, 0.5, 0.5], [1, 0, 0], [0.3, 0.3, 0.4]])
    loss, gradient = loss_and_gradient(build(), soft_batch(votes))
    relabelled = soft_batch(votes)
    relabelled.labels = torch.full((6,), -1)
    same_loss, same_gradient = loss_and_gradient(build(), relabelled)
    assert loss == same_loss
    assert torch.equal(gradient, same_gradient), "the hard labels are not read"
    assert loss != pytest.approx(loss_and_gradient(build(), given())[0], rel=1e-3)
    if build is system:
        built = build()
        torch.manual_seed(0)
        expected = F.cross_entropy(built.student(relabelled.labelled), votes)
        assert loss == pytest.approx(float(expected.detach()), rel=1e-5)


def test_batches_carry_the_soft_labels_of_the_drawn_images() -> None:
    images = shapes(30, 0)
    soft = np.random.default_rng(0).dirichlet(np.ones(3), 30).astype(np.float32)
    labels = np.where(np.arange(30) % 2 == 0, images.labels, -1)
    labelled = ImageSet(images.images, labels, soft=soft)
    data = ImageData(recipe(), labelled, images, None, 4, 1, False, 4)
    drawn = [row for batch in data.batches(0, (0, 1)) for row in zip(batch.labels, batch.soft, strict=True)]  # type: ignore[arg-type]
    known = {(int(label), tuple(row)) for label, row in zip(labels, soft.tolist(), strict=True)}
    assert len(drawn) == 24
    assert {(int(label), tuple(row.tolist())) for label, row in drawn} <= known
    assert any(int(label) < 0 for label, _ in drawn), "images without a majority are drawn too"


def test_training_on_one_hot_soft_labels_gives_the_same_weights(tmp_path: Path) -> None:
    images = shapes(24, 0)
    options: dict[str, Any] = {"steps": 6, "ratio": 1, "flip": False, "epoch_steps": 3}
    fit_images(recipe(warmup_steps=2), images, images, None, tmp_path / "hard", **options)
    soft = with_soft(images, images.soft_labels(3))
    fit_images(recipe(warmup_steps=2), soft, images, None, tmp_path / "soft", **options)
    hard_weights, soft_weights = (load_file(tmp_path / name / "weights.safetensors") for name in ("hard", "soft"))
    for name, value in hard_weights.items():
        torch.testing.assert_close(soft_weights[name], value, rtol=1e-3, atol=1e-4)


def test_soft_labels_of_other_classes_are_refused(tmp_path: Path) -> None:
    images = shapes(8, 0)
    with pytest.raises(ConfigError, match=r"soft labels of the images have 4 classes; corpus\.labels has 3"):
        fit_images(recipe(), with_soft(images, images.soft_labels(4)), None, None, tmp_path / "run", steps=1)
