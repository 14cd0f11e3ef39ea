"""Pictures and their times, from files that are odd in every way found in real corpora."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.errors import MediaError, OutputError
from mien.media.audio import load
from mien.media.timestamps import Repair
from mien.media.transcode import is_browser_playable, transcode
from mien.media.video import frames, probe, write_video
from tests.media.makers import clicks, make_audio, make_video, read_stamp, stamp, tone

NTSC = Fraction(30000, 1001)
GRID = ("bbaf2n", "lbax4n", "lwbsza", "pwij3p", "swiz3n")


def times_of(path: Path, **options: object) -> list[float]:
    return [frame.time_s for frame in frames(path, **options)]


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
def test_zero_is_where_the_first_of_picture_and_sound_begins(
    tmp_path: Path, video_s: float, audio_s: float
) -> None:
    path = make_video(
        tmp_path / "s.mkv", start_s=video_s, audio=tone(1), audio_start_s=audio_s, audio_codec="pcm_s16le"
    )
    info, first = probe(path), min(video_s, audio_s)
    assert info.origin_s == pytest.approx(first, abs=1e-9)
    assert info.video_start_s == pytest.approx(video_s - first, abs=1e-3)  # Matroska counts milliseconds
    assert info.audio_start_s == pytest.approx(audio_s - first, abs=1e-3)
    assert times_of(path)[0] == info.video_start_s
    assert load(path)[0] == info.audio_start_s


def test_frames_the_header_promises_are_not_believed(tmp_path: Path) -> None:
    path = make_video(tmp_path / "lie.avi", codec="mjpeg", pixel_format="yuvj420p", count=30)
    data = bytearray(path.read_bytes())
    for tag, offset in ((b"avih", 8 + 16), (b"strh", 8 + 32)):  # dwTotalFrames, dwLength
        at = data.find(tag) + offset
        assert int.from_bytes(data[at : at + 4], "little") == 30
        data[at : at + 4] = (98).to_bytes(4, "little")
    path.write_bytes(data)
    notes: list[str] = []
    assert len(times_of(path, notes=notes)) == 30
    assert any("ends at 1.00 s although the header promises 3.27 s" in text for text in notes)


def test_timestamps_set_back_go_on_where_they_were(tmp_path: Path) -> None:
    parts = [make_video(tmp_path / f"{i}.ts", count=20, rate=25).read_bytes() for i in range(2)]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(parts))
    notes: list[str] = []
    times = times_of(path, notes=notes)
    assert len(times) == 40
    assert all(a < b for a, b in pairwise(times))
    assert times == pytest.approx([i / 25 for i in range(40)], abs=1e-6)
    assert any("run backwards" in text and "0.76 s" in text for text in notes)


def test_frames_out_of_order_are_squeezed_in(tmp_path: Path) -> None:
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
def test_avi_keeps_no_presentation_times_and_needs_none(tmp_path: Path, codec: str, audio: bool) -> None:
    """B-frames in an AVI: stored out of order, shown in order, and in time with the sound."""
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
    assert times_of(path, notes=notes) == pytest.approx([i / 25 for i in range(10)])
    assert any("timestamps are missing in 10 frames: 25 frames a second" in text for text in notes)


@given(st.lists(st.one_of(st.none(), st.fractions(-100, 100_000)), max_size=12))
def test_repaired_times_always_increase(raw: list[Fraction | None]) -> None:
    repair = Repair(Fraction(1, 25))
    times = [repair(t) for t in raw]
    assert all(a < b for a, b in pairwise(times))


@given(st.lists(st.fractions(Fraction(1, 1000), 3000), max_size=12))
def test_times_that_increase_stay_as_they_are(steps: list[Fraction]) -> None:
    raw = [sum(steps[: i + 1], Fraction(0)) for i in range(len(steps))]
    repair = Repair(Fraction(1, 25))
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
    """Against the definition: Y'CbCr with Kr, Kb of BT.709 (1) or BT.601 (5; 2 is untagged), both ranges."""
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
        (y, u - 128, v - 128)
        if full
        else ((y - 16) * 255 / 219, (u - 128) * 255 / 224, (v - 128) * 255 / 224)
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


