"""Bootstrap intervals: the point estimate equals the metric, and clips rather than frames are resampled."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mien.evaluation import bootstrap, metrics
from mien.evaluation.predictions import ClipPrediction
from mien.labels import EXPRESSIONS

SEEDS = st.integers(0, 2**32 - 1)


def clip(
    name: str, truth: np.ndarray, predicted: np.ndarray, va: np.ndarray, predicted_va: np.ndarray, group: str = ""
) -> ClipPrediction:
    times = np.arange(len(truth)) / 30
    return ClipPrediction(name, times, np.eye(8)[predicted], predicted_va, truth, va, group)


def random_clips(rng: np.random.Generator, clips: int, frames: int) -> list[ClipPrediction]:
    out = []
    for i in range(clips):
        truth = rng.integers(-1, 8, frames)
        predicted = np.where(rng.random(frames) < 0.5, np.maximum(truth, 0), rng.integers(0, 8, frames))
        va = rng.uniform(-1, 1, (frames, 2))
        va[rng.random(frames) < 0.2, rng.integers(0, 2)] = np.nan  # one of the two unlabelled
        out.append(clip(f"c{i}", truth, predicted, va, np.nan_to_num(va) * 0.5 + rng.normal(0, 0.2, (frames, 2))))
    return out


@settings(max_examples=25)
@given(SEEDS)
def test_the_point_estimate_is_the_pooled_metric(seed: int) -> None:
    clips = random_clips(np.random.default_rng(seed), 5, 40)
    truth, predicted = [c.true_class for c in clips], [c.predicted_class for c in clips]
    found = bootstrap.expression_intervals(clips, draws=20)
    assert found["macro_f1"].value == pytest.approx(metrics.macro_f1(truth, predicted), abs=1e-12)
    assert found["accuracy"].value == pytest.approx(metrics.accuracy(truth, predicted), abs=1e-12)
    by_class = [found[f"f1 {name}"].value for name in EXPRESSIONS]
    assert by_class == pytest.approx(metrics.f1_per_class(truth, predicted))
    va = bootstrap.affect_intervals(clips, draws=20)
    both = [
        np.where(np.isfinite(c.true_valence_arousal).all(1)[:, None], c.true_valence_arousal, np.nan) for c in clips
    ]
    for axis, name in enumerate(("ccc valence", "ccc arousal")):
        expected = metrics.ccc([b[:, axis] for b in both], [c.filled_valence_arousal[:, axis] for c in clips])
        assert va[name].value == pytest.approx(expected, abs=1e-9)
    expected = metrics.va_score([c.true_valence_arousal for c in clips], [c.filled_valence_arousal for c in clips])
    assert va["va_score"].value == pytest.approx(expected, abs=1e-9)


def test_macro_f1_over_a_subset_of_classes() -> None:
    truth = np.array([0, 0, 4, 4])
    one = clip("a", truth, np.array([0, 0, 4, 0]), np.full((4, 2), np.nan), np.zeros((4, 2)))
    found = bootstrap.expression_intervals([one], over=[0, 4])
    assert found["macro_f1"].value == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert np.isnan(found["macro_f1"].low)  # one clip has no spread


def test_ccc_from_moments_closed_form() -> None:
    x = np.arange(4.0)
    # var = 5/4 each, cov = 5/4, means 1 apart -> 2.5 / 3.5, however the four frames are cut into clips
    parts = bootstrap.moments([x[:1], x[1:]], [x[:1] + 1, x[1:] + 1])
    assert bootstrap.ccc_from_moments(parts.sum(0)) == pytest.approx(2.5 / 3.5)
    assert bootstrap.ccc_from_moments(bootstrap.moments([np.full(5, 0.3)], [np.full(5, 0.3)])[0]) == 0
    assert np.isnan(bootstrap.ccc_from_moments(np.zeros(6)))
    with pytest.raises(ValueError, match="NaN"):
        bootstrap.moments([x], [x * np.nan])


@settings(max_examples=25)
@given(SEEDS)
def test_batched_scores_equal_single_ones(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, (2, 3, 5, 5)) * (rng.random((2, 3, 5, 1)) < 0.7)
    expected = [[metrics.f1_from_confusion(one) for one in row] for row in counts]
    assert np.array_equal(metrics.f1_from_confusion(counts), expected)
    x, y = rng.integers(-2, 3, (2, 4, 3)) / 2
    sums = bootstrap.moments(list(x), list(y))
    expected = [metrics.ccc(a, b) for a, b in zip(x, y, strict=True)]
    assert bootstrap.ccc_from_moments(sums) == pytest.approx(expected, abs=1e-9)


def test_a_resample_is_the_confusion_of_the_drawn_clips() -> None:
    """Each resample, drawn again and computed from its concatenated frames."""
    rng = np.random.default_rng(3)
    clips = random_clips(rng, 6, 30)
    counts = bootstrap.confusions([c.true_class for c in clips], [c.predicted_class for c in clips])
    sums = list(bootstrap.resample(counts, 10, seed=5))
    weights = np.random.default_rng(5).multinomial(6, np.full(6, 1 / 6), 10)
    for total, weight in zip(sums, weights, strict=True):
        drawn = [c for c, n in zip(clips, weight, strict=True) for _ in range(n)]
        assert len(drawn) == 6
        expected = metrics.confusion([c.true_class for c in drawn], [c.predicted_class for c in drawn])
        assert np.array_equal(total, expected)


def test_agrees_with_the_bootstrap_of_scipy() -> None:
    """Accuracy over equal clips is the mean of clip accuracies: scipy's BCa interval is the reference."""
    rng = np.random.default_rng(0)
    right = rng.random((40, 100)) < rng.beta(4, 2, (40, 1))
    clips = [
        clip(f"c{i}", np.zeros(100, int), np.where(r, 0, 1), np.zeros((100, 2)), np.zeros((100, 2)))
        for i, r in enumerate(right)
    ]
    interval = bootstrap.expression_intervals(clips, draws=20_000)["accuracy"]
    expected = stats.bootstrap(
        (right.mean(1),), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(1)
    ).confidence_interval
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=2e-3)
    assert interval.value == pytest.approx(right.mean())


