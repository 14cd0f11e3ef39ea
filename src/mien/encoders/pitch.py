"""Pitch tracking: fundamental frequency per frame by normalised cross-correlation and dynamic programming.

The first `CORE` samples of a frame are correlated with as many samples `lag` later, for every lag between the highest
and the lowest pitch (Talkin 1995, A Robust Algorithm for Pitch Tracking). The `CANDIDATES` best peaks are candidates.
Dynamic programming chooses the path with the least cost of weak peaks, octave jumps and changes of voicing. All frames
are processed at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.fft import irfft, rfft
from numpy.lib.stride_tricks import sliding_window_view

SAMPLE_RATE = 16_000
LOWEST_HZ, HIGHEST_HZ = 60.0, 500.0
#: Samples correlated: 30 ms, which is 1.8 periods of the lowest pitch and short enough to follow an intonation.
CORE = 480
LONGEST_LAG = int(np.ceil(SAMPLE_RATE / LOWEST_HZ))
SHORTEST_LAG = int(SAMPLE_RATE // HIGHEST_HZ)
#: Low pass, -2 dB at 2 kHz and -12 dB at 4 kHz: above, a period of a few samples does not repeat at whole samples, and
#: noise is not voice.
_LOW_PASS = np.array([1, 4, 6, 4, 1], np.float32) / 16
#: Samples of one frame: the core, the longest lag, one lag on either side of the range (to recognise a peak at its
#: end), and the low pass.
WIDTH = CORE + LONGEST_LAG + 2 + len(_LOW_PASS) - 1
CANDIDATES = 5
_FFT = 1024
#: Least correlation of a peak, and penalty per sample of lag in the ranking of peaks. Our choice.
_MIN_CORRELATION = 0.2
_LAG_PENALTY = np.float32(4e-4)

#: Costs of the path, our choice, tuned on tones and on speech of known pitch. A voiced frame costs 1 - strength, an
#: unvoiced one `_UNVOICED`; a jump costs `_OCTAVE_JUMP` per octave, at most `_MAX_JUMP`; a change of voicing `_SWITCH`.
#: `_HIGHER` per octave prefers the shorter of two equally good periods.
_UNVOICED, _OCTAVE_JUMP, _MAX_JUMP, _SWITCH, _HIGHER = 0.45, 0.6, 2.0, 0.25, 0.03
_IMPOSSIBLE = 9.0
#: The path is computed in stretches of 1 s, all at once, with 0.5 s of context on both sides: frames further away do
#: not change the result, and the number of steps does not grow with the recording.
_STRETCH, _CONTEXT = 100, 50


@dataclass(frozen=True, slots=True)
class Pitch:
    """Pitch per frame.

    hz: `(time,)` float; 0 where unvoiced.
    strength: `(time,)` float in [0, 1], the correlation of a period with the next, at the chosen candidate (unvoiced
        frames: at the best one).
    voiced: `(time,)` bool.
    """

    hz: np.ndarray
    strength: np.ndarray
    voiced: np.ndarray


def find_candidates(samples: np.ndarray, hop: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the best peaks of each frame's correlation.

    Args:
        samples: `((time - 1) * hop + WIDTH,)` float32 at 16 kHz without a constant offset. Frame i is
            `samples[i * hop : i * hop + WIDTH]`, so its core is centred on sample i * hop + CORE / 2 + 2.
        hop: samples between frames.

    Returns:
        Frequency in Hz and strength in [0, 1], both `(time, CANDIDATES)` float32, strongest first; 0 where there are
        fewer peaks.
    """
    correlation = _correlation(samples, hop)[:, SHORTEST_LAG - 1 :]
    inner = correlation[:, 1:-1]
    peak = (inner > correlation[:, :-2]) & (inner >= correlation[:, 2:]) & (inner > _MIN_CORRELATION)
    # Multiples of a period correlate as well as the period, and at whole samples often better.
    ranked = np.where(peak, inner - _LAG_PENALTY * np.arange(inner.shape[1], dtype=np.float32), np.float32(-1))
    pick = np.argpartition(-ranked, CANDIDATES, axis=1)[:, :CANDIDATES]
    pick = np.take_along_axis(pick, np.argsort(-np.take_along_axis(ranked, pick, 1), axis=1, kind="stable"), 1)
    is_peak = np.take_along_axis(ranked, pick, 1) > 0
    left, middle, right = (np.take_along_axis(correlation, pick + i, 1).astype(np.float64) for i in (0, 1, 2))
    curvature = left - 2 * middle + right  # parabola through three lags: the peak between whole samples
    shift = np.clip(0.5 * (left - right) / np.where(curvature < -1e-12, curvature, -1e-12), -0.5, 0.5)
    hz = SAMPLE_RATE / (pick + SHORTEST_LAG + shift)
    strength = np.clip(middle - 0.25 * (left - right) * shift, 0, 1)
    return np.where(is_peak, hz, 0).astype(np.float32), np.where(is_peak, strength, 0).astype(np.float32)


