"""Time and memory are bounded by what a file holds, not by what its header or its timestamps declare."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.errors import MediaError
from mien.media import limits, samples
from mien.media.audio import SAMPLE_RATE, blocks, load, speech_probability
from mien.media.probe import probe
from mien.media.sound_runs import runs
from mien.media.timestamps import LEAP_S, TimestampRepair
from mien.media.transcode import transcode
from mien.media.video import frames
from mien.records import Frame
from tests.media.limits import frame_times
from tests.media.makers import make_audio, make_video, tone

#: File of shared/broken -> exit code of `mien predict --report`, and a text of its output.
BROKEN = {
    "avi_rate_memoryerror.avi": (0, "2.33e-09 frames a second, which was ignored"),
    "gap_3590s_x4.mkv": (0, "3 pauses of 60 s or more (first after 0.00 s, longest 3590 s)"),
    "holes_3590s_x3.mkv": (0, "2 holes of more than 30 s (first at 0.10 s)"),
    "rate_1hz_7200.wav": (1, "a sample rate of 1 Hz"),
    "hang_flac_rate_1hz.flac": (1, "a sample rate of 16 Hz"),
    "report_flac_no_samples.flac": (1, "has no samples that decode"),
    "frames_5us_apart.mp4": (0, "report.html"),
    "bomb_16383.webp": (1, "16383×16383 pixels; mien reads images of up to 110,000,000 pixels"),
}


#: Runs a command and appends its processor seconds and peak memory in kB to its output. A process of its own, because
#: the peak of a new process begins with the memory of the one that starts it.
MEASURED = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
sys.stdout.buffer.write(done.stdout)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(f"\\n@ {used.ru_utime + used.ru_stime} {used.ru_maxrss}")
sys.exit(done.returncode)
"""


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_take_10_s_and_600_mb_at_most(shared: Path, tmp_path: Path, name: str) -> None:
    path, hub = shared / "broken" / name, shared / "hub"
    if not path.is_file() or not hub.is_dir():
        pytest.skip(f"{path} or {hub} is not here")
    words = [sys.executable, "-m", "mien", "predict", str(path), "--out", str(tmp_path), "--report"]
    environment = os.environ | {"MIEN_HUB": str(hub), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *words], capture_output=True, text=True, env=environment, check=False
    )
    text, _, figures = done.stdout.rpartition("\n@ ")
    cpu_s, peak_kb = map(float, figures.split())
    code, said = BROKEN[name]
    assert done.returncode == code, text
    assert said in text
    assert "Traceback" not in text
    assert cpu_s <= 10  # processor time: the machine may be busy
    assert peak_kb <= 600 * 1024


# ---------------------------------------------------------------- sound


def test_a_long_gap_is_a_hole_and_a_short_one_is_silence(tmp_path: Path) -> None:
    pieces = [(0.0, tone(0.5)), (5.0, tone(0.5)), (100.0, tone(0.5))]
    path = make_audio(tmp_path / "g.mkv", pieces, codec="pcm_s16le")
    notes: list[str] = []
    found = [(start, len(block)) for start, block in blocks(path, seconds=2.0, notes=notes)]
    assert sum(count for _, count in found) == pytest.approx(6.0 * SAMPLE_RATE, abs=3)
    assert found[-1][0] == pytest.approx(100, abs=1e-3)
    assert len([list(run) for run in runs(blocks(path))]) == 2
    assert any("a hole of more than 30 s (first at 5.50 s)" in note for note in notes)
    assert any("1 gaps or overlaps (first at 0.50 s)" in note for note in notes)
    assert len(load(path)[1]) == pytest.approx(5.5 * SAMPLE_RATE, abs=3)


def test_speech_after_a_hole_has_its_own_time(tmp_path: Path) -> None:
    path = make_audio(tmp_path / "g.mkv", [(0.0, tone(0.5)), (3000.0, tone(0.5))], codec="pcm_s16le")
    times = np.concatenate([t for t, _ in speech_probability(blocks(path))])
    assert len(times) < 40
    assert (np.diff(times) > 0).all()
    assert times[0] == pytest.approx(0.016)
    assert times[-1] == pytest.approx(3000.5, abs=0.04)


def test_many_short_gaps_are_not_stored_beyond_what_the_file_may_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "longest_sound_s", lambda path: 30.0)
    pieces = [(20.0 * i, tone(0.2, rate=8000)) for i in range(20)]
    path = make_audio(tmp_path / "m.mkv", pieces, codec="pcm_s16le", rate=8000)
    found = list(blocks(path, seconds=2.0))
    assert sum(len(block) for _, block in found) < 30 * SAMPLE_RATE
    assert found[-1][0] + len(found[-1][1]) / SAMPLE_RATE == pytest.approx(380.2, abs=0.01)


def test_sound_ends_with_a_note_where_a_file_has_too_much_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "longest_sound_s", lambda path: 2.0)
    notes: list[str] = []
    _, sound = load(make_audio(tmp_path / "s.wav", tone(5)), notes=notes)
    assert 1.8 * SAMPLE_RATE < len(sound) <= 2 * SAMPLE_RATE
    assert any("so small a file cannot hold more" in note for note in notes)


