"""Prediction of arrays, tensors, images, bytes, file objects and addresses: equal to that of the file, or an error."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mien
from mien import hub
from mien.errors import ConfigError, MediaError, MienError
from mien.media import audio, video
from mien.predict import Predictor, download, in_memory
from mien.predict.in_memory import MemoryRecording
from mien.predict.sources import open_source

needs_faces = pytest.mark.skipif(
    not (hub.available("blazeface") and hub.available("facemesh")),
    reason="the face networks are not here: mien hub pull blazeface facemesh",
)
PICTURES = np.zeros((3, 4, 6, 3), np.uint8)
TONE = (0.3 * np.sin(np.arange(8000) / 20)).astype(np.float32)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return mien.load("starter", one_thread=True)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered face that speaks, 1.2 s."""
    from mien.synthetic.demo_clip import render_demo_clip

    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    render_demo_clip(path, seconds=1.2)
    return path


@pytest.fixture(scope="module")
def expected(predictor: Predictor, clip: Path) -> pl.DataFrame:
    table = predictor.predict(clip).table
    assert table["expression"].null_count() < len(table), "the face is read"
    return table


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


# --- the same prediction ---


@needs_faces
@pytest.mark.parametrize("form", ["array", "generator", "list", "torch"])
def test_arrays_are_predicted_as_the_file_that_they_come_from(
    form: str, predictor: Predictor, clip: Path, expected: pl.DataFrame
) -> None:
    decoded = list(video.frames(clip))
    times, pictures = [f.time_s for f in decoded], [f.image for f in decoded]
    _, samples = audio.load(clip)
    given: Any = pictures
    if form == "array":
        given = np.stack(pictures)
    if form == "generator":
        given = (picture for picture in pictures)
    if form == "torch":
        torch = pytest.importorskip("torch")
        given, samples = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2), torch.from_numpy(samples)
    timeline = predictor.predict(frames=given, times=times, audio=(samples, audio.SAMPLE_RATE))
    assert timeline.table.equals(expected)
    assert timeline.media == ""
    assert timeline.info["media"]["width"] == 640


@needs_faces
def test_bytes_and_file_objects_are_predicted_as_the_file_and_leave_nothing(
    predictor: Predictor, clip: Path, expected: pl.DataFrame, scratch: Path
) -> None:
    assert predictor.predict(clip.read_bytes()).table.equals(expected)
    with clip.open("rb") as file:
        assert predictor.predict(file).table.equals(expected)
    assert not list(scratch.iterdir())


@needs_faces
def test_one_picture_is_predicted_from_every_type_as_from_its_file(
    predictor: Predictor, clip: Path, tmp_path: Path
) -> None:
    picture = next(iter(video.frames(clip))).image
    cv2.imwrite(str(tmp_path / "still.png"), picture[..., ::-1])
    of_file = predictor.predict(tmp_path / "still.png").table
    assert of_file["evidence"].to_list() == ["face"]
    assert predictor.predict(picture).table.equals(of_file)
    assert mien.predict(picture).table.equals(of_file)
    pil = pytest.importorskip("PIL.Image")
    with pil.open(tmp_path / "still.png") as opened:
        assert predictor.predict(opened.convert("RGBA")).table.equals(of_file)
    exif = pil.Exif()
    exif[0x0112] = 3  # the camera was held upside down
    turned = pil.fromarray(np.ascontiguousarray(picture[::-1, ::-1]))
    turned.save(tmp_path / "turned.png", exif=exif)
    with pil.open(tmp_path / "turned.png") as opened:
        assert predictor.predict(opened).table.equals(of_file)
    torch = pytest.importorskip("torch")
    assert predictor.predict(torch.from_numpy(picture).permute(2, 0, 1)).table.equals(of_file)


