"""Summary for the terminal: confidence, ASCII, and who is there."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from mien.timeline.subject_rows import subject_rows
from mien.timeline.table import Timeline
from mien.views.words import count, format_time, people


def summary_text(timeline: Timeline, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)  # strict: a sign that the encoding lacks is an error
    Console(file=file, width=110, highlight=False).print(timeline.summary())
    file.flush()
    return raw.getvalue().decode(encoding)


def rows(n: int = 20, *, face: bool = True, voice: bool = False, kind: str = "video", **options: object) -> Timeline:
    """Happiness at .8 for three quarters of the time, then Sadness at .4."""
    p = np.full((n, 8), 0.2 / 7)
    p[:, 4] = 0.8
    p[3 * n // 4 :] = 0.6 / 7
    p[3 * n // 4 :, 5] = 0.4
    if n == 1:
        p = np.full((1, 8), 0.2 / 7)
        p[0, 4] = 0.8
    values = {
        "probabilities": p,
        "valence_arousal": np.zeros((n, 2)),
        "voice": np.full(n, voice),
        "face": np.full(n, face),
        "boxes": np.tile([1.0, 1, 9, 9], (n, 1)),
        "frames": np.arange(n),
    }
    table = subject_rows(0, np.arange(n) / 10, **{**values, **options})
    return Timeline(table, info={"media": {"kind": kind}})


def test_bars_show_share_and_confidence() -> None:
    lines = summary_text(rows()).splitlines()
    (happy,) = [line for line in lines if "Happiness" in line]
    assert "75%" in happy
    assert "confidence 80%" in happy
    assert happy.count("━") == 10  # 16 characters, three quarters of the time, at .8
    assert happy.count("╌") == 2
    (sad,) = [line for line in lines if line.strip().startswith("Sadness")]
    assert "confidence 40%" in sad


def test_a_still_has_a_confidence_and_no_share() -> None:
    text = summary_text(rows(1, kind="image"))
    assert "confidence 80%" in text
    assert "100%" not in text.replace("face 100%", "")
    assert "1 row" in text
    assert "1 rows" not in text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_an_encoding_without_the_signs_gets_plain_ascii(encoding: str) -> None:
    text = summary_text(rows(voice=True), encoding)
    assert text.isascii()
    assert "##########--" in text


@pytest.mark.parametrize(
    ("face", "voice", "kind", "who"),
    [
        (True, False, "video", "1 person"),
        (False, True, "video", "nobody seen, a voice heard"),
        (False, False, "video", "nobody seen, no voice heard"),
        (False, True, "audio", "a voice"),
    ],
)
def test_nobody_seen_is_no_subject(face: bool, voice: bool, kind: str, who: str) -> None:
    head = summary_text(rows(face=face, voice=voice, kind=kind)).splitlines()[0]
    assert who in head
    assert "subject" not in head


def test_numbers_and_times_in_words() -> None:
    assert [count(n, "row") for n in (0, 1, 2, 1200)] == ["0 rows", "1 row", "2 rows", "1,200 rows"]
    assert count(2, "person") == "2 people"
    assert [people(0, n, pictures=False) for n in (0, 1, 2)] == ["no voice", "a voice", "2 voices"]
    assert [format_time(t) for t in (0, 4.24, 59.96, 64.2, 3725.4)] == [
        "0:00.0", "0:04.2", "1:00.0", "1:04.2", "1:02:05",
    ]  # fmt: skip


def test_a_name_that_the_terminal_cannot_write_does_not_end_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from mien.cli import console

    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii"))
    console.stdout().print("grüße.mp4", markup=False)
    assert raw.getvalue() == b"gr??e.mp4\n" or b"gr??e.mp4" in raw.getvalue()


def test_a_timeline_without_values_says_what_is_missing() -> None:
    table = rows().table.with_columns(expression=pl.lit(None, pl.String), confidence=pl.lit(0.0, pl.Float32))
    empty = table.with_columns(
        *(pl.lit(None, pl.Float32).alias(c) for c in table.columns if c[:2] == "p_" or c in ("valence", "arousal"))
    )
    assert "no face or voice evidence" in summary_text(Timeline(empty))