def test_skewed_scores_agree_with_the_bootstrap_of_scipy() -> None:
    """Squared sums are skewed: the acceleration moves both ends up, where percentile intervals do not."""
    values = np.random.default_rng(3).lognormal(sigma=1.0, size=25)
    statistics = np.stack([values, np.ones(25)], axis=1)

    def scores(sums: np.ndarray) -> dict[str, np.ndarray]:
        return {"mean": sums[..., 0] / sums[..., 1]}

    found = bootstrap.intervals(statistics, scores, draws=20_000)["mean"]
    bca, percentile = (
        stats.bootstrap(
            (values,), np.mean, n_resamples=20_000, method=method, rng=np.random.default_rng(1)
        ).confidence_interval
        for method in ("BCa", "percentile")
    )
    assert (found.low, found.high) == pytest.approx((bca.low, bca.high), rel=0.02)
    assert found.high > percentile.high * 1.05
    difference = bootstrap.paired_difference(
        statistics, np.stack([0 * values, np.ones(25)], axis=1), scores, draws=20_000
    )["mean"]
    assert (difference.low, difference.high) == pytest.approx((bca.low, bca.high), rel=0.04)


def test_scores_that_cannot_vary_have_an_interval_without_width() -> None:
    counts = np.zeros((5, 2, 2), int)
    counts[:, 0, 0] = 3
    found = bootstrap.intervals(counts, bootstrap.expression_scores(["a", "b"], [0]))["accuracy"]
    assert (found.value, found.low, found.high) == (1, 1, 1)


