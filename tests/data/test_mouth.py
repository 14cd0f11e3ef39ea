"""The cross-modal filter on mouths drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.data import mouth
from mien.records import Stream


def drawn(*spans: tuple[float, float], seconds: float = 10.0, rate: float = 25.0) -> tuple[np.ndarray, np.ndarray]:
    times = np.arange(round(seconds * rate)) / rate
    return np.where(np.any([(times >= a - 1e-9) & (times < b - 1e-9) for a, b in spans], axis=0), 1.0, 0.0), times


def test_short_openings_go_and_short_gaps_are_filled() -> None:
    opening, times = drawn((1.0, 1.2), (2.0, 2.24), (3.0, 4.0), (4.12, 5.0), (6.0, 7.0), (7.2, 8.0))
    talks = mouth.talking(opening, times, 0.5)
    starts = times[np.flatnonzero(np.diff(np.r_[0, talks.astype(int)]) == 1)]
    np.testing.assert_allclose(starts, [2.0, 3.0, 6.0, 7.2])
    assert talks[(times >= 3) & (times < 5)].all()


def test_no_gap_is_filled_across_an_unseen_mouth() -> None:
    opening, times = drawn((1.0, 2.0), (2.12, 3.0))
    opening[(times >= 2.0) & (times < 2.12)] = np.nan
    talks = mouth.talking(opening, times, 0.5)
    assert not talks[(times >= 2.0) & (times < 2.12)].any()
    assert talks[(times >= 1) & (times < 2)].all()


@given(st.lists(st.booleans(), max_size=60), st.sampled_from([20.0, 25.0, 29.97, 60.0]))
def test_nothing_kept_is_short_and_seconds_add_up(bits: list[bool], rate: float) -> None:
    times = np.arange(len(bits)) / rate
    talks = mouth.talking(np.array(bits, float), times, 0.5)
    edges = np.flatnonzero(np.diff(np.r_[0, talks.astype(int), 0]))
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        assert (stop - start) / rate > mouth.SHORTEST_S - 1e-6
    opened, seen = mouth.window_facts(talks, np.ones(len(bits), bool), times, 0.0, 100.0)
    assert opened == pytest.approx(talks.sum() / rate, abs=1e-6) or len(bits) == 1
    assert seen >= opened


def test_a_window_worth_training_on() -> None:
    assert mouth.trains(1.0, 3.2, 4.0)
    assert not mouth.trains(0.9, 4.0, 4.0)
    assert not mouth.trains(2.0, 3.1, 4.0)


def test_the_voice_counts_where_the_mouth_was_open_for_a_second() -> None:
    opening, times = drawn((8.0, 9.5), seconds=20.0)
    voice = Stream(np.zeros((200, 1), np.float32), np.arange(200) / 10 + 0.05, np.ones(200, bool))
    kept = mouth.masked(voice, opening, times, 0.5)
    assert voice.times[kept.valid].min() == pytest.approx(6.05)
    assert voice.times[kept.valid].max() == pytest.approx(11.95)
    unseen = np.where(times < 8.0, np.nan, opening)
    assert mouth.masked(voice, unseen, times, 0.5).valid.sum() == 40, "only 8 to 12 s is seen enough"
    assert not mouth.masked(voice, np.full_like(opening, np.nan), times, 0.5).valid.any()