@needs_faces
def test_rows_have_the_given_times_and_sections_and_report_work(
    predictor: Predictor, clip: Path, tmp_path: Path
) -> None:
    pictures = np.stack([frame.image for frame in video.frames(clip, max_side=320)])
    times = np.cumsum(np.linspace(0.02, 0.05, len(pictures)))
    timeline = predictor.predict(frames=pictures, times=times, start_s=0.5)
    assert timeline.table["time_s"].unique().sort().to_list() == pytest.approx(times[times >= 0.5])
    assert timeline.table["frame"].min() == int((times < 0.5).sum())
    assert timeline.report(tmp_path / "report.html").stat().st_size > 10_000
    by_rate = predictor.predict(frames=pictures, fps=30_000 / 1001)
    assert by_rate.table["time_s"].max() == pytest.approx((len(pictures) - 1) * 1001 / 30_000)
    assert by_rate.info["media"]["duration_s"] == pytest.approx(len(pictures) * 1001 / 30_000)


@pytest.mark.parametrize("kind", ["float32", "float64", "int16", "int32"])
def test_sound_of_every_type_gives_the_same_samples_at_16_khz(kind: str) -> None:
    scale = {"int16": 2**15, "int32": 2**31}.get(kind, 1)
    stereo = np.stack([TONE, TONE], axis=1) * scale
    source = MemoryRecording(audio=(np.round(stereo).astype(kind) if scale > 1 else stereo.astype(kind), 16_000))
    blocks = list(source.blocks(seconds=0.2, track=None, channel=None, notes=[]))
    assert [start for start, _ in blocks] == pytest.approx([0, 0.2, 0.4])
    assert np.concatenate([samples for _, samples in blocks]) == pytest.approx(TONE, abs=2e-5)


def test_sound_is_resampled_and_its_channels_are_kept_apart() -> None:
    tones = np.stack([np.sin(2 * np.pi * f * np.arange(88_200) / 44_100) for f in (440, 1000)], axis=1)
    source = MemoryRecording(audio=(tones, 44_100))
    for channel, frequency in enumerate((440, 1000)):
        parts = [x for _, x in source.blocks(seconds=1.0, track=None, channel=channel, notes=[])]
        samples = np.concatenate(parts)
        assert len(samples) == 32_000
        spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
        assert spectrum.argmax() / 2 == frequency


def test_split_channels_of_an_array_are_subjects(predictor: Predictor) -> None:
    timeline = predictor.predict(audio=(np.stack([TONE, TONE / 2], axis=1), 16_000), split_channels=True)
    assert timeline.subjects == [0, 1]


# --- errors ---


