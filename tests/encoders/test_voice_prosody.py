"""Voice encoder of the starter: tones of known pitch, known level, tilt and rhythm, blocks, gain and silence."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter

from mien.encoders import pitch, prosody_features, spectrum, voice_prosody
from mien.encoders.voice_prosody import COLUMN, DIM, FEATURES, RATE_HZ, ProsodyExtractor
from mien.media.audio import load
from mien.media.voice_activity import STEP
from mien.records import Stream

RATE = 16_000


def tone(hz: np.ndarray | float, seconds: float, harmonics: int = 10, tilt: float = 1.0) -> np.ndarray:
    """Harmonics of amplitude k**-tilt below 7 kHz; hz a number or one a sample. RMS near 0.1."""
    n = round(seconds * RATE)
    line = np.broadcast_to(np.asarray(hz, float), n)
    phase = 2 * np.pi * np.cumsum(line) / RATE
    sound = sum(k**-tilt * np.sin(k * phase + k * k) * (k * line < 7000) for k in range(1, harmonics + 1))
    return np.asarray(0.1 * sound / np.std(sound), np.float32)


def track(sound: np.ndarray) -> pitch.Pitch:
    hop = spectrum.HOP
    return pitch.track(*pitch.find_candidates(sound[: (len(sound) - pitch.WIDTH) // hop * hop + pitch.WIDTH], hop))


def cut(sound: np.ndarray, length: int, start_s: float = 0.0) -> Iterator[tuple[float, np.ndarray]]:
    for i in range(0, len(sound), length):
        yield start_s + i / RATE, sound[i : i + length]


def encode(sound: np.ndarray, length: int = 160_000) -> Stream:
    return ProsodyExtractor()(cut(sound, length))


class AllSpeech:
    """Replaces the voice activity network: every step is speech."""

    def __init__(self) -> None:
        self.samples = 0

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        before, self.samples = self.samples // STEP, self.samples + len(samples)
        return np.ones(self.samples // STEP - before, np.float32)

    def finish(self) -> np.ndarray:
        return np.ones(int(self.samples % STEP > 0), np.float32)


@pytest.fixture
def all_speech(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat every step as speech, because silero-vad does not detect speech in synthetic tones."""
    monkeypatch.setattr(voice_prosody, "VoiceActivity", AllSpeech)


def column_mean(stream: Stream, name: str, from_s: float = 0.0, to_s: float = 1e9) -> float:
    chosen = stream.valid & (stream.times >= from_s) & (stream.times < to_s)
    return float(stream.values[chosen, COLUMN[name]].mean())


# ---- pitch


@given(hz=st.floats(63, 480), harmonics=st.integers(1, 20), tilt=st.floats(0.3, 2.5))
@settings(max_examples=40)
def test_pitch_of_a_tone_is_within_one_percent(hz: float, harmonics: int, tilt: float) -> None:
    found = track(tone(hz, 0.4, harmonics, tilt))
    assert found.voiced.all()
    assert np.abs(found.hz / hz - 1).max() < 0.01
    assert found.strength.min() > 0.95


@pytest.mark.parametrize(("low", "high"), [(90.0, 180.0), (300.0, 150.0)])
def test_pitch_follows_a_glide(low: float, high: float) -> None:
    hz = np.geomspace(low, high, RATE)
    found = track(tone(hz, 1.0))
    # a correlation at lag L compares cores centred CORE / 2 and CORE / 2 + L after the frame's start
    centre = np.arange(len(found.hz)) * spectrum.HOP + pitch.CORE // 2 + (RATE / found.hz / 2).astype(int)
    assert found.voiced.all()
    assert np.abs(found.hz / hz[centre] - 1).max() < 0.01


def test_pitch_of_a_missing_fundamental() -> None:
    phase = 2 * np.pi * 120 * np.arange(RATE) / RATE
    sound = sum(np.sin(k * phase) for k in range(2, 8)).astype(np.float32)
    assert np.abs(track(sound).hz / 120 - 1).max() < 0.01


