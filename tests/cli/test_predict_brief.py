"""One line of `mien predict` for each of many inputs: what a timeline holds, in a few words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mien.cli.predict_command import _print_result
from mien.cli.predict_jobs import JobResult
from mien.timeline.table import Timeline
from tests.timeline_rows import rows

MISSING = np.full((40, 2), np.nan)


def line(capsys: pytest.CaptureFixture[str], timeline: Timeline) -> str:
    result = JobResult(
        Path("a.mp4"), timeline, timeline.summaries(), {"timeline": Path("t.csv")}, [], {}, len(timeline)
    )
    _print_result(result, brief=True)
    return capsys.readouterr().out.splitlines()[0]


def test_a_brief_line_has_the_two_most_frequent_expressions(capsys: pytest.CaptureFixture[str]) -> None:
    classes = ("[b]", "Müde", "wach")
    p = np.eye(3)[np.repeat([0, 1, 2], [20, 16, 4])]
    timeline = Timeline(rows(probabilities=p, classes=classes), classes=classes)
    assert line(capsys, timeline) == "a.mp4: 40 rows, [b] 50%, Müde 40%"


@pytest.mark.parametrize(
    ("affect", "text"),
    [(np.tile([0.25, -0.5], (40, 1)), "valence +0.25, arousal -0.50"), (MISSING, "no expression")],
)
def test_a_brief_line_without_expressions(capsys: pytest.CaptureFixture[str], affect: np.ndarray, text: str) -> None:
    timeline = Timeline(rows(probabilities=np.full((40, 8), np.nan), valence_arousal=affect))
    assert line(capsys, timeline) == f"a.mp4: 40 rows, {text}"


def test_a_brief_line_of_a_picture_has_a_confidence_and_no_share(capsys: pytest.CaptureFixture[str]) -> None:
    p = np.full((1, 8), 0.6 / 7)
    p[0, 0] = 0.4
    assert line(capsys, Timeline(rows(1, probabilities=p))) == "a.mp4: 1 row, Neutral, confidence 40%"
