"""Written MP4s: exact times, atomic writes, playable in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from mien.errors import OutputError
from mien.media.audio import load
from mien.media.transcode import is_browser_playable, transcode
from mien.media.video import frames, probe, write_video
from tests.media.limits import file_size_limit, frame_times, start_and_peak, unprivileged
from tests.media.makers import clicks, make_audio, make_video, read_stamp, stamp, tone

NTSC = Fraction(30000, 1001)

# ---------------------------------------------------------------- writing


def test_written_ntsc_and_arbitrary_times_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "w.mp4"
    write_video(path, (stamp(i) for i in range(40)), rate=NTSC)
    assert frame_times(path) == pytest.approx([i * 1001 / 30000 for i in range(40)], abs=1e-9)
    rng = np.random.default_rng(1)
    times = np.concatenate([[0], np.cumsum(rng.uniform(0.001, 0.4, 39))])
    write_video(path, (stamp(i) for i in range(40)), times=times.tolist())
    seen = list(frames(path))
    assert [read_stamp(f.image) for f in seen] == list(range(40))
    assert [f.time_s for f in seen] == pytest.approx(times, abs=6e-6)  # half a tick of 1/90000 s


@pytest.mark.parametrize("clock", [{"rate": NTSC}, {"times": [i / 30 + 0.004 * (i % 3) for i in range(60)]}])
@pytest.mark.parametrize("source", ["array", "file"])
def test_video_and_audio_stay_synchronous(tmp_path: Path, clock: dict, source: str) -> None:
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


def test_audio_that_begins_late_keeps_its_time(tmp_path: Path) -> None:
    source = make_video(tmp_path / "late.mkv", audio=clicks([0.5], 1), audio_start_s=0.7, audio_codec="pcm_s16le")
    for audio in ({"audio": source}, {"audio": clicks([0.5], 1, 16_000), "audio_start_s": 0.7}):
        path = tmp_path / "out.mp4"
        write_video(path, (stamp(i) for i in range(30)), rate=30, **audio)
        start_s, sound = load(path)
        assert start_s + np.argmax(sound) / 16_000 == pytest.approx(1.2, abs=1e-3)
        assert 0.6 < start_s <= 0.7  # the AAC encoder has a delay of 1024 samples, silent
        assert frame_times(path) == pytest.approx([i / 30 for i in range(30)], abs=1e-9)


def test_colours_are_preserved(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(40, 215, (6, 8, 3)).astype(np.uint8)
    image = np.repeat(np.repeat(colours, 16, 0), 16, 1)
    write_video(tmp_path / "c.mp4", [image] * 3, rate=25, crf=8)
    back = list(frames(tmp_path / "c.mp4"))[1].image
    assert np.abs(back[8::16, 8::16].astype(int) - colours).max() <= 6
    with av.open(str(tmp_path / "c.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_range, context.pix_fmt) == (1, 1, "yuv420p")


def test_odd_sizes_are_padded_with_a_note(tmp_path: Path) -> None:
    notes: list[str] = []
    path = tmp_path / "odd.mp4"
    write_video(path, (stamp(i, (65, 49)) for i in range(5)), rate=25, notes=notes)
    seen = list(frames(path))
    assert seen[3].image.shape == (50, 66, 3)
    assert [read_stamp(f.image) for f in seen] == list(range(5))
    assert "odd.mp4: 65×49 is odd" in notes[0]
    assert "66×50" in notes[0]


def test_the_index_is_at_the_front(tmp_path: Path) -> None:
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
def test_wrong_arguments_leave_no_file(tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_video(tmp_path / "x.mp4", [stamp(i) for i in range(3)], **arguments)
    with pytest.raises(ValueError, match="one shape"):
        write_video(tmp_path / "x.mp4", [stamp(0), stamp(1, (32, 32))], rate=25)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_while_writing_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "keep.mp4"
    path.write_bytes(b"old")

    def failing() -> Iterator[np.ndarray]:
        yield from (stamp(i) for i in range(20))
        raise RuntimeError("the source failed")

    with pytest.raises(RuntimeError, match="source failed"):
        write_video(path, failing(), rate=25)
    assert [p.name for p in tmp_path.iterdir()] == ["keep.mp4"]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("size", [0, 30_000, 200_000])
def test_a_full_disk_is_an_error_and_leaves_no_file(tmp_path: Path, size: int) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (8, 240, 320, 3), np.uint8)
    pictures = (noise[i % 8] for i in range(40))
    with file_size_limit(size), pytest.raises(OutputError, match=r"full\.mp4 could not be written: ") as caught:
        write_video(tmp_path / "full.mp4", pictures, rate=25, crf=10)
    assert "Free some space" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_at_the_end_leaves_no_file(tmp_path: Path) -> None:
    """The index is written last and moved to the front, so the file grows again after the last frame."""
    write_video(tmp_path / "full.mp4", (stamp(i) for i in range(60)), rate=25)
    size = (tmp_path / "full.mp4").stat().st_size
    (tmp_path / "full.mp4").unlink()
    with file_size_limit(size - 200), pytest.raises(OutputError, match="could not be written"):
        write_video(tmp_path / "full.mp4", (stamp(i) for i in range(60)), rate=25)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_paths_give_an_error_with_a_remedy(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    (tmp_path / "taken.mp4").mkdir()
    cases = [
        (tmp_path / "none" / "a.mp4", "No such file", "mkdir -p"),
        (tmp_path / "taken.mp4", "a folder has this name", "another name"),
        (locked / "a.mp4", "Permission denied", "may write to"),
    ]
    for path, what, remedy in cases:
        with unprivileged(tmp_path), pytest.raises(OutputError) as caught:
            write_video(path, [stamp(0)], rate=25)
        assert what in caught.value.what
        assert path.name in caught.value.what
        assert remedy in caught.value.remedy


# ---------------------------------------------------------------- for browsers


def test_transcoding_keeps_times_aspect_ratio_and_audio(tmp_path: Path) -> None:
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


def test_transcoding_an_audio_file_and_a_still_image(tmp_path: Path) -> None:
    sound = make_audio(tmp_path / "a.flac", clicks([0.4], 1, 22_050), rate=22_050, codec="flac")
    transcode(sound, tmp_path / "a.mp4")
    assert start_and_peak(tmp_path / "a.mp4") == pytest.approx((0.0, 0.4), abs=1e-3)
    assert probe(tmp_path / "a.mp4").kind == "audio"
    cv2.imwrite(str(tmp_path / "i.png"), stamp(6))
    transcode(tmp_path / "i.png", tmp_path / "i.mp4")
    assert [read_stamp(f.image) for f in frames(tmp_path / "i.mp4")] == [6]


def test_browser_playability_of_formats(tmp_path: Path) -> None:
    cases = {
        "h264.mp4": ({"audio": tone(1)}, True),
        "silent.mp4": ({}, True),
        "quicktime.mov": ({}, False),
        "h264.mkv": ({}, False),
        "mpeg4.mp4": ({"codec": "mpeg4"}, False),
        "high444.mp4": ({"pixel_format": "yuv444p"}, False),
        "mp3.mp4": ({"audio": tone(1), "audio_codec": "mp3"}, False),
        "late.mp4": ({"start_s": 3.0}, False),  # the player would begin 3 s before time 0.0
    }
    for name, (options, playable) in cases.items():
        assert is_browser_playable(make_video(tmp_path / name, count=5, **options)) is playable, name


def test_real_clips_become_playable(shared: Path, tmp_path: Path) -> None:
    source = shared / "clips" / "bbaf2n.mpg"
    transcode(source, tmp_path / "t.mp4")
    assert is_browser_playable(tmp_path / "t.mp4")
    assert not is_browser_playable(source)
    assert frame_times(tmp_path / "t.mp4") == pytest.approx(frame_times(source), abs=1e-5)
    (a_s, a), (b_s, b) = load(source), load(tmp_path / "t.mp4")
    a, b = a[max(0, round((b_s - a_s) * 16_000)) :], b[max(0, round((a_s - b_s) * 16_000)) :]
    length = min(len(a), len(b))
    assert np.corrcoef(a[:length], b[:length])[0, 1] > 0.99
