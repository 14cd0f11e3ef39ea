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