@pytest.mark.parametrize("colour", ["white", "brownish"])
def test_noise_is_unvoiced(colour: str) -> None:
    sound = np.random.default_rng(3).normal(size=10 * RATE).astype(np.float32)
    if colour == "brownish":
        sound = lfilter([1.0], [1.0, -0.7], sound).astype(np.float32)
    found = track(sound)
    assert found.voiced.mean() < 0.01
    assert (found.hz[~found.voiced] == 0).all()


def test_pitch_with_noise_10_db_below() -> None:
    sound = tone(140.0, 3.0) + np.random.default_rng(0).normal(0, 0.1 * 10**-0.5, 3 * RATE).astype(np.float32)
    found = track(sound)
    assert found.voiced.mean() > 0.95
    assert np.abs(found.hz[found.voiced] / 140 - 1).max() < 0.05  # no octave error


def test_voicing_ends_where_the_tone_ends() -> None:
    quiet = np.random.default_rng(1).normal(0, 1e-3, RATE).astype(np.float32)
    found = track(np.concatenate([quiet, tone(200.0, 1.0), quiet]))
    start, stop = np.flatnonzero(found.voiced)[[0, -1]] * spectrum.HOP / RATE
    assert abs(start - 1.0) < 0.05
    assert abs(stop - 2.0) < 0.05


def test_digital_silence_has_no_pitch_and_no_nan() -> None:
    found = track(np.zeros(RATE, np.float32))
    assert not found.voiced.any()
    assert np.isfinite(found.strength).all()
    assert len(pitch.track(np.zeros((0, 5)), np.zeros((0, 5))).hz) == 0


# ---- blocks, times, memory


