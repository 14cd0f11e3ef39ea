"""Video frames and their times, from files with the irregularities of real corpora."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mien.media.audio import load
from mien.media.timestamps import TimestampRepair
from mien.media.video import frames, probe
from tests.media.limits import frame_times
from tests.media.makers import clicks, make_audio, make_video, read_stamp, stamp, tone

NTSC = Fraction(30000, 1001)
GRID = ("bbaf2n", "lbax4n", "lwbsza", "pwij3p", "swiz3n")


# ---------------------------------------------------------------- time


@pytest.mark.parametrize("extension", ["mp4", "mov", "ts"])
def test_ntsc_times_are_exact(tmp_path: Path, extension: str) -> None:
    path = make_video(tmp_path / f"a.{extension}", rate=NTSC, count=60)
    seen = list(frames(path))
    assert [read_stamp(f.image) for f in seen] == list(range(60))
    assert [f.index for f in seen] == list(range(60))
    assert [f.time_s for f in seen] == pytest.approx([i * 1001 / 30000 for i in range(60)], abs=1e-9)


def test_variable_frame_rate_keeps_every_time(tmp_path: Path) -> None:
    times = [0.0, 0.01, 0.05, 0.3, 0.31, 1.0, 1.5, 1.7, 1.71, 3.0]
    seen = list(frames(make_video(tmp_path / "v.mp4", times=times)))
    assert [read_stamp(f.image) for f in seen] == list(range(10))
    assert [f.time_s for f in seen] == pytest.approx(times, abs=1e-9)


@pytest.mark.parametrize(("video_s", "audio_s"), [(0.5, 0.0), (0.0, 0.7), (10.0, 10.4), (10.4, 10.0)])
def test_time_zero_is_the_earlier_start_of_video_and_audio(tmp_path: Path, video_s: float, audio_s: float) -> None:
    path = make_video(
        tmp_path / "s.mkv", start_s=video_s, audio=tone(1), audio_start_s=audio_s, audio_codec="pcm_s16le"
    )
    info, first = probe(path), min(video_s, audio_s)
    assert info.origin_s == pytest.approx(first, abs=1e-9)
    assert info.video_start_s == pytest.approx(video_s - first, abs=1e-3)  # Matroska counts milliseconds
    assert info.audio_start_s == pytest.approx(audio_s - first, abs=1e-3)
    assert frame_times(path)[0] == info.video_start_s
    assert load(path)[0] == info.audio_start_s


def test_a_wrong_frame_count_in_the_header_is_ignored(tmp_path: Path) -> None:
    path = make_video(tmp_path / "lie.avi", codec="mjpeg", pixel_format="yuvj420p", count=30)
    data = bytearray(path.read_bytes())
    for tag, offset in ((b"avih", 8 + 16), (b"strh", 8 + 32)):  # dwTotalFrames, dwLength
        at = data.find(tag) + offset
        assert int.from_bytes(data[at : at + 4], "little") == 30
        data[at : at + 4] = (98).to_bytes(4, "little")
    path.write_bytes(data)
    notes: list[str] = []
    assert len(frame_times(path, notes=notes)) == 30
    assert any("ends at 1.00 s although the header promises 3.27 s" in text for text in notes)


def test_timestamps_that_are_set_back_continue_from_the_last_frame(tmp_path: Path) -> None:
    parts = [make_video(tmp_path / f"{i}.ts", count=20, rate=25).read_bytes() for i in range(2)]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(parts))
    notes: list[str] = []
    times = frame_times(path, notes=notes)
    assert len(times) == 40
    assert all(a < b for a, b in pairwise(times))
    assert times == pytest.approx([i / 25 for i in range(40)], abs=1e-6)
    assert any("timestamps decrease or jump" in text and "0.76 s" in text for text in notes)


def test_a_frame_out_of_order_is_placed_after_the_previous_one(tmp_path: Path) -> None:
    order = [0, 1, 2, 4, 3, 5, 6]
    path = tmp_path / "backwards.mkv"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for i, at in enumerate(order):
            frame = av.VideoFrame.from_ndarray(stamp(i), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            for packet in stream.encode(frame):
                packet.pts, packet.dts = at, i - 4
                output.mux(packet)
    notes: list[str] = []
    seen = list(frames(path, notes=notes))
    assert [read_stamp(f.image) for f in seen] == list(range(7))
    assert [f.time_s for f in seen] == pytest.approx([0, 0.04, 0.08, 0.16, 0.161, 0.2, 0.24], abs=1e-9)
    assert any("one place" in text and "0.16 s" in text for text in notes)


@pytest.mark.parametrize(("codec", "audio"), [("libx264", True), ("mpeg4", False)])
def test_avi_with_b_frames_gets_correct_presentation_times(tmp_path: Path, codec: str, audio: bool) -> None:
    """AVI stores B-frames in decoding order without presentation times."""
    sound = {"audio": clicks([1.0], 2), "audio_codec": "mp3"} if audio else {}
    path = make_video(tmp_path / "b.avi", codec=codec, rate=25, count=50, tags={"max_b_frames": 2}, **sound)
    notes: list[str] = []
    seen = list(frames(path, notes=notes))
    assert [read_stamp(f.image) for f in seen] == list(range(50))
    assert [f.time_s for f in seen] == pytest.approx([i / 25 for i in range(50)], abs=1e-9)
    assert notes == []


def test_a_stream_without_timestamps_runs_at_its_nominal_rate(tmp_path: Path) -> None:
    path = make_video(tmp_path / "raw.h264", container="h264", rate=25, count=10)
    notes: list[str] = []
    assert frame_times(path, notes=notes) == pytest.approx([i / 25 for i in range(10)])
    assert any("timestamps are missing in 10 frames: 25 frames a second" in text for text in notes)


@given(st.lists(st.one_of(st.none(), st.fractions(-100, 100_000)), max_size=12))
@example([Fraction(16384), Fraction(-1, 371456631006), Fraction(0)])
def test_repaired_times_always_increase(raw: list[Fraction | None]) -> None:
    repair = TimestampRepair(Fraction(1, 25))
    times = [repair(t) for t in raw]
    assert all(a < b for a, b in pairwise(times))


@given(st.lists(st.fractions(Fraction(1, 1000), 3000), max_size=12))
def test_increasing_times_are_unchanged(steps: list[Fraction]) -> None:
    raw = [sum(steps[: i + 1], Fraction(0)) for i in range(len(steps))]
    repair = TimestampRepair(Fraction(1, 25))
    assert [repair(t) for t in raw] == [float(t) for t in raw]
    assert repair.faults == 0


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("hflip", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotation_metadata_is_applied(tmp_path: Path, degrees: int, hflip: bool) -> None:
    source = np.zeros((48, 64, 3), np.uint8)
    source[:24, :32], source[24:, 32:] = (255, 0, 0), (0, 0, 255)
    source[:24, 32:] = 255
    path = make_video(tmp_path / "r.mp4", count=2, picture=lambda i: source, rotation=degrees, hflip=hflip)
    expected = np.rot90(source, degrees // 90)
    expected = expected[:, ::-1] if hflip else expected
    frame = next(iter(frames(path)))
    info = probe(path)
    assert (info.width, info.height) == (expected.shape[1], expected.shape[0])
    assert frame.image.shape == expected.shape
    assert frame.image.flags.c_contiguous
    for y, x in ((0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75)):
        at = (int(y * expected.shape[0]), int(x * expected.shape[1]))
        assert np.abs(frame.image[at].astype(int) - expected[at]).max() < 20
    if not hflip:
        assert info.rotation == degrees


@pytest.mark.parametrize(("codec", "pixels"), [("ffv1", "yuv420p"), ("mjpeg", "yuvj420p"), ("ffv1", "bgr0")])
def test_odd_sizes(tmp_path: Path, codec: str, pixels: str) -> None:
    path = make_video(tmp_path / "o.mkv", codec=codec, pixel_format=pixels, size=(63, 47), count=3)
    seen = list(frames(path))
    assert all(f.image.shape == (47, 63, 3) and f.image.flags.c_contiguous for f in seen)
    assert [read_stamp(f.image) for f in seen] == [0, 1, 2]
    assert np.abs(seen[2].image[:, 10].astype(int) - 255).max() < 12


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [1, 5, 2])
def test_colours_follow_their_tags(tmp_path: Path, matrix: int, full: bool) -> None:
    """Compared with the definition: Y'CbCr with Kr, Kb of BT.709 (1) or BT.601 (5; 2 is untagged), both ranges."""
    rng = np.random.default_rng(0)
    y, u, v = rng.integers(60, 180, 16), rng.integers(90, 166, 16), rng.integers(90, 166, 16)

    def planes(_: int) -> av.VideoFrame:
        grid = [np.repeat(np.repeat(c.reshape(4, 4), n, 0), n, 1) for c, n in ((y, 16), (u, 8), (v, 8))]
        flat = np.concatenate([g.astype(np.uint8).ravel() for g in grid]).reshape(-1, 64)
        return av.VideoFrame.from_ndarray(flat, format="yuv420p")

    tags = {"colorspace": matrix, "color_range": 2 if full else 1}
    path = make_video(tmp_path / "c.mkv", codec="ffv1", size=(64, 64), count=1, planes=planes, tags=tags)
    kr, kb = (0.2126, 0.0722) if matrix == 1 else (0.299, 0.114)
    luma, cb, cr = (
        (y, u - 128, v - 128) if full else ((y - 16) * 255 / 219, (u - 128) * 255 / 224, (v - 128) * 255 / 224)
    )
    red, blue = luma + 2 * (1 - kr) * cr, luma + 2 * (1 - kb) * cb
    expected = np.clip(np.stack([red, (luma - kr * red - kb * blue) / (1 - kr - kb), blue], 1), 0, 255)
    centres = next(iter(frames(path))).image[8::16, 8::16].reshape(16, 3)
    assert np.abs(centres - expected).max() <= 3