@pytest.mark.parametrize(("name", "codec", "rate"), [("s.flac", "flac", 16_000), ("s.ogg", "libopus", 48_000)])
def test_digital_silence_is_within_the_limit(tmp_path: Path, name: str, codec: str, rate: int) -> None:
    """The smallest files that there are for their length."""
    path = make_audio(tmp_path / name, np.zeros(60 * rate, np.float32), rate=rate, codec=codec)
    assert 60 / path.stat().st_size < limits.SOUND_S_PER_BYTE


@pytest.mark.parametrize(("name", "codec"), [("r.wav", "pcm_s16le"), ("r.flac", "flac")])
@pytest.mark.parametrize("rate", [1, 999])
def test_a_sample_rate_of_no_recording_is_an_error(tmp_path: Path, name: str, codec: str, rate: int) -> None:
    data = bytearray(make_audio(tmp_path / name, tone(0.2, rate=16_000), rate=16_000, codec=codec).read_bytes())
    if codec == "flac":  # 20 bits in STREAMINFO
        packed = int.from_bytes(data[18:21], "big") & 0xF | rate << 4
        data[18:21] = packed.to_bytes(3, "big")
    else:
        at = data.index(b"fmt ") + 12
        data[at : at + 4] = rate.to_bytes(4, "little")
    (tmp_path / name).write_bytes(data)
    with pytest.raises(MediaError, match=rf"a sample rate of {rate} Hz; mien reads 2,000 to 768,000") as caught:
        probe(tmp_path / name)
    assert name in caught.value.what
    assert "-ar 16000" in caught.value.remedy


def test_a_sound_without_samples_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = make_audio(tmp_path / "n.flac", tone(0.2, rate=16_000), rate=16_000, codec="flac")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"\xff\xf8", 42)] + bytes(400))
    with pytest.raises(MediaError, match=r"n\.flac: its sound has no samples that decode"):
        list(blocks(path))


# ---------------------------------------------------------------- pictures


def test_pauses_between_pictures_are_kept_and_told(tmp_path: Path) -> None:
    path = make_video(tmp_path / "p.mkv", times=[0, 0.04, 500, 3000])
    notes: list[str] = []
    assert frame_times(path, notes=notes) == pytest.approx([0, 0.04, 500, 3000], abs=1e-3)
    assert any("2 pauses of 60 s or more (first after 0.04 s, longest 2500 s)" in note for note in notes)


@settings(deadline=None)
@given(st.lists(st.fractions(-10, 10**7, max_denominator=1000), min_size=2, max_size=60), st.integers(0, 10**5))
def test_the_last_time_is_bounded_and_times_increase(raw: list[Fraction], longest_s: int) -> None:
    repair = TimestampRepair(Fraction(1, 25), longest_s)
    times = [repair(time) for time in [Fraction(0), *raw]]
    assert all(a < b for a, b in pairwise(times))
    assert times[-1] <= longest_s + LEAP_S + len(times)


def test_a_frame_rate_of_no_recording_is_ignored_and_told(tmp_path: Path) -> None:
    path = make_video(tmp_path / "r.avi", codec="mjpeg", pixel_format="yuvj420p", count=5)
    data = bytearray(path.read_bytes())
    at = data.index(b"vids") + 20  # dwScale, then dwRate
    data[at : at + 8] = (0x7FFF_FFFF).to_bytes(4, "little") + (1).to_bytes(4, "little")
    path.write_bytes(data)
    assert any("frames a second, which was ignored" in note for note in probe(path).notes)
    assert frame_times(path)[-1] < 1


def test_frames_closer_than_an_mp4_can_hold_are_left_out_of_the_copy(tmp_path: Path) -> None:
    times = [0, 1 / 30, 1 / 30 + 5e-6, 2 / 30]
    video = make_video(tmp_path / "v.mkv", times=[0, 0.033, 0.066, 0.1])

    def close_frames(*args: object, **options: object) -> list[object]:

        return [Frame(f.index, t, f.image) for f, t in zip(frames(video), times, strict=True)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mien.media.transcode.frames", close_frames)
        transcode(video, tmp_path / "copy.mp4")
    kept = frame_times(tmp_path / "copy.mp4")
    assert kept == pytest.approx([0, 1 / 30, 2 / 30], abs=1e-4)


def test_frames_larger_than_8k_are_refused_before_decoding(tmp_path: Path) -> None:
    path = make_video(tmp_path / "big.avi", codec="mjpeg", pixel_format="yuvj420p", count=2)
    data = bytearray(path.read_bytes())
    at = data.index(b"strf") + 12  # width and height of the stream
    data[at : at + 8] = (9000).to_bytes(4, "little") * 2
    frame = data.index(b"\xff\xc0") + 5  # and those of every picture
    while frame > 5:
        data[frame : frame + 4] = (9000).to_bytes(2, "big") * 2
        frame = data.find(b"\xff\xc0", frame) + 5
    path.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(MediaError, match=r"9000×9000 pixels; mien reads videos of up to 35,651,584"):
        probe(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024
