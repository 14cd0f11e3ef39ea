"""Live sources: names on each platform, network streams that break off and hang, microphones, and the queue."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest

from mien.errors import ConfigError, MediaError
from mien.live import reader as reader_module
from mien.live import sources
from mien.live.reader import Picture, Reader, Sound, end_s, paced, read_file
from mien.live.session import WAITING_BYTES, Pieces
from mien.live.sources import Address, find_source, hide_password
from tests.media.makers import make_audio

# --- names ---


@pytest.mark.parametrize(
    ("text", "platform", "settings", "kind", "name", "format", "microphone"),
    [
        ("0", "linux", {}, "camera", "/dev/video0", "v4l2", "default"),
        ("2", "linux", {"microphone": "hw:1"}, "camera", "/dev/video2", "v4l2", "hw:1"),
        ("/dev/video4", "linux", {"microphone": "none"}, "camera", "/dev/video4", "v4l2", None),
        ("0", "darwin", {}, "camera", "0:default", "avfoundation", None),
        ("1", "darwin", {"microphone": "none"}, "camera", "1", "avfoundation", None),
        ("screen", "darwin", {"microphone": "none"}, "screen", "Capture screen 0", "avfoundation", None),
        ("screen:1", "linux", {}, "screen", ":7.1", "x11grab", "default"),
        ("screen", "win32", {}, "screen", "desktop", "gdigrab", None),
        ("1", "win32", {}, "camera", "video=Second:audio=Headset", "dshow", None),
        ("0", "win32", {"microphone": "none"}, "camera", "video=First", "dshow", None),
        ("http://host/live", "linux", {}, "stream", "http://host/live", None, None),
        ("0", "darwin", {"pictures": False}, "camera", ":default", "avfoundation", None),
        ("1", "win32", {"pictures": False}, "camera", "audio=Headset", "dshow", None),
        ("screen", "darwin", {"pictures": False}, "screen", ":default", "avfoundation", None),
        ("DISPLAY7", "plan9", {"format": "decklink"}, "device", "DISPLAY7", "decklink", None),
    ],
)
def test_names_on_each_platform(
    monkeypatch: pytest.MonkeyPatch, text: str, platform: str, settings: dict[str, str], kind: str, name: str,
    format: str | None, microphone: str | None,
) -> None:  # fmt: skip
    here = [
        sources.Device("First", "", ("video",)), sources.Device("Headset", "", ("audio",)),
        sources.Device("Second", "", ("video",)),
    ]  # fmt: skip
    monkeypatch.setattr(sources, "devices", lambda format: here)
    monkeypatch.setenv("DISPLAY", ":7.0")
    found = find_source(text, platform=platform, **settings)  # type: ignore[arg-type]
    assert (found.kind, found.address.name, found.address.format) == (kind, name, format)
    assert (found.microphone.name if found.microphone else None) == microphone


def test_size_and_rate_are_options_of_the_device() -> None:
    found = find_source("0", size="640x480", rate=29.97, platform="linux")
    assert found.address.options == {"video_size": "640x480", "framerate": "29.97"}
    assert find_source("0", platform="darwin").address.options == {"framerate": "30"}


@pytest.mark.parametrize(
    ("text", "settings", "error", "message"),
    [
        ("0", {"size": "big"}, ConfigError, "--size big"),
        ("gopher://host", {}, ConfigError, "mien reads no gopher streams"),
        ("file:///etc/passwd", {}, ConfigError, "mien reads no file streams"),
        ("0", {"platform": "plan9"}, ConfigError, "cannot be opened on the platform 'plan9'"),
        ("missing.mp4", {}, MediaError, "missing.mp4 does not exist"),
        ("screen", {"platform": "linux"}, ConfigError, "DISPLAY is not set"),
        ("7", {"platform": "win32"}, MediaError, "there is no camera 7: 1 were found (First)"),
    ],
)
def test_names_that_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, text: str, settings: dict[str, str], error: type[Exception], message: str
) -> None:
    monkeypatch.setattr(sources, "devices", lambda format: [sources.Device("First", "", ("video",))])
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(error) as raised:
        find_source(text, **settings)  # type: ignore[arg-type]
    assert message in str(raised.value)


def test_a_password_is_not_shown() -> None:
    found = find_source("rtsp://me:secret@10.0.0.2:554/live")
    assert found.title == "rtsp://10.0.0.2:554/live"
    assert found.address.name == "rtsp://me:secret@10.0.0.2:554/live"
    assert found.media == "", "and a recording does not store the address"
    assert hide_password("http://host/a@b") == "http://host/a@b"


def test_a_camera_that_is_not_there_is_an_error_at_once() -> None:
    with pytest.raises(MediaError, match="cannot be opened"):
        list(Reader(Address("/dev/video97", "v4l2"), "camera 97"))


# --- network streams ---


@pytest.fixture(scope="module")
def transport_stream(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The clip as an MPEG transport stream, which has no header and can begin and end anywhere."""
    path = tmp_path_factory.mktemp("stream") / "clip.ts"
    with av.open(str(clip)) as source, av.open(str(path), "w", format="mpegts") as target:
        streams = {s.index: target.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    return path.read_bytes()


Serve = Callable[[list[tuple[bytes, float]]], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server on loopback that answers the k-th request with the k-th body, then waits, then hangs up."""
    servers = []

    def start(answers: list[tuple[bytes, float]]) -> str:
        numbers = itertools.count()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body, wait_s = answers[min(next(numbers), len(answers) - 1)]
                self.send_response(200)
                self.end_headers()
                self.wfile.write(body)
                self.wfile.flush()
                time.sleep(wait_s)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/live.ts"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_stream_that_breaks_off_is_opened_again(transport_stream: bytes, serve: Serve) -> None:
    url = serve([(transport_stream[: len(transport_stream) // 2], 0.0), (transport_stream, 0.0)])
    states: list[str] = []
    reader = Reader(find_source(url).address, "the stream", on_state=states.append)
    pieces: list[Picture | Sound] = []
    for piece in reader:
        pieces.append(piece)
        if reader.reconnections == 1 and sum(isinstance(p, Picture) for p in pieces) >= 100:
            break
    assert reader.reconnections == 1
    (said,) = [s for s in states if s]
    assert said.startswith("the stream: the source broke off")
    assert said.endswith("; trying again")
    assert states[-1] == ""
    times = [p.time_s for p in pieces if isinstance(p, Picture)]
    gaps = np.diff(times)
    assert (gaps > 0).all(), "the second connection goes on where the clock is"
    assert (gaps > 0.1).sum() == 1
    assert any(isinstance(p, Sound) for p in pieces)


def test_a_stream_that_hangs_is_opened_again(
    transport_stream: bytes, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "READ_TIMEOUT_S", 0.5)
    url = serve([(transport_stream, 200.0), (transport_stream, 0.0)])
    states: list[str] = []
    reader, start = Reader(find_source(url).address, "the stream", on_state=states.append), time.monotonic()
    for _ in reader:
        if reader.reconnections:
            break
    assert time.monotonic() - start < 150
    assert states[1] == "the stream: the source broke off (no data for 0.5 s); trying again"


def test_a_source_that_stays_away_ends_with_an_error(transport_stream: bytes, serve: Serve) -> None:
    url = serve([(transport_stream[: len(transport_stream) // 2], 0.0), (b"", 0.0)])
    reader = Reader(find_source(url).address, "the stream", retry_s=1.0)
    with pytest.raises(MediaError, match="did not come back in 1 s"):
        list(reader)
    assert reader.reconnections >= 1


def test_waiting_for_a_source_can_be_stopped(transport_stream: bytes, serve: Serve) -> None:
    url = serve([(transport_stream[: len(transport_stream) // 2], 0.0), (b"", 0.0)])
    stop = threading.Event()
    reader = Reader(
        find_source(url).address, "s", should_stop=stop.is_set, on_state=lambda text: stop.set() if text else None
    )
    assert list(reader), "what came before"


def test_a_recording_on_a_server_ends(clip: Path, serve: Serve) -> None:
    url = serve([(clip.read_bytes(), 0.0)])
    start = time.monotonic()
    pieces = list(Reader(find_source(url).address, "the file", clock=lambda: 10 * (time.monotonic() - start)))
    assert sum(isinstance(p, Picture) for p in pieces) == 90
    assert time.monotonic() - start >= 0.29, "it is played, not read at once"


def test_a_server_cannot_make_mien_read_a_file(clip: Path, serve: Serve) -> None:
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:3,\nfile://{clip}\n#EXT-X-ENDLIST\n".encode()
    with pytest.raises(MediaError):
        list(Reader(find_source(serve([(playlist, 0.0)])).address, "the list", retry_s=0.0))


# --- files, pace and the queue ---


def test_a_file_without_what_is_asked_for_says_so(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    make_audio(path, np.zeros(16000, np.float32))
    with pytest.raises(MediaError, match=r"sound\.wav has no pictures\n.*\n.*use both face and voice"):
        read_file(path, want_sound=False)


def test_a_file_is_read_in_the_order_of_time(clip: Path) -> None:
    ends = [end_s(piece) for piece in read_file(clip)]
    assert ends == sorted(ends)
    kinds = {type(piece) for piece in read_file(clip, want_sound=False)}
    assert kinds == {Picture}
    assert {type(piece) for piece in read_file(clip, want_pictures=False)} == {Sound}


def test_a_paced_file_waits_for_the_clock() -> None:
    pieces = [Picture(k / 10, np.zeros((1, 1, 3), np.uint8)) for k in range(5)]
    now = 0.0
    shown = []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    for piece in paced(pieces, lambda: now, sleep=sleep):
        shown.append((piece.time_s, now))
    assert all(at == pytest.approx(time_s, abs=1e-9) for time_s, at in shown)


def test_pictures_that_wait_too_long_are_dropped_and_counted() -> None:
    image = np.zeros((1000, 1000, 3), np.uint8)
    fits = WAITING_BYTES // image.nbytes
    is_read = threading.Event()

    def source() -> Iterator[Picture | Sound]:
        for k in range(fits + 5):
            yield Picture(float(k), image)
        yield Sound(0.0, np.zeros((10, 1), np.float32), 16_000)
        is_read.set()

    pieces = Pieces([source()])
    came = iter(pieces)
    first = next(came)  # starts the thread
    assert is_read.wait(60)
    rest = [piece for piece in came if piece is not None]
    pieces.close()
    assert first is not None or rest
    count = sum(isinstance(p, Picture) for p in [first, *rest])
    assert count + pieces.dropped == fits + 5
    assert 4 <= pieces.dropped <= 5
    assert isinstance(rest[-1], Sound), "sound is kept"


def test_a_file_is_never_dropped() -> None:
    image = np.zeros((1000, 1000, 3), np.uint8)
    count = WAITING_BYTES // image.nbytes + 20
    pieces = Pieces([(Picture(float(k), image) for k in range(count))], may_drop=False)
    assert sum(p is not None for p in pieces) == count
    assert pieces.dropped == 0


def test_the_first_source_decides_and_a_microphone_that_fails_is_a_note() -> None:
    def camera(error: Exception | None = None) -> Iterator[Picture | Sound]:
        for k in range(3):
            yield Picture(float(k), np.zeros((1, 1, 3), np.uint8))
        if error is not None:
            raise error
        assert is_noted.wait(60)

    def microphone() -> Iterator[Picture | Sound]:
        raise MediaError("the microphone is gone", follows="No sound.")
        yield

    notes: list[str] = []
    is_noted = threading.Event()

    def note(text: str) -> None:
        notes.append(text)
        is_noted.set()

    pieces = Pieces([camera(), microphone()], on_note=note)
    assert sum(p is not None for p in pieces) == 3
    assert notes == ["the microphone is gone"]
    with pytest.raises(MediaError, match="unplugged"):
        list(Pieces([camera(MediaError("unplugged"))]))