def test_max_side_scales_down_and_never_up(tmp_path: Path) -> None:
    path = make_video(tmp_path / "m.mp4", size=(320, 240), count=3)
    small = list(frames(path, max_side=100))
    assert [f.image.shape for f in small] == [(75, 100, 3)] * 3
    assert next(iter(frames(path, max_side=1000))).image.shape == (240, 320, 3)
    for a, b in zip(small, frames(path), strict=True):
        reference = cv2.resize(b.image, (100, 75), interpolation=cv2.INTER_AREA)
        assert np.abs(a.image.astype(int) - reference).mean() < 2
    turned = make_video(tmp_path / "t.mp4", size=(320, 240), count=1, rotation=90)
    assert next(iter(frames(turned, max_side=100))).image.shape == (100, 75, 3)


def test_frames_that_change_size_are_scaled_to_the_first_frames_size(tmp_path: Path) -> None:
    sizes = ((64, 48), (128, 96))
    parts = [make_video(tmp_path / f"{w}.ts", count=10, rate=25, size=(w, h)).read_bytes() for w, h in sizes]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(parts))
    notes: list[str] = []
    seen = list(frames(path, notes=notes))
    assert {f.image.shape for f in seen} == {(48, 64, 3)}
    assert [read_stamp(f.image) for f in seen] == [*range(10), *range(10)]
    assert any("10 frames of another size" in text for text in notes)


