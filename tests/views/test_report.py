"""The report: one file, no network, the cursor tied to the video both ways. Looked at with a browser."""

from __future__ import annotations

import re
import time
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
from report_stage import HEIGHT, WIDTH, Browser, box_at

from mien.errors import MediaError, OutputError
from mien.timeline.summary import summarise
from mien.timeline.table import Timeline, subject_rows
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
    """Where on the screen the chart shows a time."""
    box = browser.js("(r => [r.left, r.top, r.width])(document.getElementById('plot').getBoundingClientRect())")
    view = browser.js("[mien.state.view.from, mien.state.view.to]")
    gutter = 104
    return box[0] + gutter + (time_s - view[0]) / (view[1] - view[0]) * (box[2] - gutter), box[1] + 60


def settled(browser: Browser, expression: str, expected: float, within: float, patience_s: float = 5.0) -> float:
    """Waits until a number has come near what is expected (a seek takes its time)."""
    until = time.monotonic() + patience_s
    while True:
        value = browser.js(expression)
        if abs(value - expected) <= within or time.monotonic() > until:
            return value
        time.sleep(0.03)


# --- the file ---


def test_it_is_one_file_that_names_no_address(page: Path) -> None:
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


def test_a_name_cannot_end_the_data(timeline: Timeline, tmp_path: Path) -> None:
    hostile = Timeline(timeline.table, media="</script><script>alert(1)</script>.mp4")
    text = hostile.report(tmp_path / "r.html", embed=False).read_text()
    assert "<script>alert(1)" not in text


def test_it_says_what_the_estimates_are_not(page: Path) -> None:
    text = page.read_text()
    for part in (
        "What these estimates are not",
        "2024/1689",
        "at work and in education",
        "not say what a person feels",
    ):
        assert part in text, part


def test_numbers_stand_in_the_page_without_a_script(page: Path) -> None:
    text = re.sub(r"<script.*?</script>", "", page.read_text(), flags=re.S)
    for part in ("Happiness 72\u00a0%", "Neutral 28\u00a0%", "Sadness 100\u00a0%", "unnamed 10\u00a0%", "both"):
        assert part in text, part


# --- the browser ---


def test_it_asks_the_network_for_nothing_and_complains_of_nothing(opened: Browser) -> None:
    opened.js("new Promise(done => setTimeout(done, 150))")
    assert [u for u in opened.asked_for() if not u.startswith(("file:", "blob:", "data:"))] == []
    assert opened.faults() == []


def test_the_recording_is_inside_and_plays(opened: Browser) -> None:
    assert opened.js("[player.videoWidth, player.videoHeight]") == [WIDTH, HEIGHT]
    assert opened.js("player.duration") == pytest.approx(4, abs=0.1)
    assert opened.js("document.querySelectorAll('script.media').length") == 0  # let go of once decoded


def test_a_click_on_the_chart_moves_the_video(opened: Browser) -> None:
    x, y = plot_x(opened, 2.5)
    opened.mouse("mousePressed", x, y)
    opened.mouse("mouseReleased", x, y)
    assert settled(opened, "player.currentTime", 2.5, 0.02) == pytest.approx(2.5, abs=0.02)
    assert opened.js("mien.state.t") == pytest.approx(2.5, abs=0.02)
    assert opened.js("needle.textContent") == "0:02.50"


def test_a_drag_moves_it_all_the_way(opened: Browser) -> None:
    opened.mouse("mousePressed", *plot_x(opened, 0.5))
    for t in (1.0, 2.0, 3.2):
        opened.mouse("mouseMoved", *plot_x(opened, t))
    opened.mouse("mouseReleased", *plot_x(opened, 3.2))
    assert settled(opened, "player.currentTime", 3.2, 0.02) == pytest.approx(3.2, abs=0.02)
    opened.mouse("mouseMoved", *plot_x(opened, 1.0))
    assert opened.js("mien.state.t") == pytest.approx(3.2, abs=0.02), "the cursor must stay once the button is up"


