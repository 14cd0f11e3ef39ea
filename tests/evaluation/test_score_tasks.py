"""Action units, compound expressions, mimicry intensity: metrics against scikit-learn and scipy; scores; the rule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr
from sklearn.metrics import f1_score

from mien.errors import ConfigError
from mien.evaluation import metrics, predictions
from mien.evaluation.ensemble_weights import average_predictions
from mien.evaluation.predictions import ClipPrediction
from mien.evaluation.record import summarise
from mien.evaluation.score_tasks import (
    compound_probabilities,
    decisions,
    score_intervals,
    scored_tasks,
    with_compound_expressions,
)
from mien.labels import ACTION_UNITS, COMPOUND_EXPRESSIONS, EXPRESSIONS, MIMICRY


def clip(name: str, frames: int = 40, seed: int = 0, **scores: tuple[np.ndarray, np.ndarray]) -> ClipPrediction:
    """A clip whose scores are given as task -> (predicted, true)."""
    rng = np.random.default_rng(seed)
    return ClipPrediction(
        name,
        np.arange(frames) / 25,
        rng.dirichlet(np.ones(8), frames),
        np.zeros((frames, 2)),
        np.full(frames, -1),
        np.full((frames, 2), np.nan),
        scores={task: predicted for task, (predicted, _) in scores.items()},
        true_scores={task: true for task, (_, true) in scores.items()},
    )


def units(seed: int, frames: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random((frames, 12)), (rng.random((frames, 12)) < 0.3).astype(float)


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_the_f1_of_action_units_is_that_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, predicted = (rng.random((30, 12)) < rng.random(12) for _ in range(2))
    expected = [f1_score(truth[:, i], predicted[:, i], zero_division=0) for i in range(12)]
    found = metrics.f1_from_binary_counts(metrics.binary_counts(truth.astype(float), predicted.astype(int)))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    mean = metrics.mean_binary_f1(
        [truth[:7].astype(float), truth[7:].astype(float)], [predicted[:7], predicted[7:]], 12
    )
    assert mean == pytest.approx(np.mean(expected)), "pooled over recordings"


def test_entries_that_are_not_annotated_do_not_count() -> None:
    truth = np.array([[1.0, np.nan], [0.0, 1.0], [np.nan, np.nan], [1.0, 0.0]])
    predicted = np.array([[1, 1], [1, 1], [1, 1], [0, 0]])
    np.testing.assert_array_equal(metrics.binary_counts(truth, predicted), [[1, 1, 1], [1, 0, 0]])
    with pytest.raises(ValueError, match=r"prediction is 0\.5 at 1 labelled position\(s\), neither 0 nor 1"):
        metrics.binary_counts(truth[:1], np.array([[0.5, 0.5]]))


def test_the_mean_correlation_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((20, 6))
    predicted = 0.5 * truth + 0.3 * rng.random((20, 6))
    expected = np.mean([pearsonr(truth[:, i], predicted[:, i]).statistic for i in range(6)])
    assert metrics.mean_pearson(truth, predicted, 6) == pytest.approx(expected)
    assert metrics.mean_pearson(truth, 2 * predicted + 1, 6) == pytest.approx(expected), "scale and offset do not count"
    constant = predicted.copy()
    constant[:, 0] = 0.3
    without = np.mean([0.0, *(pearsonr(truth[:, i], predicted[:, i]).statistic for i in range(1, 6))])
    assert metrics.mean_pearson(truth, constant, 6) == pytest.approx(without)
    assert np.isnan(metrics.mean_pearson(np.full((3, 6), np.nan), np.zeros((3, 6)), 6))


def test_scores_of_action_units_pool_frames_and_fill_gaps() -> None:
    clips = [clip(f"c{i}", au=units(i)) for i in range(4)]
    gap = clips[0].scores["au"].copy()
    gap[10:15] = np.nan
    clips[0] = replace(clips[0], scores={"au": gap})
    filled = gap.copy()
    filled[10:12], filled[12], filled[13:15] = gap[9], gap[9], gap[15]
    decided = np.concatenate([decisions(filled), *(decisions(c.scores["au"]) for c in clips[1:])])
    truth = np.concatenate([c.true_scores["au"] for c in clips])
    found = score_intervals(clips, "au", draws=200)
    by_unit = [f1_score(truth[:, i], decided[:, i]) for i in range(12)]
    assert found["au_f1"].value == pytest.approx(np.mean(by_unit))
    assert found["f1 AU12"].value == pytest.approx(by_unit[ACTION_UNITS.index("AU12")])
    assert found["au_f1"].low < found["au_f1"].value < found["au_f1"].high


def test_mimicry_is_scored_on_one_row_for_each_clip() -> None:
    rng = np.random.default_rng(3)
    clips, rows = [], []
    for i in range(9):
        label, predicted = rng.random(6), rng.random((40, 6))
        predicted[:5] = np.nan
        clips.append(clip(f"c{i}", emi=(predicted, np.tile(label, (40, 1)))))
        rows.append((label, predicted[5:].mean(axis=0)))
    truth, mean = (np.array(part) for part in zip(*rows, strict=True))
    found = score_intervals(clips, "emi", draws=50)
    assert found["emi_pearson"].value == pytest.approx(metrics.mean_pearson(truth, mean, 6))
    joy = MIMICRY.index("Joy")
    assert found["pearson Joy"].value == pytest.approx(pearsonr(truth[:, joy], mean[:, joy]).statistic)


def test_a_compound_expression_is_the_product_of_its_two_expressions() -> None:
    p = np.zeros(8)
    p[EXPRESSIONS.index("Sadness")], p[EXPRESSIONS.index("Anger")], p[EXPRESSIONS.index("Surprise")] = 0.5, 0.4, 0.1
    shares = compound_probabilities(p)
    names = list(COMPOUND_EXPRESSIONS)
    # products: sadly angry .20, sadly surprised .05, angrily surprised .04
    assert shares[names.index("Sadly Angry")] == pytest.approx(0.20 / 0.29)
    assert shares[names.index("Sadly Surprised")] == pytest.approx(0.05 / 0.29)
    assert shares[names.index("Angrily Surprised")] == pytest.approx(0.04 / 0.29)
    assert shares.sum() == pytest.approx(1)
    both = compound_probabilities(np.stack([p, np.full(8, np.nan)]))
    np.testing.assert_allclose(both[0], shares)
    assert np.isnan(both[1]).all()
    np.testing.assert_allclose(compound_probabilities(np.eye(8)[0]), np.full(7, 1 / 7))  # Neutral says nothing


@given(st.integers(0, 1000))
def test_pairs_name_the_compound(seed: int) -> None:
    pair = list(COMPOUND_EXPRESSIONS.values())[seed % 7]
    p = np.random.default_rng(seed).dirichlet(np.ones(8)) * 0.1
    p[list(pair)] += 0.45
    assert compound_probabilities(p).argmax() == seed % 7


def test_compound_expressions_are_scored_by_macro_f1() -> None:
    rng = np.random.default_rng(1)
    true = rng.integers(0, 7, 60)
    labels = np.eye(7)[true]
    labels[:10] = np.nan
    made = with_compound_expressions(clip("c", 60), EXPRESSIONS)
    made = replace(made, true_scores={"ce": labels})
    assert scored_tasks([made]) == ["ce"]
    expected = f1_score(true[10:], made.scores["ce"][10:].argmax(axis=1), average="macro", labels=range(7))
    assert score_intervals([made], "ce")["ce_macro_f1"].value == pytest.approx(expected)
    with pytest.raises(ConfigError, match="compound expressions are derived from Neutral, Anger"):
        with_compound_expressions(made, ("Neutral", "Happy"))


def test_scores_survive_the_table_of_predictions(tmp_path: Path) -> None:
    predicted, true = units(5)
    true[3] = np.nan
    clips = [clip("a", au=(predicted, true)), clip("b")]
    loaded, _ = predictions.load(predictions.save(tmp_path / "p.parquet", clips))
    np.testing.assert_allclose(loaded[0].scores["au"], predicted, atol=1e-7)
    np.testing.assert_array_equal(loaded[0].true_scores["au"], true)
    assert loaded[1].scores == loaded[1].true_scores == {}


def test_averaging_tables_averages_scores_over_those_that_have_them() -> None:
    first, second = units(0)[0], units(1)[0]
    members = [[clip("a", au=(s, s))] for s in (first, second)] + [[clip("a")]]
    (mean,) = average_predictions(members, [1, 3, 5])
    np.testing.assert_allclose(mean.scores["au"], 0.25 * first + 0.75 * second)


def test_the_record_lists_the_score_and_each_unit() -> None:
    clips = [clip(f"c{i}", au=units(i)) for i in range(3)]
    record = summarise(clips, name="units", expression=False, valence_arousal=False, draws=50)
    assert [s["key"] for s in record["scores"]] == ["au_f1"]
    assert [row["name"] for row in record["by_column"]] == list(ACTION_UNITS)
    assert record["by_column"][0]["task"] == "action units"
    assert record["by_column"][0]["labels"] == 120
    assert record["by_clip"][0]["without_evidence"] == 0