@given(lengths=st.lists(st.integers(1, 40_000), min_size=1, max_size=8), seed=st.integers(0, 9))
@settings(max_examples=10)
def test_block_size_makes_no_difference(lengths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    sound = tone(120 + 80 * rng.random(48_000).cumsum() / 24_000, 3.0) * rng.random()
    whole = encode(sound, len(sound))
    line, place, number = [], 0, 0
    while place < len(sound):
        step = lengths[number % len(lengths)] + 200
        line.append((place / RATE, sound[place : place + step]))
        place, number = place + step, number + 1
    pieces = ProsodyExtractor()(line)
    np.testing.assert_array_equal(pieces.valid, whole.valid)
    np.testing.assert_allclose(pieces.values, whole.values, atol=1e-4)
    np.testing.assert_array_equal(pieces.times, whole.times)


@pytest.mark.usefixtures("all_speech")
def test_borders_of_stretches_make_no_difference() -> None:
    rng = np.random.default_rng(5)
    steps = np.repeat(rng.uniform(90, 260, 300), RATE // 4)
    sound = tone(steps, 75.0, 6) * np.repeat(rng.uniform(0.1, 1, 300), RATE // 4).astype(np.float32)
    whole = encode(sound)
    # the same sound without its first 10 s: its stretches end elsewhere, the border at 64 s lies inside now
    later = encode(sound[10 * RATE :])
    inside = slice(round((60 - 10) * RATE_HZ), round((70 - 10) * RATE_HZ))
    shifted = slice(inside.start + round(10 * RATE_HZ), inside.stop + round(10 * RATE_HZ))
    absolute = slice(0, prosody_features.RELATIVE.start)
    np.testing.assert_allclose(later.values[inside, absolute], whole.values[shifted, absolute], atol=2e-4)


@pytest.mark.usefixtures("all_speech")
def test_times_are_the_centres_of_the_cells() -> None:
    sound = 1e-4 * tone(150.0, 3.0)
    sound[round(1.30 * RATE) : round(1.42 * RATE)] = tone(150.0, 0.12)
    stream = ProsodyExtractor()(cut(sound, 10_000, start_s=7.5))
    assert stream.times[0] == pytest.approx(7.52)
    assert np.allclose(np.diff(stream.times), 0.04)
    assert len(stream.times) == 75
    near = np.abs(stream.times - 8.86) < 0.9  # further away the level around is another
    power = 10.0 ** stream.values[near, COLUMN["energy"]]
    assert float(power @ stream.times[near] / power.sum()) == pytest.approx(7.5 + 1.36, abs=0.01)


@pytest.mark.usefixtures("all_speech")
def test_memory_grows_with_the_features_only() -> None:
    second = tone(150.0, 1.0)

    def beyond(seconds: int) -> float:
        tracemalloc.start()
        stream = ProsodyExtractor()((float(i), second) for i in range(seconds))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return float(peak - 2 * stream.values.nbytes)  # twice while its pieces are joined

    beyond(1)
    assert beyond(150) - beyond(70) < 1e6


def test_empty_and_very_short_audio() -> None:
    none = ProsodyExtractor()([])
    assert none.values.shape == (0, DIM)
    short = ProsodyExtractor()([(2.0, np.zeros(100, np.float32))])
    assert short.values.shape == (1, DIM)
    assert short.times[0] == pytest.approx(2.02)
    assert not short.valid.any()


def test_silence_and_noise_are_invalid_and_zero() -> None:
    noise = np.random.default_rng(0).normal(0, 0.03, 3 * RATE).astype(np.float32)
    for sound in (np.zeros(3 * RATE, np.float32), noise):
        stream = encode(sound)
        assert not stream.valid.any()
        assert (stream.values == 0).all()


def test_every_column_has_a_unique_name_and_a_description() -> None:
    assert len(FEATURES) == DIM == len(COLUMN) == len(ProsodyExtractor.FEATURES)
    assert all(f.description for f in FEATURES)


# ---- columns


@pytest.mark.usefixtures("all_speech")
def test_pitch_columns() -> None:
    rising = encode(tone(100 * 2 ** np.linspace(0, 1.5, 3 * RATE), 3.0))
    assert column_mean(rising, "pitch_slope", 1, 2) == pytest.approx(0.5, abs=0.04)
    assert column_mean(rising, "pitch_drift", 1, 2) == pytest.approx(0.05, abs=0.005)
    assert column_mean(rising, "pitch", 1.4, 1.6) == pytest.approx(np.log2(100 / 150) + 0.75, abs=0.03)
    flat = encode(tone(220.0, 3.0))
    assert column_mean(flat, "pitch") == pytest.approx(np.log2(220 / 150), abs=0.005)
    assert column_mean(flat, "pitch_deviation") < 0.01
    assert column_mean(flat, "voiced_share") > 0.95


@pytest.mark.usefixtures("all_speech")
def test_tilt_columns() -> None:
    dark, bright = encode(tone(150.0, 2.0, 40, 2.0)), encode(tone(150.0, 2.0, 40, 0.5))
    for name in ("alpha_ratio", "alpha_ratio_mean", "centroid", "voiced_centroid_mean"):
        assert column_mean(bright, name) > column_mean(dark, name) + 0.2
    assert column_mean(bright, "hammarberg") < column_mean(dark, "hammarberg") - 0.5
    # amplitudes k**-2 and k**-.5: first over second harmonic 1.2 and 0.3 bel
    assert column_mean(dark, "harmonics_mean") == pytest.approx(2 * 2.0 * np.log10(2), abs=0.1)
    assert column_mean(bright, "harmonics_mean") == pytest.approx(2 * 0.5 * np.log10(2), abs=0.1)


@pytest.mark.usefixtures("all_speech")
def test_rhythm_columns() -> None:
    t = np.arange(4 * RATE) / RATE
    slow, fast = (
        encode((tone(150.0, 4.0) * 10 ** (0.5 * np.sin(2 * np.pi * f * t))).astype(np.float32)) for f in (3, 6)
    )
    # ±1 bel of power: the deviation of a sine of amplitude 1 is .71
    assert column_mean(slow, "modulation_slow", 1, 3) == pytest.approx(0.6, abs=0.2)
    assert column_mean(slow, "modulation_slow", 1, 3) > 3 * column_mean(slow, "modulation_syllables", 1, 3)
    assert column_mean(fast, "modulation_syllables", 1, 3) > 3 * column_mean(fast, "modulation_slow", 1, 3)
    gated = encode((tone(150.0, 4.0) * (np.sin(2 * np.pi * 2 * t) > -0.5)).astype(np.float32))
    assert column_mean(gated, "voiced_onsets", 1, 3) == pytest.approx(2.0, abs=0.4)


@pytest.mark.usefixtures("all_speech")
def test_noise_in_the_voice_lowers_periodicity() -> None:
    breath = np.random.default_rng(0).normal(0, 0.05, 2 * RATE).astype(np.float32)
    sung = tone(150.0, 2.0)
    assert column_mean(encode(sung), "periodicity_mean") > 0.98
    # a correlation of 1 for the tone's share of the power, 0 for the noise's, behind the tracker's low pass
    low_pass = np.array([1, 4, 6, 4, 1]) / 16
    power, hiss = np.var(np.convolve(sung, low_pass)), 0.05**2 * np.sum(low_pass**2)
    assert column_mean(encode(sung + breath), "periodicity_mean") == pytest.approx(power / (power + hiss), abs=0.02)


@pytest.mark.usefixtures("all_speech")
def test_columns_relative_to_the_recording_show_a_change() -> None:
    calm = np.tile(tone(120.0, 1.0), 9)
    upset = 4 * np.tile(tone(180.0, 1.0), 4)
    stream = encode(np.concatenate([calm, upset]))
    assert column_mean(stream, "level_against_recording", 2, 7) == pytest.approx(0.0, abs=0.02)
    assert column_mean(stream, "level_against_recording", 10.5, 12.5) == pytest.approx(2 * np.log10(4), abs=0.05)
    assert column_mean(stream, "pitch_against_recording", 10.5, 12.5) == pytest.approx(np.log2(1.5), abs=0.02)
    # everything else forgets the level
    assert column_mean(stream, "energy_mean", 10.5, 12.5) == pytest.approx(
        column_mean(stream, "energy_mean", 2, 7), abs=0.02
    )


@pytest.mark.parametrize("gain_db", [-12, 12])
@pytest.mark.usefixtures("all_speech")
def test_gain_makes_no_difference(gain_db: int) -> None:
    rng = np.random.default_rng(2)
    sound = tone(np.repeat(rng.uniform(90, 260, 20), 4000), 5.0) + rng.normal(0, 1e-3, 5 * RATE).astype(np.float32)
    before, after = encode(sound), encode(sound * np.float32(10 ** (gain_db / 20)))
    np.testing.assert_allclose(after.values, before.values, atol=2e-3)


# ---- real speech


@pytest.mark.parametrize("gain_db", [-12, 12])
def test_gain_on_real_speech_changes_only_speech_borders(shared: Path, gain_db: int) -> None:
    for path in sorted((shared / "emodb").glob("*.wav"))[::90]:
        _, sound = load(path)
        before, after = encode(sound), encode(sound * np.float32(10 ** (gain_db / 20)))
        both = before.valid & after.valid
        assert np.mean(before.valid != after.valid) <= 0.1
        assert np.median(np.abs(after.values - before.values)[both]) < 0.01


def test_real_anger_is_higher_brighter_and_faster_than_sadness(shared: Path) -> None:
    streams = {
        letter: [encode(load(p)[1]) for p in sorted((shared / "emodb").glob(f"08???{letter}?.wav"))[:5]]
        for letter in "WT"
    }

    def median(letter: str, name: str) -> float:
        return float(np.median([column_mean(stream, name) for stream in streams[letter]]))

    assert median("W", "pitch_mean") > median("T", "pitch_mean") + 0.4
    assert median("W", "alpha_ratio_mean") > median("T", "alpha_ratio_mean") + 0.5
    assert median("W", "modulation_syllables") > median("T", "modulation_syllables")
    assert median("T", "harmonics_mean") > median("W", "harmonics_mean")


def test_speech_is_valid_and_silence_is_not(shared: Path) -> None:
    _, speech = load(sorted((shared / "emodb").glob("*.wav"))[5])
    silence = np.zeros(2 * RATE, np.float32)
    stream = encode(np.concatenate([silence, speech, silence]))
    inside = (stream.times > 2.0) & (stream.times < 2.0 + len(speech) / RATE)
    assert stream.valid[inside].mean() > 0.6
    assert stream.valid[~inside].mean() < 0.05
    assert stream.provenance["encoder"] == voice_prosody.NAME