def test_the_video_moves_the_cursor(opened: Browser) -> None:
    opened.js("player.muted = true, player.play()")
    before = settled(opened, "mien.state.t", 0.8, 0.3)
    drift = opened.js("Math.abs(mien.state.t - player.currentTime)")
    opened.js("player.pause()")
    assert before > 0.3
    assert drift < 0.15
    opened.js("player.currentTime = 1.2")
    assert settled(opened, "mien.state.t", 1.2, 0.03) == pytest.approx(1.2, abs=0.03)


def test_the_picture_seen_is_that_of_the_row(opened: Browser) -> None:
    """Frame i is grey 20 + 2 i: what the video shows after a step must be the row that the read-out names."""
    see = (
        "(() => { const g = new OffscreenCanvas(player.videoWidth, player.videoHeight).getContext('2d');"
        "g.drawImage(player, 0, 0); return g.getImageData(4, 4, 1, 1).data[0]; })()"
    )
    for row in (7, 40, 71):
        opened.js(f"mien.show({row} / 25, true)")
        assert settled(opened, see, 20 + 2 * row, 1.0) == pytest.approx(20 + 2 * row, abs=1.0)
        assert f"frame {row}" in opened.js("document.getElementById('when').textContent")


def test_keys_step_jump_zoom_and_choose(opened: Browser) -> None:
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
        (2.6, "nothing named", "evidence: none at this moment", "–"),
    ],
)
def test_the_read_out_tells_the_row(opened: Browser, time_s: float, name: str, evidence: str, share: str) -> None:
    opened.js(f"mien.show({time_s} + 1e-4, false)")
    assert opened.js("document.getElementById('expression').textContent") == name
    assert opened.js("document.getElementById('evidence').textContent") == evidence
    best = "[...bars.children].filter(c => c.classList.contains('best')).map(c => c.textContent)"
    assert opened.js(best) == ([name, "", share] if share != "–" else [])
    assert opened.js("[face, voice].map(b => b.classList.contains('on'))") == [
        evidence in ("evidence: both", "evidence: face"),
        evidence in ("evidence: both", "evidence: voice"),
    ]


def test_boxes_lie_where_the_faces_are(opened: Browser) -> None:
    """Pixels on the edge of a face's box have its expression's colour; a face that is gone has none."""
    at = (
        f"((x, y) => {{ const s = player.clientWidth / {WIDTH}, r = devicePixelRatio;"
        f"const down = (player.clientHeight - {HEIGHT} * s) / 2, paper = boxes.getContext('2d');"
        "return [...paper.getImageData(Math.round(x * s * r), Math.round((y * s + down) * r), 1, 1).data]; })"
    )

    def edge(subject: int, t: float) -> list[int]:
        x1, y1, _, y2 = box_at(subject, t)
        opened.js(f"mien.choose({subject}), mien.show({t} + 1e-4, false)")
        return opened.js(f"{at}({x1}, {(y1 + y2) / 2})")

    assert np.allclose(edge(0, 0.4)[:3], rgb(EXPRESSION["Neutral"]), atol=40)
    assert np.allclose(edge(1, 3.4)[:3], rgb(EXPRESSION["Sadness"]), atol=40)
    assert edge(0, 2.2)[3] == 0


def test_stretches_and_addresses_lead_to_their_time(page: Path, opened: Browser) -> None:
    opened.js("[...document.querySelectorAll('.stretch')].find(b => b.dataset.subject === '1').click()")
    assert opened.js("mien.state.subject") == 1
    opened.open(page, "#t=3.16")
    assert settled(opened, "player.currentTime", 3.16, 0.02) == pytest.approx(3.16, abs=0.02)


def test_light_and_dark_both_draw(opened: Browser) -> None:
    opened.js("document.documentElement.dataset.theme = 'light'")
    before = opened.js("getComputedStyle(document.body).backgroundColor")
    opened.js("theme.click()")
    assert opened.js("getComputedStyle(document.body).backgroundColor") != before
    assert opened.faults() == []