def test_threads_do_not_change_a_pixel(tmp_path: Path) -> None:
    path = make_video(
        tmp_path / "t.mp4", picture=lambda i: np.random.default_rng(i).integers(0, 255, (48, 64, 3), np.uint8)
    )
    for a, b in zip(frames(path, threads=1), frames(path, threads=3), strict=True):
        assert a.time_s == b.time_s
        assert np.array_equal(a.image, b.image)


# ---------------------------------------------------------------- still images, audio files


@pytest.mark.parametrize("extension", ["jpg", "png", "bmp", "webp", "tiff"])
def test_a_still_image_is_one_frame_at_zero(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"100%d ü.{extension}"  # FFmpeg would interpret this name as a pattern
    path.write_bytes(cv2.imencode(f".{extension}", stamp(5)[:, :, ::-1])[1].tobytes())
    info = probe(path)
    assert (info.kind, info.width, info.height, info.has_video, info.has_audio) == (
        "image",
        64,
        48,
        True,
        False,
    )
    (frame,) = frames(path)
    assert (frame.index, frame.time_s, frame.image.shape) == (0, 0.0, (48, 64, 3))
    assert read_stamp(frame.image) == 5
    assert next(iter(frames(path, max_side=32))).image.shape == (24, 32, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((48, 64, 3), np.uint8)
    upright[:24, :32] = (255, 0, 0)
    # How each of EXIF's eight orientations stores an upright image (TIFF 6.0, tag 274).
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.swapaxes(0, 1),
        6: np.rot90(upright), 7: np.rot90(upright, 2).swapaxes(0, 1), 8: np.rot90(upright, 3),
    }[orientation]  # fmt: skip
    jpeg = cv2.imencode(".jpg", np.ascontiguousarray(stored[:, :, ::-1]))[1].tobytes()
    entry = b"II*\0\x08\0\0\0\x01\0" + b"\x12\x01\x03\0\x01\0\0\0" + bytes([orientation, 0, 0, 0]) + b"\0" * 4
    exif = b"Exif\0\0" + entry
    path = tmp_path / "e.jpg"
    path.write_bytes(jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:])
    (frame,) = frames(path)
    assert frame.image.shape == (48, 64, 3)
    assert np.abs(frame.image[12, 16].astype(int) - (255, 0, 0)).max() < 20
    assert frame.image[36, 48].max() < 20


