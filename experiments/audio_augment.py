"""Augmentation of speech before it is encoded: speaker, tempo, room, channel, noise, codec and level.

A `Channel` holds what all utterances of one session share: how the voice is changed, and the room and microphone that
record it. `draw_channel` draws one, `apply_channel` changes a sound. Samples are `(n,)` float32 at 16 kHz in [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.signal import fftconvolve, firwin2, resample_poly

RATE = 16_000
#: Samples of a frame of the time stretch, and the largest shift of a frame.
_FRAME, _SHIFT = 640, 160


@dataclass(frozen=True, slots=True)
class Channel:
    """Change of a voice and of its recording.

    speed: factor on pitch, formants and tempo together. tempo: factor on tempo alone. response: FIR filter of room and
    microphone, `(taps,)`. snr_db: level of the speech above the noise; None adds none. noise_tilt: exponent of the
    noise's power over frequency, 0 white to 1 pink. level_db: gain. companding: bits of a mu-law code; 0 for none.
    """

    speed: float = 1.0
    tempo: float = 1.0
    response: np.ndarray | None = None
    snr_db: float | None = None
    noise_tilt: float = 1.0
    level_db: float = 0.0
    companding: int = 0


def draw_channel(rng: np.random.Generator) -> Channel:
    """Draw a channel; the ranges are our choice, from a quiet studio to a telephone in a live room."""
    return Channel(
        speed=float(2 ** rng.uniform(-0.2, 0.2)),
        tempo=float(2 ** rng.uniform(-0.35, 0.2)),
        response=_draw_response(rng),
        snr_db=float(rng.uniform(8, 40)) if rng.random() < 0.7 else None,
        noise_tilt=float(rng.uniform(0, 1.2)),
        level_db=float(rng.uniform(-12, 6)),
        companding=8 if rng.random() < 0.15 else 0,
    )


def apply_channel(samples: np.ndarray, channel: Channel, rng: np.random.Generator) -> np.ndarray:
    """Change a sound by a channel. rng: draws the noise."""
    sound = change_speed(samples, channel.speed)
    sound = change_tempo(sound, channel.tempo)
    if channel.response is not None:
        sound = fftconvolve(sound, channel.response)[: len(sound)]
    level = float(np.sqrt(np.mean(np.square(sound)))) + 1e-9
    if channel.snr_db is not None:
        noise = coloured_noise(rng, len(sound), channel.noise_tilt)
        sound = sound + noise * level * 10 ** (-channel.snr_db / 20)
    sound = sound * (0.08 / level) * 10 ** (channel.level_db / 20)
    if channel.companding:
        sound = _compand(sound, channel.companding)
    return np.asarray(np.clip(sound, -1, 1), np.float32)


def change_speed(samples: np.ndarray, factor: float) -> np.ndarray:
    """Resample a sound: `factor` 1.1 raises pitch and formants by 10 % and makes it shorter by the same factor."""
    up = 100
    down = max(1, round(up * factor))
    out: np.ndarray = samples if up == down else resample_poly(samples, up, down)
    return out


def change_tempo(samples: np.ndarray, factor: float) -> np.ndarray:
    """Shorten a sound to 1 / `factor` of its length at the same pitch.

    Waveform-similarity overlap-add (Verhelst and Roelands 1993, ICASSP): frames of 40 ms, each shifted by up to 10 ms
    to where it correlates best with the continuation of the frame before.
    """
    if len(samples) < 2 * _FRAME + 2 * _SHIFT or abs(factor - 1) < 0.01:
        return samples
    hop, window = _FRAME // 2, np.hanning(_FRAME + 1)[:-1]
    count = int((len(samples) / factor - _FRAME) / hop)
    out = np.zeros(count * hop + _FRAME)
    padded = np.pad(samples.astype(float), (_SHIFT, 2 * _FRAME + _SHIFT))
    place = _SHIFT
    for i in range(count):
        if i:
            target = padded[place + hop : place + hop + _FRAME]  # what followed the frame before
            start = min(int(i * hop * factor), len(padded) - _FRAME - 2 * _SHIFT)
            region = padded[start : start + _FRAME + 2 * _SHIFT]
            place = start + int(fftconvolve(region, target[::-1], "valid").argmax())
        out[i * hop : i * hop + _FRAME] += window * padded[place : place + _FRAME]
    return out


def coloured_noise(rng: np.random.Generator, count: int, tilt: float) -> np.ndarray:
    """Noise with power proportional to 1 / f^tilt and RMS 1: `(count,)`."""
    frequency = np.fft.rfftfreq(count, 1 / RATE)
    spectrum = np.fft.rfft(rng.standard_normal(count)) * np.maximum(frequency, 50.0) ** (-tilt / 2)
    noise: np.ndarray = np.fft.irfft(spectrum, count)
    return noise / (np.std(noise) + 1e-12)


def _draw_response(rng: np.random.Generator) -> np.ndarray:
    """FIR filter of a microphone (a smooth random spectrum between two cutoffs), a room in two of three draws."""
    edges = np.array([0, 100, 250, 500, 1000, 2000, 3000, 4500, 6000, 8000.0])
    gain_db = rng.normal(0, 3.5, len(edges)) + rng.normal(0, 2.5) * np.log2(np.maximum(edges, 100) / 1000)
    if rng.random() < 0.4:
        gain_db -= 12 * np.maximum(0, np.log2(rng.uniform(3000, 7000) ** -1 * np.maximum(edges, 1)))
    if rng.random() < 0.4:
        gain_db -= 9 * np.maximum(0, np.log2(rng.uniform(100, 350) / np.maximum(edges, 30)))
    response: np.ndarray = firwin2(257, edges, 10 ** (np.clip(gain_db, -40, 15) / 20), fs=RATE)
    if rng.random() < 0.67:
        response = np.convolve(response, _draw_room(rng))
    return response


def _draw_room(rng: np.random.Generator) -> np.ndarray:
    """Impulse response of a room: the direct sound, then noise that decays by 60 dB in 0.1 to 0.7 s."""
    decay_s = rng.uniform(0.1, 0.7)
    length = int(0.6 * decay_s * RATE)
    tail = rng.standard_normal(length) * 10 ** (-3 * np.arange(length) / (decay_s * RATE))
    tail[: int(rng.uniform(0.001, 0.01) * RATE)] = 0
    tail *= 10 ** (-rng.uniform(2, 15) / 20) / (np.sqrt(np.sum(tail**2)) + 1e-9)
    tail[0] = 1.0
    return tail


def _compand(sound: np.ndarray, bits: int) -> np.ndarray:
    """Quantise in mu-law code (ITU-T G.711, mu = 255)."""
    code = np.sign(sound) * np.log1p(255 * np.abs(np.clip(sound, -1, 1))) / np.log(256)
    code = np.round(code * 2 ** (bits - 1)) / 2 ** (bits - 1)
    out: np.ndarray = np.sign(code) * np.expm1(np.abs(code) * np.log(256)) / 255
    return out
