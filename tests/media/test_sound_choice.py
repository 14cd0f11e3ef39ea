"""Sound as it is: tracks, channels, the delay of codecs, clocks that have nothing in common, cover art."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from mien.errors import MediaError
from mien.media.audio import blocks, load
from mien.media.probe import probe
from mien.media.transcode import is_browser_playable
from mien.media.video import frames
from tests.media.makers import clicks, make_audio, make_video, stamp, tone


@pytest.fixture(scope="session")
def cases(shared: Path) -> Path:
    if not (shared / "cases").is_dir():
        pytest.skip(f"recordings that were read wrongly are not here: {shared} has no cases/")
    return shared / "cases"


def click_times(path: Path, at_s: tuple[float, ...]) -> list[float]:
    """Centres of energy, in seconds from the recording's origin, within 0.1 s of each time."""
    start_s, sound = load(path)
    found = []
    for at in at_s:
        first = max(0, int((at - start_s - 0.1) * 16_000))
        power = sound[first : first + 3200].astype(float) ** 2
        found.append(start_s + (first + float((power * np.arange(len(power))).sum() / power.sum())) / 16_000)
    return found


# ---------------------------------------------------------------- the delay of codecs


@pytest.mark.parametrize(("extension", "codec"), [
    ("wav", "pcm_s16le"), ("opus", "libopus"), ("webm", "libopus"), ("ts", "libopus"), ("mp4", "libopus"),
    ("mp3", "libmp3lame"), ("avi", "libmp3lame"), ("ts", "libmp3lame"), ("mka", "libmp3lame"), ("flv", "libmp3lame"),
    ("m4a", "aac"), ("aac", "aac"), ("ts", "aac"), ("avi", "aac"), ("flv", "aac"), ("mkv", "aac"),
    ("ac3", "ac3"), ("mp2", "mp2"), ("ts", "mp2"),
])  # fmt: skip
def test_codec_delay_is_removed(tmp_path: Path, extension: str, codec: str) -> None:
    """Encoded without pictures, a click is where it is in the WAV."""
    path = make_audio(tmp_path / f"a.{extension}", clicks([1.0, 2.0], 3, rate=48_000), rate=48_000, codec=codec)
    assert load(path)[0] == 0
    assert click_times(path, (1.0, 2.0)) == pytest.approx([1.0, 2.0], abs=0.002)


@pytest.mark.parametrize(("extension", "sound"), [
    ("mp4", "aac"), ("mkv", "aac"), ("mov", "aac"), ("webm", "libopus"), ("ts", "aac"), ("avi", "libmp3lame"),
    ("flv", "aac"),
])  # fmt: skip
def test_sound_and_pictures_of_a_moment_agree_in_every_container(tmp_path: Path, extension: str, sound: str) -> None:
    codec = "libvpx" if extension == "webm" else "libx264"
    path = make_video(
        tmp_path / f"v.{extension}", codec=codec, rate=25, count=75, audio=clicks([1.0, 2.0], 3, rate=48_000),
        audio_rate=48_000, audio_codec=sound,
    )  # fmt: skip
    seen = list(frames(path))
    heard = click_times(path, (1.0, 2.0))
    assert heard[0] - seen[25].time_s == pytest.approx(0, abs=0.003)  # Matroska and FLV count milliseconds
    assert heard[1] - seen[50].time_s == pytest.approx(0, abs=0.003)


# ---------------------------------------------------------------- channels


def test_channels_that_cancel_are_heard(tmp_path: Path) -> None:
    mono = tone(2, level=0.4)
    path, notes = make_audio(tmp_path / "a.wav", np.stack([mono, -mono], axis=1)), []
    sound = load(path, notes=notes)[1]
    reference = load(make_audio(tmp_path / "m.wav", mono))[1]
    assert np.abs(np.abs(sound) - np.abs(reference)).max() < 0.01
    assert any("channels of its sound cancel" in note for note in notes)


@pytest.mark.parametrize("second", ["same", "other", "silent"])
def test_channels_that_do_not_cancel_are_averaged(tmp_path: Path, second: str) -> None:
    left = tone(2, level=0.4)
    right = {"same": left, "other": tone(2, hz=700, level=0.4), "silent": 0 * left}[second]
    notes: list[str] = []
    sound = load(make_audio(tmp_path / "a.wav", np.stack([left, right], axis=1)), notes=notes)[1]
    mean = load(make_audio(tmp_path / "m.wav", (left + right) / 2))[1]
    assert np.abs(sound - mean).max() < 1e-3
    assert notes == []


def test_a_subwoofer_never_replaces_the_other_channels(tmp_path: Path) -> None:
    samples = np.zeros((88_200, 6), np.float32)
    samples[:, 2], samples[:, 3] = tone(2, level=0.02), tone(2, hz=50, level=0.9)
    notes: list[str] = []
    sound = load(make_audio(tmp_path / "a.wav", samples, layout="5.1"), notes=notes)[1]
    assert notes == []
    assert np.abs(sound).max() == pytest.approx(0.02 / 5, rel=0.1)