def _correlation(samples: np.ndarray, hop: int) -> np.ndarray:
    """Correlation of the core with the samples at each lag, in [-1, 1]: `(time, LONGEST_LAG + 2)`."""
    lags = LONGEST_LAG + 2
    samples = np.convolve(samples, _LOW_PASS, "valid")
    frames = sliding_window_view(samples, CORE + lags)[::hop]
    core = rfft(frames[:, :CORE], _FFT, axis=1)
    product = irfft(np.conj(core) * rfft(frames, _FFT, axis=1), _FFT, axis=1)[:, :lags]
    power = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
    energy = (power[CORE:] - power[:-CORE]).astype(np.float32)
    energy = sliding_window_view(energy, lags)[::hop][: len(frames)]
    # The floor excludes rounding errors far below the core's own power, and 0 / 0 in digital silence.
    floor = np.maximum(1e-6 * energy[:, :1], np.float32(1e-20))
    correlation: np.ndarray = product / (np.sqrt(np.maximum(energy[:, :1], floor)) * np.sqrt(np.maximum(energy, floor)))
    return correlation


def track(hz: np.ndarray, strength: np.ndarray) -> Pitch:
    """Choose one candidate, or unvoiced, for each frame: the path of least cost.

    Args:
        hz, strength: `(time, CANDIDATES)` from `find_candidates`.

    Returns:
        The pitch of each frame. It depends only on the frames within 1.5 s and on the frame's position within the whole
        seconds of the array.
    """
    count = len(hz)
    if not count:
        return Pitch(np.zeros(0), np.zeros(0), np.zeros(0, bool))
    stretches = -(-count // _STRETCH)
    span = _STRETCH + 2 * _CONTEXT
    index = np.arange(span)[:, None] + _STRETCH * np.arange(stretches) - _CONTEXT
    outside = (index < 0) | (index >= count)
    index = np.clip(index, 0, count - 1)
    octave = np.log2(np.maximum(hz, 1.0)).astype(np.float64)
    cost = np.empty((count, hz.shape[1] + 1))
    cost[:, :-1] = np.where(hz > 0, 1 - strength - _HIGHER * (octave - np.log2(LOWEST_HZ)), _IMPOSSIBLE)
    cost[:, -1] = _UNVOICED
    state = _least_cost_path(np.where(outside[..., None], 0.0, cost[index]), octave[index])
    state = state[_CONTEXT : _CONTEXT + _STRETCH].T.ravel()[:count]
    voiced = state < hz.shape[1]
    rows, chosen = np.arange(count), np.where(voiced, state, 0)
    return Pitch(np.where(voiced, hz[rows, chosen], 0.0), strength[rows, chosen], voiced)


def _least_cost_path(cost: np.ndarray, octave: np.ndarray) -> np.ndarray:
    """Viterbi algorithm for all stretches at once: `(step, stretch, state)` costs -> `(step, stretch)` states.

    The last state is unvoiced. octave: `(step, stretch, state - 1)`, log2 of the candidates' frequency.
    """
    steps, stretches, states = cost.shape
    back = np.zeros(cost.shape, np.int8)
    total = cost[0]
    move = np.full((stretches, states, states), _SWITCH)
    move[:, -1, -1] = 0.0
    for step in range(1, steps):
        jump = np.abs(octave[step - 1][:, :, None] - octave[step][:, None, :])
        move[:, :-1, :-1] = np.minimum(_OCTAVE_JUMP * jump, _MAX_JUMP)
        costs = total[:, :, None] + move
        back[step] = costs.argmin(axis=1)
        total = costs.min(axis=1) + cost[step]
    state = np.zeros((steps, stretches), np.int64)
    state[-1] = total.argmin(axis=1)
    row = np.arange(stretches)
    for step in range(steps - 1, 0, -1):
        state[step - 1] = back[step, row, state[step]]
    return state
