"""Report page, tested in a browser: one file, no network requests, chart cursor and video in step."""

from __future__ import annotations

import base64
import re
import time
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
from views_support import HEIGHT, WIDTH, Browser, box_at

from mien.errors import MediaError, OutputError
from mien.labels import EXPRESSIONS
from mien.timeline.subject_rows import subject_rows
from mien.timeline.summary import summarise
from mien.timeline.table import Timeline
from mien.views import report
from mien.views.palette import EXPRESSION, rgb

MAPPING = (Path(report.__file__).parent / "templates" / "mapping.js").read_text()


@pytest.fixture(scope="module")
def page(timeline: Timeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return timeline.report(tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture
def opened(page: Path, browser: Browser) -> Browser:
    browser.open(page)
    return browser


def plot_x(browser: Browser, time_s: float) -> tuple[float, float]:
    """Screen position of a time on the chart."""
    box = browser.js("(r => [r.left, r.top, r.width])(document.getElementById('plot').getBoundingClientRect())")
    view = browser.js("[mien.state.view.from, mien.state.view.to]")
    gutter = 104
    return box[0] + gutter + (time_s - view[0]) / (view[1] - view[0]) * (box[2] - gutter), box[1] + 60


def wait_for(browser: Browser, expression: str, expected: float, within: float, patience_s: float = 60.0) -> float:
    """Waits until a value is near the expected one and returns it, or the last value at the timeout."""
    until = time.monotonic() + patience_s
    while True:
        value = browser.js(expression)
        if abs(value - expected) <= within or time.monotonic() > until:
            return value
        time.sleep(0.03)


def after(browser: Browser, expression: str, least: float, patience_s: float = 60.0) -> float:
    """Waits until a value that grows is above another one and returns it, or the last value at the timeout."""
    until = time.monotonic() + patience_s
    while (value := browser.js(expression)) <= least and time.monotonic() < until:
        time.sleep(0.03)
    return value


# --- the file ---


def test_page_is_one_file_without_external_urls(page: Path) -> None:
    assert [p.name for p in page.parent.iterdir()] == ["report.html"]
    text = re.sub(r'<script type="text/plain" class="media">.*?</script>', "", page.read_text(), flags=re.S)
    assert not re.search(r"https?://(?!www\.w3\.org)", text)
    assert not re.search(r"<(link|iframe|object)\b", text)
    assert not re.search(r"(src|href)=[\"'](?!data:)", text)


def test_names_and_notes_are_escaped(page: Path) -> None:
    text = page.read_text()
    assert "grün &amp; grau.mp4" in text
    assert "a note with &lt;b&gt;markup&lt;/b&gt; in it" in text
    assert "<b>markup" not in text


def test_a_media_name_cannot_end_the_data_element(timeline: Timeline, tmp_path: Path) -> None:
    hostile = Timeline(timeline.table, media="</script><script>alert(1)</script>.mp4")
    text = hostile.report(tmp_path / "r.html", embed=False).read_text()
    assert "<script>alert(1)" not in text


def test_page_states_the_limits_of_the_estimates(page: Path) -> None:
    text = page.read_text()
    for part in (
        "What these estimates are not",
        "2024/1689",
        "at work and in education",
        "not say what a person feels",
    ):
        assert part in text, part


def test_summary_is_readable_without_javascript(page: Path) -> None:
    text = re.sub(r"<script.*?</script>", "", page.read_text(), flags=re.S)
    for part in ("Happiness 72\u00a0%", "Neutral 28\u00a0%", "Sadness 100\u00a0%", "no expression 10\u00a0%", "both"):
        assert part in text, part


# --- the browser ---


def test_page_makes_no_network_requests_and_logs_no_errors(opened: Browser) -> None:
    opened.js("new Promise(done => setTimeout(done, 150))")
    assert [u for u in opened.requested_urls() if not u.startswith(("file:", "blob:", "data:"))] == []
    assert opened.errors() == []


def test_embedded_recording_plays(opened: Browser) -> None:
    assert opened.js("[player.videoWidth, player.videoHeight]") == [WIDTH, HEIGHT]
    assert opened.js("player.duration") == pytest.approx(4, abs=0.1)
    assert opened.js("document.querySelectorAll('script.media').length") == 0  # removed once decoded


def test_a_click_on_the_chart_seeks_the_video(opened: Browser) -> None:
    x, y = plot_x(opened, 2.5)
    opened.mouse("mousePressed", x, y)
    opened.mouse("mouseReleased", x, y)
    assert wait_for(opened, "player.currentTime", 2.5, 0.02) == pytest.approx(2.5, abs=0.02)
    assert opened.js("mien.state.t") == pytest.approx(2.5, abs=0.02)
    assert opened.js("needle.textContent") == "0:02.50"


def test_a_drag_on_the_chart_seeks_to_its_end(opened: Browser) -> None:
    opened.mouse("mousePressed", *plot_x(opened, 0.5))
    for t in (1.0, 2.0, 3.2):
        opened.mouse("mouseMoved", *plot_x(opened, t))
    opened.mouse("mouseReleased", *plot_x(opened, 3.2))
    assert wait_for(opened, "player.currentTime", 3.2, 0.02) == pytest.approx(3.2, abs=0.02)
    opened.mouse("mouseMoved", *plot_x(opened, 1.0))
    assert opened.js("mien.state.t") == pytest.approx(3.2, abs=0.02), (
        "the cursor must stay after the button is released"
    )


def test_the_video_moves_the_cursor(opened: Browser) -> None:
    opened.js("player.muted = true, player.play()")
    assert after(opened, "mien.state.t", 0.3) > 0.3
    # The cursor moves with each frame of the page, and frames are rare where the computer is busy: the least of a few.
    drift = min(opened.js("Math.abs(mien.state.t - player.currentTime)") for _ in range(20))
    opened.js("player.pause()")
    assert drift < 0.15
    opened.js("player.currentTime = 1.2")
    assert wait_for(opened, "mien.state.t", 1.2, 0.03) == pytest.approx(1.2, abs=0.03)


def test_video_shows_the_frame_of_the_current_row(opened: Browser) -> None:
    """Frame i has grey level 20 + 2 i, so the video must show the frame that the read-out names."""
    grey_level = (
        "(() => { const g = new OffscreenCanvas(player.videoWidth, player.videoHeight).getContext('2d');"
        "g.drawImage(player, 0, 0); return g.getImageData(4, 4, 1, 1).data[0]; })()"
    )
    for row in (7, 40, 71):
        opened.js(f"mien.show({row} / 25, true)")
        assert wait_for(opened, grey_level, 20 + 2 * row, 1.0) == pytest.approx(20 + 2 * row, abs=1.0)
        assert f"frame {row}" in opened.js("document.getElementById('when').textContent")


def test_keys_step_jump_zoom_and_select_a_subject(opened: Browser) -> None:
    opened.js("mien.show(1, false)")
    opened.key("ArrowRight")
    assert opened.js("mien.state.t") == pytest.approx(1.04, abs=1e-5)
    opened.key("ArrowLeft")
    opened.key("ArrowLeft")
    assert opened.js("mien.state.t") == pytest.approx(0.96, abs=1e-5)
    opened.key("ArrowRight", shift=True)
    assert opened.js("mien.state.t") == pytest.approx(1.96, abs=1e-5)
    opened.key("+")
    view = opened.js("mien.state.view")
    assert view["to"] - view["from"] == pytest.approx(2, abs=1e-6)
    assert view["from"] <= 1.96 <= view["to"]
    opened.key("0")
    assert opened.js("mien.state.view.to - mien.state.view.from") == pytest.approx(4, abs=1e-6)
    opened.key("2")
    assert opened.js("document.getElementById('expression').textContent") == "Sadness"
    opened.key("End")
    assert opened.js("mien.state.t") == pytest.approx(4, abs=1e-6)


@pytest.mark.parametrize(
    ("time_s", "name", "evidence", "share"),
    [
        (0.2, "Neutral", "evidence: both", "65 %"),
        (1.7, "Happiness", "evidence: face", "65 %"),
        (2.2, "Happiness", "evidence: voice", "65 %"),
        (2.6, "no expression", "evidence: none", "–"),
    ],
)
def test_readout_shows_the_current_row(opened: Browser, time_s: float, name: str, evidence: str, share: str) -> None:
    opened.js(f"mien.show({time_s} + 1e-4, false)")
    assert opened.js("document.getElementById('expression').textContent") == name
    assert opened.js("document.getElementById('evidence').textContent") == evidence
    best = "[...bars.children].filter(c => c.classList.contains('best')).map(c => c.textContent)"
    assert opened.js(best) == ([name, "", share] if share != "–" else [])
    assert opened.js("[face, voice].map(b => b.classList.contains('on'))") == [
        evidence in ("evidence: both", "evidence: face"),
        evidence in ("evidence: both", "evidence: voice"),
    ]


def test_boxes_are_drawn_on_the_faces(opened: Browser) -> None:
    """The edge of a box has the colour of the expression; without a face there is no box."""
    pixel = (
        f"((x, y) => {{ const s = player.clientWidth / {WIDTH}, r = devicePixelRatio;"
        f"const down = (player.clientHeight - {HEIGHT} * s) / 2, canvas = boxes.getContext('2d');"
        "return [...canvas.getImageData(Math.round(x * s * r), Math.round((y * s + down) * r), 1, 1).data]; })"
    )

    def edge(subject: int, t: float) -> list[int]:
        x1, y1, _, y2 = box_at(subject, t)
        opened.js(f"mien.selectSubject({subject}), mien.show({t} + 1e-4, false)")
        return opened.js(f"{pixel}({x1}, {(y1 + y2) / 2})")

    assert np.allclose(edge(0, 0.4)[:3], rgb(EXPRESSION["Neutral"]), atol=40)
    assert np.allclose(edge(1, 3.4)[:3], rgb(EXPRESSION["Sadness"]), atol=40)
    assert edge(0, 2.2)[3] == 0


def test_stretch_buttons_and_url_fragments_seek(page: Path, opened: Browser) -> None:
    opened.js("[...document.querySelectorAll('.stretch')].find(b => b.dataset.subject === '1').click()")
    assert opened.js("mien.state.subject") == 1
    opened.open(page, "#t=3.16")
    assert wait_for(opened, "player.currentTime", 3.16, 0.02) == pytest.approx(3.16, abs=0.02)


def test_theme_button_switches_the_background(opened: Browser) -> None:
    opened.js("document.documentElement.dataset.theme = 'light'")
    before = opened.js("getComputedStyle(document.body).backgroundColor")
    opened.js("theme.click()")
    assert opened.js("getComputedStyle(document.body).backgroundColor") != before
    assert opened.errors() == []


def test_page_fits_a_phone_screen(opened: Browser) -> None:
    size = {"width": 360, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    opened.call("Emulation.setDeviceMetricsOverride", **size)
    try:
        # The page redraws in its resize event, which comes with the next frame.
        opened.js("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")
        wide = opened.js("document.documentElement.scrollWidth")
        bar = opened.js("document.querySelector('#bars .rail').clientWidth")
        beyond = opened.js("[...controls.children].filter(e => e.getBoundingClientRect().right > 346).length")
        drawn = opened.js("chart.width / devicePixelRatio <= document.documentElement.clientWidth")
    finally:
        opened.call("Emulation.clearDeviceMetricsOverride")
    assert wide <= 360
    assert drawn
    assert bar > 120, "long enough to tell shares apart"
    assert beyond == 0


# --- other media ---


def test_page_without_recording_can_open_a_local_file(timeline: Timeline, browser: Browser, tmp_path: Path) -> None:
    page = timeline.report(tmp_path / "r.html", embed=False)
    assert page.stat().st_size < 150_000
    browser.open(page)
    assert browser.js("!document.getElementById('absent').hidden && player.hidden")
    browser.mouse("mousePressed", *plot_x(browser, 1.5))
    browser.mouse("mouseReleased", *plot_x(browser, 1.5))
    assert browser.js("mien.state.t") == pytest.approx(1.5, abs=0.02)
    root = browser.call("DOM.getDocument")["root"]["nodeId"]
    node = browser.call("DOM.querySelector", nodeId=root, selector="#chooser")["nodeId"]
    browser.call("DOM.setFileInputFiles", nodeId=node, files=[timeline.media])
    assert wait_for(browser, "player.currentTime", 1.5, 0.02) == pytest.approx(1.5, abs=0.02)
    assert browser.js("player.hidden") is False


def test_audio_only_recording(recording: Path, browser: Browser, tmp_path: Path) -> None:
    from mien.media.video import write_video

    tone = (0.2 * np.sin(np.arange(32_000) / 5)).astype(np.float32)
    write_video(tmp_path / "sound.mp4", [], times=[], audio=tone)
    n = 20
    p = np.full((n, 8), 0.125)
    table = subject_rows(
        0, np.arange(n) / 10, probabilities=p, valence_arousal=np.zeros((n, 2)), voice=np.arange(n) > 9
    )
    page = Timeline(table, media=tmp_path / "sound.mp4").report(tmp_path / "r.html")
    browser.open(page)
    assert browser.js("player.tagName") == "AUDIO"
    assert browser.js("player.duration") == pytest.approx(2, abs=0.1)
    browser.js("player.muted = true, player.play()")
    assert after(browser, "mien.state.t", 0.3) > 0.3
    assert browser.errors() == []


def test_image_has_no_timeline_chart(browser: Browser, tmp_path: Path) -> None:
    image = np.full((900, 1600, 3), 128, np.uint8)
    assert cv2.imwrite(str(tmp_path / "still.png"), image)
    p = np.eye(8)[[6]] * 0.9 + 0.0125
    table = subject_rows(
        0,
        np.zeros(1),
        probabilities=p,
        valence_arousal=np.array([[0.5, -0.5]]),
        voice=np.zeros(1, bool),
        face=np.ones(1, bool),
        boxes=np.array([[400.0, 300, 700, 700]]),
        frames=np.zeros(1, int),
    )
    info = {"media": {"kind": "image", "width": 1600, "height": 900}}
    page = Timeline(table, media=tmp_path / "still.png", info=info).report(tmp_path / "r.html")
    browser.open(page)
    assert browser.js("player.tagName") == "IMG"
    assert wait_for(browser, "player.naturalWidth", 1600, 0) == 1600
    assert browser.js("document.getElementById('plot')") is None
    assert browser.js("document.getElementById('expression').textContent") == "Surprise"
    assert browser.errors() == []


# --- conversions ---


def test_time_and_pixel_conversions(browser: Browser) -> None:
    browser.call("Page.navigate", url="about:blank")

    def run(expression: str) -> object:
        return browser.js(f"(() => {{ {MAPPING}; return {expression}; }})()")

    assert run("[-1, 0, .039, .04, .0799, 5].map(t => mapping.locate([0, .04, .08, .12], t))") == [
        0,
        0,
        0,
        1,
        1,
        3,
    ]
    assert run("mapping.toTime(mapping.toPixel(7.3, {from: 2, to: 12}, 801), {from: 2, to: 12}, 801)") == pytest.approx(
        7.3
    )
    assert run("mapping.zoom({from: 0, to: 10}, .5, 4, 10, 1)") == {"from": 2, "to": 7}
    assert run("mapping.zoom({from: 2, to: 7}, 8, 4, 10, 1)") == {"from": 0, "to": 10}
    assert run("mapping.zoom({from: 0, to: 1}, .1, .5, 10, 1)") == {"from": 0, "to": 1}
    assert run("mapping.follow({from: 0, to: 5}, 7, 60)") == {"from": 6.5, "to": 11.5}
    assert run("mapping.follow({from: 0, to: 5}, 60, 60)") == {"from": 55, "to": 60}
    assert run("mapping.ticks({from: 0, to: 20}, 800, 84)") == {"step": 5, "at": [0, 5, 10, 15, 20]}
    assert run("[0, 59.96, 61.25, 600].map(t => mapping.clock(t, 1))") == [
        "0:00.0",
        "1:00.0",
        "1:01.3",
        "10:00.0",
    ]
    assert run("mapping.clock(65, 0)") == "1:05"
    assert run("mapping.fit(100, 50, 300, 300)") == {"scale": 3, "x": 0, "y": 75}
    assert run("[...mapping.decode('AAAAAAAAgD8=', Float32Array)]") == [0, 1]


# --- size and errors ---


def test_long_timelines_are_averaged(tmp_path: Path) -> None:
    n = 90_000  # an hour at 25 frames a second
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(8), n)
    table = subject_rows(
        0,
        np.arange(n) / 25,
        probabilities=p,
        valence_arousal=rng.uniform(-1, 1, (n, 2)),
        voice=np.ones(n, bool),
        face=np.ones(n, bool),
        boxes=np.tile([10.0, 10, 90, 90], (n, 1)),
        frames=np.arange(n),
    )
    page = report.write_report(tmp_path / "r.html", table, summarise(table))
    assert page.stat().st_size < 1_500_000
    packed = report._pack(table, EXPRESSIONS, 100, 100)
    assert packed["n"] == 18_000
    means = np.frombuffer(base64.b64decode(packed["p"]), np.uint8).reshape(-1, 8) / 255
    assert np.allclose(means[7], p[35:40].mean(axis=0), atol=1 / 255)


def test_writing_does_not_load_the_recording_into_memory(timeline: Timeline, tmp_path: Path) -> None:
    big = tmp_path / "big.bin"
    big.write_bytes(bytes(60_000_000))
    embedded = report.EmbeddedMedia(big, "video/mp4")
    tracemalloc.start()
    with (tmp_path / "out.html").open("w") as file:
        report._write_media(embedded, file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "out.html").stat().st_size > 80_000_000
    assert peak < 20_000_000


def test_a_missing_recording_writes_no_page(timeline: Timeline, tmp_path: Path) -> None:
    missing = Timeline(timeline.table, media=tmp_path / "missing.mp4")
    with pytest.raises(MediaError, match=r"missing\.mp4"):
        missing.report(tmp_path / "r.html")
    assert not list(tmp_path.iterdir())


def test_an_empty_timeline_is_an_error(timeline: Timeline, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no rows") as caught:
        report.write_report(tmp_path / "r.html", timeline.table.clear(), [])
    assert (caught.value.follows, bool(caught.value.remedy)) == ("No report was written.", True)


def test_kind_is_derived_from_the_rows_without_media_info() -> None:
    base = pl.DataFrame({"frame": [0, 1]})
    assert report._kind(base, {}) == "video"
    assert report._kind(base[:1], {}) == "image"
    assert report._kind(pl.DataFrame({"frame": [None, None]}), {}) == "audio"
    assert report._kind(base, {"media": {"kind": "audio"}}) == "audio"
