"""Grid lines of charts."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from mien.views.charts import level_steps


@example(0.03125, 100020001.0)
@given(st.floats(-1e9, 1e9), st.floats(0.1, 1e9))
def test_grid_lines_are_few_round_and_inside(low: float, width: float) -> None:
    lines = level_steps(low, low + width)
    assert 1 <= len(lines) <= 7
    assert np.isfinite(lines).all()
    slack = 1e-6 * (1 + abs(low)) + 1e-9 * width  # lines are rounded to 6 decimals and to a billionth of a step
    assert low - slack <= min(lines) <= max(lines) <= low + width + slack
    assert np.ptp(np.diff(lines) if len(lines) > 1 else [0.0]) <= 1e-4 * width


def test_steps_of_known_ranges() -> None:
    assert level_steps(-1, 1) == [-1, -0.5, 0, 0.5, 1]
    assert level_steps(0, 440) == [0, 100, 200, 300, 400]
    assert level_steps(-40, 1200) == [0, 500, 1000]
