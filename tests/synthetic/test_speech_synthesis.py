"""Synthesised speech: pitch, level, tilt, silence, and whether voice activity detection accepts it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.labels import EXPRESSIONS
from mien.media.voice_activity import STEP, VoiceActivity
from mien.synthetic import prosody
from mien.synthetic.speech_synthesis import RATE_HZ, Speaker, Speech, synthesise


@lru_cache
def synthesise_class(expression: str, sex: str, number: int = 0, intensity: float = 0.8) -> Speech:
    speaker = Speaker.random(np.random.default_rng([number, len(sex)]), sex)
    return synthesise([(0.5, 3.5, expression, intensity)], speaker, number, seconds=4.0)


def autocorrelation_pitch(samples: np.ndarray, centre: int, low_hz: float = 60, high_hz: float = 500) -> float:
    """f0 of 50 ms around a sample: the lag of the highest peak of the normalised autocorrelation."""
    cut = samples[max(0, centre - 400) : centre + 400].astype(float)
    cut = cut - cut.mean()
    lags = np.arange(int(RATE_HZ / high_hz), int(RATE_HZ / low_hz))
    score = [
        np.dot(cut[lag:], cut[:-lag]) / np.sqrt(np.dot(cut[lag:], cut[lag:]) * np.dot(cut[:-lag], cut[:-lag]) + 1e-12)
        for lag in lags
    ]
    # the shortest lag that is nearly as good as the best one: not an octave below
    best = np.flatnonzero(np.array(score) > 0.92 * max(score))[0]
    while best + 1 < len(score) and score[best + 1] > score[best]:
        best += 1
    return RATE_HZ / lags[best]


@pytest.mark.parametrize("sex", ["female", "male"])
def test_the_measured_pitch_is_the_planned_pitch(sex: str) -> None:
    speech = synthesise_class("Neutral", sex)
    steady = [
        i
        for i in range(10, len(speech.f0) - 10)
        if np.isfinite(speech.f0[i - 8 : i + 9]).all() and np.ptp(speech.f0[i - 8 : i + 9]) < 0.06 * speech.f0[i]
    ]
    assert len(steady) > 30
    measured = np.array([autocorrelation_pitch(speech.samples, round(speech.times[i] * RATE_HZ)) for i in steady[::3]])
    planned = speech.f0[steady[::3]]
    assert np.median(np.abs(measured / planned - 1)) < 0.03


def level_db(speech: Speech) -> float:
    sounding = np.repeat(np.isfinite(speech.f0), RATE_HZ // 200)[: len(speech.samples)]
    return float(10 * np.log10(np.mean(speech.samples[sounding] ** 2)))


def tilt_db(speech: Speech) -> float:
    """Energy above 1 kHz against below, in dB."""
    power = np.abs(np.fft.rfft(speech.samples)) ** 2
    hz = np.fft.rfftfreq(len(speech.samples), 1 / RATE_HZ)
    return float(10 * np.log10(power[(hz > 1000) & (hz < 5000)].sum() / power[(hz > 50) & (hz <= 1000)].sum()))


@pytest.mark.parametrize("sex", ["female", "male"])
def test_emotions_differ_in_level_pitch_and_tilt(sex: str) -> None:
    def mean(expression: str, measure: Callable[[Speech], float]) -> float:
        return float(np.mean([measure(synthesise_class(expression, sex, n, 1.0)) for n in range(6)]))

    def pitch(speech: Speech) -> float:
        return float(np.nanmedian(speech.f0))

    assert mean("Anger", level_db) > mean("Neutral", level_db) + 3
    assert mean("Sadness", level_db) < mean("Neutral", level_db) - 3
    assert mean("Happiness", pitch) > 1.2 * mean("Neutral", pitch)
    assert mean("Sadness", pitch) < mean("Neutral", pitch)
    assert mean("Anger", tilt_db) > mean("Neutral", tilt_db) + 2
    assert mean("Neutral", tilt_db) > mean("Sadness", tilt_db) + 1


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_voice_activity_detection_accepts_the_speech(expression: str) -> None:
    for number, sex in enumerate(("female", "male")):
        speech = synthesise_class(expression, sex, number)
        detector = VoiceActivity()
        probability = np.concatenate([detector(speech.samples), detector.finish()])
        centres = (np.arange(len(probability)) + 0.5) * STEP / RATE_HZ
        spoken = np.interp(centres, speech.times, np.isfinite(speech.f0) | (speech.mouth_opening > 0.02)) > 0.5
        assert (probability[spoken] > 0.5).mean() >= 0.8


@settings(max_examples=12)
@given(
    expression=st.sampled_from(EXPRESSIONS),
    sex=st.sampled_from(["female", "male"]),
    intensity=st.floats(0, 1),
    start=st.floats(0, 1),
    length=st.floats(0, 2),
    seed=st.integers(0, 2**31),
)
def test_samples_stay_in_range_and_are_zero_outside_the_segments(
    expression: str, sex: str, intensity: float, start: float, length: float, seed: int
) -> None:
    speaker = Speaker.random(np.random.default_rng(seed), sex)
    speech = synthesise([(start, start + length, expression, intensity)], speaker, seed, seconds=3.2)
    assert len(speech.samples) == round(3.2 * RATE_HZ)
    assert speech.samples.dtype == np.float32
    assert np.abs(speech.samples).max() < 1
    times = np.arange(len(speech.samples)) / RATE_HZ
    assert not speech.samples[(times < start - 0.005) | (times > start + length + 0.005)].any()
    assert ((speech.mouth_opening >= 0) & (speech.mouth_opening <= 1)).all()
    assert len(speech.times) == len(speech.mouth_opening) == len(speech.f0)


def test_the_same_seed_gives_the_same_bytes_and_speakers_differ() -> None:
    first, other = synthesise_class("Fear", "female"), synthesise_class("Fear", "female", 1)
    synthesise_class.cache_clear()
    again = synthesise_class("Fear", "female")
    assert first.samples.tobytes() == again.samples.tobytes()
    assert first.samples.tobytes() != other.samples.tobytes()


def test_the_mouth_moves_only_during_speech() -> None:
    speech = synthesise_class("Neutral", "male")
    inside = (speech.times > 0.5) & (speech.times < 3.5)
    assert speech.mouth_opening[inside].max() > 0.5
    assert speech.mouth_opening[inside].std() > 0.1
    assert not speech.mouth_opening[~inside].any()


def test_every_class_has_a_delivery_and_unknown_classes_are_refused() -> None:
    assert set(prosody.DELIVERIES) == set(EXPRESSIONS)
    with pytest.raises(KeyError):
        prosody.draw_delivery(np.random.default_rng(0), "Joy", 1.0)
    with pytest.raises(ValueError, match="female or male, got 'robot'"):
        Speaker.random(np.random.default_rng(0), "robot")