def test_it_fits_a_telephone(opened: Browser) -> None:
    size = {"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    opened.call("Emulation.setDeviceMetricsOverride", **size)
    try:
        wide = opened.js("document.documentElement.scrollWidth")
        drawn = opened.js("chart.width / devicePixelRatio <= document.documentElement.clientWidth")
    finally:
        opened.call("Emulation.clearDeviceMetricsOverride")
    assert wide <= 390
    assert drawn


# --- other media ---


def test_without_the_recording_the_page_asks_for_it(timeline: Timeline, browser: Browser, tmp_path: Path) -> None:
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
    assert settled(browser, "player.currentTime", 1.5, 0.02) == pytest.approx(1.5, abs=0.02)
    assert browser.js("player.hidden") is False


def test_sound_alone(recording: Path, browser: Browser, tmp_path: Path) -> None:
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
    assert settled(browser, "mien.state.t", 0.6, 0.3) > 0.2
    assert browser.faults() == []


def test_a_still_picture_has_no_timeline(browser: Browser, tmp_path: Path) -> None:
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
    assert settled(browser, "player.naturalWidth", 1600, 0) == 1600
    assert browser.js("document.getElementById('plot')") is None
    assert browser.js("document.getElementById('expression').textContent") == "Surprise"
    assert browser.faults() == []


# --- the arithmetic ---


def test_mapping(browser: Browser) -> None:
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


# --- weight and faults ---


def test_a_long_timeline_stays_light_and_true(tmp_path: Path) -> None:
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
    page = report.page(tmp_path / "r.html", table, summarise(table))
    assert page.stat().st_size < 1_500_000
    packed = report._packed(table, 100, 100)
    assert packed["n"] == 18_000
    means = np.frombuffer(__import__("base64").b64decode(packed["p"]), np.uint8).reshape(-1, 8) / 255
    assert np.allclose(means[7], p[35:40].mean(axis=0), atol=1 / 255)


def test_writing_does_not_hold_the_recording(timeline: Timeline, tmp_path: Path, monkeypatch) -> None:
    big = tmp_path / "big.bin"
    big.write_bytes(bytes(60_000_000))
    inside = report.Embedded(big, "video/mp4")
    tracemalloc.start()
    with (tmp_path / "out.html").open("w") as file:
        report._pour(inside, file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "out.html").stat().st_size > 80_000_000
    assert peak < 20_000_000


def test_a_missing_recording_leaves_no_page(timeline: Timeline, tmp_path: Path) -> None:
    gone = Timeline(timeline.table, media=tmp_path / "gone.mp4")
    with pytest.raises(MediaError, match=r"gone\.mp4"):
        gone.report(tmp_path / "r.html")
    assert not list(tmp_path.iterdir())


def test_nothing_to_show_is_said(timeline: Timeline, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no rows"):
        report.page(tmp_path / "r.html", timeline.table.clear(), [])


def test_colours_stay_apart_for_colour_blind_readers() -> None:
    """Any two of the six emotions differ by at least 10 (CIE76) under each kind of dichromacy.

    Matrices of Machado, Oliveira and Fernandes, IEEE TVCG 15(6), 2009, severity 1.
    """
    kinds = {
        "protan": [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
        "deutan": [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.01182, 0.04294, 0.968881],
        ],
        "tritan": [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.3039],
        ],
    }
    names = [n for n in EXPRESSION if n not in ("Neutral", "Other")]
    linear = np.array([[(c / 255) ** 2.2 for c in rgb(EXPRESSION[n])] for n in names])
    for kind, matrix in kinds.items():
        seen = np.clip(linear @ np.array(matrix).T, 0, 1) ** (1 / 2.2)
        lab = cv2.cvtColor(seen[None].astype(np.float32), cv2.COLOR_RGB2LAB)[0]
        apart = np.linalg.norm(lab[:, None] - lab[None], axis=2) + 1e3 * np.eye(len(names))
        i, j = np.unravel_index(apart.argmin(), apart.shape)
        assert apart.min() > 10, f"{names[i]} and {names[j]} look alike ({kind}, {apart.min():.1f})"


def test_kind_is_told_from_the_rows_where_nothing_else_says() -> None:
    base = pl.DataFrame({"frame": [0, 1]})
    assert report._kind(base, {}) == "video"
    assert report._kind(base[:1], {}) == "image"
    assert report._kind(pl.DataFrame({"frame": [None, None]}), {}) == "audio"
    assert report._kind(base, {"media": {"kind": "audio"}}) == "audio"