def test_the_antiphase_case_is_heard(cases: Path) -> None:
    sound = load(cases / "antiphase.wav")[1]
    assert np.abs(sound).max() > 0.5


def test_one_channel_can_be_read_alone(tmp_path: Path) -> None:
    path = make_audio(tmp_path / "a.wav", np.stack([tone(1, level=0.4), tone(1, level=0.1)], axis=1))
    peaks = [np.abs(np.concatenate([x for _, x in blocks(path, channel=c)])).max() for c in (0, 1)]
    assert peaks == pytest.approx([0.4, 0.1], abs=0.01)


# ---------------------------------------------------------------- tracks


def two_tracks(path: Path, levels: tuple[float, float]) -> Path:
    """A video with two sound tracks, tones of 440 Hz of these levels."""
    with av.open(str(path), "w") as output:
        video = output.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sounds = [output.add_stream("aac", rate=48_000, layout="mono") for _ in levels]
        for sound, level in zip(sounds, levels, strict=True):
            frame = av.AudioFrame.from_ndarray(tone(1, rate=48_000, level=level)[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
            output.mux([*sound.encode(frame), *sound.encode(None)])
        for i in range(25):
            frame = av.VideoFrame.from_ndarray(stamp(i), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
    return path


def test_a_track_can_be_chosen(tmp_path: Path) -> None:
    path = two_tracks(tmp_path / "two.mkv", (0.1, 0.4))
    for track, level in ((None, 0.1), (1, 0.1), (2, 0.4)):
        sound = np.concatenate([x for _, x in blocks(path, track=track)])
        assert np.abs(sound[4000:12_000]).max() == pytest.approx(level, rel=0.1)
    assert "2 sound tracks; track 1 is used" in probe(path).notes[0]
    assert probe(path, audio_track=2).notes == ()
    with pytest.raises(MediaError, match=r"has 2 sound tracks, and no track 3.*\n.*\n.*--audio-track 1 to 2"):
        probe(path, audio_track=3)


def test_a_track_of_a_file_without_sound_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="has 0 sound tracks, and no track 1"):
        probe(make_video(tmp_path / "v.mp4"), audio_track=1)


def test_the_track_with_speech_is_used(cases: Path) -> None:
    path = cases / "two_audio_first_silent.mkv"
    assert "track 2 is used, because it has" in probe(path).notes[0]
    assert np.abs(load(path)[1]).max() > 0.3


def test_a_page_does_not_embed_a_file_whose_player_uses_another_track(cases: Path, tmp_path: Path) -> None:
    """A browser plays the default track."""
    path = tmp_path / "two.mp4"
    with av.open(str(cases / "two_audio_first_silent.mkv")) as source, av.open(str(path), "w") as output:
        streams = {s.index: output.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream_index]
                output.mux(packet)
    assert "track 2 is used" in probe(path).notes[0]
    assert not is_browser_playable(path)


# ---------------------------------------------------------------- clocks, and cover art


def test_clocks_that_have_nothing_in_common_start_together(tmp_path: Path) -> None:
    path = make_video(
        tmp_path / "far.mkv", rate=25, count=50, audio=clicks([1.0], 2), audio_start_s=1.7e9, audio_codec="pcm_s16le"
    )
    info = probe(path)
    assert (info.video_start_s, info.audio_start_s) == (0, 0)
    assert "clocks of its pictures and its sound differ by 1700000000 s" in info.notes[0]
    assert click_times(path, (1.0,)) == pytest.approx([1.0], abs=0.002)
    assert info.duration_s is None or info.duration_s < 3


def test_the_wall_clock_case_has_its_sound_beside_its_pictures(cases: Path) -> None:
    start_s, sound = load(cases / "wallclock_audio.mkv")
    assert start_s == 0
    assert len(sound) / 16_000 == pytest.approx(3, abs=0.05)
    assert probe(cases / "wallclock_audio.mkv").duration_s == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("extension", ["mp4", "mkv"])
def test_the_only_picture_of_a_sound_is_its_cover(tmp_path: Path, extension: str) -> None:
    path = make_video(tmp_path / f"cover.{extension}", count=1, audio=tone(3))
    info = probe(path)
    assert (info.kind, info.has_video, info.width) == ("audio", False, 0)
    assert list(frames(path)) == []
    assert "counts as cover art" in info.notes[0]


def test_the_cover_case_has_eleven_seconds_of_sound(cases: Path) -> None:
    assert probe(cases / "cover_noflag.m4a").kind == "audio"
    assert len(load(cases / "cover_noflag.m4a")[1]) == 11 * 16_000
