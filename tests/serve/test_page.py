"""The page of the server in a real browser, with a camera and a microphone that play a rendered clip."""

from __future__ import annotations

import json
import re
import shutil
import wave
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from running_server import TOKEN, RunningServer, quiet_server, silence_wav, until

from mien.errors import ArtefactError
from mien.media.audio import SAMPLE_RATE, blocks
from mien.media.video import frames, write_video
from mien.synthetic.demo_clip import demo_scenario
from mien.synthetic.render import render_video
from mien.timeline.table import Timeline

if TYPE_CHECKING:
    from playwright.sync_api import APIResponse, Browser, Page, Route, WebSocket, WebSocketRoute

pytest.importorskip("playwright.sync_api", reason="the page is tested with playwright, which is not installed")
WAIT_MS = 60_000
#: Refusals of the server, and failures that tests cause, which the browser reports as errors too.
REFUSED = re.compile(
    r"status of 401|response code: 503|ERR_(CONNECTION_REFUSED|ACCESS_DENIED|FILE_NOT_FOUND|UPLOAD_FILE)"
)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of a rendered person who speaks; beside it the frames as MJPEG and the sound as WAV."""
    path = tmp_path_factory.mktemp("clip") / "grün & <b>grau.mp4"
    scenario = replace(demo_scenario(3.0), impairments=(), rate=Fraction(10))
    jpegs: list[bytes] = []

    def keep(number: int, image: np.ndarray) -> None:
        jpegs.append(cv2.imencode(".jpg", image[..., ::-1])[1].tobytes())

    try:
        render_video(scenario, path, on_frame=keep)
    except ArtefactError as error:
        pytest.skip(f"no clip can be rendered: {error}")
    path.with_name("camera.mjpeg").write_bytes(b"".join(jpegs))
    sound = np.concatenate([samples for _, samples in blocks(path)])
    with wave.open(str(path.with_name("microphone.wav")), "wb") as out:
        out.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        out.writeframes((np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes())
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with quiet_server(tmp_path_factory.mktemp("page"), token=TOKEN, upload_bytes=1 << 20) as running:
        yield running


@pytest.fixture(scope="module")
def browser(clip: Path) -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no chromium on this machine")
    fakes = [
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-video-capture={clip.with_name('camera.mjpeg')}",
        f"--use-file-for-fake-audio-capture={clip.with_name('microphone.wav')}",
    ]
    with sync_playwright() as playwright:
        driver = playwright.chromium.launch(executable_path=program, headless=True, args=["--no-sandbox", *fakes])
        yield driver
        driver.close()


@pytest.fixture
def page(browser: Browser, server: RunningServer) -> Iterator[Page]:
    """An empty tab. Afterwards: it asked no other server, and the browser reported no error and no refused content."""
    context = browser.new_context(permissions=["camera", "microphone"], viewport={"width": 1300, "height": 900})
    tab, asked, problems = context.new_page(), [], []
    tab.set_default_timeout(WAIT_MS)
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on(
        "console",
        lambda m: (
            problems.append(f"{m.text} {m.location['url']}")
            if m.type == "error" and not REFUSED.search(m.text)
            else None
        ),
    )
    yield tab
    context.close()
    assert problems == []
    assert asked
    assert [url for url in asked if not url.startswith((server.url, "blob:", "data:", "about:"))] == []
    for job in server.get("/v1/timelines")["timelines"]:
        server.request("DELETE", job["links"]["self"])


def opened(page: Page, server: RunningServer) -> Page:
    page.goto(f"{server.url}/#token={TOKEN}")
    page.locator("#classes li").first.wait_for()
    return page


def has_horizontal_scrolling(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth > innerWidth"))


DROPPED = """() => ["dragover", "drop"].map(type =>
    document.body.dispatchEvent(new DragEvent(type, { bubbles: true, cancelable: true })))"""
UNNAMED = """[...document.querySelectorAll("button, input, select, iframe, progress, a")].filter(e => !(
    e.textContent.trim() || e.ariaLabel || e.title || e.labels?.length)).map(e => e.outerHTML)"""


def test_recordings(page: Page, server: RunningServer, clip: Path, tmp_path: Path) -> None:
    opened(page, server)
    assert TOKEN not in page.url
    broken = {"name": "notes.mp4", "mimeType": "video/mp4", "buffer": b"no video at all"}
    page.set_input_files("#chooser", str(clip))
    page.set_input_files("#chooser", [broken, {**broken, "name": "big.mp4", "buffer": bytes((1 << 20) + 1)}])
    page.locator("#list li").nth(2).wait_for()
    big, notes, video = (page.locator("#list li").nth(k) for k in range(3))
    assert "this server takes 1 MB" in big.inner_text()
    page.locator("#list li[data-state=failed]").nth(1).wait_for()
    assert "The recording holds text, not video or audio. Nothing was read from it." in notes.inner_text()
    page.locator("#list li[data-state=done]").wait_for()
    assert clip.name in video.inner_text()
    assert "1 person, 30 rows" in video.inner_text()
    assert page.evaluate(UNNAMED) == []
    assert not any(b"grau" in path.read_bytes() for path in server.folder.rglob("*") if path.is_file())

    video.get_by_role("button", name="Report").click()
    report = page.frame_locator("#report-frame")
    report.locator("#bars .best").first.wait_for()
    assert "starter" in report.locator("header").inner_text()
    with page.context.expect_page() as opening:
        page.get_by_role("button", name="Open in a new tab").click()
    opening.value.locator("#bars .best").first.wait_for()
    opening.value.close()
    page.locator("#report-title").focus()
    page.keyboard.press("Escape")
    page.locator("#report").wait_for(state="hidden")

    for suffix in ("csv", "parquet", "jsonl"):
        video.get_by_role("combobox").select_option(suffix)
        with page.expect_download() as saved:
            video.get_by_role("button", name="Save").click()
        assert saved.value.suggested_filename.endswith(f"grau.{suffix}")
        path = tmp_path / f"timeline.{suffix}"
        saved.value.save_as(path)
        assert len(Timeline.read(path)) == 30

    for _ in range(3):
        page.locator("#list .drop-item").first.click()
    page.locator("#list-card").wait_for(state="hidden")
    assert server.get("/v1/timelines") == {"timelines": []}


@pytest.fixture(scope="module")
def long_clip(clip: Path) -> Path:
    """The frames of `clip` again and again, 40 seconds: its prediction takes longer than the first rows."""
    images = [cv2.resize(frame.image, (320, 180)) for frame in frames(clip)]
    path = clip.with_name("long.mp4")
    write_video(path, (images[n % len(images)] for n in range(1000)), times=[n / 25 for n in range(1000)], audio=None)
    return path


def test_rows_are_shown_while_a_recording_is_predicted(page: Page, server: RunningServer, long_clip: Path) -> None:
    opened(page, server)
    page.set_input_files("#chooser", str(long_clip))
    page.locator("#so-far-people canvas").wait_for()
    assert re.search(r"1 person so far, up to 0:\d\d\. Preliminary", page.locator("#so-far-facts").inner_text())
    assert page.locator("#report-title").inner_text() == "long.mp4 so far"
    assert page.evaluate(CHART_PIXELS) > 20
    assert page.locator("#list .open").get_attribute("aria-pressed") == "true"
    assert page.evaluate("document.activeElement.id") != "report-title"  # it does not take the focus
    page.locator("#list li[data-state=done]").wait_for()
    page.frame_locator("#report-frame").locator("#bars .best").first.wait_for()  # the report takes its place
    assert page.locator("#so-far").is_hidden()

    page.set_input_files("#chooser", str(long_clip))
    page.locator("#list li[data-state=running]").wait_for()
    held: list[Route] = []
    page.route("**/rows?*", lambda route: held.append(route), times=1)
    page.get_by_role("button", name="Rows of long.mp4 so far").click()
    page.get_by_text("Nothing yet.").wait_for()
    held[0].continue_()
    page.locator("#so-far-people canvas").wait_for()
    page.locator("#list .drop-item").first.click()
    page.locator("#report").wait_for(state="hidden")
    page.locator("#intro").wait_for()
    page.locator("#list li").nth(1).wait_for(state="detached")
    assert page.locator("#list li").count() == 1


def test_a_deleted_recording_does_not_come_back(page: Page, server: RunningServer) -> None:
    """Answers that were on their way when it was deleted change nothing."""
    opened(page, server)
    sound = {"name": "first.wav", "mimeType": "audio/wav", "buffer": silence_wav(0.5)}
    page.set_input_files("#chooser", [sound])
    page.locator("#list li[data-state=done]").wait_for()
    held: list[tuple[Route, APIResponse]] = []
    for address in ("**/ticket", "**/v1/timelines"):
        page.route(address, lambda route: held.append((route, route.fetch())), times=1)
    page.get_by_role("button", name="Report of first.wav").click()
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # it asks for the list
    for _ in range(1200):
        page.wait_for_timeout(50)
        if len(held) == 2:
            break
    page.get_by_role("button", name="Delete first.wav").click()
    page.locator("#list li").wait_for(state="detached")
    for route, response in held:
        route.fulfill(response=response)
    page.wait_for_timeout(300)
    assert len(held) == 2
    assert page.locator("#list li").count() == 0
    assert page.locator("#report").is_hidden()


def test_back_does_not_go_through_reports(page: Page, server: RunningServer, clip: Path) -> None:
    """Their links work once: a step of the history would ask for them in vain."""
    opened(page, server)
    page.set_input_files("#chooser", str(clip))
    page.locator("#list li[data-state=done]").wait_for()
    steps = page.evaluate("history.length")
    for _ in range(2):
        page.get_by_role("button", name="Report of").click()
        page.frame_locator("#report-frame").locator("#bars .best").first.wait_for()
        page.get_by_role("button", name="Close").click()
    assert page.evaluate("history.length") == steps


def test_a_report_that_is_deleted_elsewhere_stays_open(page: Page, server: RunningServer, clip: Path) -> None:
    opened(page, server)
    page.set_input_files("#chooser", str(clip))
    page.locator("#list li[data-state=done]").wait_for()
    page.get_by_role("button", name="Report of").click()
    report = page.frame_locator("#report-frame").locator("#bars .best").first
    report.wait_for()
    for job in server.get("/v1/timelines")["timelines"]:
        server.request("DELETE", job["links"]["self"])
    page.locator("#list li[data-state=gone]").wait_for()
    assert report.is_visible()
    assert page.get_by_role("button", name="Open in a new tab").is_hidden()  # its link would be refused


def test_a_recording_is_deleted_once(page: Page, server: RunningServer) -> None:
    """While a recording is being deleted, its buttons send no requests, which the server would answer with 404."""
    opened(page, server)
    sound = {"name": "first.wav", "mimeType": "audio/wav", "buffer": silence_wav(0.5)}
    page.set_input_files("#chooser", [sound])
    page.locator("#list li[data-state=done]").wait_for()
    held: list[Route] = []
    asked: list[str] = []
    page.route("**/v1/timelines/*", lambda route: held.append(route), times=1)
    page.on("request", lambda request: asked.append(f"{request.method} {request.url}"))
    delete = page.get_by_role("button", name="Delete first.wav")
    for button in (delete, delete, page.get_by_role("button", name="Report of first.wav")):
        button.click()
    page.get_by_role("button", name="Save").click()
    held[0].continue_()
    page.locator("#list li").wait_for(state="detached")
    assert len([request for request in asked if not request.endswith("/v1/timelines")]) == 1


HOLD_ANSWERS = """Object.defineProperty(XMLHttpRequest.prototype, "onload", { set(react) {
    this.addEventListener("load", () => { window.release = react; }); } })"""


def test_an_upload_that_is_cancelled_before_the_answer_is_deleted(page: Page, server: RunningServer) -> None:
    page.add_init_script(HOLD_ANSWERS)
    opened(page, server)
    page.set_input_files("#chooser", [{"name": "a.wav", "mimeType": "audio/wav", "buffer": silence_wav(0.5)}])
    until(lambda: page.evaluate("Boolean(window.release)"))  # the server has the recording, the page does not know
    page.get_by_role("button", name="Cancel a.wav").click()
    page.get_by_text("Cancelling").wait_for()
    page.evaluate("window.release()")
    page.locator("#list li").wait_for(state="detached")
    assert server.get("/v1/timelines") == {"timelines": []}


def test_a_file_that_cannot_be_read_is_not_blamed_on_the_server(
    page: Page, server: RunningServer, tmp_path: Path
) -> None:
    opened(page, server)
    paths = [tmp_path / "first.wav", tmp_path / "moved.wav"]
    for path in paths:
        path.write_bytes(silence_wav(0.5))
    held: list[Route] = []
    page.route("**/v1/timelines?*", lambda route: held.append(route), times=1)
    page.set_input_files("#chooser", [str(path) for path in paths])
    until(lambda: page.evaluate("1") == 1 and len(held) == 1)
    paths[1].unlink()
    held[0].continue_()
    moved = page.locator("#list li[data-state=failed]")
    moved.get_by_text("The browser cannot read this file. Nothing was sent.").wait_for()
    page.locator("#list li[data-state=done]").wait_for()


def test_a_server_that_is_away_for_a_moment_is_forgiven(page: Page, server: RunningServer) -> None:
    page.route("**/healthz", lambda route: route.abort("connectionrefused"), times=1)
    opened(page, server)  # it asks again by itself
    sound = {"name": "first.wav", "mimeType": "audio/wav", "buffer": silence_wav(0.5)}
    page.set_input_files("#chooser", [sound])
    page.locator("#list li[data-state=done]").wait_for()
    page.route("**/ticket", lambda route: route.abort("connectionrefused"), times=1)
    page.get_by_role("button", name="Report of first.wav").click()
    page.locator("#list").get_by_text("does not answer").wait_for()
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # it asks for the list, and gets it
    page.locator("#list").get_by_text("does not answer").wait_for(state="detached")


CHART_PIXELS = """() => { const c = document.querySelector("#so-far-people canvas"); return new Set(
    c.getContext("2d").getImageData(0, 0, c.width, c.height).data).size; }"""
DROP = """files => {
    const data = new DataTransfer();
    for (const [name, bytes] of files) data.items.add(new File([Uint8Array.from(bytes)], name));
    for (const type of ["dragenter", "dragover", "drop"]) {
        document.body.dispatchEvent(new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true }));
    }
}"""


def test_dropped_files_survive_a_reload(page: Page, server: RunningServer) -> None:
    opened(page, server)
    sound = list(silence_wav(0.5))
    page.evaluate(DROP, [["first.wav", sound], ["second.wav", sound]])
    page.locator("#list li[data-state=done]").nth(1).wait_for()
    assert re.findall(r"\w+\.wav", page.locator("#list").inner_text()) == ["second.wav", "first.wav"]
    page.goto("about:blank")
    opened(page, server)
    page.locator("#list li[data-state=done]").nth(1).wait_for()
    assert "first" not in page.locator("#list").inner_text()


def test_token(page: Page, server: RunningServer) -> None:
    page.goto(server.url)
    field = page.get_by_label("This server asks for a token")
    field.wait_for()
    assert page.evaluate("document.querySelector('main').inert")  # nothing can be chosen or dropped yet
    assert page.evaluate(DROPPED) == [False, False]  # what the browser would do is prevented
    assert page.evaluate("document.activeElement.id") == "token-value"
    field.fill("wrong-token-0123456789")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    assert page.locator("#token-error").inner_text() == ""
    field.press("Enter")
    page.get_by_text("does not accept this token").wait_for()
    field.fill(TOKEN)
    field.press("Enter")
    page.locator("#classes li").first.wait_for()
    page.locator("#token").wait_for(state="hidden")
    assert not page.evaluate("document.querySelector('main').inert")
    assert page.evaluate("document.activeElement.id") == "tab-files"  # a keyboard goes on from there
    assert TOKEN not in json.dumps(page.context.storage_state()) + page.url
    assert page.evaluate("sessionStorage.length") == 0


def test_themes_narrow_screens_and_keys(page: Page, server: RunningServer) -> None:
    opened(page, server)
    for scheme, colour in (("dark", "rgb(18, 20, 23)"), ("light", "rgb(246, 245, 242)")):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        until(lambda: page.evaluate("getComputedStyle(document.body).backgroundColor") == colour)  # noqa: B023
    page.set_viewport_size({"width": 360, "height": 740})
    page.evaluate(DROP, [["a-name-" + "that-does-not-end-" * 9 + ".wav", list(silence_wav(0.3))]])
    page.locator("#list li[data-state=done]").wait_for()
    assert not has_horizontal_scrolling(page)
    page.locator("#tab-files").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "tab-camera"
    page.get_by_text("Before the camera starts").wait_for()
    assert not has_horizontal_scrolling(page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "use-camera"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_page_of_routes(page: Page, server: RunningServer) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(f"{server.url}/docs")
    page.get_by_text("POST /v1/timelines").first.wait_for()
    assert not has_horizontal_scrolling(page)
    assert "`" not in page.locator("main").inner_text()
    page.emulate_media(color_scheme="dark")
    until(lambda: page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 20, 23)")


def live_sessions(server: RunningServer) -> float:
    found = re.search(r"^mien_live_sessions (\S+)$", server.request("GET", "/metrics")[1].decode(), re.MULTILINE)
    assert found
    return float(found[1])


PIXELS = """id => { const c = document.getElementById(id); return c.width ? new Set(
    c.getContext("2d").getImageData(0, 0, c.width, c.height).data).size : 0; }"""


def test_camera(page: Page, server: RunningServer, tmp_path: Path) -> None:
    opened(page, server)
    page.click("#tab-camera")
    assert f"only to 127.0.0.1:{server.port}, a server on this computer" in page.locator("#consent").inner_text()
    page.click("#start")
    page.get_by_text("Ask everybody").wait_for()
    assert live_sessions(server) == 0
    page.check("#agreed")
    page.keyboard.press("Enter")
    page.locator("#sign.on").get_by_text("Camera and microphone are on").wait_for()
    page.locator("#bars .best").first.wait_for()
    page.locator("#face.on").wait_for()
    page.locator("#voice.on").wait_for()
    until(lambda: page.evaluate(PIXELS, "boxes") > 3)
    assert page.evaluate(PIXELS, "chart") > 20
    assert re.search(r"valence [+−]0\.\d\d\narousal [+−]0\.\d\d", page.locator("#va").inner_text())
    page.get_by_text("s behind").wait_for()
    page.set_viewport_size({"width": 360, "height": 740})
    assert not has_horizontal_scrolling(page)
    assert page.title().startswith("● Camera on")

    tracks = page.evaluate_handle("document.getElementById('video').srcObject.getTracks()")
    page.keyboard.press("Escape")
    page.locator("#sign").get_by_text("Camera and microphone are off").wait_for()
    assert tracks.evaluate("tracks => tracks.map(t => t.readyState)") == ["ended", "ended"]
    assert page.title() == "mien"
    page.get_by_text("here in this tab alone").wait_for()
    until(lambda: live_sessions(server) == 0)
    assert server.files() == set()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save rows").click()
    saved.value.save_as(tmp_path / "live.jsonl")
    table = Timeline.read(tmp_path / "live.jsonl").table
    assert set(table["evidence"]) >= {"both"}
    assert str(len(table)) in page.locator("#live-facts").inner_text()


def test_a_session_that_ends_late_leaves_the_next_one_alone(page: Page, server: RunningServer) -> None:
    """The last rows of a session may come when the next one has begun: its camera can be switched off all the same."""
    held: list[tuple[WebSocketRoute, str | bytes]] = []

    def delay_end(socket: WebSocketRoute) -> None:
        upstream, is_first = socket.connect_to_server(), not held
        held.append((socket, ""))

        def pass_on(message: str | bytes) -> None:
            if is_first and '"end"' in str(message):
                held.append((socket, message))
            else:
                socket.send(message)

        upstream.on_message(pass_on)
        upstream.on_close(lambda code, reason: None if is_first else socket.close(code=code, reason=reason))

    page.route_web_socket("**/v1/live?*", delay_end)
    opened(page, server)
    page.click("#tab-camera")
    page.check("#agreed")
    for _ in range(2):
        page.click("#start")
        page.locator("#face.on").wait_for()
        if len(held) > 2:
            break
        page.get_by_role("button", name="Stop").click()
        until(lambda: page.evaluate("1") == 1 and len(held) == 2)
        page.get_by_role("button", name="Start again").click()
    first, end = held[1]
    first.send(end)
    first.close(code=1000)
    page.locator("#sign.on").wait_for()
    page.click("#tab-files")
    assert page.get_by_role("tab", name="Camera is on").is_visible()  # the sign is hidden with the camera's view
    tracks = page.evaluate_handle("document.getElementById('video').srcObject.getTracks()")
    page.keyboard.press("Escape")
    page.get_by_role("tab", name="Camera", exact=True).wait_for()
    assert tracks.evaluate("tracks => tracks.map(t => t.readyState)") == ["ended", "ended"]
    until(lambda: live_sessions(server) == 0)


DAMAGE = """() => { const send = WebSocket.prototype.send; let chunks = 0; WebSocket.prototype.send = function (data) {
    if (data[0] === 4 && ++chunks === 12) data.fill(255, 16);
    send.call(this, data); }; }"""


@pytest.mark.parametrize("has_encoder", [True, False], ids=["WebCodecs", "without WebCodecs"])
def test_camera_sends_video_where_the_browser_encodes_it(page: Page, server: RunningServer, has_encoder: bool) -> None:
    sent: list[tuple[int, int]] = []  # kind, mark of a key frame
    asked: list[str] = []

    def watch(socket: WebSocket) -> None:
        socket.on("framesent", lambda data: sent.append((data[0], data[2])) if isinstance(data, bytes) else None)
        socket.on("framereceived", lambda data: asked.append(data) if '"key_frame"' in data else None)

    page.on("websocket", watch)
    page.add_init_script(f"({DAMAGE})()" if has_encoder else "delete window.VideoEncoder")
    page.goto(f"{server.url}/?pictures=video#token={TOKEN}")
    page.click("#tab-camera")
    page.check("#agreed")
    page.uncheck("#use-microphone")
    page.click("#start")
    page.locator("#face.on").wait_for()
    if has_encoder:
        until(lambda: page.evaluate("1") == 1 and sent.count((4, 1)) >= 2)
        # For the chunk that was damaged on its way. Others may be left out, where the computer is busy.
        assert sum("a chunk of vp8 is damaged" in message for message in asked) == 1
        before = len(sent)
        until(lambda: page.evaluate("1") == 1 and len(sent) > before + 10)
        assert sent[0] == (4, 1)
        assert {kind for kind, _ in sent} == {4}
    else:
        assert {kind for kind, _ in sent} == {1}
    page.keyboard.press("Escape")
    page.get_by_text("here in this tab alone").wait_for()
    until(lambda: live_sessions(server) == 0)


@pytest.mark.parametrize(
    ("name", "advice"), [("NotAllowedError", "Allow both in the address bar"), ("NotFoundError", "Connect it")]
)
def test_camera_that_cannot_be_used(page: Page, server: RunningServer, name: str, advice: str) -> None:
    page.add_init_script(
        f"navigator.mediaDevices.getUserMedia = async () => {{ throw new DOMException('', '{name}'); }}"
    )
    opened(page, server)
    page.click("#tab-camera")
    page.check("#agreed")
    page.click("#start")
    page.get_by_text(advice).wait_for()
    assert page.evaluate("document.activeElement.id") == "start"
    assert live_sessions(server) == 0


def test_full_server_says_so(page: Page, server: RunningServer) -> None:
    from websockets.sync.client import connect

    address = f"ws://127.0.0.1:{server.port}/v1/live"
    with ExitStack() as others:
        for _ in range(2):
            others.enter_context(connect(address, subprotocols=[f"mien.token.{TOKEN}"]))  # type: ignore[list-item]
        opened(page, server)
        page.click("#tab-camera")
        page.check("#agreed")
        page.uncheck("#use-camera")
        page.click("#start")
        page.locator("#live-facts").get_by_text("It allows a small number at a time").wait_for()
        page.get_by_role("button", name="Start again").click()
        page.get_by_text("Before the camera starts").wait_for()
        page.route_web_socket("**/v1/live?*", lambda socket: socket.close(code=1001))
        page.route("**/v1/models", lambda route: route.abort("connectionrefused"))
        page.click("#start")
        page.locator("#live-facts").get_by_text("does not answer. Check that mien serve still runs").wait_for()