@pytest.mark.parametrize("channels", ["grey", "alpha"])
def test_images_without_three_channels_become_rgb(tmp_path: Path, channels: str) -> None:
    image = stamp(3)[:, :, 0] if channels == "grey" else np.dstack([stamp(3), np.full((48, 64), 99, np.uint8)])
    path = tmp_path / "i.png"
    cv2.imwrite(str(path), image)
    assert np.array_equal(next(iter(frames(path))).image, stamp(3))


def test_an_audio_file_has_no_frames(tmp_path: Path) -> None:
    path = make_audio(tmp_path / "a.wav", tone(0.5))
    assert list(frames(path)) == []
    assert (probe(path).kind, probe(path).has_video) == ("audio", False)


def test_a_cover_picture_does_not_count_as_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mp3"
    with av.open(str(path), "w") as output:
        sound = output.add_stream("mp3", rate=44_100, layout="mono")
        cover = output.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(stamp(1), format="rgb24")
        picture.pts, picture.time_base = 0, Fraction(1)
        output.mux(cover.encode(picture))
        frame = av.AudioFrame.from_ndarray(tone(1)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 44_100, 0, Fraction(1, 44_100)
        output.mux(sound.encode(frame))
        output.mux(sound.encode(None))
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1  # the file has a video stream
    assert probe(path).kind == "audio"
    assert list(frames(path)) == []


# ---------------------------------------------------------------- real material


@pytest.mark.parametrize("name", GRID)
def test_grid_clips(shared: Path, name: str) -> None:
    notes: list[str] = []
    seen = list(frames(shared / "clips" / f"{name}.mpg", notes=notes))
    assert [f.time_s for f in seen] == pytest.approx([i / 25 for i in range(75)], abs=1e-9)
    assert {f.image.shape for f in seen} == {(288, 360, 3)}
    assert notes == []


@pytest.mark.parametrize(("name", "count", "rate"), [("no_face", 95, 24), ("single_face", 72, 30)])
def test_other_clips(shared: Path, name: str, count: int, rate: int) -> None:
    notes: list[str] = []
    times = frame_times(shared / "clips" / f"{name}.mp4", notes=notes)
    assert times == pytest.approx([i / rate for i in range(count)], abs=1e-9)
    assert notes == []
