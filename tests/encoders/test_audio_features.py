"""Log-mel and waveform features: definition, blocks, times and silence."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from mien.encoders.audio_features import AudioFeatures, log_mel
from mien.encoders.protocol import AudioEncoder
from mien.records import Stream


def encode(name: str, sound: np.ndarray, block: int = 10_000, start_s: float = 0.0) -> Stream:
    encoder = AudioFeatures(name)
    assert isinstance(encoder, AudioEncoder)
    borders = [*range(0, len(sound), block), len(sound)]
    pieces = list(encoder.encode_audio((start_s + a / 16_000, sound[a:b]) for a, b in pairwise(borders)))
    values, times, valid = (np.concatenate([getattr(p, key) for p in pieces]) for key in ("values", "times", "valid"))
    return Stream(values, times, valid)


def test_waveform_rows_are_the_samples() -> None:
    sound = np.random.default_rng(0).normal(size=6_400 + 330).astype(np.float32)
    stream = encode("waveform", sound, start_s=2.0)
    np.testing.assert_array_equal(stream.values.ravel()[: len(sound)], sound)
    assert not stream.values.ravel()[len(sound) :].any(), (
        "a last row that is more than half complete is padded with zeros"
    )
    np.testing.assert_allclose(stream.times, 2.0 + 0.04 * np.arange(len(stream.times)) + 0.02)


def test_log_mel_of_a_tone_peaks_in_its_band_with_its_power() -> None:
    sound = np.sin(2 * np.pi * 1_000 * np.arange(16_000) / 16_000).astype(np.float32)
    stream = encode("log-mel", sound)
    frames = stream.values.reshape(-1, 64)[4:-4]
    low, high = np.log(1 + np.array([50.0, 8_000.0]) / 700)
    assert stream.values.shape == (25, 256)
    assert len(set(frames.argmax(axis=1).tolist())) == 1
    centres = 700 * (np.exp(np.linspace(low, high, 66)[1:-1]) - 1)  # HTK's mel scale, as mel_filter_bank's default
    assert abs(centres[int(frames[0].argmax())] - 1_000) < 60
    louder = encode("log-mel", 10 * sound).values.reshape(-1, 64)[4:-4]
    np.testing.assert_allclose(louder.max(axis=1) - frames.max(axis=1), 20.0, atol=1e-3)


@pytest.mark.parametrize("name", ["log-mel", "waveform"])
def test_block_size_makes_no_difference_and_silence_is_invalid(name: str) -> None:
    sound = np.random.default_rng(1).normal(size=32_000).astype(np.float32)
    sound[6_400:12_800] = 0
    whole, parts = encode(name, sound, 32_000), encode(name, sound, 777)
    np.testing.assert_array_equal(whole.values, parts.values)
    np.testing.assert_array_equal(whole.times, parts.times)
    np.testing.assert_array_equal(np.flatnonzero(~parts.valid), np.arange(10, 20))
    assert log_mel(np.zeros(640 + 240, np.float32)).max() == pytest.approx(-100.0)
