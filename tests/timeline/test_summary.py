"""Summary of a timeline: shares, stretches, and the text for the terminal."""

from __future__ import annotations

import io

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from mien.labels import EXPRESSIONS
from mien.timeline.subject_rows import subject_rows
from mien.timeline.table import Timeline
from tests.timeline_rows import rows


def print_summary(timeline: Timeline, width: int = 100) -> str:
    file = io.StringIO()
    console = Console(width=width, file=file)
    console.print(timeline.summary())
    return file.getvalue()


def certain_probabilities(names: list[str], seconds: list[float], rate: float = 25.0) -> np.ndarray:
    """Probabilities `(row, 8)` of .9 for each of `names` in turn, for `seconds` each."""
    index = np.repeat([EXPRESSIONS.index(n) for n in names], [round(s * rate) for s in seconds])
    p = np.full((len(index), 8), 0.1 / 7)
    p[np.arange(len(index)), index] = 0.9
    return p


def test_summary_names_shares_stretches_and_notes() -> None:
    p = certain_probabilities(["Neutral", "Happiness"], [3.0, 1.0])
    n = len(p)
    timeline = Timeline(
        rows(
            n,
            probabilities=p,
            face=np.ones(n, bool),
            voice=np.arange(n) < n // 2,
            valence_arousal=np.full((n, 2), 0.25),
        ),
        media="holiday/clip.mp4",
        notes=["the file ends early at 4.0 s"],
    )
    text = print_summary(timeline)
    for part in (
        "clip.mp4",
        "100 rows",
        "1 person",
        "75%",
        "0:00.0 – 0:03.0",
        "Happiness",
        "valence +0.25",
        "evidence: both 50%, face 50%",
        "note  the file ends early at 4.0 s",
    ):
        assert part in text, f"{part!r} is not in:\n{text}"


def test_summary_without_evidence() -> None:
    text = print_summary(Timeline(rows(gap=slice(None), valence_arousal=np.full((40, 2), np.nan))))
    assert "no face or voice evidence, so no expression" in text


def test_summary_of_valence_and_arousal_alone_names_no_expression() -> None:
    table = pl.concat(
        [
            rows(gap=slice(None), valence_arousal=np.full((40, 2), 0.25)),
            rows(gap=slice(None), valence_arousal=np.full((40, 2), np.nan), subject=1),
        ]
    )
    text = print_summary(Timeline(table))
    assert "valence +0.25 · arousal +0.25" in text
    assert "no face or voice evidence, so no valence or arousal" in text
    assert "expression" not in text


def test_summary_of_expressions_alone_names_no_valence() -> None:
    text = print_summary(Timeline(rows(valence_arousal=np.full((40, 2), np.nan))))
    assert "valence" not in text
    assert "arousal" not in text


def test_summary_shows_own_classes_literally() -> None:
    """A name in brackets is not markup of the terminal library."""
    classes = ("[red]", "Müde")
    p = np.tile([0.9, 0.1], (50, 1))
    text = print_summary(Timeline(rows(50, probabilities=p, classes=classes), classes=classes))
    assert "[red]" in text
    assert "100%" in text


def test_shares_are_weighted_by_time() -> None:
    times = np.concatenate([np.arange(50) / 50, 1 + np.arange(10) / 10])  # one second at 50 Hz, one at 10 Hz
    p = np.concatenate([certain_probabilities(["Anger"], [1], 50), certain_probabilities(["Sadness"], [1], 10)])
    n = len(times)
    table = subject_rows(0, times, probabilities=p, valence_arousal=np.zeros((n, 2)), voice=np.ones(n, bool))
    assert Timeline(table).summaries()[0].shares == pytest.approx({"Anger": 0.5, "Sadness": 0.5}, abs=0.05)


def test_stretches_cover_the_rows_with_an_expression() -> None:
    p = certain_probabilities(["Neutral", "Fear", "Neutral"], [1, 2, 1])
    p[25:35] = np.nan
    (summary,) = Timeline(rows(len(p), probabilities=p)).summaries()
    found = [(s.expression, round(s.start_s, 2), round(s.stop_s, 2)) for s in summary.stretches]
    assert found == [("Neutral", 0, 1), ("Fear", 1.4, 3), ("Neutral", 3, 4)]
    assert summary.unnamed == pytest.approx(0.1)