def test_repeated_frames_do_not_narrow_the_interval() -> None:
    """Ten times as many frames of the same clips leave the width; ten times as many clips reduce it."""
    rng = np.random.default_rng(0)
    few = random_clips(rng, 12, 30)

    def long(c: ClipPrediction) -> ClipPrediction:
        return clip(
            c.id, np.repeat(c.true_class, 10), np.repeat(c.predicted_class, 10), np.zeros((300, 2)), np.zeros((300, 2))
        )

    def width(clips: list[ClipPrediction]) -> float:
        interval = bootstrap.expression_intervals(clips)["macro_f1"]
        return interval.high - interval.low

    assert width([long(c) for c in few]) == pytest.approx(width(few), abs=1e-12)
    assert width(random_clips(rng, 120, 30)) < 0.5 * width(few)


def test_clips_of_one_subject_are_resampled_together() -> None:
    rng = np.random.default_rng(0)
    alone = random_clips(rng, 16, 30)
    twins = [
        clip(
            f"{c.id}{i}", c.true_class, c.predicted_class, c.true_valence_arousal, c.filled_valence_arousal, group=c.id
        )
        for c in alone
        for i in range(4)
    ]
    apart = [
        clip(c.id, c.true_class, c.predicted_class, c.true_valence_arousal, c.filled_valence_arousal) for c in twins
    ]
    single, grouped, separate = (bootstrap.expression_intervals(clips)["macro_f1"] for clips in (alone, twins, apart))
    assert grouped.value == pytest.approx(single.value)
    assert grouped.high - grouped.low == pytest.approx(single.high - single.low, abs=0.004)
    assert separate.high - separate.low < 0.7 * (single.high - single.low)


def test_coverage_of_the_intervals() -> None:
    """Clips whose accuracies are drawn around .6: 95 % intervals from 30 clips cover .6 in about 95 of 100 corpora."""
    rng = np.random.default_rng(0)
    covered = 0
    for corpus in range(200):
        hits = rng.binomial(50, rng.beta(6, 4, 30))
        counts = np.zeros((30, 2, 2), np.int64)
        counts[:, 0, 0], counts[:, 0, 1] = hits, 50 - hits
        found = bootstrap.intervals(counts, bootstrap.expression_scores(["a", "b"], [0, 1]), draws=300, seed=corpus)[
            "accuracy"
        ]
        covered += found.low <= 0.6 <= found.high
    # binomial(200, .95) stays within 182..198 in 99.8 %; the interval of 30 clips is a little narrow
    assert 180 <= covered <= 198


def test_a_paired_difference_is_narrower_than_two_intervals() -> None:
    rng = np.random.default_rng(0)
    easy = rng.beta(2, 2, 40)
    first, second = np.zeros((2, 40, 2, 2), np.int64)
    first[:, 0, 0] = np.round(200 * np.minimum(easy + rng.uniform(0, 0.06, 40), 1))
    second[:, 0, 0] = np.round(200 * easy)
    for counts in (first, second):
        counts[:, 0, 1] = 200 - counts[:, 0, 0]
    scores = bootstrap.expression_scores(["a", "b"], [0, 1])
    a, b = bootstrap.intervals(first, scores)["accuracy"], bootstrap.intervals(second, scores)["accuracy"]
    gap = bootstrap.paired_difference(first, second, scores)["accuracy"]
    assert a.low < b.high  # apart, they overlap
    assert 0.02 < gap.low < gap.value < gap.high < 0.04
    assert gap.value == pytest.approx(a.value - b.value)
    same = bootstrap.paired_difference(first, first, scores)["accuracy"]
    assert (same.low, same.value, same.high) == (0, 0, 0)
    with pytest.raises(ValueError, match="same groups"):
        bootstrap.paired_difference(first, second[:5], scores)


def test_same_seed_same_interval() -> None:
    clips = random_clips(np.random.default_rng(0), 8, 30)
    assert bootstrap.expression_intervals(clips, draws=300, seed=4) == bootstrap.expression_intervals(
        clips, draws=300, seed=4
    )
    assert bootstrap.expression_intervals(clips, draws=300, seed=4) != bootstrap.expression_intervals(
        clips, draws=300, seed=5
    )
