"""Audio at 16 kHz placed by its timestamps, and voice activity detection."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter

from mien.errors import ArtefactError, MediaError
from mien.media import voice_activity
from mien.media.audio import SAMPLE_RATE, VoiceActivity, blocks, is_speech, load, speech_probability, speech_stream
from mien.media.probe import probe
from tests.media.limits import peaks_mb
from tests.media.makers import blank_frames, clicks, make_audio, make_video, stamp, tone

SILERO_STEP = 512 / 16_000


# ---------------------------------------------------------------- samples


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000])
def test_resampling_keeps_the_time_and_shape_of_a_click(tmp_path: Path, rate: int) -> None:
    path = make_audio(tmp_path / "c.wav", clicks([0.25, 1.75], 2, rate), rate=rate)
    start_s, samples = load(path)
    assert start_s == 0.0
    assert samples.dtype == np.float32
    assert len(samples) == 2 * SAMPLE_RATE
    # The pulse is band-limited, so the ideal result is the same pulse sampled at 16 kHz: closed form.
    assert np.abs(samples - clicks([0.25, 1.75], 2, SAMPLE_RATE)).max() < 2e-4


@pytest.mark.parametrize(
    ("extension", "codec", "rate", "options"),
    [
        ("wav", "pcm_u8", 44_100, {}),
        ("wav", "pcm_s24le", 44_100, {}),
        ("wav", "pcm_f32le", 44_100, {}),
        ("flac", "flac", 48_000, {"sample_format": "s32"}),
        ("mp3", "mp3", 44_100, {}),
        ("m4a", "aac", 44_100, {}),
        ("ogg", "libopus", 48_000, {}),
        ("opus", "libopus", 48_000, {}),
        ("mkv", "aac", 48_000, {}),
        ("ac3", "ac3", 48_000, {}),
    ],
)
def test_every_container_keeps_time_and_level(
    tmp_path: Path, extension: str, codec: str, rate: int, options: dict
) -> None:
    path = make_audio(tmp_path / f"c.{extension}", clicks([0.5], 1, rate), rate=rate, codec=codec, **options)
    info = probe(path)
    assert (info.kind, info.has_audio, info.has_video) == ("audio", True, False)
    start_s, samples = load(path)
    peak = np.argmax(samples)
    assert start_s + peak / SAMPLE_RATE == pytest.approx(0.5, abs=1e-3)
    assert samples[peak] == pytest.approx(0.8, abs=0.05)


def test_channels_are_averaged_without_the_subwoofer(tmp_path: Path) -> None:
    left, right = tone(1, 300), tone(1, 500)
    stereo = load(make_audio(tmp_path / "s.wav", np.stack([left, right], 1)))[1]
    ideal = (tone(1, 300, SAMPLE_RATE) + tone(1, 500, SAMPLE_RATE)) / 2
    assert np.abs(stereo - ideal)[200:-200].max() < 1e-3
    six = np.zeros((44_100, 6), np.float32)
    six[:, 2], six[:, 3] = tone(1, 300), tone(1, 60)  # FL FR FC LFE BL BR
    surround = load(make_audio(tmp_path / "6.wav", six))[1]
    assert np.abs(surround - tone(1, 300, SAMPLE_RATE) / 5)[200:-200].max() < 1e-3


def test_nan_and_infinite_samples_become_zero(tmp_path: Path) -> None:
    samples = tone(0.5, rate=SAMPLE_RATE)
    samples[100:105], samples[200] = np.nan, np.inf
    soundfile.write(tmp_path / "n.wav", samples, SAMPLE_RATE, subtype="FLOAT")
    notes: list[str] = []
    out = load(tmp_path / "n.wav", notes=notes)[1]
    assert np.isfinite(out).all()
    assert not out[100:105].any()
    assert any("6 audio samples are NaN or infinite" in text for text in notes)


# ---------------------------------------------------------------- time


@given(seconds=st.floats(0.01, 3.0))
@settings(max_examples=15)
def test_blocks_are_contiguous_and_concatenate_to_the_whole_audio(
    tmp_path_factory: pytest.TempPathFactory, seconds: float
) -> None:
    path = tmp_path_factory.getbasetemp() / "blocks.mkv"
    if not path.exists():
        make_video(path, audio=tone(2.2), audio_start_s=0.3, audio_codec="pcm_s16le")
    start_s, whole = load(path)
    parts = list(blocks(path, seconds=seconds))
    assert np.array_equal(np.concatenate([x for _, x in parts]), whole)
    length = max(1, round(seconds * SAMPLE_RATE))
    assert all(len(x) == length for _, x in parts[:-1])
    for k, (at_s, _) in enumerate(parts):
        assert at_s == pytest.approx(start_s + k * length / SAMPLE_RATE, abs=1e-9)


def test_gaps_become_silence_and_overlaps_are_cut(tmp_path: Path) -> None:
    """Pieces at 0, 1.5 (a gap of .5 s) and 2.3 (which overlaps by .2 s), each with a click .6 s in."""
    pieces = [(t, clicks([0.6], 1)) for t in (0.0, 1.5, 2.3)]
    path = make_audio(tmp_path / "gaps.mkv", pieces)
    notes: list[str] = []
    start_s, samples = load(path, notes=notes)
    assert start_s == 0.0
    assert len(samples) / SAMPLE_RATE == pytest.approx(3.3, abs=2e-3)
    for at_s in (0.6, 2.1, 2.9):
        near = slice(round((at_s - 0.1) * SAMPLE_RATE), round((at_s + 0.1) * SAMPLE_RATE))
        assert at_s - 0.1 + np.argmax(samples[near]) / SAMPLE_RATE == pytest.approx(at_s, abs=1e-3)
        samples[near] = 0
    assert np.abs(samples).max() < 1e-3  # nothing but the clicks
    assert any("2 gaps or overlaps (first at 1.00 s)" in text for text in notes)


def test_jitter_below_50_ms_moves_no_sample(tmp_path: Path) -> None:
    wave = tone(2, rate=48_000)
    jitter = np.random.default_rng(0).uniform(-0.02, 0.02, 20)
    pieces = [(max(0.0, i * 0.1 + jitter[i] * (i > 0)), wave[i * 4800 : (i + 1) * 4800]) for i in range(20)]
    notes: list[str] = []
    samples = load(make_audio(tmp_path / "j.mkv", pieces, rate=48_000), notes=notes)[1]
    assert np.abs(samples - tone(2, rate=SAMPLE_RATE))[100:-100].max() < 1e-3
    assert notes == []


def test_timestamps_that_are_set_back_lose_no_audio(tmp_path: Path) -> None:
    parts = [
        make_video(tmp_path / f"{i}.ts", count=25, rate=25, audio=clicks([0.5], 1), audio_codec="mp2").read_bytes()
        for i in range(2)
    ]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(parts))
    notes: list[str] = []
    start_s, samples = load(path, notes=notes)
    at_s = start_s + np.flatnonzero(samples > 0.7) / SAMPLE_RATE
    assert at_s[0] == pytest.approx(0.5, abs=0.03)  # MPEG layer 2 keeps its encoder's delay of 481 samples
    assert at_s[-1] - at_s[0] == pytest.approx(1.0, abs=0.05)
    assert any("clock jumps" in text for text in notes)


def test_sample_rate_may_change_within_a_file(tmp_path: Path) -> None:
    parts = [
        make_audio(tmp_path / f"{rate}.mp2", clicks([0.5], 1, rate), rate=rate, codec="mp2").read_bytes()
        for rate in (44_100, 48_000)
    ]
    path = tmp_path / "joined.mp3"
    path.write_bytes(b"".join(parts))
    samples = load(path)[1]
    at_s = np.flatnonzero(samples > 0.6) / SAMPLE_RATE
    assert len(samples) / SAMPLE_RATE == pytest.approx(2, abs=0.08)
    assert at_s[-1] - at_s[0] == pytest.approx(1.0, abs=0.06)  # whole MPEG frames of 26 ms


@pytest.mark.parametrize(("video_s", "audio_s"), [(0.5, 0.0), (0.0, 0.7)])
def test_audio_keeps_its_offset_to_the_video(tmp_path: Path, video_s: float, audio_s: float) -> None:
    path = make_video(
        tmp_path / "a.mkv", start_s=video_s, audio=clicks([0.5], 1), audio_start_s=audio_s, audio_codec="flac"
    )
    start_s, samples = load(path)
    assert start_s == pytest.approx(audio_s, abs=1e-3)
    assert start_s + np.argmax(samples) / SAMPLE_RATE == pytest.approx(audio_s + 0.5, abs=1e-3)


def test_audio_that_ends_early_is_noted(tmp_path: Path) -> None:
    notes: list[str] = []
    path = make_video(tmp_path / "e.mp4", count=90, audio=tone(1.2))
    samples = load(path, notes=notes)[1]
    assert len(samples) / SAMPLE_RATE == pytest.approx(1.2, abs=0.03)
    assert len(notes) == 1
    assert "e.mp4: the audio ends at 1.2" in notes[0]
    assert "the video continues to 3.00 s" in notes[0]


def test_a_truncated_file_yields_the_audio_before_the_cut(tmp_path: Path) -> None:
    path = make_audio(tmp_path / "t.wav", tone(3))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    notes: list[str] = []
    samples = load(path, notes=notes)[1]
    assert np.abs(samples - tone(3, rate=SAMPLE_RATE)[: len(samples)])[200:-200].max() < 1e-3
    assert len(samples) / SAMPLE_RATE == pytest.approx(1.5, abs=0.01)
    video = make_video(tmp_path / "t.mp4", count=90, audio=tone(3), options={"movflags": "faststart"})
    whole = load(video)[1]
    video.write_bytes(video.read_bytes()[: video.stat().st_size * 6 // 10])
    part = load(video, notes=notes)[1]
    assert 0.5 < len(part) / SAMPLE_RATE < 2.5
    assert np.array_equal(part[:-1500], whole[: len(part)][:-1500])
    assert any(f"t.mp4: the audio ends at {len(part) / SAMPLE_RATE:.2f} s" in text for text in notes)


# ---------------------------------------------------------------- no audio


def test_files_without_audio_yield_no_blocks(tmp_path: Path) -> None:
    silent = make_video(tmp_path / "v.mp4", count=5)
    cv2.imwrite(str(tmp_path / "i.png"), stamp(1))
    for path in (silent, tmp_path / "i.png"):
        assert list(blocks(path)) == []
        start_s, samples = load(path)
        assert (start_s, samples.shape, samples.dtype) == (0.0, (0,), np.float32)
        stream = speech_stream(blocks(path))
        assert stream.values.shape == (0, 1)


def test_a_silent_track_yields_zeros_without_speech(tmp_path: Path) -> None:
    path = make_video(tmp_path / "s.mp4", count=60, audio=np.zeros(88_200, np.float32))
    samples = load(path)[1]
    assert len(samples) / SAMPLE_RATE == pytest.approx(2, abs=0.03)
    assert not samples.any()
    stream = speech_stream(blocks(path))
    assert len(stream.times) == np.ceil(len(samples) / 512)
    assert not stream.valid.any()
    assert stream.values.max() < 0.2


def test_damaged_video_does_not_change_the_audio(tmp_path: Path) -> None:
    path = make_video(
        tmp_path / "d.avi", codec="mjpeg", pixel_format="yuvj420p", count=5, audio=tone(1), audio_codec="mp3"
    )
    whole = load(path)[1]
    assert np.array_equal(load(blank_frames(path, slice(None)))[1], whole)


def test_invalid_arguments_raise_at_the_call(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"gone\.wav does not exist"):
        blocks(tmp_path / "gone.wav")
    with pytest.raises(ValueError, match="above 0 s"):
        blocks(make_audio(tmp_path / "a.wav", tone(0.1)), seconds=0)


# ---------------------------------------------------------------- speech


def babble(seconds: float) -> np.ndarray:
    """`(n,)` float32 at 16 kHz: a pulse source through random formants, with pauses. It resembles a voice enough that
    the probability varies between 0 and .9, so that the network's state matters."""
    rng, n = np.random.default_rng(3), round(seconds * SAMPLE_RATE)
    bends = rng.normal(0, 0.25, n // 4000 + 2)
    pitch = 120 * 2 ** np.interp(np.arange(n), 4000 * np.arange(len(bends)), bends)
    pulses = np.diff(np.floor(np.cumsum(pitch / SAMPLE_RATE)), prepend=0)
    source = np.diff(lfilter([1], [1, -0.97], pulses) + rng.normal(0, 0.01, n), prepend=0)
    out = np.zeros(n)
    for start in range(0, n, 3200):
        piece = source[start : start + 6400]
        for hz, width in zip(rng.uniform([300, 900, 2300], [800, 2100, 2900]), (80, 100, 150), strict=True):
            r = np.exp(-np.pi * width / SAMPLE_RATE)
            piece = lfilter([1 - r], [1, -2 * r * np.cos(2 * np.pi * hz / SAMPLE_RATE), r * r], piece)
        out[start : start + 6400] += piece * np.hanning(6400)[: len(piece)] * rng.choice([0, 1, 1])
    return (0.3 * out / np.abs(out).max()).astype(np.float32)


def wrapper_probability(samples: np.ndarray) -> np.ndarray:
    """Golden values: silero-vad's own Python wrapper around its step-by-step network."""
    silero_vad = pytest.importorskip("silero_vad")
    import torch

    model = silero_vad.load_silero_vad(onnx=True)
    padded = torch.from_numpy(np.pad(samples, (0, -len(samples) % 512)))
    return np.array([model(step, SAMPLE_RATE).item() for step in padded.split(512)], np.float32)


def test_probability_equals_silero_vads_own_wrapper() -> None:
    samples = babble(12.3)
    golden = wrapper_probability(samples)
    assert speech_stream([(0.0, samples)]).values[:, 0] == pytest.approx(golden, abs=1e-6)
    assert golden.max() > 0.8
    assert golden.min() < 0.1


def test_probability_of_real_speech_equals_silero_vads_own_wrapper(shared: Path) -> None:
    samples = np.concatenate([load(p)[1] for p in sorted((shared / "emodb").glob("*.wav"))[:3]])[:80_077]
    golden = wrapper_probability(samples)
    assert speech_stream([(0.0, samples)]).values[:, 0] == pytest.approx(golden, abs=1e-6)
    assert golden.max() > 0.9


def test_probability_does_not_depend_on_the_blocks() -> None:
    samples = babble(20)
    whole = speech_stream([(0.25, samples)])
    cuts = [0, 1, 400, 512, 513, 9_000, 100_000, 100_001, len(samples)]
    pieces = [(0.25 + a / SAMPLE_RATE, samples[a:b]) for a, b in pairwise(cuts)]
    split = speech_stream(pieces)
    assert np.array_equal(split.values, whole.values)
    assert np.array_equal(split.times, whole.times)
    assert whole.times == pytest.approx(0.25 + (np.arange(len(whole.times)) + 0.5) * SILERO_STEP, abs=1e-12)
    assert sum(len(p) for _, p in speech_probability(pieces)) == len(whole.times) == np.ceil(len(samples) / 512)


def test_voice_activity_returns_steps_as_they_complete() -> None:
    network, samples = VoiceActivity(), babble(1)
    assert len(network(samples[:511])) == 0
    assert len(network(samples[511:512])) == 1
    assert len(network(samples[512:2048])) == 3
    assert len(network.finish()) == 0
    network(samples[2048:2100])
    assert len(network.finish()) == 1


def test_speech_is_detected_in_real_recordings(shared: Path) -> None:
    for name in ("bbaf2n", "lbax4n", "lwbsza", "pwij3p", "swiz3n"):
        stream = speech_stream(blocks(shared / "clips" / f"{name}.mpg"))
        assert stream.valid.mean() > 0.35, name
        assert not stream.valid[stream.times < 0.3].any(), name
    assert not speech_stream(blocks(shared / "clips" / "single_face.mp4")).valid.any()
    spoken = [speech_stream(blocks(p)).valid.mean() for p in sorted((shared / "emodb").glob("*.wav"))[:20]]
    assert np.mean(spoken) > 0.8


def test_voice_activity_detection_does_not_import_torch(tmp_path: Path) -> None:
    path = make_audio(tmp_path / "a.wav", tone(1))
    code = (
        "import sys; from pathlib import Path; from mien.media.audio import blocks, speech_stream; "
        f"speech_stream(blocks(Path({str(path)!r}))); "
        "print('torch' in sys.modules, 'silero_vad' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False False"
    assert out.stderr == ""


def test_a_missing_silero_network_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path))
    monkeypatch.delenv("MIEN_HUB", raising=False)
    monkeypatch.setenv("MIEN_OFFLINE", "1")
    voice_activity._session.cache_clear()
    try:
        with pytest.raises(ArtefactError, match=r"silero_vad_16k_sequence\.onnx.* is missing") as caught:
            VoiceActivity()
        assert "mien hub pull silero-vad" in caught.value.remedy
        assert "--no-voice" in caught.value.remedy
    finally:
        voice_activity._session.cache_clear()


