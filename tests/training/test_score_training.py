"""Training of action units and mimicry intensity: losses, learning, checkpoints, ONNX, and errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from mien import checkpoint, ensemble, models, onnx_model
from mien.config import Recipe
from mien.data import WindowDataset, collate
from mien.errors import ConfigError
from mien.evaluation import metrics
from mien.evaluation.predictions import predict
from mien.evaluation.score_tasks import check_task, decisions, score_intervals
from mien.losses import binary_focal, window_mean_square
from mien.onnx_export import export
from mien.records import Labels, Recording
from mien.training.fit import fit
from tests.models.systems import recipe as small_recipe
from tests.models.systems import recordings as plain_recordings


def with_scores(recordings: list[Recording]) -> list[Recording]:
    """The recordings with action units and mimicry that follow from the class, which the streams show.

    Unit i is active in class i % 4; the seventh unit is not annotated. Expressions are unlabelled.
    """
    made = []
    for recording in recordings:
        labels = recording.clip.labels
        assert labels is not None
        units = (labels.expression[:, None] == np.arange(12) % 4).astype(float)
        units[:, 6] = np.nan
        share = np.stack([(labels.expression == c % 4).mean() * np.ones(len(labels.times)) for c in range(6)], axis=1)
        nothing = np.full(len(labels.times), -1)
        clip = replace(recording.clip, labels=replace(labels, expression=nothing, scores={"au": units, "emi": share}))
        made.append(replace(recording, clip=clip))
    return made


def recordings(count: int, seed: int) -> list[Recording]:
    return with_scores(plain_recordings(count, seed))


def recipe(name: str, **objective: Any) -> Recipe:
    return small_recipe(name, {"expression": 0.0, "valence_arousal": 0.0, **objective})


# -- losses -------------------------------------------------------------------------------------------------


def test_binary_focal_is_weighted_cross_entropy_without_focus() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(5, 7, 3), (torch.rand(5, 7, 3) < 0.4).float()
    weight = torch.tensor([1.0, 3.0, 0.5])
    expected = binary_cross_entropy_with_logits(logits, targets, pos_weight=weight)
    torch.testing.assert_close(binary_focal(logits, targets, positive_weight=weight), expected)
    p = torch.where(targets > 0, logits.sigmoid(), 1 - logits.sigmoid())
    torch.testing.assert_close(binary_focal(logits, targets, gamma=2.0), ((1 - p) ** 2 * -p.log()).mean())


def test_unlabelled_entries_of_binary_labels_have_no_gradient_and_columns_count_equally() -> None:
    logits = torch.tensor([[1.0, torch.nan], [-1.0, 2.0], [0.5, torch.inf]], requires_grad=True)
    targets = torch.tensor([[1.0, torch.nan], [0.0, 1.0], [1.0, torch.nan]])
    loss = binary_focal(logits, targets, gamma=2.0)
    columns = [
        binary_focal(logits[:, :1], targets[:, :1], gamma=2.0),
        binary_focal(logits[1:2, 1:], targets[1:2, 1:], gamma=2.0),
    ]
    torch.testing.assert_close(loss, (columns[0] + columns[1]) / 2)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[[0, 2], 1].tolist() == [0, 0]
    assert torch.isfinite(gradient).all()
    empty = binary_focal(logits, torch.full_like(targets, torch.nan))
    assert (empty.item(), torch.autograd.grad(empty, logits)[0].abs().sum().item()) == (0, 0)


def test_a_window_counts_once_in_the_loss_of_clip_labels() -> None:
    scores = torch.tensor([[[0.2], [0.6], [9.0]], [[0.5], [0.5], [0.5]]])
    targets = torch.tensor([[[0.5], [0.5], [torch.nan]], [[0.8], [0.8], [0.8]]])
    torch.testing.assert_close(window_mean_square(scores, targets), torch.tensor((0.1**2 + 0.3**2) / 2))
    assert window_mean_square(scores, torch.full_like(targets, torch.nan)).item() == 0


# -- data ---------------------------------------------------------------------------------------------------


def test_windows_carry_scores_and_padding_is_unlabelled() -> None:
    data, windows = recordings(2, 0), recipe("safe_cross_attention").windows
    dataset = WindowDataset([data[0]], windows, labelled=True)
    batch = dataset[0]
    assert {task: values.shape for task, values in batch.scores.items()} == {"au": (1, 10, 12), "emi": (1, 10, 6)}
    labels = data[0].clip.labels
    assert labels is not None
    torch.testing.assert_close(
        batch.scores["au"][0], torch.tensor(labels.scores["au"][:10], dtype=torch.float32), equal_nan=True
    )
    short = dataset[0]
    short.values = {n: v[:, :4] for n, v in short.values.items()}
    short.valid = {n: v[:, :4] for n, v in short.valid.items()}
    short.scores = {task: v[:, :4] for task, v in short.scores.items()}
    assert short.expression is not None
    assert short.valence_arousal is not None
    short.expression, short.valence_arousal = short.expression[:, :4], short.valence_arousal[:, :4]
    joined = collate([batch, short])
    assert torch.isnan(joined.scores["au"][1, 4:]).all()
    means = dataset.score_means()["au"]
    assert torch.isnan(means[6])
    assert ((means[:6] >= 0) & (means[:6] <= 1)).all()
    unread = WindowDataset([data[0]], windows, scores=[])
    assert unread[0].scores == {}
    assert len(WindowDataset([data[0]], windows, labelled=True)) > 0


# -- training -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["safe_cross_attention", "prompted_tcn"])
def test_a_system_learns_action_units_and_predicts_them_after_loading(name: str, tmp_path: Path) -> None:
    train, val = recordings(16, 0), recordings(4, 1)
    run = fit(recipe(name, action_units=1.0), train, val, tmp_path / "run", progress=False)
    loaded = checkpoint.load(run)
    assert loaded.settings.scores == ("au",)
    assert not loaded.settings.expression
    assert loaded.metrics["val_au_f1"] == max(epoch["val_au_f1"] for epoch in loaded.metrics["history"])
    clips = [predict(loaded.predict_streams, r) for r in val]
    assert score_intervals(clips, "au", draws=10)["au_f1"].value > 0.6  # chance is about .4; unit 7 counts 0
    truth = np.concatenate([c.true_scores["au"] for c in clips])
    always = metrics.mean_binary_f1(truth, np.ones_like(truth, dtype=int), 12)
    predicted = np.concatenate([decisions(c.filled_scores("au")) for c in clips])
    assert metrics.mean_binary_f1(truth, predicted, 12) > always + 0.15


def test_a_system_learns_mimicry_intensity(tmp_path: Path) -> None:
    run = fit(
        recipe("safe_cross_attention", mimicry=1.0), recordings(24, 0), recordings(6, 1), tmp_path, progress=False
    )
    loaded = checkpoint.load(run)
    clips = [predict(loaded.predict_streams, r) for r in recordings(20, 2)]
    assert clips[0].scores["emi"].shape == (30, 6)
    assert score_intervals(clips, "emi", draws=10)["emi_pearson"].value > 0.6


@pytest.mark.parametrize("name", ["safe_cross_attention", "prompted_tcn"])
def test_an_exported_network_predicts_the_same_scores(name: str, tmp_path: Path) -> None:
    made = recipe(name, action_units=1.0, mimicry=0.5, expression=1.0)
    torch.manual_seed(0)
    checkpoint.save(tmp_path, models.build(made), made)
    export(tmp_path)
    exported = onnx_model.load(tmp_path, checkpoint.weights_digest(tmp_path))
    assert exported is not None
    streams = recordings(1, 3)[0].streams
    ours, theirs = (m.predict_streams(streams, 0.0, 6.0) for m in (exported, checkpoint.load(tmp_path)))
    assert list(ours.scores) == ["au", "emi"]
    for task in ours.scores:
        np.testing.assert_allclose(ours.scores[task], theirs.scores[task], atol=1e-4)
        assert ((theirs.scores[task] > 0) & (theirs.scores[task] < 1)).all()


def test_an_ensemble_averages_the_scores_of_members_that_have_them(tmp_path: Path) -> None:
    folders = []
    for number, weight in enumerate((1.0, 1.0, 0.0)):
        made = recipe("safe_cross_attention", action_units=weight, expression=1.0)
        torch.manual_seed(number)
        folders.append(checkpoint.save(tmp_path / str(number), models.build(made), made))
    loaded = [checkpoint.load(folder) for folder in folders]
    model = ensemble.combine(loaded, ["a", "b", "c"], [1, 3, 4])
    assert model.settings.scores == ("au",)
    streams = recordings(1, 3)[0].streams
    both = {f"{n}.{name}": s for n in range(3) for name, s in streams.items()}
    first, second = (m.predict_streams(streams, 0.0, 6.0).scores["au"] for m in loaded[:2])
    np.testing.assert_allclose(
        model.predict_streams(both, 0.0, 6.0).scores["au"], 0.25 * first + 0.75 * second, atol=1e-6
    )


def test_a_system_without_score_tasks_has_the_same_network_as_before() -> None:
    names = {name: set(models.build(recipe(name)).state_dict()) for name in ("safe_cross_attention", "prompted_tcn")}
    with_units = {n: set(models.build(recipe(n, action_units=1.0)).state_dict()) for n in names}
    for name, keys in names.items():
        assert not [key for key in keys if "scores" in key]
        assert with_units[name] - keys == {"scores.heads.au.weight", "scores.heads.au.bias"}


# -- errors -------------------------------------------------------------------------------------------------


def test_a_task_that_a_recipe_does_not_train_is_an_error_with_a_remedy() -> None:
    cases: tuple[tuple[str, str, tuple[str, str]], ...] = (
        (
            "safe_cross_attention",
            "au",
            ("is not trained for action units by this recipe", "Add objective.action_units=1"),
        ),
        (
            "cnn_pdem",
            "emi",
            ("is not trained for Emotional Mimicry", "Use a recipe of prompted_tcn or safe_cross_attention"),
        ),
        ("safe_cross_attention", "ce", ("compound expressions have no training set", "--task ce to mien evaluate")),
        ("safe_cross_attention", "gaze", ("no task is called 'gaze'", "Use one of expr, va, au, ce, emi.")),
    )
    for name, task, (what, remedy) in cases:
        with pytest.raises(ConfigError) as error:
            models.check_task(small_recipe(name), task)
        assert what in error.value.what
        assert remedy in error.value.remedy
    models.check_task(recipe("prompted_tcn", action_units=1.0), "au")
    models.check_task(small_recipe("cnn_pdem"), "va")


def test_evaluation_of_a_task_that_is_not_predicted_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    made = recipe("safe_cross_attention", action_units=1.0)
    units = checkpoint.load(checkpoint.save(tmp_path / "a", models.build(made), made))
    check_task(units, "au", "units")
    with pytest.raises(ConfigError) as error:
        check_task(units, "ce", "units")
    assert "Use a system that predicts expressions" in error.value.remedy
    with pytest.raises(ConfigError) as error:
        check_task(units, "emi", "units")
    assert error.value.what == "units does not predict Emotional Mimicry Intensity"
    assert "objective.mimicry=1 --task emi" in error.value.remedy


def test_labels_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"labels of 3 times need scores \(3, columns\) of 'au'; got \(2, 12\)"):
        Labels(np.arange(3.0), np.zeros(3, int), np.zeros((3, 2)), {"au": np.zeros((2, 12))})
