"""The token clock, compared with plain loops, closed forms, and times as in real containers."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mien import clock
from mien.records import Stream


def stream(times: np.ndarray, values: np.ndarray | None = None, valid: np.ndarray | None = None) -> Stream:
    times = np.asarray(times, float)
    values = times[:, None] if values is None else values
    return Stream(values, times, np.ones(len(times), bool) if valid is None else valid)


@given(start=st.floats(-100, 1e4), seconds=st.floats(0, 50), rate=st.sampled_from([1.0, 10.0, 29.97, 30.0, 50.0]))
def test_tokens_cover_the_span_with_cells_of_one_rate(start: float, seconds: float, rate: float) -> None:
    times = clock.token_times(start, start + seconds, rate)
    assert len(times) >= 1
    assert np.allclose(np.diff(times), 1 / rate, atol=1e-9)
    assert times[0] == pytest.approx(start + 0.5 / rate)
    last_edge = times[-1] + 0.5 / rate
    assert last_edge >= start + seconds - 1e-5
    assert last_edge < start + seconds + 1 / rate + 1e-5 or len(times) == 1


def test_a_whole_number_of_cells_has_no_extra_token() -> None:
    assert len(clock.token_times(0.3, 3.3, 10.0)) == 30
    assert len(clock.token_times(0.0, 0.0, 10.0)) == 1


@pytest.mark.parametrize(("rate", "stop"), [(0.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0), (10.0, float("inf"))])
def test_token_times_refuses_invalid_rates_and_times(rate: float, stop: float) -> None:
    with pytest.raises(ValueError, match=r"rate_hz must be positive|must be finite"):
        clock.token_times(0.0, stop, rate)


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    n = draw(st.integers(0, 40))
    gaps = draw(hnp.arrays(float, n, elements=st.floats(0.001, 0.5)))
    values = draw(hnp.arrays(np.float32, (n, 3), elements=st.floats(-10, 10, width=32)))
    return Stream(values, np.cumsum(gaps), draw(hnp.arrays(bool, n)))


@given(stream=streams(), rate=st.sampled_from([2.0, 5.0, 10.0]), tolerance=st.floats(0, 0.6))
def test_resample_gives_the_mean_of_the_cell_or_the_nearest_sample(
    stream: Stream, rate: float, tolerance: float
) -> None:
    times = clock.token_times(0.0, 6.0, rate)
    values, valid = clock.resample(stream, times, rate, tolerance)
    assert values.dtype == np.float32
    for i, t in enumerate(times):
        low, high = round(t - 0.5 / rate, 9), round(t + 0.5 / rate, 9)
        inside = [k for k, s in enumerate(stream.times) if low <= round(s, 9) < high]
        usable = [k for k in inside if stream.valid[k]]
        if inside:
            assert valid[i] == bool(usable)
            if usable:
                assert np.allclose(values[i], stream.values[usable].mean(0, dtype=float), atol=1e-5)
            continue
        distance = [abs(s - t) if ok else np.inf for s, ok in zip(stream.times, stream.valid, strict=True)]
        nearest = min(distance, default=np.inf)
        if abs(nearest - tolerance) > 1e-6:
            assert valid[i] == (nearest < tolerance)
        if valid[i]:
            near = [stream.values[k] for k, d in enumerate(distance) if d < nearest + 1e-8]
            assert any(np.array_equal(values[i], v) for v in near)
    assert not values[~valid].any()


def test_30_frames_a_second_give_three_samples_to_each_cell_of_a_tenth() -> None:
    """Presentation times are fractions; rounding must not move one over a cell's edge."""
    times = np.array([float(Fraction(k, 30)) for k in range(3000)])
    _values, valid = clock.resample(stream(times, np.ones((3000, 1))), clock.token_times(0, 100, 10), 10.0)
    assert valid.all()
    indices, _ = clock.resample(stream(times, np.arange(3000.0)[:, None]), clock.token_times(0, 100, 10), 10.0)
    assert np.array_equal(indices[:, 0], np.arange(1000) * 3 + 1)


