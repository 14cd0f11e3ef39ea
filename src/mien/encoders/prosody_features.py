"""Prosody features: from spectral measurements every 10 ms to feature vectors every 40 ms ("cells").

Emotion in a voice shows in how pitch, level, spectral tilt and articulation vary over a phrase (Scherer 2003, Vocal
communication of emotion; Eyben et al. 2016, the Geneva minimalistic acoustic parameter set), far less in one moment.
Each cell therefore holds statistics of the speech within one second on either side, beside the values of the cell.

Levels are relative to the speech around them, so neither the gain of the microphone nor its slow drift matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mien.encoders import pitch, spectrum

#: Frames per cell, cells per second, cells in the second on either side.
FRAMES = 4
RATE_HZ = spectrum.SAMPLE_RATE / spectrum.HOP / FRAMES
REACH = 25
CEPSTRA = 20
#: Statistics use frames of speech at most 35 dB (3.5 bel) below the local level.
_MIN_ENERGY = -3.5
#: Range of levels relative to the local level, in bel; clipping makes all silence equal.
_FLOOR, _CEILING = -6.0, 2.0
#: Zero of the log2 pitch scale, between the usual pitch of men and women.
REFERENCE_HZ = 150.0


@dataclass(frozen=True, slots=True)
class ProsodyFeature:
    """One column of the voice stream: its name, and what it measures with its unit."""

    name: str
    description: str


_NOW = (
    ("pitch", "log2(f0 / 150 Hz), mean over the cell; the mean within a second where unvoiced"),
    ("voicing", "share of the cell that is voiced"),
    ("energy", "bel, power relative to the speech within a second"),
    ("alpha_ratio", "bel, 1-5 kHz over 50-1000 Hz"),
    ("hammarberg", "bel, strongest below 2 kHz over strongest in 2-5 kHz"),
    ("centroid", "kHz, centre of the spectrum"),
    ("flux", "bel, root mean square change of the log-mel bands from frame to frame"),
    ("periodicity", "correlation of a pitch period with the next, 0-1"),
)
_AROUND = (
    ("pitch_mean", "log2(f0 / 150 Hz)"),
    ("pitch_deviation", "octaves"),
    ("pitch_slope", "octaves per second, least squares"),
    ("pitch_drift", "octaves per 100 ms, mean of the signed steps within voiced speech"),
    ("pitch_unrest", "octaves per 100 ms, mean of the absolute steps: intonation and jitter"),
    ("level_unrest", "bel per 10 ms, mean of the absolute steps within voiced speech: shimmer and syllables"),
    ("energy_mean", "bel relative to the local level"),
    ("energy_deviation", "bel"),
    ("energy_slope", "bel per second, least squares"),
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
    ("harmonics_mean", "bel, first harmonic over second: high in a breathy voice, low in a tense one"),
    ("harmonics_deviation", "bel"),
    ("voiced_share", "share of time"),
    ("voiced_onsets", "per second"),
    ("modulation_slow", "bel, modulation of energy at 2-4 Hz"),
    ("modulation_syllables", "bel, modulation of energy at 4-8 Hz: rate and strength of syllables"),
)
_RELATIVE = (
    ("level_against_recording", "bel, local level relative to the recording's median; 0 in a short recording"),
    ("pitch_against_recording", "octaves, relative to the recording's median"),
    ("alpha_ratio_against_recording", "bel, relative to the recording's median"),
)


def _numbered(name: str, count: int, description: str) -> list[ProsodyFeature]:
    return [ProsodyFeature(f"{name}_{i:02d}", description) for i in range(count)]


FEATURES: tuple[ProsodyFeature, ...] = (
    *_numbered("mel", spectrum.BANDS, "bel, power in a mel band relative to the local level"),
    *(ProsodyFeature(*column) for column in _NOW),
    *(ProsodyFeature(name, f"{description}; within a second") for name, description in _AROUND),
    *_numbered("cepstrum_mean", CEPSTRA, "cepstral coefficient of the log-mel bands (DCT-II), mean within a second"),
    *_numbered("cepstrum_deviation", CEPSTRA, "deviation of a cepstral coefficient within a second"),
    *_numbered("cepstrum_motion", CEPSTRA, "deviation of the slope of a cepstral coefficient within a second"),
    *(ProsodyFeature(*column) for column in _RELATIVE),
)
DIM = len(FEATURES)
COLUMN: dict[str, int] = {f.name: i for i, f in enumerate(FEATURES)}
RELATIVE = slice(DIM - len(_RELATIVE), DIM)


def compute_cells(frames: np.ndarray, speaking: np.ndarray) -> np.ndarray:
    """Compute the features of cells from measured frames.

    Args:
        frames: `(time, spectrum.COLUMNS)`, time a multiple of `FRAMES`.
        speaking: `(time,)` bool, someone speaks.

    Returns:
        `(time / FRAMES, DIM)` float32. A cell depends on frames within 3 s of it. The columns `RELATIVE` hold level,
        pitch and tilt, from which the caller subtracts the median of the recording.
    """
    voice = pitch.track(frames[:, spectrum.PITCH], frames[:, spectrum.STRENGTH])
    power = frames[:, spectrum.POWER].astype(np.float64)
    level = _local_level(power, speaking)
    energy = np.clip(power - np.repeat(level, FRAMES), _FLOOR, _CEILING)
    active = speaking & (energy > _MIN_ENERGY)
    voiced = active & voice.voiced
    bands = frames[:, spectrum.BAND] - np.repeat(level, FRAMES)[:, None]
    bands = np.clip(bands, _FLOOR, _CEILING)
    octave = np.where(voice.voiced, np.log2(np.maximum(voice.hz, pitch.LOWEST_HZ) / REFERENCE_HZ), 0.0)
    flux = np.sqrt(np.mean(np.square(np.diff(bands, axis=0, prepend=bands[:1])), axis=1))
    alpha, centroid = frames[:, spectrum.ALPHA], frames[:, spectrum.CENTROID]
    harmonics = _harmonics(frames, voice)
    around = np.concatenate(
        [
            _pitch_statistics(octave, voiced, energy),
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
    """Mean over the frames of each cell: `(time, ...)` -> `(cell, ...)` float64."""
    mean: np.ndarray = values.reshape(-1, FRAMES, *values.shape[1:]).mean(axis=1, dtype=np.float64)
    return mean


def _around(values: np.ndarray) -> np.ndarray:
    """Sums over the cells within `REACH`, fewer at the ends: `(cell, k)` -> `(cell, k)`."""
    sums = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0)])
    cell = np.arange(len(values))
    total: np.ndarray = sums[np.minimum(cell + REACH + 1, len(values))] - sums[np.maximum(cell - REACH, 0)]
    return total


def _local_level(power: np.ndarray, speaking: np.ndarray) -> np.ndarray:
    """Mean power of the speech within a second in bel, `(cell,)`; interpolated where there is no speech."""
    linear = np.where(speaking, 10.0**power, 0.0)
    sums = _around(_per_cell(np.stack([linear, speaking], axis=1)))
    # After loud speech the running sum keeps rounding errors of its size; smaller sums are unknown.
    known = np.flatnonzero(sums[:, 1] > 1e-6)
    if not len(known):
        return np.full(len(sums), -6.0)
    levels = np.log10(np.maximum(sums[known, 0] / sums[known, 1], 1e-14))
    level: np.ndarray = np.interp(np.arange(len(sums)), known, levels)
    return level


def _mean_deviation(values: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the frames with `weight` within a second of each cell.

    values: `(time,)` or `(time, k)`. Returns two arrays `(cell, k)`, 0 where there are no such frames.
    """
    values = values.reshape(len(values), -1).astype(np.float64)
    chosen = weight[:, None] * values
    count = _around(_per_cell(weight[:, None]))
    share = np.maximum(count, 1e-3)
    mean = _around(_per_cell(chosen)) / share
    square = _around(_per_cell(chosen * values)) / share
    return mean, np.sqrt(np.maximum(square - mean**2, 0.0))