def parts(error: MienError) -> str:
    assert error.what
    assert error.follows == "Nothing was predicted."
    assert error.remedy.endswith((".", ")"))
    return str(error)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "nothing to predict"),
        ({"frames": PICTURES}, "needs times or fps"),
        ({"frames": PICTURES, "times": [0, 1, 2], "fps": 3}, "not both"),
        ({"frames": PICTURES, "times": [0, 1]}, "frames has 3 pictures, and times 2 seconds"),
        ({"frames": PICTURES, "times": [0, 1, 1]}, r"times\[2\] is 1, after 1"),
        ({"frames": PICTURES, "times": [0, np.nan, 1]}, r"times\[1\] is nan"),
        ({"frames": PICTURES, "times": [-1, 0, 1]}, r"times\[0\] is -1; times are seconds from 0"),
        ({"frames": PICTURES, "times": "abc"}, "times is str of the wrong form"),
        ({"frames": PICTURES, "fps": 0}, "fps is 0"),
        ({"frames": PICTURES[0], "fps": 25}, "which is one picture"),
        ({"frames": PICTURES[:0], "fps": 25}, "holds no picture"),
        ({"frames": np.zeros(5, np.uint8), "fps": 25}, r"the shape \(5,\)"),
        ({"frames": "clip.mp4", "fps": 25}, r"A file is predict\(path\)"),
        ({"frames": PICTURES.astype(float), "fps": 25}, r"float64.*\n.*\n.*\* 255\)"),
        ({"frames": PICTURES.astype(int), "fps": 25}, "int64; a picture holds uint8"),
        ({"frames": [PICTURES[0, :, :, 0]], "fps": 25}, "np.stack"),
        ({"frames": np.zeros((2, 4, 6, 4), np.uint8), "fps": 25}, r"picture\[\.\.\., :3\]"),
        ({"fps": 25}, "fps was given without frames"),
        ({"audio": TONE}, "it is a pair"),
        ({"audio": (TONE, 44.1)}, "the rate of audio is 44.1"),
        ({"audio": (16_000, TONE)}, "in this order"),
        ({"audio": (np.zeros((2, 8000), np.float32), 16_000)}, r"samples\.T"),
        ({"audio": (TONE * 32768, 16_000)}, "Divide samples that were int16 by 32768"),
        ({"audio": (TONE * np.nan, 16_000)}, "reach nan"),
        ({"audio": (TONE.astype(np.int64), 16_000)}, "int64"),
        ({"audio": (TONE, 16_000), "audio_track": 1}, "audio_track is 1"),
        ({"recording": "clip.mp4", "audio": (TONE, 16_000)}, "a recording was given, and audio too"),
        ({"recording": PICTURES[0], "fps": 3}, "a picture was given, and fps too"),
        ({"recording": PICTURES}, "Give it as frames="),
        ({"recording": 3}, "a recording of the type int"),
        ({"recording": io.StringIO("text")}, "gives text"),
        ({"recording": "https://example.com/a.mp4"}, "download=True"),
    ],
)
def test_what_cannot_be_predicted_is_an_error_that_teaches(
    predictor: Predictor, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises((ConfigError, MediaError), match=words) as caught:
        predictor.predict(arguments.pop("recording", None), **arguments)
    parts(caught.value)


def test_pictures_of_another_size_or_number_are_told_while_a_generator_is_read() -> None:
    def source(pictures: list[np.ndarray], times: int) -> MemoryRecording:
        return MemoryRecording(iter(pictures), times=np.arange(times))

    def read(recording: MemoryRecording) -> int:
        return len(list(recording.frames(max_side=None, notes=[])))

    assert read(source([*PICTURES], 3)) == 3
    with pytest.raises(MediaError, match="frames has more than 2 pictures, and times 2 seconds"):
        read(source([*PICTURES], 2))
    with pytest.raises(MediaError, match="frames has 3 pictures, and times 4 seconds"):
        read(source([*PICTURES], 4))
    with pytest.raises(MediaError, match=r"frames\[3\] has the shape \(5, 6, 3\), and the first picture \(4, 6, 3\)"):
        read(source([*PICTURES, np.zeros((5, 6, 3), np.uint8)], 4))
    twice = source([*PICTURES], 3)
    read(twice)
    with pytest.raises(MediaError, match="a generator, which can be read once"):
        read(twice)


def test_a_generator_is_read_picture_by_picture() -> None:
    drawn = 0

    def pictures() -> Iterator[np.ndarray]:
        nonlocal drawn
        for number in range(1, 1001):
            drawn = number
            yield PICTURES[0]

    reading = MemoryRecording(pictures(), fps=25).frames(max_side=None, notes=[])
    assert drawn == 2, "the first two show whether it is one picture"
    assert [next(reading).time_s for _ in range(5)] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])
    assert drawn == 5


@given(st.lists(st.floats(-1, 100, width=32) | st.sampled_from([0.0, 1.0, float("nan"), float("inf")]), min_size=1))
def test_times_are_accepted_exactly_if_they_increase_from_0_on(times: list[float]) -> None:
    pictures = np.zeros((len(times), 2, 2, 3), np.uint8)
    good = all(0 <= t < float("inf") for t in times) and all(a < b for a, b in pairwise(times))
    try:
        recording = MemoryRecording(pictures, times=times)
    except MediaError:
        assert not good
    else:
        assert good
        if len(times) > 1:
            assert [frame.time_s for frame in recording.frames(max_side=None, notes=[])] == times


