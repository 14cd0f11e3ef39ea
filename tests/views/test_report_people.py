"""Report page of several people, stills and sound: faces, absence, speech, peaks, confidence, controls, print."""

from __future__ import annotations

import base64
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
from views_support import HEIGHT, WIDTH, Browser, box_at

from mien.labels import EXPRESSIONS
from mien.media.video import write_video
from mien.timeline.subject_rows import subject_rows
from mien.timeline.summary import summarise
from mien.timeline.table import Timeline
from mien.views import extracts, report


@pytest.fixture(scope="module")
def page(timeline: Timeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return timeline.report(tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture
def opened(page: Path, browser: Browser) -> Browser:
    browser.open(page)
    return browser


def text_of(browser: Browser, selector: str) -> str:
    return browser.js(f"document.querySelector('{selector}').textContent")


# --- faces ---


def test_each_person_with_a_face_has_a_picture(page: Path, timeline: Timeline, tmp_path: Path) -> None:
    faces = report.read_thumbnails(page)
    assert list(faces) == [0, 1]
    for url in faces.values():
        data = np.frombuffer(base64.b64decode(url.partition(",")[2]), np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]
        assert image.shape == (extracts.SIDE, extracts.SIDE, 3)
        assert np.abs(image[40:56, 40:56].astype(int) - (230, 190, 170)).mean() < 12, "the pale square is the face"
    without = timeline.report(tmp_path / "r.html", embed=False)
    assert report.read_thumbnails(without) == {}, "--no-embed stores no picture of a person"
    assert report.read_thumbnails(tmp_path / "missing.html") == {}


def test_a_face_at_the_edge_of_the_picture_is_a_whole_square() -> None:
    image = np.zeros((50, 80, 3), np.uint8)
    for box in ([-20, -20, 10, 10], [70, 40, 100, 90], [0, 0, 80, 50]):
        url = extracts._crop(image, list(map(float, box)), (80, 50))
        data = np.frombuffer(base64.b64decode(url.partition(",")[2]), np.uint8)
        assert cv2.imdecode(data, cv2.IMREAD_COLOR).shape == (extracts.SIDE, extracts.SIDE, 3)


def test_cards_say_who_is_absent_and_who_speaks(timeline: Timeline, browser: Browser, tmp_path: Path) -> None:
    own = pl.when((pl.col("subject") == 1) & (pl.col("time_s") < 1)).then(pl.lit("own")).otherwise(pl.lit(None))
    table = timeline.table.with_columns(
        *(
            pl.when((pl.col("subject") == 0) & pl.col("expression").is_null()).then(None).otherwise(pl.col(c)).alias(c)
            for c in ("valence", "arousal")
        ),
        speech=own,
    )
    browser.open(Timeline(table, media=timeline.media, info=timeline.info).report(tmp_path / "r.html", embed=False))
    cards = "[...subjects.children].map(c => [c.textContent, c.className])"
    browser.js("mien.show(0.3, false)")
    assert browser.js(cards) == [["Subject 0Neutral", ""], ["Subject 1Sadness", "speaking"]]
    browser.js("mien.show(2.6, false)")
    assert browser.js(cards) == [["Subject 0absent", "away"], ["Subject 1Sadness", ""]]
    browser.js("mien.selectSubject(1), mien.show(0.3, false)")
    assert browser.js("document.getElementById('speaks').classList.contains('on')")
    assert browser.errors() == []


def test_rows_of_all_people_are_drawn_and_select_them(opened: Browser) -> None:
    """The bands of both people have the colours of their expressions at the same time; a click selects the row's."""
    pixel = (
        "((x, y) => [...chart.getContext('2d').getImageData(x * devicePixelRatio, y * devicePixelRatio, 1, 1).data])"
    )
    box = opened.js("(r => [r.left, r.top, r.width])(plot.getBoundingClientRect())")
    x = 104 + (box[2] - 104) * 0.1  # 0.4 s
    first, second = opened.js(f"{pixel}({x}, 4)"), opened.js(f"{pixel}({x}, 41)")
    assert np.allclose(first[:3], (0x9A, 0xA3, 0xAD), atol=30)
    assert np.allclose(second[:3], (0x00, 0x72, 0xB2), atol=30)
    opened.mouse("mousePressed", box[0] + 20, box[1] + 45)
    opened.mouse("mouseReleased", box[0] + 20, box[1] + 45)
    assert opened.js("mien.state.subject") == 1


def test_a_click_on_a_box_selects_the_person(opened: Browser) -> None:
    opened.js("mien.selectSubject(0), mien.show(0.4, false)")
    x, y = (box_at(1, 0.4)[:2] + box_at(1, 0.4)[2:]) / 2
    place = opened.js(
        "(r => [r.left, r.top, r.width, r.height])(document.getElementById('boxes').getBoundingClientRect())"
    )
    at = (place[0] + x / WIDTH * place[2], place[1] + y / HEIGHT * place[3])
    opened.mouse("mousePressed", *at)
    opened.mouse("mouseReleased", *at)
    assert opened.js("mien.state.subject") == 1
    assert opened.js("player.paused"), "a click on a face does not start the video"


# --- controls ---


def test_controls_are_below_the_picture(opened: Browser) -> None:
    assert opened.js("player.controls") is False
    below = "controls.getBoundingClientRect().top >= player.getBoundingClientRect().bottom - 1"
    assert opened.js(below)
    opened.js("mien.show(1.5, false)")
    assert text_of(opened, "#time") == "0:01.5 / 0:04.0"
    assert opened.js("Number(seek.value)") == pytest.approx(1.5)
    opened.js("seek.value = 2.5, seek.dispatchEvent(new Event('input'))")
    assert opened.js("mien.state.t") == pytest.approx(2.5)
    opened.js("speed.value = '0.5', speed.onchange()")
    assert opened.js("player.playbackRate") == 0.5


# --- peaks, confidence, missing values ---


def test_peaks_name_each_class_once_at_its_most_certain_moment(timeline: Timeline, page: Path) -> None:
    table = timeline.rows_of(0).with_columns(
        confidence=pl.when(pl.col("frame") == 30).then(0.9).otherwise(pl.col("confidence"))
    )
    peaks = report.find_peaks(table, EXPRESSIONS)
    assert [(p.expression, round(p.time_s, 2)) for p in peaks] == [("Neutral", 0.0), ("Happiness", 1.2)]
    assert peaks[1].confidence == pytest.approx(0.9)
    assert page.read_text(encoding="utf-8").count('class="stretch"') == 3  # two classes of 0, one of 1


def still(browser: Browser, folder: Path, **options: np.ndarray) -> Browser:
    cv2.imwrite(str(folder / "still.png"), np.full((90, 160, 3), 128, np.uint8))
    values = {"probabilities": np.eye(8)[[6]] * 0.84 + 0.02, "valence_arousal": np.full((1, 2), np.nan)}
    table = subject_rows(
        0, np.zeros(1), voice=np.zeros(1, bool), face=np.ones(1, bool), boxes=np.array([[40.0, 30, 70, 70]]),
        frames=np.zeros(1, int), **{**values, **options},
    )  # fmt: skip
    info = {"media": {"kind": "image", "width": 160, "height": 90}}
    browser.open(Timeline(table, media=folder / "still.png", info=info).report(folder / "r.html"))
    return browser


def test_a_still_shows_its_confidence_and_no_shares(browser: Browser, tmp_path: Path) -> None:
    still(browser, tmp_path)
    table = browser.js("document.querySelector('table').innerText")
    assert "Surprise, confidence 86\u00a0%" in table
    assert "100" not in table
    assert text_of(browser, "#when").replace("\u00a0", " ") == "confidence 86 %"


def test_a_model_without_valence_has_no_plane_and_no_zero(browser: Browser, tmp_path: Path) -> None:
    still(browser, tmp_path)
    assert browser.js("document.getElementById('plane')") is None
    page = browser.js("document.body.innerText")
    assert "+0.00" not in page
    assert "valence" not in page.lower().split("what these estimates")[0]
    assert browser.errors() == []


def test_a_row_without_valence_has_no_dot(browser: Browser, tmp_path: Path) -> None:
    """One row has valence and arousal, the other has none."""
    table = subject_rows(
        0, np.arange(2) / 1.0, probabilities=np.full((2, 8), 0.125),
        valence_arousal=np.array([[0.5, 0.5], [np.nan] * 2]), voice=np.ones(2, bool),
    )  # fmt: skip
    browser.open(report.write_report(tmp_path / "r.html", table, summarise(table)))
    ink = (
        "(() => { const d = plane.getContext('2d').getImageData(0, 0, 264, 264).data;"
        "const c = getComputedStyle(document.documentElement).getPropertyValue('--accent').trim();"
        "const rgb = [1, 3, 5].map(i => parseInt(c.slice(i, i + 2), 16)); let n = 0;"
        "for (let i = 0; i < d.length; i += 4) n += rgb.every((v, k) => Math.abs(d[i + k] - v) < 3) && d[i + 3] > 200;"
        "return n; })()"
    )
    browser.js("mien.show(0, false)")
    assert browser.js(ink) > 100
    browser.js("mien.show(1, false)")
    assert browser.js(ink) == 0
    assert text_of(browser, "#va") == "no valence\nno arousal"


def test_an_axis_without_values_is_left_out(browser: Browser, tmp_path: Path) -> None:
    values = np.column_stack([np.full(2, 0.5), np.full(2, np.nan)])
    table = subject_rows(
        0, np.arange(2) / 1.0, probabilities=np.full((2, 8), 0.125), valence_arousal=values, voice=np.ones(2, bool)
    )
    browser.open(report.write_report(tmp_path / "r.html", table, summarise(table)))
    assert text_of(browser, "#va") == "valence +0.50"
    assert "arousal −1" not in browser.js("document.querySelector('.wrap').innerText").replace("calm −1", "")
    assert browser.errors() == []


# --- sound, length, paper ---


def test_the_waveform_follows_the_loudness(tmp_path: Path) -> None:
    seconds = np.arange(48_000) / 16_000
    sound = np.where((seconds > 1) & (seconds < 2), 0.5, 0.02) * np.sin(seconds * 2000)
    write_video(tmp_path / "s.mp4", [], times=[], audio=sound.astype(np.float32))
    wave = extracts.waveform(tmp_path / "s.mp4", 3.0).astype(float) / 255
    assert len(wave) == 150
    assert wave[55:95].min() > 0.9
    assert wave[5:45].max() < 0.3
    write_video(tmp_path / "silent.mp4", [], times=[], audio=np.zeros(16_000, np.float32))
    assert len(extracts.waveform(tmp_path / "silent.mp4", 1.0)) == 0


def test_many_people_share_the_rows_of_the_page() -> None:
    n = 40_000
    one = subject_rows(
        0, np.arange(n) / 25, probabilities=np.full((n, 8), 0.125), valence_arousal=np.zeros((n, 2)),
        voice=np.ones(n, bool),
    )  # fmt: skip
    packed = report._pack(one, EXPRESSIONS, 1, 1, report.MAX_ROWS_OF_ALL // 25)
    assert packed["n"] == 4000


def test_the_clock_of_the_page_counts_hours(browser: Browser) -> None:
    mapping = (Path(report.__file__).parent / "templates" / "mapping.js").read_text()
    browser.call("Page.navigate", url="about:blank")
    run = "[59.96, 3599.96, 3725.4, 36000].map(t => mapping.clock(t, 1))"
    assert browser.js(f"(() => {{ {mapping}; return {run}; }})()") == ["1:00.0", "1:00:00.0", "1:02:05.4", "10:00:00.0"]


def test_paper_has_white_pages_without_buttons(opened: Browser) -> None:
    opened.js("document.documentElement.dataset.theme = 'dark'")
    opened.call("Emulation.setEmulatedMedia", media="print")
    try:
        opened.js("dispatchEvent(new Event('beforeprint'))")
        assert opened.js("document.documentElement.dataset.theme") == "light"
        for name in ("theme", "in", "controls"):
            assert opened.js(f"getComputedStyle(document.getElementById('{name}')).display") == "none", name
        assert opened.js("chart.getBoundingClientRect().width <= document.documentElement.clientWidth")
        opened.js("dispatchEvent(new Event('afterprint'))")
        assert opened.js("document.documentElement.dataset.theme") == "dark"
    finally:
        opened.call("Emulation.setEmulatedMedia", media="")