def _mean(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    mean: np.ndarray = _mean_deviation(values, weight)[0][:, 0]
    return mean


def _slope(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Least-squares slope in units per second, `(cell,)`.

    A constant added to the variance of time brings the slope of very short speech to zero.
    """
    time = np.arange(len(values)) / (FRAMES * RATE_HZ)
    moments = np.stack([values, time, values * time, time**2], axis=1)
    y, t, yt, tt = _mean_deviation(moments, weight)[0].T
    slope: np.ndarray = np.clip((yt - y * t) / (np.maximum(tt - t**2, 0) + 0.02), -3.0, 3.0)
    return slope


def _pitch_statistics(octave: np.ndarray, voiced: np.ndarray, energy: np.ndarray) -> np.ndarray:
    """The first six columns of `_AROUND`, `(cell, 6)`."""
    mean, deviation = _mean_deviation(octave, voiced)
    pair = voiced & np.concatenate([[False], voiced[:-1]])
    step = np.diff(octave, prepend=octave[:1])
    change = np.abs(np.diff(energy, prepend=energy[:1]))
    steps = [10 * _mean(step, pair), 10 * _mean(np.abs(step), pair), _mean(change, pair)]
    return np.concatenate([mean, deviation, np.stack([_slope(octave, voiced), *steps], axis=1)], axis=1)


def _pitch_now(octave: np.ndarray, voiced: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Mean pitch of each cell, `otherwise` where it is unvoiced, `(cell,)`."""
    share = _per_cell(voiced)
    return np.where(share > 0, _per_cell(octave * voiced) / np.maximum(share, 1e-3), otherwise)


def _rhythm(energy: np.ndarray, voiced: np.ndarray) -> np.ndarray:
    """The last four columns of `_AROUND`: share of voiced time, onsets, and modulation of energy, `(cell, 4)`."""
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
    """Matrix of the orthonormal DCT-II, `(bands, CEPSTRA)`."""
    angle = np.pi * (np.arange(bands)[:, None] + 0.5) * np.arange(CEPSTRA) / bands
    return (np.cos(angle) * np.sqrt(np.where(np.arange(CEPSTRA), 2, 1) / bands)).astype(np.float32)


@lru_cache(maxsize=4)
def _band_pass(low_hz: float, high_hz: float) -> np.ndarray:
    """Windowed-sinc (Hamming) band pass over cells, gain 1 in the middle of its band: `(REACH,)`."""
    place = np.arange(REACH) - (REACH - 1) / 2
    low, high = 2 * low_hz / RATE_HZ, 2 * high_hz / RATE_HZ
    taps = (high * np.sinc(high * place) - low * np.sinc(low * place)) * np.hamming(REACH)
    gain: np.ndarray = taps / np.sum(taps * np.cos(np.pi * place * (low + high) / 2))
    return gain


def _harmonics(frames: np.ndarray, voice: pitch.Pitch) -> np.ndarray:
    """First harmonic over second of the chosen pitch candidate in bel, `(time,)`."""
    chosen = np.argmin(np.abs(frames[:, spectrum.PITCH] - voice.hz[:, None]), axis=1)
    harmonics: np.ndarray = np.take_along_axis(frames[:, spectrum.HARMONICS], chosen[:, None], axis=1)
    return harmonics[:, 0]


def _motion(cepstra: np.ndarray) -> np.ndarray:
    """Slope of each cepstral coefficient over 50 ms, per frame; 0 at the ends."""
    out = np.zeros_like(cepstra)
    out[2:-2] = (cepstra[4:] - cepstra[:-4]) / 4
    return out