@given(stream=streams(), rate=st.sampled_from([2.0, 5.0, 10.0]), bad=st.sampled_from([np.nan, np.inf, -np.inf]))
def test_float16_streams_resample_to_the_values_of_float32_streams(stream: Stream, rate: float, bad: float) -> None:
    half = stream.values.astype(np.float16)
    half[::5, 1] = bad  # such rows are missing
    times = clock.token_times(0.0, 6.0, rate)
    values, valid = clock.resample(replace(stream, values=half), times, rate)
    same, same_valid = clock.resample(replace(stream, values=half.astype(np.float32)), times, rate)
    assert np.array_equal(values, same)
    assert valid.tolist() == same_valid.tolist()


def test_a_slow_stream_holds_its_value_and_invalid_samples_are_not_filled() -> None:
    slow = stream(np.arange(0.5, 10), np.arange(10.0)[:, None])
    values, valid = clock.resample(slow, clock.token_times(0, 10, 10), 10.0)
    assert valid.all()
    assert np.array_equal(np.unique(values), np.arange(10.0))
    lost = np.ones(300, bool)
    lost[100:200] = False
    _, valid = clock.resample(stream(np.arange(300) / 30, valid=lost), clock.token_times(0, 10, 10), 10.0)
    assert np.array_equal(valid, (np.arange(100) < 34) | (np.arange(100) >= 66))


def test_values_at_invalid_samples_are_ignored() -> None:
    values = np.ones((30, 2))
    values[5:10], values[20] = np.nan, np.inf
    valid = np.ones(30, bool)
    valid[5:10] = False  # sample 20 is marked valid, but is not finite
    out, ok = clock.resample(stream(np.arange(30) / 10, values, valid), clock.token_times(0, 3, 5), 5.0)
    assert np.isfinite(out).all()
    assert np.array_equal(out[ok], np.ones((ok.sum(), 2)))
    assert ok.sum() == 13


def test_interpolate_is_linear_constant_beyond_the_ends_and_keeps_gaps() -> None:
    times = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    values = np.array([0.0, 10.0, np.nan, 20.0, 30.0])[:, None]
    query = np.array([0.0, 1.0, 1.25, 2.0, 2.4, 2.6, 3.0, 3.4, 3.6, 4.0, 4.5, 9.0])
    expected = [0, 0, 2.5, 10, 10, np.nan, np.nan, np.nan, 20, 20, 25, 30]
    np.testing.assert_allclose(clock.interpolate(values, times, query)[:, 0], expected)


@given(
    values=hnp.arrays(float, (10, 2), elements=st.floats(-5, 5)), query=hnp.arrays(float, 7, elements=st.floats(-1, 11))
)
def test_interpolate_equals_numpy_without_missing_values(values: np.ndarray, query: np.ndarray) -> None:
    times = np.arange(10.0)
    expected = np.stack([np.interp(query, times, values[:, k]) for k in range(2)], axis=1)
    np.testing.assert_allclose(clock.interpolate(values, times, query), expected, atol=1e-12)


def test_interpolate_of_one_token_and_of_none() -> None:
    assert np.array_equal(
        clock.interpolate(np.array([[3.0]]), np.array([1.0]), np.array([0.0, 1.0, 2.0]))[:, 0], [3, 3, 3]
    )
    assert np.isnan(clock.interpolate(np.zeros((0, 2)), np.zeros(0), np.array([1.0]))).all()


@given(
    stream=streams(), rate=st.sampled_from([2.0, 5.0, 10.0]), part=st.integers(1, 12),
    tolerance=st.none() | st.floats(0, 0.6),
)  # fmt: skip
def test_a_clock_in_parts_resamples_to_the_values_of_the_whole(
    stream: Stream, rate: float, part: int, tolerance: float | None
) -> None:
    times = clock.token_times(0.0, 4.0, rate)
    values, valid = clock.resample(stream, times, rate, tolerance)
    resampler = clock.Resampler(stream, rate, tolerance)
    parts = [times[i : i + part] for i in range(0, len(times), part)]
    found = [resampler(each) for each in parts]
    np.testing.assert_array_equal(np.concatenate([v for v, _ in found]), values)
    np.testing.assert_array_equal(np.concatenate([v for _, v in found]), valid)
    np.testing.assert_array_equal(np.concatenate([resampler.valid(each) for each in parts]), valid)
