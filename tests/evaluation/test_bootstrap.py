"""Intervals by clip: the point is the metric's own number, the spread that of clips and not of frames."""

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
    name: str, truth: np.ndarray, said: np.ndarray, va: np.ndarray, said_va: np.ndarray, group: str = ""
) -> ClipPrediction:
    times = np.arange(len(truth)) / 30
    return ClipPrediction(name, times, np.eye(8)[said], said_va, truth, va, group)


def random_clips(rng: np.random.Generator, clips: int, frames: int) -> list[ClipPrediction]:
    out = []
    for i in range(clips):
        truth = rng.integers(-1, 8, frames)
        said = np.where(rng.random(frames) < 0.5, np.maximum(truth, 0), rng.integers(0, 8, frames))
        va = rng.uniform(-1, 1, (frames, 2))
        va[rng.random(frames) < 0.2, rng.integers(0, 2)] = np.nan  # one of the two unlabelled
        out.append(clip(f"c{i}", truth, said, va, np.nan_to_num(va) * 0.5 + rng.normal(0, 0.2, (frames, 2))))
    return out


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_the_point_is_the_pooled_metric(seed: int) -> None:
    clips = random_clips(np.random.default_rng(seed), 5, 40)
    truth, said = [c.expression for c in clips], [c.chosen for c in clips]
    found = bootstrap.expression(clips, draws=20)
    assert found["macro_f1"].value == pytest.approx(metrics.macro_f1(truth, said), abs=1e-12)
    assert found["accuracy"].value == pytest.approx(metrics.accuracy(truth, said), abs=1e-12)
    each = [found[f"f1 {name}"].value for name in EXPRESSIONS]
    assert each == pytest.approx(metrics.f1_per_class(truth, said))
    va = bootstrap.affect(clips, draws=20)
    both = [
        np.where(np.isfinite(c.true_valence_arousal).all(1)[:, None], c.true_valence_arousal, np.nan) for c in clips
    ]
    for axis, name in enumerate(("ccc valence", "ccc arousal")):
        golden = metrics.ccc([b[:, axis] for b in both], [c.affect[:, axis] for c in clips])
        assert va[name].value == pytest.approx(golden, abs=1e-9)
    golden = metrics.va_score([c.true_valence_arousal for c in clips], [c.affect for c in clips])
    assert va["va_score"].value == pytest.approx(golden, abs=1e-9)


def test_only_the_classes_of_the_corpus_may_count() -> None:
    truth = np.array([0, 0, 4, 4])
    one = clip("a", truth, np.array([0, 0, 4, 0]), np.full((4, 2), np.nan), np.zeros((4, 2)))
    found = bootstrap.expression([one], over=[0, 4])
    assert found["macro_f1"].value == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert np.isnan(found["macro_f1"].low)  # one clip has no spread


def test_ccc_from_sums_closed_form() -> None:
    x = np.arange(4.0)
    # var = 5/4 each, cov = 5/4, means 1 apart -> 2.5 / 3.5, however the four frames are cut into clips
    parts = bootstrap.moments([x[:1], x[1:]], [x[:1] + 1, x[1:] + 1])
    assert bootstrap.ccc_of(parts.sum(0)) == pytest.approx(2.5 / 3.5)
    assert bootstrap.ccc_of(bootstrap.moments([np.full(5, 0.3)], [np.full(5, 0.3)])[0]) == 0
    assert np.isnan(bootstrap.ccc_of(np.zeros(6)))
    with pytest.raises(ValueError, match="NaN"):
        bootstrap.moments([x], [x * np.nan])


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_many_at_once_are_the_same_as_one_by_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, (2, 3, 5, 5)) * (rng.random((2, 3, 5, 1)) < 0.7)
    golden = [[metrics.f1_of(one) for one in row] for row in counts]
    assert np.array_equal(bootstrap.f1_of(counts), golden)
    x, y = rng.integers(-2, 3, (2, 4, 3)) / 2
    sums = bootstrap.moments(list(x), list(y))
    golden = [metrics.ccc(a, b) for a, b in zip(x, y, strict=True)]
    assert bootstrap.ccc_of(sums) == pytest.approx(golden, abs=1e-9)


def test_a_resample_is_the_score_of_the_drawn_clips() -> None:
    """Each resample, drawn again by hand and scored on its joined frames."""
    rng = np.random.default_rng(3)
    clips = random_clips(rng, 6, 30)
    counts = bootstrap.confusions([c.expression for c in clips], [c.chosen for c in clips])
    sums = list(bootstrap.resampled(counts, 10, seed=5))
    weights = np.random.default_rng(5).multinomial(6, np.full(6, 1 / 6), 10)
    for total, weight in zip(sums, weights, strict=True):
        drawn = [c for c, n in zip(clips, weight, strict=True) for _ in range(n)]
        assert len(drawn) == 6
        golden = metrics.confusion([c.expression for c in drawn], [c.chosen for c in drawn])
        assert np.array_equal(total, golden)


