"""`Timeline.show` and `Timeline.to_pandas`: what a notebook displays, and the same table in pandas."""

from __future__ import annotations

import html
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from mien.errors import ConfigError
from mien.timeline.subject_rows import subject_rows
from mien.timeline.table import Timeline


@pytest.fixture
def timeline() -> Timeline:
    """40 rows; those of the first second without a face, an expression and a frame."""
    times, dark = np.arange(40) / 20, np.arange(40) < 20
    p = np.full((40, 8), 0.05)
    p[:, 4] = 0.65
    p[dark] = np.nan
    table = subject_rows(
        0, times, probabilities=p, valence_arousal=np.where(dark[:, None], np.nan, [[0.5, -0.25]]), voice=~dark,
        face=~dark, boxes=np.tile([10.0, 20, 30, 40], (40, 1)), frames=np.where(dark, -1, np.arange(40)),
        quality={"uncertain": dark, "quality": np.linspace(0, 1, 40)},
    )  # fmt: skip
    return Timeline(table, media='x"><script>alert(1)</script>.mp4', notes=["a <b>note</b>"])


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Pretends that a notebook runs; gets the HTML of what it displays."""
    displayed: list[str] = []
    module, display = ModuleType("IPython"), ModuleType("IPython.display")
    module.__spec__ = display.__spec__ = SimpleNamespace()  # type: ignore[assignment]
    module.get_ipython = lambda: SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    display.HTML = str  # type: ignore[attr-defined]
    display.display = displayed.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return displayed


def test_show_displays_the_report_in_a_sandbox_and_leaves_no_file(
    timeline: Timeline, shown: list[str], tmp_path: Path
) -> None:
    timeline.show(height=500)
    assert not list(tmp_path.iterdir())
    (output,) = shown
    srcdoc = re.fullmatch(r'<iframe srcdoc="([^"]*)" sandbox="allow-scripts"[^>]*height: 500px[^>]*></iframe>', output)
    assert srcdoc, output[:100]
    timeline.report(tmp_path / "report.html", embed=False)
    assert html.unescape(srcdoc[1]) == (tmp_path / "report.html").read_text(encoding="utf-8")


def test_show_stores_the_recording_on_request_only(timeline: Timeline, shown: list[str], tmp_path: Path) -> None:
    from mien.media.video import write_video

    timeline.media = str(tmp_path / "v.mp4")
    write_video(
        Path(timeline.media), (np.full((48, 64, 3), 90, np.uint8) for _ in range(40)), times=list(np.arange(40) / 20)
    )
    timeline.show()
    timeline.show(embed=True)
    part = "script type=&quot;text/plain&quot; class=&quot;media&quot;"
    assert [output.count(part) > 0 for output in shown] == [False, True]


@pytest.fixture
def page() -> Iterator[Any]:
    """A page of a browser."""
    api = pytest.importorskip("playwright.sync_api")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no chromium on this machine")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, headless=True, args=["--no-sandbox"])
        yield browser.new_page()
        browser.close()


def test_the_page_runs_in_its_sandbox(timeline: Timeline, shown: list[str], page: Any) -> None:
    timeline.show()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("dialog", lambda dialog: (errors.append("a script of the name ran"), dialog.dismiss()))
    page.set_content(f"<body>{shown[0]}</body>")
    frame = page.wait_for_selector("iframe").content_frame()
    frame.wait_for_selector("canvas")
    drawn = """() => [...document.querySelectorAll("canvas")].some(c => c.width && c.getContext("2d")
        .getImageData(0, 0, c.width, c.height).data.some(v => v > 0))"""
    frame.wait_for_function(drawn, timeout=60_000)
    assert not errors


def test_without_a_notebook_show_says_what_to_do(
    timeline: Timeline, shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for shell in (None, SimpleNamespace()):  # Python, and IPython in a terminal
        monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda shell=shell: shell)
        with pytest.raises(ConfigError, match=r'does not run in one\nNothing was shown.\n.*report\("report.html"\)'):
            timeline.show()
    monkeypatch.delitem(sys.modules, "IPython")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="IPython is not installed"):
        timeline.show()
    assert not shown


def test_pandas_has_the_same_values(timeline: Timeline) -> None:
    pd = pytest.importorskip("pandas")
    frame = timeline.to_pandas()
    assert list(frame.columns) == timeline.table.columns
    for name in timeline.table.columns:
        values = [None if pd.isna(value) else value for value in frame[name].tolist()]
        assert values == timeline.table[name].to_list(), name
    assert str(frame["frame"].dtype) == "Int64"
    assert str(frame["uncertain"].dtype) == "boolean"
    assert {str(frame[name].dtype) for name in ("valence", "x1", "quality")} == {"float32"}
    assert frame.groupby("expression")["valence"].mean().to_dict() == {"Happiness": 0.5}


def test_pandas_needs_no_pyarrow_and_its_absence_is_told(timeline: Timeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match=r"to_pandas needs the package pandas(.|\n)*timeline.table is a polars"):
        timeline.to_pandas()
    monkeypatch.undo()
    pytest.importorskip("pandas")
    monkeypatch.setattr(pl.DataFrame, "to_pandas", lambda *_, **__: pytest.fail("polars asks for pyarrow"))
    monkeypatch.setattr(pl.DataFrame, "to_arrow", lambda *_, **__: pytest.fail("this is pyarrow"))
    assert len(timeline.to_pandas()) == 40
