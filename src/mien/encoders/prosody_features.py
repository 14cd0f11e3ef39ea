"""From frames of 10 ms to cells of 40 ms: what the voice does now, and how it has been doing within a second.

Emotion in a voice shows in how pitch, level, tilt and articulation behave over a phrase (Scherer 2003, Vocal
communication of emotion; Eyben et al. 2016, the Geneva minimalistic acoustic parameter set), far less in any one
moment. Each cell therefore carries statistics of the speech within a second on either side, beside the moment itself.

Levels are measured against the speech around them, so neither the microphone's gain nor a slow drift of it counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mien.encoders import pitch, spectrum

#: Frames in a cell, cells a second, cells within the second on either side.
FRAMES = 4
RATE_HZ = spectrum.SAMPLE_RATE / spectrum.HOP / FRAMES
REACH = 25
CEPSTRA = 20
#: Frames that take part in statistics: somebody speaks, not more than 35 dB below the level around.
_QUIETEST = -3.5
#: Levels against the speech around are cut here (bel), so that silence is silence however deep.
_FLOOR, _CEILING = -6.0, 2.0
#: log2 of pitch counts from here, between men's and women's usual pitch.
REFERENCE_HZ = 150.0


@dataclass(frozen=True, slots=True)
class ProsodyFeature:
    """One column of the voice stream: its name, what it is with its unit, and which transformation of
    `mien.encoders.voice_prosody.augment` moves it."""

    name: str
    what: str


_NOW = (
    ("pitch", "log2(f0 / 150 Hz), mean over the cell; the mean within a second where unvoiced"),
    ("voicing", "share of the cell that is voiced"),
    ("energy", "bel, power against the speech within a second"),
    ("alpha_ratio", "bel, 1-5 kHz over 50-1000 Hz"),
    ("hammarberg", "bel, strongest below 2 kHz over strongest in 2-5 kHz"),
    ("centroid", "kHz, centre of the spectrum"),
    ("flux", "bel, root mean square change of the log-mel bands from frame to frame"),
    ("periodicity", "correlation of a pitch period with the next, 0-1"),
)
_AROUND = (
    ("pitch_mean", "log2(f0 / 150 Hz)"),
    ("pitch_deviation", "octaves"),
    ("pitch_slope", "octaves a second, least squares"),
    ("pitch_drift", "octaves in 100 ms, mean of the signed steps inside voiced stretches"),
    ("pitch_unrest", "octaves in 100 ms, mean of the absolute steps: intonation and jitter"),
    ("level_unrest", "bel in 10 ms, mean of the absolute steps inside voiced stretches: shimmer and syllables"),
    ("energy_mean", "bel against the level around"),
    ("energy_deviation", "bel"),
    ("energy_slope", "bel a second, least squares"),
    ("alpha_ratio_mean", "bel"),
    ("alpha_ratio_deviation", "bel"),
    ("centroid_mean", "kHz"),
    ("centroid_deviation", "kHz"),
    ("voiced_centroid_mean", "kHz, voiced frames only"),
    ("voiced_centroid_deviation", "kHz, voiced frames only"),
    ("flux_mean", "bel"),
    ("flux_deviation", "bel"),
    ("periodicity_mean", "0-1"),
    ("periodicity_deviation", "0-1"),
    ("harmonics_mean", "bel, first harmonic over second: breathy is high, tense low"),
    ("harmonics_deviation", "bel"),
    ("voiced_share", "share of all time"),
    ("voiced_onsets", "a second"),
    ("modulation_slow", "bel, energy's modulation at 2-4 Hz"),
    ("modulation_syllables", "bel, energy's modulation at 4-8 Hz: rate and force of syllables"),
)
_RELATIVE = (
    ("level_against_recording", "bel, the level around against the recording's median; 0 in a short one"),
    ("pitch_against_recording", "octaves, likewise"),
    ("alpha_ratio_against_recording", "bel, likewise"),
)
FEATURES: tuple[ProsodyFeature, ...] = (
    *(
        ProsodyFeature(f"mel_{i:02d}", "bel, power in a mel band against the speech around")
        for i in range(spectrum.BANDS)
    ),
    *(ProsodyFeature(n, w) for n, w in _NOW),
    *(ProsodyFeature(n, f"{w}; within a second") for n, w in _AROUND),
    *(
        ProsodyFeature(f"cepstrum_mean_{i:02d}", "of the log-mel bands (DCT-II), within a second")
        for i in range(CEPSTRA)
    ),
    *(ProsodyFeature(f"cepstrum_deviation_{i:02d}", "within a second") for i in range(CEPSTRA)),
    *(ProsodyFeature(f"cepstrum_motion_{i:02d}", "deviation of its slope, within a second") for i in range(CEPSTRA)),
    *(ProsodyFeature(n, w) for n, w in _RELATIVE),
)
DIM = len(FEATURES)
COLUMN: dict[str, int] = {f.name: i for i, f in enumerate(FEATURES)}
RELATIVE = slice(DIM - len(_RELATIVE), DIM)


def cells(frames: np.ndarray, speaking: np.ndarray) -> np.ndarray:
    """Measured frames to features.

    Args:
        frames: `(time, spectrum.COLUMNS)`, time a multiple of `FRAMES`.
        speaking: `(time,)` bool, somebody speaks.

    Returns:
        `(time / FRAMES, DIM)` float32. The columns `RELATIVE` still hold what is to be compared with the recording's
        median: level, pitch, tilt. A cell depends on frames within 3 s of it.
    """
    voice = pitch.track(frames[:, spectrum.PITCH], frames[:, spectrum.STRENGTH])
    power = frames[:, spectrum.POWER].astype(np.float64)
    level = _level_around(power, speaking)
    energy = np.clip(power - np.repeat(level, FRAMES), _FLOOR, _CEILING)
    active = speaking & (energy > _QUIETEST)
    voiced = active & voice.voiced
    bands = frames[:, spectrum.BAND] - np.repeat(level, FRAMES)[:, None]
    bands = np.clip(bands, _FLOOR, _CEILING)
    octave = np.where(voice.voiced, np.log2(np.maximum(voice.hz, pitch.LOWEST_HZ) / REFERENCE_HZ), 0.0)
    flux = np.sqrt(np.mean(np.square(np.diff(bands, axis=0, prepend=bands[:1])), axis=1))
    alpha, centroid = frames[:, spectrum.ALPHA], frames[:, spectrum.CENTROID]
    harmonics = _harmonics(frames, voice)
    around = np.concatenate(
        [
            _pitch(octave, voiced, energy),
            *_mean_deviation(energy, active),
            _slope(energy, active)[:, None],
            *_mean_deviation(alpha, active),
            *_mean_deviation(centroid, active),
            *_mean_deviation(centroid, voiced),
            *_mean_deviation(flux, active),
            *_mean_deviation(voice.strength, active),
            *_mean_deviation(harmonics, voiced),
            _rhythm(energy, voiced),
        ],
        axis=1,
    )
    now = [_per_cell(x) for x in (alpha, frames[:, spectrum.HAMMARBERG], centroid, flux, voice.strength)]
    cepstra = bands @ _cosines(bands.shape[1])
    out = np.concatenate(
        [
            _per_cell(bands),
            np.stack([_pitch_now(octave, voiced, around[:, 0]), _per_cell(voiced), _per_cell(energy), *now], axis=1),
            around,
            *_mean_deviation(cepstra, active),
            _mean_deviation(_motion(cepstra), active)[1],
            np.stack([level, around[:, 0], _mean_deviation(alpha, active)[0][:, 0]], axis=1),
        ],
        axis=1,
    )
    return out.astype(np.float32)


def _per_cell(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, FRAMES, *values.shape[1:]).mean(axis=1, dtype=np.float64)


def _around(values: np.ndarray) -> np.ndarray:
    """Sums of `(cell, k)` over the cells within `REACH`, fewer at the ends."""
    sums = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0)])
    place = np.arange(len(values))
    return sums[np.minimum(place + REACH + 1, len(values))] - sums[np.maximum(place - REACH, 0)]


def _level_around(power: np.ndarray, speaking: np.ndarray) -> np.ndarray:
    """`(cell,)` bel: mean power of the speech within a second; where there is none, of the nearest that has it."""
    linear = np.where(speaking, 10.0**power, 0.0)
    sums = _around(_per_cell(np.stack([linear, speaking], axis=1)))
    # after a shout the running sum keeps rounding of its size: what is not above it, is not known
    known = np.flatnonzero(sums[:, 1] > 1e-6)
    if not len(known):
        return np.full(len(sums), -6.0)
    level = np.log10(np.maximum(sums[known, 0] / sums[known, 1], 1e-14))
    return np.interp(np.arange(len(sums)), known, level)


def _mean_deviation(values: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of frames `(time,)` or `(time, k)` where `weight`, within a second of each cell: two `(cell, k)`, 0 where there
    are none."""
    values = values.reshape(len(values), -1).astype(np.float64)
    chosen = weight[:, None] * values
    count = _around(_per_cell(weight[:, None]))
    share = np.maximum(count, 1e-3)
    mean = _around(_per_cell(chosen)) / share
    square = _around(_per_cell(chosen * values)) / share
    return mean, np.sqrt(np.maximum(square - mean**2, 0.0))


