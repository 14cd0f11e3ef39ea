"""Fundamental frequency of speech, frame by frame: normalised cross-correlation and the cheapest path through it.

A frame's first `CORE` samples are compared with the same number of samples `lag` later, for every lag between the
highest and the lowest pitch (Talkin 1995, A Robust Algorithm for Pitch Tracking, the normalised cross-correlation);
the `CANDIDATES` best peaks stand for election, and dynamic programming picks the path that pays least for weak
peaks, octave jumps and changes of voicing. All frames go through at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.fft import irfft, rfft
from numpy.lib.stride_tricks import sliding_window_view

SAMPLE_RATE = 16_000
LOWEST_HZ, HIGHEST_HZ = 60.0, 500.0
#: Samples compared: 30 ms, which is 1.8 periods of the lowest pitch and short enough to follow an intonation.
CORE = 480
LONGEST = int(np.ceil(SAMPLE_RATE / LOWEST_HZ))
SHORTEST = int(SAMPLE_RATE // HIGHEST_HZ)
#: Samples that one frame needs: the core, the longest lag, and one lag beyond it so that a peak there can be seen.
#: A low pass of -2 dB at 2 kHz, -12 dB at 4 kHz: above, a period of a few samples does not repeat on the samples, and
#: hiss is no voice.
_SMOOTHING = np.array([1, 4, 6, 4, 1], np.float32) / 16
WIDTH = CORE + LONGEST + 2 + len(_SMOOTHING) - 1
CANDIDATES = 5
_FFT = 1024
_WEAKEST = 0.2
_LONGER = np.float32(4e-4)

#: Path costs, our choice, tried on tones and on speech whose octave is known. A frame costs 1 - strength if voiced,
#: `_UNVOICED` if not; an octave's jump `_OCTAVE`, at most `_FURTHEST`; a change of voicing `_SWITCH`. `_HIGHER` per
#: octave prefers the shorter of two equally good periods.
_UNVOICED, _OCTAVE, _FURTHEST, _SWITCH, _HIGHER = 0.45, 0.6, 2.0, 0.25, 0.03
_IMPOSSIBLE = 9.0
#: The path is found in stretches of 1 s with 0.5 s of run-up on both sides, all stretches at once: what lies
#: further than 0.5 s away decides nothing, and a recording's length costs no steps.
_STRETCH, _RUN_UP = 100, 50


@dataclass(frozen=True, slots=True)
class Pitch:
    """hz: `(time,)` float, 0 where unvoiced. strength: `(time,)` float in [0, 1], the correlation of a period with
    the next one (of the chosen peak; unvoiced: of the best). voiced: `(time,)` bool."""

    hz: np.ndarray
    strength: np.ndarray
    voiced: np.ndarray


def candidates(samples: np.ndarray, hop: int) -> tuple[np.ndarray, np.ndarray]:
    """The best peaks of each frame's correlation.

    Args:
        samples: `((time - 1) * hop + WIDTH,)` float32 at 16 kHz, free of a constant offset; frame i is
            `samples[i * hop : i * hop + WIDTH]`, so its core is centred on sample i * hop + CORE / 2 + 2.
        hop: samples between frames.

    Returns:
        hz and strength, both `(time, CANDIDATES)` float32, strongest first; 0 where there are fewer peaks.
    """
    correlation = _correlation(samples, hop)[:, SHORTEST - 1 :]
    middle = correlation[:, 1:-1]
    peak = (middle > correlation[:, :-2]) & (middle >= correlation[:, 2:]) & (middle > _WEAKEST)
    # a period's multiples correlate as well as the period, and at whole samples often better
    ranked = np.where(peak, middle - _LONGER * np.arange(middle.shape[1], dtype=np.float32), np.float32(-1))
    pick = np.argpartition(-ranked, CANDIDATES, axis=1)[:, :CANDIDATES]
    pick = np.take_along_axis(pick, np.argsort(-np.take_along_axis(ranked, pick, 1), axis=1, kind="stable"), 1)
    found = np.take_along_axis(ranked, pick, 1) > 0
    left, here, right = (np.take_along_axis(correlation, pick + i, 1).astype(np.float64) for i in (0, 1, 2))
    bend = left - 2 * here + right
    shift = np.clip(0.5 * (left - right) / np.where(bend < -1e-12, bend, -1e-12), -0.5, 0.5)
    hz = SAMPLE_RATE / (pick + SHORTEST + shift)
    strength = np.clip(here - 0.25 * (left - right) * shift, 0, 1)
    return np.where(found, hz, 0).astype(np.float32), np.where(found, strength, 0).astype(np.float32)


def _correlation(samples: np.ndarray, hop: int) -> np.ndarray:
    """`(time, LONGEST + 2)`: correlation of the core with the samples at each lag, in [-1, 1]."""
    count = LONGEST + 2
    samples = np.convolve(samples, _SMOOTHING, "valid")
    frames = sliding_window_view(samples, CORE + count)[::hop]
    core = rfft(frames[:, :CORE], _FFT, axis=1)
    product = irfft(np.conj(core) * rfft(frames, _FFT, axis=1), _FFT, axis=1)[:, :count]
    power = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
    energy = (power[CORE:] - power[:-CORE]).astype(np.float32)
    energy = sliding_window_view(energy, count)[::hop][: len(frames)]
    # far below the core's own power there is rounding only, and 0 / 0 in digital silence
    floor = np.maximum(1e-6 * energy[:, :1], np.float32(1e-20))
    return product / (np.sqrt(np.maximum(energy[:, :1], floor)) * np.sqrt(np.maximum(energy, floor)))


def track(hz: np.ndarray, strength: np.ndarray) -> Pitch:
    """The cheapest path through the candidates `(time, CANDIDATES)`; each frame's answer depends on the frames
    within 1.5 s of it and on where it lies in the array's whole seconds, on nothing else."""
    count = len(hz)
    if not count:
        return Pitch(np.zeros(0), np.zeros(0), np.zeros(0, bool))
    stretches = -(-count // _STRETCH)
    span = _STRETCH + 2 * _RUN_UP
    index = np.arange(span)[:, None] + _STRETCH * np.arange(stretches) - _RUN_UP
    outside = (index < 0) | (index >= count)
    index = np.clip(index, 0, count - 1)
    octave = np.log2(np.maximum(hz, 1.0)).astype(np.float64)
    cost = np.full((count, hz.shape[1] + 1), 1 - _UNVOICED)
    cost[:, :-1] = np.where(hz > 0, 1 - strength - _HIGHER * (octave - np.log2(LOWEST_HZ)), _IMPOSSIBLE)
    cost[:, -1] = _UNVOICED
    state = _cheapest(np.where(outside[..., None], 0.0, cost[index]), octave[index])
    state = state[_RUN_UP : _RUN_UP + _STRETCH].T.ravel()[:count]
    voiced = state < hz.shape[1]
    rows, chosen = np.arange(count), np.where(voiced, state, 0)
    return Pitch(np.where(voiced, hz[rows, chosen], 0.0), strength[rows, chosen], voiced)


def _cheapest(cost: np.ndarray, octave: np.ndarray) -> np.ndarray:
    """`(step, stretch)` chosen state of `cost` `(step, stretch, state)`, the last state being unvoiced."""
    steps, stretches, states = cost.shape
    back = np.zeros(cost.shape, np.int8)
    total = cost[0]
    move = np.full((stretches, states, states), _SWITCH)
    move[:, -1, -1] = 0.0
    for step in range(1, steps):
        jump = np.abs(octave[step - 1][:, :, None] - octave[step][:, None, :])
        move[:, :-1, :-1] = np.minimum(_OCTAVE * jump, _FURTHEST)
        ways = total[:, :, None] + move
        back[step] = ways.argmin(axis=1)
        total = ways.min(axis=1) + cost[step]
    state = np.zeros((steps, stretches), np.int64)
    state[-1] = total.argmin(axis=1)
    row = np.arange(stretches)
    for step in range(steps - 1, 0, -1):
        state[step - 1] = back[step, row, state[step]]
    return state
