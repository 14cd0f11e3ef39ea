"""SVG plot of a timeline: its parts, classes and size."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest

from mien.labels import EXPRESSIONS
from mien.timeline.table import Timeline
from tests.timeline_rows import rows


def test_plot_has_every_subject(tmp_path: Path) -> None:
    timeline = Timeline(pl.concat([rows(gap=slice(5, 9)), rows(subject=1)]), media="a<b>&c.mp4")
    picture = timeline.plot(tmp_path / "t.svg")
    root = ElementTree.fromstring((tmp_path / "t.svg").read_text())
    text = "".join(root.itertext())
    assert root.tag.endswith("svg")
    assert "a<b>&c.mp4" in text
    assert "Subject 0" in text
    assert "Subject 1" in text
    assert timeline._repr_html_() == picture


def plot_texts(timeline: Timeline) -> list[str]:
    root = ElementTree.fromstring(timeline.plot())
    return [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]


def hatched(timeline: Timeline) -> list[tuple[float, float]]:
    """Top and bottom of each hatched area of a plot."""
    areas = [e for e in ElementTree.fromstring(timeline.plot()).iter() if e.get("fill") == "url(#hatch)"]
    return [(float(e.get("y", 0)), float(e.get("y", 0)) + float(e.get("height", 0))) for e in areas]


def test_plot_of_valence_and_arousal_alone_has_no_expressions_and_no_hatching() -> None:
    timeline = Timeline(rows(probabilities=np.full((40, 8), np.nan)))
    texts = plot_texts(timeline)
    assert "valence" in texts
    assert not {"Expression", *EXPRESSIONS} & set(texts)
    assert hatched(timeline) == []


def test_plot_of_expressions_alone_has_no_curves() -> None:
    texts = plot_texts(Timeline(rows(valence_arousal=np.full((40, 2), np.nan))))
    assert {"Expression", *EXPRESSIONS, "Evidence"} <= set(texts)
    assert not {"valence", "arousal, dashed", "+1"} & set(texts)


def test_rows_without_an_estimate_are_hatched_in_both_parts() -> None:
    first, second = hatched(Timeline(rows(gap=slice(5, 9))))
    assert first[0] == 0
    assert first[1] <= second[0], "the curves have a hatching of their own"


@pytest.mark.parametrize("count", [2, 3, 8, 16, 20])
def test_plot_names_every_class_once_and_lanes_do_not_overlap(count: int) -> None:
    classes = [f"<{chr(97 + k)}> & {'sehr ' * 12}lang" for k in range(count)]
    p = np.full((40, count), 1 / count)
    root = ElementTree.fromstring(Timeline(rows(probabilities=p, classes=classes), classes=classes).plot())
    svg = "{http://www.w3.org/2000/svg}"
    names = [e for e in root.iter(f"{svg}text") if e.find(f"{svg}title") is not None]
    assert [e.find(f"{svg}title").text for e in names] == classes
    tops = [float(e.get("y", 0)) for e in names]
    assert np.diff(tops).min() >= 18
    left = min(float(e.get("x1", 0)) for e in root.iter(f"{svg}line"))
    for element in names:
        text = "".join(element.itertext()).removeprefix(element.find(f"{svg}title").text or "")
        assert text.endswith("…")
        assert float(element.get("x", 0)) + 7.2 * len(text) < left + 7.2


def test_plot_size_is_bounded(tmp_path: Path) -> None:
    assert Timeline(rows(1)).plot().startswith("<svg")
    long = Timeline(rows(20_000)).plot()
    assert len(long) < 6e5, "the size of a plot must not grow with the recording"
