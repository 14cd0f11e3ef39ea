"""Level of the sound: closed forms, and independence of the blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.media.sound_level import FLOOR_DB, SoundLevel


def test_a_sine_has_its_level_and_silence_the_floor() -> None:
    level = SoundLevel()
    sine = 0.5 * np.sin(2 * np.pi * 200 * np.arange(16_000) / 16_000)
    level.add(2.0, np.concatenate((sine, np.zeros(8_000))).astype(np.float32))
    stream = level.stream()
    assert stream.times.tolist() == pytest.approx(2.05 + np.arange(15) / 10)
    assert stream.values[:10, 0] == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.01)
    assert (stream.values[10:, 0] == FLOOR_DB).all()


@given(st.lists(st.integers(1, 5_000), min_size=1, max_size=12))
def test_levels_do_not_depend_on_the_blocks(sizes: list[int]) -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, sum(sizes)).astype(np.float32)
    whole, parts, start = SoundLevel(), SoundLevel(), 0
    whole.add(0.5, sound)
    for size in sizes:
        parts.add(0.5 + start / 16_000, sound[start : start + size])
        start += size
    assert parts.stream().values == pytest.approx(whole.stream().values)
    assert parts.stream().times == pytest.approx(whole.stream().times)


def test_a_gap_starts_a_new_value() -> None:
    level = SoundLevel()
    level.add(0.0, np.full(2_000, 0.1, np.float32))
    level.add(5.0, np.full(1_600, 1.0, np.float32))
    assert level.stream().times.tolist() == pytest.approx([0.05, 5.05])
    assert level.stream().values[:, 0].tolist() == pytest.approx([-20, 0], abs=1e-4)
