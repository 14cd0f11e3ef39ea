"""cnn_pdem after the authors' public code: variants, steps, statistics, and the interpolation of predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge

from mien import config, models, soft_vote
from mien.errors import ConfigError
from mien.models.cnn_pdem import CnnPdem
from mien.records import Batch
from tests.models.systems import CLASSES, FACE_DIM, batch, recipe

RECIPES = ("cnn_pdem", "cnn_pdem_face", "cnn_pdem_voice")


def build(**model: Any) -> CnnPdem:
    torch.manual_seed(0)
    system = models.build(recipe("cnn_pdem", **model))
    assert isinstance(system, CnnPdem)
    return system.eval()


@pytest.mark.parametrize("name", RECIPES)
def test_the_face_is_read_from_the_tuned_static_stage(name: str) -> None:
    shipped = config.load(name, check=models.problems)
    assert shipped.windows.rate_hz == 50, "the rate of PDEM, for which the convolutions are made"
    if "face" in shipped.features:
        assert shipped.features["face"].encoder in shipped.stages
        assert config.load(shipped.stages["cnn_pdem_static"]).model.name == "cnn_static"
        assert shipped.features["face"].dim == config.load("cnn_pdem_static").model.options["dim"]


@pytest.mark.parametrize(("layers", "heads"), [(1, [4]), (3, [4, 4, 4]), (6, [4, 4, 4, 4, 2, 2])])
def test_face_layers_are_those_of_a_variant(layers: int, heads: list[int]) -> None:
    system = build(face_layers=layers, face_heads=4)
    assert [layer.attention.heads for layer in system.members["face"].encoder.layers] == heads  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match=r"model\.face_layers: input should be 1, 3 or 6, got 2"):
        recipe("cnn_pdem", face_layers=2)


def test_a_system_needs_a_member_that_is_trained() -> None:
    with pytest.raises(ConfigError, match="leave nothing to train; add face or voice"):
        recipe("cnn_pdem", members=["statistics"])


def test_voice_predicts_one_step_a_second_and_face_five() -> None:
    """At 50 Hz the logits change every 50 and every 10 tokens; the probabilities to fuse run straight between."""
    raw = recipe("cnn_pdem").model_dump()
    raw["windows"] = {"seconds": 4.0, "hop_seconds": 2.0, "rate_hz": 50.0}
    torch.manual_seed(0)
    system = models.build(config.read(raw, origin="t", check=models.problems)).eval()
    assert isinstance(system, CnnPdem)
    given = batch(size=2, time=200, missing=0.0)
    outputs = system.member_outputs(given.values, given.valid)
    for name, tokens in (("voice", 50), ("face", 10)):
        logits = outputs[name].logits.detach()
        steps = logits.view(2, -1, tokens, CLASSES)
        assert torch.equal(steps, steps[:, :, :1].expand_as(steps))
        assert len(torch.unique(logits[0], dim=0)) == 200 // tokens
        middles = (np.arange(200 // tokens) + 0.5) * tokens
        of_steps = steps[0, :, 0].softmax(dim=-1).numpy()
        found = outputs[name].probabilities
        assert found is not None
        for k in range(CLASSES):
            expected = np.interp(np.arange(200) + 0.5, middles, of_steps[:, k])
            np.testing.assert_allclose(found.detach()[0, :, k].numpy(), expected, atol=1e-5)


def test_statistics_are_a_kernel_ridge_on_mean_maximum_and_minimum_of_unscaled_features() -> None:
    system, given = build(elm_support=30, elm_c=2.0), batch(size=12)
    system.prepare(
        {"face": torch.full((FACE_DIM,), 5.0), "voice": torch.zeros(16)},
        {"face": torch.full((FACE_DIM,), 9.0), "voice": torch.ones(16)},
        torch.ones(CLASSES),
    )
    system.fit_classical([given])
    rows = []
    for values, valid in zip(given.values["face"], given.valid["face"], strict=True):
        known = values[valid].numpy()
        rows.append(np.concatenate((known.mean(axis=0), known.max(axis=0), known.min(axis=0))))
    assert given.expression is not None
    labels = given.expression[:, 0].numpy()
    x = np.stack(rows)
    ridge = KernelRidge(alpha=1 / 2.0, kernel="rbf", gamma=1 / x.shape[1]).fit(x, np.eye(CLASSES)[labels])
    scores = np.maximum(ridge.predict(x), 0)
    found = system.member_outputs(given.values, given.valid)["statistics"].probabilities
    assert found is not None
    np.testing.assert_allclose(found[:, 3].numpy(), scores / scores.sum(axis=1, keepdims=True), atol=1e-4)
    assert torch.equal(found[:, 0], found[:, -1]), "one prediction for the window"


def test_statistics_add_nothing_to_the_loss_nor_to_valence_and_arousal() -> None:
    torch.manual_seed(0)
    three = models.build(recipe("cnn_pdem", {"valence_arousal": 1.0})).eval()
    torch.manual_seed(0)
    two = models.build(recipe("cnn_pdem", {"valence_arousal": 1.0}, members=["face", "voice"])).eval()
    given = batch()
    loss, logs = three.objective(given)
    assert set(logs) == {"loss", "face", "voice", "face valence_arousal", "voice valence_arousal"}
    torch.testing.assert_close(loss, two.objective(given)[0])
    torch.testing.assert_close(
        three(given.values, given.valid).valence_arousal, two(given.values, given.valid).valence_arousal
    )


def test_windows_without_a_label_or_a_face_are_not_fitted() -> None:
    system, given = build(), batch(size=8)
    assert given.expression is not None
    given.expression[:4] = -1
    given.valid["face"][4:6] = False
    rows, labels = system.labelled_windows([given], "face", system.members["statistics"].vector)  # type: ignore[arg-type]
    assert labels.tolist() == [2, 3]
    assert np.isfinite(rows).all()
    blank = Batch(given.values, given.valid, torch.full_like(given.expression, -1), given.valence_arousal)
    system.fit_classical([blank])
    assert not system.members["statistics"].machine.vectors.any()  # type: ignore[union-attr]


def test_smoothing_is_the_published_hamming_window() -> None:
    """numpy's Hamming window of half as many frames as a second has, against the recipe's."""
    shipped = config.load("cnn_pdem")
    assert (shipped.vote.smooth_seconds, shipped.vote.kernel) == (0.467, "hamming")
    times = np.arange(300) / 30
    values = np.stack((np.sin(2 * np.pi * 0.4 * times), np.cumsum(np.sin(times)) / 30), axis=1)
    window = np.hamming(15) / np.hamming(15).sum()
    published = np.stack([np.convolve(column, window, mode="same") for column in values.T], axis=1)
    found = soft_vote.smooth(values, times, shipped.vote.smooth_seconds, kernel="hamming")
    np.testing.assert_allclose(found[15:-15], published[15:-15], atol=1e-3)
