"""Soft vote: windows cover every token, votes equal the double loop, smoothing is in time."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mien import config, soft_vote
from mien.records import Window


@given(tokens=st.integers(0, 200), length=st.integers(1, 50), data=st.data())
def test_windows_cover_every_token(tokens: int, length: int, data: st.DataObject) -> None:
    hop = data.draw(st.integers(1, length))
    cut = soft_vote.windows(tokens, length, hop)
    seen = np.zeros(tokens, int)
    for w in cut:
        assert 0 <= w.start < w.stop <= tokens
        assert w.stop - w.start == min(length, tokens)
        seen[w.start : w.stop] += 1
    assert (seen > 0).all()
    assert len({w.start for w in cut}) == len(cut)
    if tokens:
        assert cut[-1].stop == tokens


@pytest.mark.parametrize("hop", [0, 11])
def test_a_hop_that_leaves_gaps_is_refused(hop: int) -> None:
    with pytest.raises(ValueError, match=f"hop must lie in 1..length .10..*got {hop}"):
        soft_vote.windows(100, 10, hop)


@given(tokens=st.integers(1, 60), length=st.integers(1, 20), triangular=st.booleans(), data=st.data())
def test_vote_equals_the_double_loop(tokens: int, length: int, triangular: bool, data: st.DataObject) -> None:
    cut = soft_vote.windows(tokens, length, data.draw(st.integers(1, length)))
    votes = [(w, data.draw(hnp.arrays(float, (w.stop - w.start, 2), elements=st.floats(0, 1)))) for w in cut]
    ignored = data.draw(st.integers(0, len(votes) - 1))
    votes[ignored][1][0] = np.nan
    expected = np.full((tokens, 2), np.nan)
    for t in range(tokens):
        total, weight = np.zeros(2), 0.0
        for w, p in votes:
            if w.start <= t < w.stop and not np.isnan(p[t - w.start]).any():
                share = soft_vote.triangle_weights(len(p))[t - w.start] if triangular else 1.0
                total, weight = total + share * p[t - w.start], weight + share
        if weight:
            expected[t] = total / weight
    out = soft_vote.vote(iter(votes), tokens, triangular=triangular)
    np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-12)


def test_vote_is_nan_without_a_window_and_preserves_distributions() -> None:
    p = np.array([[0.2, 0.8], [0.5, 0.5]])
    out = soft_vote.vote([(Window(1, 3), p), (Window(2, 4), p)], 6)
    assert np.isnan(out[[0, 4, 5]]).all()
    assert np.allclose(out[1:4].sum(1), 1)
    assert np.allclose(out[2], [0.35, 0.65])
    assert soft_vote.vote([], 3).shape == (3, 0)


def test_triangle_weights_fall_to_both_ends() -> None:
    assert np.allclose(soft_vote.triangle_weights(5), [1 / 3, 2 / 3, 1, 2 / 3, 1 / 3])
    assert np.allclose(soft_vote.triangle_weights(4), [0.5, 1, 1, 0.5])
    assert np.allclose(soft_vote.triangle_weights(1), [1])


@given(
    values=hnp.arrays(float, (25, 2), elements=st.floats(-5, 5) | st.just(np.nan)),
    gaps=hnp.arrays(float, 25, elements=st.floats(0.01, 0.3)),
    seconds=st.floats(0, 2),
)
def test_smooth_equals_the_loop_and_fills_no_gaps(values: np.ndarray, gaps: np.ndarray, seconds: float) -> None:
    times = np.cumsum(gaps)
    out = soft_vote.smooth(values, times, seconds)
    assert np.array_equal(np.isnan(out), np.isnan(values))
    for i, t in enumerate(times):
        inside = [
            k for k, s in enumerate(times) if round(t - seconds / 2, 9) <= round(s, 9) <= round(t + seconds / 2, 9)
        ]
        for k in range(2):
            if not np.isnan(values[i, k]):
                assert out[i, k] == pytest.approx(np.nanmean(values[inside, k]), abs=1e-9)


def test_smooth_is_in_time_not_in_samples() -> None:
    """A window of one second covers ten tokens of a tenth and two of a half."""
    step = np.r_[np.zeros(50), np.ones(50)][:, None]
    out = soft_vote.smooth(step, np.arange(100) / 10, 1.0)[:, 0]
    assert np.count_nonzero((out > 0) & (out < 1)) == 10
    out = soft_vote.smooth(step[::5], np.arange(20) / 2, 1.0)[:, 0]
    assert np.count_nonzero((out > 0) & (out < 1)) == 2
    assert np.array_equal(soft_vote.smooth(step, np.arange(100) / 10, 0.0), step)


def test_new_parts_lie_beyond_earlier_windows() -> None:
    cut = soft_vote.windows(11, 4, 2)
    assert soft_vote.new_parts(cut) == [Window(0, 4), Window(4, 6), Window(6, 8), Window(8, 10), Window(10, 11)]
    assert soft_vote.new_parts(cut, 3)[0] == Window(3, 4)
    assert soft_vote.new_parts([]) == []


def test_hamming_smoothing_equals_the_weighted_mean() -> None:
    rng = np.random.default_rng(0)
    times = np.round(np.sort(rng.uniform(0, 5, 60)), 9)  # whole nanoseconds, as in clock
    values = rng.normal(size=(60, 2))
    values[10:15] = np.nan
    out = soft_vote.smooth(values, times, 1.0, kernel="hamming")
    for i in range(60):
        near = (np.abs(times - times[i]) <= 0.5) & np.isfinite(values[:, 0])
        weight = (0.54 + 0.46 * np.cos(2 * np.pi * (times - times[i])))[near, None]
        if 10 <= i < 15:
            assert np.isnan(out[i]).all()
        else:
            np.testing.assert_allclose(out[i], (weight * values[near]).sum(0) / weight.sum(), rtol=1e-9)


def test_median_smoothing_ignores_outliers_and_gaps() -> None:
    rng = np.random.default_rng(0)
    times = np.round(np.sort(rng.uniform(0, 5, 60)), 9)
    values = rng.normal(size=(60, 2))
    values[10:15] = np.nan
    out = soft_vote.smooth(values, times, 1.0, kernel="median")
    for i in range(60):
        near = values[(np.abs(times - times[i]) <= 0.5) & np.isfinite(values[:, 0])]
        expected = np.full(2, np.nan) if 10 <= i < 15 else np.median(near, axis=0)
        np.testing.assert_allclose(out[i], expected, rtol=1e-12)
    assert soft_vote.smooth(np.zeros((0, 3)), np.zeros(0), 1.0, kernel="median").shape == (0, 3)


def test_gaussian_smoothing_is_three_moving_means() -> None:
    """An impulse on a fine grid spreads as the quadratic B-spline, the density of a sum of three uniform variables."""
    times = np.arange(2001) / 200
    impulse = np.where(np.arange(2001) == 1000, 1.0, 0.0)[:, None]
    out = soft_vote.smooth(impulse, times, 3.0, kernel="gaussian")[:, 0]
    x = np.abs(times - 5)
    spline = np.where(x < 0.5, 0.75 - x**2, 0.5 * np.maximum(1.5 - x, 0) ** 2)
    np.testing.assert_allclose(out, spline / spline.sum(), atol=0.02 * out.max())
    normal = np.exp(-0.5 * (x / 0.5) ** 2)
    np.testing.assert_allclose(spline / spline.sum(), normal / normal.sum(), atol=0.07 * normal.max() / normal.sum())
    assert out.sum() == pytest.approx(1.0)


def test_the_kernels_of_recipes_are_those_of_smoothing() -> None:
    assert set(get_args(config.Vote.model_fields["kernel"].annotation)) == set(soft_vote.KERNELS)
    assert config.Vote.model_validate({"hamming": True}).kernel == "hamming", "as earlier checkpoints say"
    assert config.Vote.model_validate({"hamming": False}).kernel == "mean"


@given(st.lists(st.sampled_from([0.0, 0.4, 1.0]), min_size=1, max_size=4), st.sampled_from(sorted(soft_vote.KERNELS)))
def test_a_width_for_each_column_smooths_each_alone(widths: list[float], kernel: soft_vote.Kernel) -> None:
    rng, times = np.random.default_rng(0), np.arange(30) / 10
    values = rng.normal(size=(30, len(widths)))
    values[rng.random(values.shape) < 0.2] = np.nan
    out = soft_vote.smooth(values, times, widths, kernel=kernel)
    for k, width in enumerate(widths):
        np.testing.assert_allclose(out[:, k], soft_vote.smooth(values[:, [k]], times, width, kernel=kernel)[:, 0])


@given(
    tokens=st.integers(1, 60), length=st.integers(1, 20), part=st.integers(1, 40), gaps=st.booleans(), data=st.data()
)
def test_the_vote_in_parts_is_the_vote(tokens: int, length: int, part: int, gaps: bool, data: st.DataObject) -> None:
    chosen = soft_vote.windows(tokens, length, data.draw(st.integers(1, length)))
    if gaps:
        chosen = chosen[:: data.draw(st.integers(1, 3))]
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    votes = [(w, rng.choice([0.1, 0.7, np.nan], (w.stop - w.start, 3))) for w in chosen]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(soft_vote, "PART", part)
        parts = list(soft_vote.vote_in_parts(iter(votes), tokens))
    assert all(len(each) == part for each in parts[:-1])
    np.testing.assert_array_equal(np.concatenate(parts), soft_vote.vote(votes, tokens))


def test_the_vote_in_parts_reads_no_further_than_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soft_vote, "PART", 10)
    read: list[int] = []

    def votes():  # type: ignore[no-untyped-def]
        for window in soft_vote.windows(100, 8, 4):
            read.append(window.start)
            yield window, np.ones((8, 2))

    parts = soft_vote.vote_in_parts(votes(), 100)
    next(parts)
    assert max(read) <= 10 + 4, "the first window of the next part is read to see that this one is complete"
    assert list(soft_vote.vote_in_parts(iter(()), 100)) == []