def test_agrees_with_scipys_bootstrap() -> None:
    """Accuracy over equal clips is the mean of clip accuracies: scipy's percentile interval is the golden value."""
    rng = np.random.default_rng(0)
    right = rng.random((40, 100)) < rng.beta(4, 2, (40, 1))
    clips = [
        clip(f"c{i}", np.zeros(100, int), np.where(r, 0, 1), np.zeros((100, 2)), np.zeros((100, 2)))
        for i, r in enumerate(right)
    ]
    mine = bootstrap.expression(clips, draws=20_000)["accuracy"]
    golden = stats.bootstrap(
        (right.mean(1),), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert (mine.low, mine.high) == pytest.approx((golden.low, golden.high), abs=2e-3)
    assert mine.value == pytest.approx(right.mean())


def test_frames_that_repeat_do_not_narrow_the_interval() -> None:
    """Ten times as many frames of the same clips is no more evidence; ten times as many clips is."""
    rng = np.random.default_rng(0)
    few = random_clips(rng, 12, 30)

    def long(c: ClipPrediction) -> ClipPrediction:
        return clip(c.id, np.repeat(c.expression, 10), np.repeat(c.chosen, 10), np.zeros((300, 2)), np.zeros((300, 2)))

    def width(clips: list[ClipPrediction]) -> float:
        interval = bootstrap.expression(clips)["macro_f1"]
        return interval.high - interval.low

    assert width([long(c) for c in few]) == pytest.approx(width(few), abs=1e-12)
    assert width(random_clips(rng, 120, 30)) < 0.5 * width(few)


def test_clips_of_one_subject_are_drawn_together() -> None:
    rng = np.random.default_rng(0)
    alone = random_clips(rng, 16, 30)
    twins = [
        clip(f"{c.id}{i}", c.expression, c.chosen, c.true_valence_arousal, c.affect, group=c.id)
        for c in alone
        for i in range(4)
    ]
    apart = [clip(c.id, c.expression, c.chosen, c.true_valence_arousal, c.affect) for c in twins]
    one, four, torn = (bootstrap.expression(clips)["macro_f1"] for clips in (alone, twins, apart))
    assert four.value == pytest.approx(one.value)
    assert four.high - four.low == pytest.approx(one.high - one.low, abs=0.004)
    assert torn.high - torn.low < 0.7 * (one.high - one.low)


def test_intervals_cover_the_truth() -> None:
    """Clips whose accuracies are drawn around .6: 95 % intervals from 30 clips hold .6 in about 95 of 100 corpora."""
    rng = np.random.default_rng(0)
    held = 0
    for corpus in range(200):
        hits = rng.binomial(50, rng.beta(6, 4, 30))
        counts = np.zeros((30, 2, 2), np.int64)
        counts[:, 0, 0], counts[:, 0, 1] = hits, 50 - hits
        found = bootstrap.intervals(counts, bootstrap.scores_of(["a", "b"], [0, 1]), draws=300, seed=corpus)["accuracy"]
        held += found.low <= 0.6 <= found.high
    # binomial(200, .95) stays within 182..198 in 99.8 %; the percentile interval of 30 clips is a little narrow
    assert 180 <= held <= 198


def test_a_paired_difference_sees_what_two_intervals_hide() -> None:
    rng = np.random.default_rng(0)
    easy = rng.beta(2, 2, 40)
    first, second = np.zeros((2, 40, 2, 2), np.int64)
    first[:, 0, 0] = np.round(200 * np.minimum(easy + rng.uniform(0, 0.06, 40), 1))
    second[:, 0, 0] = np.round(200 * easy)
    for counts in (first, second):
        counts[:, 0, 1] = 200 - counts[:, 0, 0]
    scores = bootstrap.scores_of(["a", "b"], [0, 1])
    a, b = bootstrap.intervals(first, scores)["accuracy"], bootstrap.intervals(second, scores)["accuracy"]
    gap = bootstrap.difference(first, second, scores)["accuracy"]
    assert a.low < b.high  # apart, they overlap
    assert 0.02 < gap.low < gap.value < gap.high < 0.04
    assert gap.value == pytest.approx(a.value - b.value)
    same = bootstrap.difference(first, first, scores)["accuracy"]
    assert (same.low, same.value, same.high) == (0, 0, 0)
    with pytest.raises(ValueError, match="same groups"):
        bootstrap.difference(first, second[:5], scores)


def test_same_seed_same_interval() -> None:
    clips = random_clips(np.random.default_rng(0), 8, 30)
    assert bootstrap.expression(clips, draws=300, seed=4) == bootstrap.expression(clips, draws=300, seed=4)
    assert bootstrap.expression(clips, draws=300, seed=4) != bootstrap.expression(clips, draws=300, seed=5)