def slow_is_speech(probability: np.ndarray, on: float, off: float, speech_s: float, silence_s: float) -> np.ndarray:
    """The definition, step by step."""
    state, speaking = False, []
    for p in probability:
        state = p >= on if not state else p >= off
        speaking.append(bool(state))

    def runs(values: list[bool]) -> list[tuple[int, int]]:
        edges = [0, *(i for i in range(1, len(values)) if values[i] != values[i - 1]), len(values)]
        return list(pairwise(edges))

    for start, stop in runs(speaking):
        inside = start > 0 and stop < len(speaking)
        if inside and not speaking[start] and (stop - start) * SILERO_STEP < silence_s:
            speaking[start:stop] = [True] * (stop - start)
    for start, stop in runs(speaking):
        if stop > start and speaking[start] and (stop - start) * SILERO_STEP < speech_s:
            speaking[start:stop] = [False] * (stop - start)
    return np.array(speaking, bool)


@given(st.lists(st.sampled_from([0.0, 0.3, 0.35, 0.4, 0.49, 0.5, 0.9]), max_size=80))
def test_hysteresis_equals_its_definition(values: list[float]) -> None:
    probability = np.array(values, np.float32)
    expected = slow_is_speech(probability, np.float32(0.5), np.float32(0.35), 0.25, 0.1)
    assert np.array_equal(is_speech(probability), expected)


def test_short_pauses_join_and_short_sounds_are_dropped() -> None:
    probability = np.zeros(100)
    probability[10:20], probability[22:40] = 0.9, 0.9  # a pause of two steps: 64 ms
    probability[60:64] = 0.9  # 128 ms of sound
    speaking = is_speech(probability)
    assert speaking[10:40].all()
    assert speaking.sum() == 30
    assert is_speech(probability, min_speech_s=0.1).sum() == 34
    assert is_speech(np.zeros(0)).shape == (0,)


def test_memory_does_not_grow_with_the_length_of_the_audio(tmp_path: Path) -> None:
    paths = [make_audio(tmp_path / f"{n}.wav", tone(n, rate=8_000), rate=8_000) for n in (20, 320)]
    (short, _), (long, _) = peaks_mb("speech_dimensions", *paths)
    assert long < short + 8  # 300 s more would be 19 MB at 16 kHz
