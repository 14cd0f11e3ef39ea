"""Cross-modal filter on synthetic time series of mouth openness."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien import mouth_filter as mouth
from mien.records import Stream


def make_opening(
    *spans: tuple[float, float], seconds: float = 10.0, rate: float = 25.0
) -> tuple[np.ndarray, np.ndarray]:
    times = np.arange(round(seconds * rate)) / rate
    return np.where(np.any([(times >= a - 1e-9) & (times < b - 1e-9) for a, b in spans], axis=0), 1.0, 0.0), times


def test_detect_talking_drops_short_openings_and_fills_short_gaps() -> None:
    opening, times = make_opening((1.0, 1.2), (2.0, 2.24), (3.0, 4.0), (4.12, 5.0), (6.0, 7.0), (7.2, 8.0))
    talking = mouth.detect_talking(opening, times, 0.5)
    starts = times[np.flatnonzero(np.diff(np.r_[0, talking.astype(int)]) == 1)]
    np.testing.assert_allclose(starts, [2.0, 3.0, 6.0, 7.2])
    assert talking[(times >= 3) & (times < 5)].all()


def test_detect_talking_fills_no_gap_across_an_invisible_mouth() -> None:
    opening, times = make_opening((1.0, 2.0), (2.12, 3.0))
    opening[(times >= 2.0) & (times < 2.12)] = np.nan
    talking = mouth.detect_talking(opening, times, 0.5)
    assert not talking[(times >= 2.0) & (times < 2.12)].any()
    assert talking[(times >= 1) & (times < 2)].all()


@given(st.lists(st.booleans(), max_size=60), st.sampled_from([20.0, 25.0, 29.97, 60.0]))
def test_no_detected_run_is_short_and_durations_add_up(bits: list[bool], rate: float) -> None:
    times = np.arange(len(bits)) / rate
    talking = mouth.detect_talking(np.array(bits, float), times, 0.5)
    edges = np.flatnonzero(np.diff(np.r_[0, talking.astype(int), 0]))
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        assert (stop - start) / rate > mouth.MAX_NOISE_S - 1e-6
    open_s, visible_s = mouth.window_durations(talking, np.ones(len(bits), bool), times, 0.0, 100.0)
    assert open_s == pytest.approx(talking.sum() / rate, abs=1e-6) or len(bits) == 1
    assert visible_s >= open_s


def test_is_trainable_at_its_thresholds() -> None:
    assert mouth.is_trainable(1.0, 3.2, 4.0)
    assert not mouth.is_trainable(0.9, 4.0, 4.0)
    assert not mouth.is_trainable(2.0, 3.1, 4.0)


def test_mask_voice_keeps_windows_with_a_second_of_open_mouth() -> None:
    opening, times = make_opening((8.0, 9.5), seconds=20.0)
    voice = Stream(np.zeros((200, 1), np.float32), np.arange(200) / 10 + 0.05, np.ones(200, bool))
    masked = mouth.mask_voice(voice, opening, times, 0.5)
    assert voice.times[masked.valid].min() == pytest.approx(6.05)
    assert voice.times[masked.valid].max() == pytest.approx(11.95)
    hidden = np.where(times < 8.0, np.nan, opening)
    assert mouth.mask_voice(voice, hidden, times, 0.5).valid.sum() == 40, "only 8 to 12 s is visible for long enough"
    assert not mouth.mask_voice(voice, np.full_like(opening, np.nan), times, 0.5).valid.any()