def _mean(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return _mean_deviation(values, weight)[0][:, 0]


def _slope(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Least squares, units a second, `(cell,)`. A little is added to the time's variance, so that a moment has no
    slope."""
    time = np.arange(len(values)) / (FRAMES * RATE_HZ)
    moments = np.stack([values, time, values * time, time**2], axis=1)
    y, t, yt, tt = _mean_deviation(moments, weight)[0].T
    return np.clip((yt - y * t) / (np.maximum(tt - t**2, 0) + 0.02), -3.0, 3.0)


def _pitch(octave: np.ndarray, voiced: np.ndarray, energy: np.ndarray) -> np.ndarray:
    mean, deviation = _mean_deviation(octave, voiced)
    pair = voiced & np.concatenate([[False], voiced[:-1]])
    step = np.diff(octave, prepend=octave[:1])
    change = np.abs(np.diff(energy, prepend=energy[:1]))
    steps = [10 * _mean(step, pair), 10 * _mean(np.abs(step), pair), _mean(change, pair)]
    return np.concatenate([mean, deviation, np.stack([_slope(octave, voiced), *steps], axis=1)], axis=1)


def _pitch_now(octave: np.ndarray, voiced: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    share = _per_cell(voiced)
    return np.where(share > 0, _per_cell(octave * voiced) / np.maximum(share, 1e-3), otherwise)


def _rhythm(energy: np.ndarray, voiced: np.ndarray) -> np.ndarray:
    onset = voiced & ~np.concatenate([[True], voiced[:-1]])
    cell = _per_cell(np.stack([voiced, onset * FRAMES * RATE_HZ], axis=1))
    length = _around(np.ones((len(cell), 1)))
    line = _per_cell(np.maximum(energy, _FLOOR + 2))
    strength = []
    for low, high in ((2.0, 4.0), (4.0, 8.0)):
        taps = _band_pass(low, high)
        swing = np.convolve(np.pad(line, REACH // 2, mode="edge"), taps - taps.mean(), "valid")
        strength.append(np.sqrt(np.maximum(_around(swing[:, None] ** 2) / length, 0.0)))
    return np.concatenate([_around(cell) / length, *strength], axis=1)


@lru_cache(maxsize=1)
def _cosines(bands: int) -> np.ndarray:
    """`(bands, CEPSTRA)`: the orthonormal DCT-II."""
    angle = np.pi * (np.arange(bands)[:, None] + 0.5) * np.arange(CEPSTRA) / bands
    return (np.cos(angle) * np.sqrt(np.where(np.arange(CEPSTRA), 2, 1) / bands)).astype(np.float32)


@lru_cache(maxsize=4)
def _band_pass(low_hz: float, high_hz: float) -> np.ndarray:
    """`(REACH,)`: the windowed-sinc (Hamming) band pass over cells, gain 1 in the middle of its band."""
    place = np.arange(REACH) - (REACH - 1) / 2
    low, high = 2 * low_hz / RATE_HZ, 2 * high_hz / RATE_HZ
    taps = (high * np.sinc(high * place) - low * np.sinc(low * place)) * np.hamming(REACH)
    gain: np.ndarray = taps / np.sum(taps * np.cos(np.pi * place * (low + high) / 2))
    return gain


def _harmonics(frames: np.ndarray, voice: pitch.Pitch) -> np.ndarray:
    """First harmonic over second of the chosen candidate, `(time,)` bel."""
    chosen = np.argmin(np.abs(frames[:, spectrum.PITCH] - voice.hz[:, None]), axis=1)
    return np.take_along_axis(frames[:, spectrum.HARMONICS], chosen[:, None], axis=1)[:, 0]


def _motion(cepstra: np.ndarray) -> np.ndarray:
    """Slope over 50 ms, a frame; 0 at the ends."""
    out = np.zeros_like(cepstra)
    out[2:-2] = (cepstra[4:] - cepstra[:-4]) / 4
    return out
