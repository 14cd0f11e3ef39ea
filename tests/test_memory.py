"""GrowingArray returns the appended rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien import memory
from mien.memory import GrowingArray


@given(st.integers(0, 4), st.lists(st.integers(0, 40), max_size=12), st.sampled_from([16, 100, 1 << 20]))
def test_array_is_the_concatenation_of_appended_rows(width: int, lengths: list[int], block: int) -> None:
    rng = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "BLOCK", block)
        rows = GrowingArray(width)
        pieces = [rng.normal(size=(n, width) if width else n).astype(np.float32) for n in lengths]
        for number, piece in enumerate(pieces):
            rows.extend(piece)
            assert len(rows) == sum(lengths[: number + 1])
        empty = np.zeros((0, width) if width else 0, np.float32)
        np.testing.assert_array_equal(rows.array(), np.concatenate([empty, *pieces]))
        assert rows.array().dtype == np.float32


def test_rows_of_another_width_are_refused() -> None:
    rows = GrowingArray(3)
    with pytest.raises(ValueError, match=r"\(4,\) cannot be appended to rows of shape \(3,\)"):
        rows.extend(np.zeros((2, 4)))
    assert len(rows) == 0


@pytest.mark.parametrize("rows", [0, 1, 99, 100, 101, 1000, 4321])
def test_blocks_beyond_the_limit_are_in_a_file(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "BLOCK", 100 * 12)
    monkeypatch.setattr(memory, "IN_MEMORY", 300 * 12)
    expected = np.random.default_rng(rows).standard_normal((rows, 3)).astype(np.float32)
    array = memory.GrowingArray(3)
    for part in np.array_split(expected, 7):
        array.extend(part)
        assert len(array.array()) == len(array), "it can be read while it grows"
    np.testing.assert_array_equal(array.array(), expected)
    assert isinstance(array.array(), np.memmap) == (rows > 300)
    array.extend(expected[:5])
    np.testing.assert_array_equal(array.array(), np.concatenate([expected, expected[:5]]))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_scatter_puts_rows_in_their_place(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "BLOCK", 100 * 8)
    monkeypatch.setattr(memory, "IN_MEMORY", 300 * 8)
    rng = np.random.default_rng(0)
    rows = np.flatnonzero(rng.random(2000) < share)
    known = rng.standard_normal((len(rows), 2)).astype(np.float32)
    expected = np.zeros((2000, 2), np.float32)
    expected[rows] = known
    np.testing.assert_array_equal(memory.scatter(known, rows, 2000), expected)


def test_freed_memory_is_released_every_ten_seconds_of_media(monkeypatch: pytest.MonkeyPatch) -> None:
    now, released = 0.0, list[float]()
    monkeypatch.setattr(memory, "release_freed_memory", lambda: released.append(now))
    release = memory.PeriodicRelease()
    for now in (100.0, 105.0, 110.0, 112.0, 119.9, 120.0, 155.0, 156.0):
        release(now)
    assert released == [110.0, 120.0, 155.0]
