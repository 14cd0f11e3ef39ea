"""Report page of timelines with own classes, without expressions, or without valence and arousal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from views_support import Browser

from mien.labels import EXPRESSIONS
from mien.timeline.subject_rows import subject_rows
from mien.timeline.summary import summarise
from mien.views import report


def one_subject(
    classes: tuple[str, ...] = EXPRESSIONS, *, expression: bool = True, valence_arousal: bool = True
) -> pl.DataFrame:
    """Two seconds at 25 Hz, whose most probable class is the last of `classes`."""
    p = np.full((50, len(classes)), 0.4 / (len(classes) - 1))
    p[:, -1] = 0.6
    return subject_rows(
        0,
        np.arange(50) / 25,
        probabilities=p if expression else np.full_like(p, np.nan),
        valence_arousal=np.full((50, 2), [0.5, -0.25] if valence_arousal else np.nan),
        voice=np.ones(50, bool),
        classes=classes,
    )


def shown_text(browser: Browser) -> str:
    """The visible text of the page, in lower case, without the closed explanation and the limits."""
    browser.js("document.querySelectorAll('details, .prose').forEach(e => e.remove())")
    return browser.js("document.body.innerText").lower()


def test_a_page_of_valence_and_arousal_alone_shows_no_expressions(browser: Browser, tmp_path: Path) -> None:
    table = one_subject(expression=False)
    browser.open(report.write_report(tmp_path / "r.html", table, summarise(table)))
    browser.js("mien.show(1.0, false)")
    assert browser.js("document.getElementById('va').textContent") == "valence +0.50\narousal −0.25"
    height = browser.js("chart.clientHeight")
    text = shown_text(browser)
    assert "expression" not in text
    assert not [name for name in EXPRESSIONS if name.lower() in text]
    assert "valence" in text
    assert browser.errors() == []
    both = one_subject()
    browser.open(report.write_report(tmp_path / "both.html", both, summarise(both)))
    assert browser.js("chart.clientHeight") > height + 8 * 20


def test_a_page_of_expressions_alone_shows_no_valence_and_arousal(browser: Browser, tmp_path: Path) -> None:
    table = one_subject(valence_arousal=False)
    browser.open(report.write_report(tmp_path / "r.html", table, summarise(table)))
    browser.js("mien.show(1.0, false)")
    assert browser.js("document.getElementById('expression').textContent") == "Other"
    text = shown_text(browser)
    assert "valence" not in text
    assert "arousal" not in text
    assert browser.js("document.getElementById('plane')") is None
    assert browser.errors() == []


@pytest.mark.parametrize("count", [2, 3, 20])
def test_a_page_shows_the_classes_of_the_timeline(browser: Browser, tmp_path: Path, count: int) -> None:
    classes = tuple(f"Müde & <{chr(97 + k)}>" for k in range(count))
    table = one_subject(classes)
    page = report.write_report(tmp_path / "r.html", table, summarise(table, classes), classes=classes)
    browser.open(page)
    browser.js("mien.show(1.0, false)")
    assert browser.js("document.getElementById('expression').textContent") == classes[-1]
    assert browser.js("[...bars.children].filter((_, k) => k % 3 === 0).map(e => e.textContent)") == list(classes)
    assert browser.js("[...bars.children].filter((_, k) => k % 3 === 2).at(-1).textContent") == "60 %"
    assert browser.js("new Set(mien.data.expressions.map(e => e.colour)).size") == count
    assert not [name for name in EXPRESSIONS if name in shown_text(browser)]
    assert browser.errors() == []


def test_the_curves_of_a_section_end_where_its_rows_end(browser: Browser, tmp_path: Path) -> None:
    n = 50
    table = subject_rows(
        0, 1 + np.arange(n) / 25, probabilities=np.tile(np.eye(8)[4], (n, 1)), frames=np.arange(n),
        valence_arousal=np.full((n, 2), [0.5, -0.5]), voice=np.zeros(n, bool), face=np.ones(n, bool),
        boxes=np.tile([1.0, 1, 9, 9], (n, 1)),
    )  # fmt: skip
    info = {"media": {"kind": "video", "duration_s": 10.0}, "section": {"start_s": 1.0, "stop_s": 3.0}}
    page = report.write_report(tmp_path / "r.html", table, summarise(table), info=info)
    assert "0:01.0 to 0:03.0 of 0:10.0" in page.read_text(encoding="utf-8")
    browser.open(page)
    # Pixels in the colour of valence in the column of a time.
    of_valence = (
        "(t => { const probe = document.createElement('canvas').getContext('2d'), ratio = devicePixelRatio;"
        "probe.fillStyle = getComputedStyle(document.documentElement).getPropertyValue('--valence').trim();"
        "probe.fillRect(0, 0, 1, 1); const [r, g, b] = probe.getImageData(0, 0, 1, 1).data;"
        "mien.show(t, false);"
        "const x = Math.round((document.getElementById('needle').offsetLeft) * ratio);"
        "const d = chart.getContext('2d').getImageData(x, 0, 1, chart.height).data; let n = 0;"
        "for (let i = 0; i < d.length; i += 4)"
        " n += Math.abs(d[i] - r) + Math.abs(d[i + 1] - g) + Math.abs(d[i + 2] - b) < 30 && d[i + 3] > 200;"
        "return n; })"
    )
    assert browser.js(f"{of_valence}(2)") > 0
    assert browser.js(f"{of_valence}(6)") == 0
