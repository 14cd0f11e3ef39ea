"""The terminal summary in terminals of other widths, and of a part of a recording."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from mien.timeline.subject_rows import subject_rows
from mien.timeline.table import Timeline


def lines_at(width: int, start_s: float = 0.0, info: dict[str, object] | None = None) -> list[str]:
    """The summary of 20 s: Happiness for 10 s, no estimate for 1 s, Neutral for 9 s, each with confidence 0.8."""
    classes = np.repeat([4, 0], [110, 90])
    p = np.full((200, 8), 0.2 / 7)
    p[np.arange(200), classes] = 0.8
    p[100:110] = np.nan
    face = ~np.isnan(p[:, 0])
    table = subject_rows(
        0, start_s + np.arange(200) / 10, probabilities=p, valence_arousal=np.zeros((200, 2)), face=face,
        voice=np.zeros(200, bool), boxes=np.tile([1.0, 1, 9, 9], (200, 1)), frames=np.arange(200),
    )  # fmt: skip
    output = io.StringIO()
    timeline = Timeline(table, info={"media": {"kind": "video"}, **(info or {})})
    Console(file=output, width=width, highlight=False).print(timeline.summary())
    return output.getvalue().splitlines()


@pytest.mark.parametrize("width", [70, 80, 110, 200])
def test_no_line_of_the_summary_is_broken_or_cut(width: int) -> None:
    lines = lines_at(width)
    assert not [line for line in lines if "…" in line]
    (happy,) = [line for line in lines if line.strip().startswith("Happiness")]
    assert "53%" in happy  # of the 19 s with an expression
    assert "confidence 80%" in happy
    assert any("no expression" in line and " 5% of all time" in line for line in lines)
    assert any("0:00.0 – 0:10.0 Happiness  80%" in line for line in lines)


def test_stretches_are_beside_the_shares_in_a_common_terminal_and_below_in_a_narrow_one() -> None:
    def beside(width: int) -> bool:
        return any("confidence" in line and "0:00.0" in line for line in lines_at(width))

    assert beside(80)
    assert not beside(60)


def test_a_part_of_a_recording_has_its_start_and_its_own_length() -> None:
    info = {"section": {"start_s": 600.0, "stop_s": 620.0}, "seconds": {"total": 10.0}}
    headline = lines_at(110, 600.0, info)[0]
    assert "10:00.0 – 10:20.0" in headline
    assert "2.0× real time" in headline