def test_pictures_that_change_size_take_the_first_one_s(tmp_path: Path) -> None:
    sizes = ((64, 48), (128, 96))
    parts = [make_video(tmp_path / f"{w}.ts", count=10, rate=25, size=(w, h)).read_bytes() for w, h in sizes]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(parts))
    notes: list[str] = []
    seen = list(frames(path, notes=notes))
    assert {f.image.shape for f in seen} == {(48, 64, 3)}
    assert [read_stamp(f.image) for f in seen] == [*range(10), *range(10)]
    assert any("10 pictures of another size" in text for text in notes)


def test_threads_do_not_change_a_pixel(tmp_path: Path) -> None:
    path = make_video(
        tmp_path / "t.mp4", picture=lambda i: np.random.default_rng(i).integers(0, 255, (48, 64, 3), np.uint8)
    )
    for a, b in zip(frames(path, threads=1), frames(path, threads=3), strict=True):
        assert a.time_s == b.time_s
        assert np.array_equal(a.image, b.image)


# ---------------------------------------------------------------- still images, sound alone


@pytest.mark.parametrize("extension", ["jpg", "png", "bmp", "webp", "tiff"])
def test_a_still_image_is_one_frame_at_zero(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"100%d ü.{extension}"  # a name that FFmpeg would read as a pattern
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
    # How each of EXIF's eight values stores an upright picture (TIFF 6.0, tag 274).
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
    image = (
        stamp(3)[:, :, 0] if channels == "grey" else np.dstack([stamp(3), np.full((48, 64), 99, np.uint8)])
    )
    path = tmp_path / "i.png"
    cv2.imwrite(str(path), image)
    assert np.array_equal(next(iter(frames(path))).image, stamp(3))


def test_sound_alone_has_no_frames(tmp_path: Path) -> None:
    path = make_audio(tmp_path / "a.wav", tone(0.5))
    assert list(frames(path)) == []
    assert (probe(path).kind, probe(path).has_video) == ("audio", False)


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
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
        assert len(container.streams.video) == 1  # the trap is set
    assert probe(path).kind == "audio"
    assert list(frames(path)) == []


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("extension", ["mp4", "mkv"])
def test_a_truncated_file_gives_what_decodes_and_says_where_it_ends(tmp_path: Path, extension: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (90, 48, 64, 3), np.uint8)
    options = {"movflags": "faststart"} if extension == "mp4" else None
    path = make_video(tmp_path / f"t.{extension}", count=90, picture=lambda i: noise[i], options=options)
    whole = times_of(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    notes: list[str] = []
    cut = times_of(path, notes=notes)
    assert 40 < len(cut) < 70
    assert cut == whole[: len(cut)]
    end = cut[-1] + 1 / 30
    assert any(f"the picture ends at {end:.2f} s" in text and "promises 3.00 s" in text for text in notes)
    assert path.name in notes[0]


def with_blanked_pictures(path: Path, which: slice) -> Path:
    """An AVI, some of whose pictures hold nothing but zeros."""
    data = bytearray(path.read_bytes())
    at = data.index(b"movi")
    count = data[at : data.index(b"idx1")].count(b"00dc")
    for number in range(count):
        at = data.index(b"00dc", at + 1)
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if number in range(count)[which]:
            data[at + 8 : at + 8 + size] = bytes(size)
    path.write_bytes(data)
    return path


def test_damage_in_the_middle_costs_only_what_it_hits(tmp_path: Path) -> None:
    path = make_video(tmp_path / "d.avi", codec="mjpeg", pixel_format="yuvj420p", count=60)
    whole = times_of(path)
    notes: list[str] = []
    left = times_of(with_blanked_pictures(path, slice(20, 23)), notes=notes)
    assert left == whole[:20] + whole[23:]
    assert any("3 damaged places in the picture" in text for text in notes)


def test_a_video_of_which_nothing_decodes_is_an_error(tmp_path: Path) -> None:
    path = make_video(tmp_path / "n.avi", codec="mjpeg", pixel_format="yuvj420p", count=5)
    with pytest.raises(MediaError, match=r"n\.avi: not one picture decodes"):
        list(frames(with_blanked_pictures(path, slice(None))))


def bad_inputs(folder: Path) -> Iterator[tuple[str, Path, str, str]]:
    """(kind, path, what the error must say, what its remedy must say)"""
    good = make_video(folder / "clip.mp4", count=30)
    data = good.read_bytes()
    made = {
        "empty": b"",
        "text": b"not a video\n" * 300,
        "playlist": b"ffconcat version 1.0\nfile clip.mp4\n",
        "no_moov": data[: data.index(b"moov") - 4],
        "noise": np.random.default_rng(0).bytes(5000),
        "codec": data.replace(b"avc1", b"qqqq"),
    }
    for name, content in made.items():
        (folder / f"{name}.mp4").write_bytes(content)
    (folder / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more than this")
    bomb = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
    (folder / "bomb.png").write_bytes(bomb[:16] + (40_000).to_bytes(4, "big") * 2 + bomb[24:])
    yield "missing", folder / "clop.mp4", "clop.mp4 does not exist", "Did you mean"
    yield "missing folder", folder / "none" / "a.mp4", "does not exist", "folder"
    yield "folder", folder, "is a folder", "Name one of the files"
    yield "device", Path("/dev/null"), "device or a pipe", "Save it"
    yield "empty", folder / "empty.mp4", "is empty (0 bytes)", "download it again"
    yield "text", folder / "text.mp4", "holds text", "media file itself"
    yield "playlist", folder / "playlist.mp4", "holds text", "playlist"
    yield "no index", folder / "no_moov.mp4", "no moov box", "repair tool"
    yield "noise", folder / "noise.mp4", "is not a media file", "ffmpeg -i INPUT"
    yield "codec", folder / "codec.mp4", "no decoder", "libx264"
    yield "cut image", folder / "cut.jpg", "does not decode", "download it again"
    yield "huge image", folder / "bomb.png", "40000×40000 pixels", "Scale it down"


def test_bad_input_is_named_with_a_remedy(tmp_path: Path) -> None:
    for kind, path, what, remedy in bad_inputs(tmp_path):
        for read in (probe, frames, load):
            if "image" in kind and read is load:
                continue
            with pytest.raises(MediaError) as caught:
                read(path)
            assert what in caught.value.what, (kind, read)
            assert path.name in caught.value.what
            assert remedy in caught.value.remedy, (kind, read)


def test_sound_beside_an_unreadable_picture_can_still_be_used(tmp_path: Path) -> None:
    path = make_video(tmp_path / "new.mp4", audio=clicks([0.5], 1))
    path.write_bytes(path.read_bytes().replace(b"avc1", b"qqqq"))
    with pytest.raises(
        MediaError, match=r"new\.mp4: its picture is in a coding that has no decoder"
    ) as caught:
        frames(path)
    assert "--no-face" in caught.value.remedy
    assert start_and_peak(path) == pytest.approx((0.0, 0.5), abs=1e-3)
    assert probe(path, video=False).kind == "audio"


def test_a_file_one_may_not_read(tmp_path: Path) -> None:
    path = make_video(tmp_path / "secret.mp4", count=2)
    path.chmod(0)
    with as_nobody(tmp_path), pytest.raises(MediaError, match=r"secret\.mp4 may not be read") as caught:
        probe(path)
    assert "chmod u+r" in caught.value.remedy


@pytest.mark.parametrize("name", ["日本語 – été.mp4", "a:b.mp4", "%03d.mp4", os.fsdecode(b"\xff\xe9.mp4")])
def test_any_name_a_disk_allows(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    made = make_video(tmp_path / "plain.mp4", count=40, options={"movflags": "faststart"}, audio=tone(1.3))
    path = tmp_path / name
    path.write_bytes(made.read_bytes()[:-1500])
    assert len(times_of(path)) > 10
    for record in caplog.records:
        record.getMessage().encode()
    gone = path.with_name("x" + name)
    with pytest.raises(MediaError) as caught:
        probe(gone)
    str(caught.value).encode()


# ---------------------------------------------------------------- memory


PEAK = """
import sys
from pathlib import Path
from mien.media.audio import blocks, speech
from mien.media.video import frames

def peak():  # of this process alone; ru_maxrss would begin with its parent's
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

before = peak()
for path in map(Path, sys.argv[1:]):
    seen = {%s}
    print((peak() - before) / 1024, *seen)
"""


def peaks_mb(reading: str, *paths: Path) -> list[tuple[float, str]]:
    """Megabytes that reading the files, one after the other, has added to a fresh process so far, and what
    was seen. reading: a set comprehension over `path`."""
    command = [sys.executable, "-c", PEAK % reading, *map(str, paths)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [(float(line.split(" ", 1)[0]), line.split(" ", 1)[1]) for line in lines]


def test_8k_is_read_scaled_down_in_bounded_memory(tmp_path: Path) -> None:
    size = (7680, 4320)
    picture = stamp(9, size)
    path = tmp_path / "8k.avi"
    make_video(path, codec="mjpeg", pixel_format="yuvj420p", size=size, count=3, picture=lambda i: picture)
    ((grown, shapes),) = peaks_mb("f.image.shape for f in frames(path, max_side=1280)", path)
    assert shapes == "(720, 1280, 3)"
    assert grown < 250  # MB; converted at full size it is 340


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    picture = stamp(1, (320, 240))
    paths = [
        make_video(tmp_path / f"{n}.mp4", count=n, size=(320, 240), picture=lambda i: picture)
        for n in (60, 1500)
    ]
    (short, _), (long, _) = peaks_mb("f.image.shape for f in frames(path)", *paths)
    assert long < short + 8  # 1440 frames more would be 330 MB


def test_leaving_early_closes_the_file(tmp_path: Path) -> None:
    path = make_video(tmp_path / "c.mp4")
    before = len(os.listdir("/proc/self/fd"))
    reading = frames(path)
    next(reading)
    reading.close()
    assert len(os.listdir("/proc/self/fd")) == before


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
    times = times_of(shared / "clips" / f"{name}.mp4", notes=notes)
    assert times == pytest.approx([i / rate for i in range(count)], abs=1e-9)
    assert notes == []


# ---------------------------------------------------------------- writing


def test_written_ntsc_and_free_times_come_back(tmp_path: Path) -> None:
    path = tmp_path / "w.mp4"
    write_video(path, (stamp(i) for i in range(40)), rate=NTSC)
    assert times_of(path) == pytest.approx([i * 1001 / 30000 for i in range(40)], abs=1e-9)
    rng = np.random.default_rng(1)
    times = np.concatenate([[0], np.cumsum(rng.uniform(0.001, 0.4, 39))])
    write_video(path, (stamp(i) for i in range(40)), times=times.tolist())
    seen = list(frames(path))
    assert [read_stamp(f.image) for f in seen] == list(range(40))
    assert [f.time_s for f in seen] == pytest.approx(times, abs=6e-6)  # half a tick of 1/90000 s


@pytest.mark.parametrize("clock", [{"rate": NTSC}, {"times": [i / 30 + 0.004 * (i % 3) for i in range(60)]}])
@pytest.mark.parametrize("source", ["array", "file"])
def test_a_flash_and_a_beep_stay_together(tmp_path: Path, clock: dict, source: str) -> None:
    at = float(30 / NTSC) if "rate" in clock else clock["times"][30]
    audio: Path | np.ndarray = clicks([at], 2.2, 16_000)
    if source == "file":
        audio = make_audio(tmp_path / "beep.wav", clicks([at], 2.2, 44_100))
    flash = (np.full((48, 64, 3), 255 * (i == 30), np.uint8) for i in range(60))
    path = tmp_path / "sync.mp4"
    write_video(path, flash, audio=audio, **clock)
    bright = [f.time_s for f in frames(path) if f.image.mean() > 127]
    start_s, sound = load(path)
    assert bright == pytest.approx([at], abs=1e-5)
    assert start_s == 0.0
    assert start_s + np.argmax(sound) / 16_000 == pytest.approx(at, abs=1e-3)


def test_sound_that_begins_late_stays_late(tmp_path: Path) -> None:
    source = make_video(
        tmp_path / "late.mkv", audio=clicks([0.5], 1), audio_start_s=0.7, audio_codec="pcm_s16le"
    )
    for audio in ({"audio": source}, {"audio": clicks([0.5], 1, 16_000), "audio_start_s": 0.7}):
        path = tmp_path / "out.mp4"
        write_video(path, (stamp(i) for i in range(30)), rate=30, **audio)
        start_s, sound = load(path)
        assert start_s + np.argmax(sound) / 16_000 == pytest.approx(1.2, abs=1e-3)
        assert 0.6 < start_s <= 0.7  # the AAC encoder needs 1024 samples of run-up, silent
        assert times_of(path) == pytest.approx([i / 30 for i in range(30)], abs=1e-9)


def test_colours_survive_writing(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(40, 215, (6, 8, 3)).astype(np.uint8)
    image = np.repeat(np.repeat(colours, 16, 0), 16, 1)
    write_video(tmp_path / "c.mp4", [image] * 3, rate=25, crf=8)
    back = list(frames(tmp_path / "c.mp4"))[1].image
    assert np.abs(back[8::16, 8::16].astype(int) - colours).max() <= 6
    with av.open(str(tmp_path / "c.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_range, context.pix_fmt) == (1, 1, "yuv420p")


def test_odd_sizes_are_padded_and_said_so(tmp_path: Path) -> None:
    notes: list[str] = []
    path = tmp_path / "odd.mp4"
    write_video(path, (stamp(i, (65, 49)) for i in range(5)), rate=25, notes=notes)
    seen = list(frames(path))
    assert seen[3].image.shape == (50, 66, 3)
    assert [read_stamp(f.image) for f in seen] == list(range(5))
    assert "odd.mp4: 65×49 is odd" in notes[0]
    assert "66×50" in notes[0]


def test_the_index_stands_in_front(tmp_path: Path) -> None:
    path = tmp_path / "f.mp4"
    write_video(path, (stamp(i) for i in range(5)), rate=25, audio=tone(0.3, rate=16_000))
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    assert is_browser_playable(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "times or rate"),
        ({"rate": 25, "times": [0.0]}, "times or rate"),
        ({"times": [0.0, 0.5, 0.5]}, "times must increase"),
        ({"times": [0.0, 0.5]}, "zip"),
    ],
)
def test_wrong_arguments_leave_nothing(tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_video(tmp_path / "x.mp4", [stamp(i) for i in range(3)], **arguments)
    with pytest.raises(ValueError, match="one shape"):
        write_video(tmp_path / "x.mp4", [stamp(0), stamp(1, (32, 32))], rate=25)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_on_the_way_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "keep.mp4"
    path.write_bytes(b"old")

    def failing() -> Iterator[np.ndarray]:
        yield from (stamp(i) for i in range(20))
        raise RuntimeError("the network fell over")

    with pytest.raises(RuntimeError, match="fell over"):
        write_video(path, failing(), rate=25)
    assert [p.name for p in tmp_path.iterdir()] == ["keep.mp4"]
    assert path.read_bytes() == b"old"


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """Files of this process can grow to `size` bytes: the kernel fails writes beyond, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 30_000, 200_000])
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, size: int) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (8, 240, 320, 3), np.uint8)
    pictures = (noise[i % 8] for i in range(40))
    with disk_of(size), pytest.raises(OutputError, match=r"full\.mp4 cannot be written: ") as caught:
        write_video(tmp_path / "full.mp4", pictures, rate=25, crf=10)
    assert "Free some space" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_a_disk_full_at_the_very_end(tmp_path: Path) -> None:
    """The index is written last, and moved in front: the file grows once more after the last frame."""
    write_video(tmp_path / "full.mp4", (stamp(i) for i in range(60)), rate=25)
    size = (tmp_path / "full.mp4").stat().st_size
    (tmp_path / "full.mp4").unlink()
    with disk_of(size - 200), pytest.raises(OutputError, match="cannot be written"):
        write_video(tmp_path / "full.mp4", (stamp(i) for i in range(60)), rate=25)
    assert list(tmp_path.iterdir()) == []


@contextmanager
def as_nobody(folder: Path) -> Iterator[None]:
    """Without root's rights, where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    for parent in (folder, *folder.parents):
        if parent.owner() == "root" and "pytest" in str(parent):
            parent.chmod(0o755)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_places_one_cannot_write_to(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    (tmp_path / "taken.mp4").mkdir()
    cases = [
        (tmp_path / "none" / "a.mp4", "No such file", "mkdir -p"),
        (tmp_path / "taken.mp4", "a folder of that name", "another name"),
        (locked / "a.mp4", "Permission denied", "may write to"),
    ]
    for path, what, remedy in cases:
        with as_nobody(tmp_path), pytest.raises(OutputError) as caught:
            write_video(path, [stamp(0)], rate=25)
        assert what in caught.value.what
        assert path.name in caught.value.what
        assert remedy in caught.value.remedy


# ---------------------------------------------------------------- for browsers


def test_transcoding_keeps_time_shape_and_sound(tmp_path: Path) -> None:
    source = make_video(
        tmp_path / "s.mkv", codec="ffv1", size=(120, 90), start_s=0.5, rate=NTSC, rotation=90,
        audio=clicks([1.0], 1.6), audio_codec="pcm_s16le",
    )  # fmt: skip
    target = tmp_path / "t.mp4"
    transcode(source, target, max_height=60)
    assert not is_browser_playable(source)
    assert is_browser_playable(target)
    before, after = list(frames(source)), list(frames(target))
    assert [f.time_s for f in after] == pytest.approx([f.time_s for f in before], abs=1e-5)
    assert after[0].time_s == pytest.approx(0.5, abs=1e-3)
    assert after[0].image.shape == (60, 46, 3)  # 90×120 upright, halved, and 45 made even
    assert start_and_peak(target) == pytest.approx((0.0, 1.0), abs=1e-3)


def start_and_peak(path: Path) -> tuple[float, float]:
    start_s, sound = load(path)
    return start_s, start_s + float(np.argmax(sound)) / 16_000


def test_transcoding_sound_alone_and_a_picture_alone(tmp_path: Path) -> None:
    sound = make_audio(tmp_path / "a.flac", clicks([0.4], 1, 22_050), rate=22_050, codec="flac")
    transcode(sound, tmp_path / "a.mp4")
    assert start_and_peak(tmp_path / "a.mp4") == pytest.approx((0.0, 0.4), abs=1e-3)
    assert probe(tmp_path / "a.mp4").kind == "audio"
    cv2.imwrite(str(tmp_path / "i.png"), stamp(6))
    transcode(tmp_path / "i.png", tmp_path / "i.mp4")
    assert [read_stamp(f.image) for f in frames(tmp_path / "i.mp4")] == [6]


def test_what_browsers_play(tmp_path: Path) -> None:
    cases = {
        "h264.mp4": ({"audio": tone(1)}, True),
        "silent.mp4": ({}, True),
        "quicktime.mov": ({}, False),
        "h264.mkv": ({}, False),
        "mpeg4.mp4": ({"codec": "mpeg4"}, False),
        "high444.mp4": ({"pixel_format": "yuv444p"}, False),
        "mp3.mp4": ({"audio": tone(1), "audio_codec": "mp3"}, False),
        "late.mp4": ({"start_s": 3.0}, False),  # its player would begin 3 s before time 0.0
    }
    for name, (options, playable) in cases.items():
        assert is_browser_playable(make_video(tmp_path / name, count=5, **options)) is playable, name


def test_real_clips_become_playable(shared: Path, tmp_path: Path) -> None:
    source = shared / "clips" / "bbaf2n.mpg"
    transcode(source, tmp_path / "t.mp4")
    assert is_browser_playable(tmp_path / "t.mp4")
    assert not is_browser_playable(source)
    assert times_of(tmp_path / "t.mp4") == pytest.approx(times_of(source), abs=1e-5)
    a, b = load(source)[1], load(tmp_path / "t.mp4")[1]
    length = min(len(a), len(b))
    assert np.corrcoef(a[:length], b[:length])[0, 1] > 0.99