def test_no_library_is_imported_to_ask_what_an_array_is() -> None:
    code = (
        "import sys, numpy as np; from mien.predict.in_memory import MemoryRecording;"
        "MemoryRecording(np.zeros((2, 4, 4, 3), np.uint8), fps=25);"
        "assert not {'torch', 'PIL', 'requests', 'pandas', 'IPython'} & {*sys.modules}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- addresses ---


class Files(BaseHTTPRequestHandler):
    """Serves what `answers` names: path -> (status, headers, body)."""

    answers: dict[str, tuple[int, dict[str, str], bytes]]

    def do_GET(self) -> None:
        status, headers, body = self.answers.get(self.path, (404, {}, b""))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Serves answers on this machine, and returns the address."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "MIEN_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    handler = type("Handler", (Files,), {"answers": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()

    def answer(path: str, status: int = 200, body: bytes = b"", **headers: str) -> str:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        handler.answers[path] = (status, named, body)
        return f"http://127.0.0.1:{server.server_port}{path}"

    yield answer
    server.shutdown()
    server.server_close()


def test_an_address_is_read_with_consent_and_its_copy_removed(
    serve: Callable[..., str], tmp_path: Path, scratch: Path
) -> None:
    ok, png = cv2.imencode(".png", np.full((20, 30, 3), 90, np.uint8))
    assert ok
    address = serve("/a.png?token=secret", body=png.tobytes())
    hop = serve("/hop", status=302, Location=address)
    for url in (address, hop, address.replace("http:", "HTTP:")):
        with open_source(url, download=True) as source:
            assert (source.info.width, source.info.height, source.media) == (30, 20, "")
            assert source.info.path.stat().st_mode & 0o077 == 0 or sys.platform == "win32"
            assert source.info.path.is_relative_to(scratch)
        assert not list(scratch.iterdir())


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://example.com/a.mp4", "is not an address of http or https"),
        ("file:///etc/hostname", "is not an address of http or https"),
        ("http://127.0.0.1:9/a.mp4?token=secret", r"http://127\.0\.0\.1:9/a\.mp4 could not be downloaded"),
        ("missing", "the server answered 404"),
        ("away", "could not be downloaded: InvalidSchema"),
        ("stated", "has 2.0 kB or more|has 2 kB or more"),
        ("unstated", "at most 1 kB are downloaded"),
        ("text", "cannot be read|not|media"),
    ],
)
def test_an_address_that_cannot_be_used_is_named_without_its_secrets(
    serve: Callable[..., str], scratch: Path, monkeypatch: pytest.MonkeyPatch, url: str, words: str
) -> None:
    monkeypatch.setattr(download.download_to, "__kwdefaults__", {"max_bytes": 1000})
    served = {
        "missing": lambda: serve("/other").replace("/other", "/missing?token=secret"),
        "away": lambda: serve("/away?token=secret", status=302, Location="file:///etc/hostname"),
        "stated": lambda: serve("/stated?token=secret", body=b"", Content_Length="2000"),
        "unstated": lambda: serve("/unstated?token=secret", body=bytes(3000)),
        "text": lambda: serve("/text?token=secret", body=b"<html>log in</html>"),
    }
    address = served[url]() if url in served else url
    with pytest.raises(MediaError, match=words) as caught, open_source(address, download=True):
        pass
    assert "secret" not in str(caught.value)
    assert str(scratch) not in str(caught.value), "the error names the address, not the temporary file"
    assert not list(scratch.iterdir())


def test_offline_forbids_the_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIEN_OFFLINE", "1")
    with pytest.raises(MediaError, match="MIEN_OFFLINE"), open_source("https://example.com/a.mp4", download=True):
        pass


def test_a_path_with_a_drive_or_a_colon_is_no_address() -> None:
    assert not any(map(download.is_address, (r"C:\a.mp4", "C://a.mp4", "a:b.mp4", "clip.mp4", "://x")))
    assert download.shown("https://user:word@host/a.mp4?key=1#t") == "https://host/a.mp4"


def test_an_error_during_the_prediction_is_not_blamed_on_the_temporary_file(scratch: Path) -> None:
    png = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1]
    with pytest.raises(OSError, match="other"), open_source(png.tobytes()):
        raise OSError("other")
    assert not list(scratch.iterdir())
    assert in_memory.is_picture(PICTURES)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_the_copy_of_a_killed_process_is_removed_by_the_next(scratch: Path) -> None:
    code = (
        "import os, signal, sys, tempfile; tempfile.tempdir = sys.argv[1]\n"
        "from mien.predict.sources import open_source\n"
        "with open_source(bytes.fromhex(sys.argv[2])):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    png = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    done = subprocess.run([sys.executable, "-c", code, str(scratch), png.hex()])
    assert done.returncode == -signal.SIGKILL
    assert len(list(scratch.glob(".mien-recording.*/recording"))) == 1
    with open_source(png):
        assert len(list(scratch.iterdir())) == 1, "its own"
    assert not list(scratch.iterdir())
