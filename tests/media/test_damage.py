"""Damaged, malicious and very large files: intact parts are decoded, the rest gives clear errors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from mien.errors import MediaError
from mien.media.audio import load
from mien.media.video import frames, probe
from tests.media.limits import frame_times, peaks_mb, start_and_peak, unprivileged
from tests.media.makers import blank_frames, clicks, make_video, stamp, tone

# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("extension", ["mp4", "mkv"])
def test_a_truncated_file_decodes_up_to_the_cut_with_a_note(tmp_path: Path, extension: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (90, 48, 64, 3), np.uint8)
    options = {"movflags": "faststart"} if extension == "mp4" else None
    path = make_video(tmp_path / f"t.{extension}", count=90, picture=lambda i: noise[i], options=options)
    whole = frame_times(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    notes: list[str] = []
    cut = frame_times(path, notes=notes)
    assert 40 < len(cut) < 70
    assert cut == whole[: len(cut)]
    end = cut[-1] + 1 / 30
    assert any(f"the video ends at {end:.2f} s" in text and "promises 3.00 s" in text for text in notes)
    assert path.name in notes[0]


def test_damage_in_the_middle_loses_only_the_damaged_frames(tmp_path: Path) -> None:
    path = make_video(tmp_path / "d.avi", codec="mjpeg", pixel_format="yuvj420p", count=60)
    whole = frame_times(path)
    notes: list[str] = []
    left = frame_times(blank_frames(path, slice(20, 23)), notes=notes)
    assert left == whole[:20] + whole[23:]
    assert any("3 damaged places in the video" in text for text in notes)


def test_a_video_without_a_decodable_frame_is_an_error(tmp_path: Path) -> None:
    path = make_video(tmp_path / "n.avi", codec="mjpeg", pixel_format="yuvj420p", count=5)
    with pytest.raises(MediaError, match=r"n\.avi: no frame decodes"):
        list(frames(blank_frames(path, slice(None))))


def bad_inputs(folder: Path) -> Iterator[tuple[str, Path, str, str]]:
    """(kind, path, text of the error, text of its remedy)"""
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
    (folder / "link.mp4").symlink_to(folder / "moved.mp4")
    yield "broken link", folder / "link.mp4", "moved.mp4, which does not exist", "repair the link"
    yield "address", Path("https://me:secret@example.com/a.mp4"), "a.mp4 is an address (https:)", "download=True"
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


def test_every_bad_input_gives_an_error_with_a_remedy(tmp_path: Path) -> None:
    for kind, path, what, remedy in bad_inputs(tmp_path):
        for read in (probe, frames, load):
            if "image" in kind and read is load:
                continue
            with pytest.raises(MediaError) as caught:
                read(path)
            assert what in caught.value.what, (kind, read)
            assert path.name in caught.value.what
            assert remedy in caught.value.remedy, (kind, read)


@pytest.mark.parametrize("streams", [0, 1, 4, 5])
def test_streams_that_an_flv_header_does_not_announce_are_no_crash(tmp_path: Path, streams: int) -> None:
    """Bit 0 of the fifth byte announces pictures, bit 2 sound; FFmpeg finds the others while it reads."""
    path = make_video(tmp_path / "a.flv", count=30, audio=tone(1.0))
    data = bytearray(path.read_bytes())
    assert data[4] == 5
    data[4] = streams
    path.write_bytes(data)
    try:
        found = list(frames(path)) if probe(path).has_video else []
    except MediaError:
        return
    assert len(found) <= 30


def test_audio_beside_an_undecodable_video_can_be_used(tmp_path: Path) -> None:
    path = make_video(tmp_path / "new.mp4", audio=clicks([0.5], 1))
    path.write_bytes(path.read_bytes().replace(b"avc1", b"qqqq"))
    with pytest.raises(MediaError, match=r"new\.mp4: its video codec has no decoder") as caught:
        frames(path)
    assert "--no-face" in caught.value.remedy
    assert start_and_peak(path) == pytest.approx((0.0, 0.5), abs=1e-3)
    assert probe(path, video=False).kind == "audio"


def test_a_file_without_read_permission_is_an_error(tmp_path: Path) -> None:
    path = make_video(tmp_path / "secret.mp4", count=2)
    path.chmod(0)
    with (
        unprivileged(tmp_path),
        pytest.raises(MediaError, match=r"secret\.mp4 cannot be read: permission denied") as caught,
    ):
        probe(path)
    assert "chmod u+r" in caught.value.remedy


@pytest.mark.parametrize("name", ["日本語 – été.mp4", "a:b.mp4", "%03d.mp4", os.fsdecode(b"\xff\xe9.mp4")])
def test_any_file_name_is_read_and_reported(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    made = make_video(tmp_path / "plain.mp4", count=40, options={"movflags": "faststart"}, audio=tone(1.3))
    path = tmp_path / name
    path.write_bytes(made.read_bytes()[:-1500])
    assert len(frame_times(path)) > 10
    for record in caplog.records:
        record.getMessage().encode()
    gone = path.with_name("x" + name)
    with pytest.raises(MediaError) as caught:
        probe(gone)
    str(caught.value).encode()


# ---------------------------------------------------------------- memory


def test_8k_video_is_scaled_down_in_bounded_memory(tmp_path: Path) -> None:
    size = (7680, 4320)
    picture = stamp(9, size)
    path = tmp_path / "8k.avi"
    make_video(path, codec="mjpeg", pixel_format="yuvj420p", size=size, count=3, picture=lambda i: picture)
    ((grown, shapes),) = peaks_mb("frame_shapes_1280", path)
    assert shapes == "(720, 1280, 3)"
    assert grown < 250  # MB; converted at full size it is 340


def test_memory_does_not_grow_with_the_length_of_the_video(tmp_path: Path) -> None:
    picture = stamp(1, (320, 240))
    paths = [make_video(tmp_path / f"{n}.mp4", count=n, size=(320, 240), picture=lambda i: picture) for n in (60, 1500)]
    (short, _), (long, _) = peaks_mb("frame_shapes", *paths)
    assert long < short + 8  # 1440 frames more would be 330 MB


def test_closing_the_iterator_early_closes_the_file(tmp_path: Path) -> None:
    path = make_video(tmp_path / "c.mp4")
    before = len(os.listdir("/proc/self/fd"))
    reading = frames(path)
    next(reading)
    reading.close()
    assert len(os.listdir("/proc/self/fd")) == before
