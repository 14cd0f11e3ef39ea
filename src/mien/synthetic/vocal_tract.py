"""Source-filter speech synthesis: control curves to sound through a glottal source and a vocal-tract filter.

The source-filter theory of speech (Fant 1960). The source is the flow derivative of Rosenberg's trigonometric pulse
(1971), generated cycle by cycle with jitter and shimmer. The filter is a cascade of second-order resonances (Klatt
1980, eq. 1-3), applied by overlap-add in the frequency domain, so that it can change at every frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mien import extras

RATE_HZ = 16000
#: Samples for each value of a control curve (5 ms).
FRAME = 80
_OVERSAMPLING = 2
_BINS = 1024
#: Resonances above the three formants, in Hz for a tract of length 1, and the bandwidths of all five in Hz.
_HIGH_FORMANTS = (3500.0, 4500.0)
_BANDWIDTHS = (70.0, 90.0, 130.0, 200.0, 280.0)


@dataclass(frozen=True, slots=True)
class Curves:
    """Control curves of the synthesiser, `(frame,)` each, one value every 5 ms.

    f0: Hz, defined in unvoiced frames too. voiced, aspirated, hissed: amplitudes >= 0 of voice, aspiration and
    frication. hiss_hz: centre of the frication band. formants: `(frame, 3)` Hz for a tract of length 1. tilt: dB per
    octave added above 500 Hz. open_quotient: open share of a glottal cycle, in (0, 1).
    """

    f0: np.ndarray
    voiced: np.ndarray
    aspirated: np.ndarray
    hissed: np.ndarray
    hiss_hz: np.ndarray
    formants: np.ndarray
    tilt: np.ndarray
    open_quotient: np.ndarray


def glottal_source(curves: Curves, jitter: float, shimmer: float, rng: np.random.Generator) -> np.ndarray:
    """Generate the glottal flow derivative.

    Args:
        curves: control curves; uses f0, voiced and open_quotient.
        jitter: relative standard deviation of a cycle's length.
        shimmer: relative standard deviation of a cycle's amplitude.

    Returns:
        `(frames * FRAME,)` at `RATE_HZ`, of unit amplitude where `voiced` is 1.
    """
    count = len(curves.f0) * FRAME * _OVERSAMPLING
    position = np.arange(count) / (FRAME * _OVERSAMPLING) - 0.5
    frames = np.arange(len(curves.f0))
    f0 = np.interp(position, frames, curves.f0)
    cycles = int(f0.sum() / (RATE_HZ * _OVERSAMPLING)) + 3
    # jitter: one random frequency factor for each cycle
    steady = np.cumsum(f0) / (RATE_HZ * _OVERSAMPLING)
    f0 = f0 * np.exp(jitter * rng.standard_normal(cycles))[np.minimum(steady.astype(int), cycles - 1)]
    phase = np.cumsum(f0) / (RATE_HZ * _OVERSAMPLING)
    cycle = np.minimum(phase.astype(int), cycles - 1)
    size = np.exp(shimmer * rng.standard_normal(cycles))[cycle] * np.interp(position, frames, curves.voiced)
    closing = np.interp(position, frames, curves.open_quotient)
    opening = 0.7 * closing
    p = phase - cycle
    rise = np.pi / (2 * opening) * np.sin(np.pi * p / opening)
    fall = -np.pi / (2 * (closing - opening)) * np.sin(np.pi / 2 * (p - opening) / (closing - opening))
    flow = np.where(p < opening, rise, np.where(p < closing, fall, 0.0))
    extras.require("scipy", "synthesising a voice", preferred="synthetic", follows="Nothing was rendered.")
    from scipy.signal import resample_poly

    return np.asarray(resample_poly(flow * size / 4, 1, _OVERSAMPLING))


def tract_response(formants: np.ndarray, length: float) -> np.ndarray:
    """`(frame, bins)` complex frequency response of the resonance cascade, gain 1 at 0 Hz.

    Args:
        formants: `(frame, 3)` Hz for a tract of length 1.
        length: tract length relative to the reference; a longer tract lowers all resonances.
    """
    turn = np.exp(-2j * np.pi * np.fft.rfftfreq(_BINS)).astype(np.complex64)
    high = np.broadcast_to(_HIGH_FORMANTS, (len(formants), len(_HIGH_FORMANTS)))
    response = np.ones((len(formants), len(turn)), np.complex64)
    for hz, width in zip(np.concatenate((formants, high), axis=1).T / length, _BANDWIDTHS, strict=True):
        radius = np.exp(-np.pi * width / RATE_HZ)
        c = np.float32(-(radius**2))
        b = (2 * radius * np.cos(2 * np.pi * hz / RATE_HZ)).astype(np.float32)[:, None]
        response *= (1 - b - c) / (1 - b * turn - c * turn * turn)
    return response


def synthesise_voice(
    curves: Curves, *, length: float, jitter: float, shimmer: float, rng: np.random.Generator
) -> np.ndarray:
    """Synthesise sound from control curves.

    Args:
        length: tract length, see `tract_response`.
        jitter, shimmer: see `glottal_source`.

    Returns:
        `(frames * FRAME,)` float samples at `RATE_HZ`; the level is not normalised.
    """
    frames = len(curves.f0)
    source = glottal_source(curves, jitter, shimmer, rng)
    noise = rng.standard_normal(len(source)) * 0.5
    hz = np.fft.rfftfreq(_BINS, 1 / RATE_HZ)
    octaves = np.log2(np.maximum(hz, 500) / 500)
    slope = (10 ** (curves.tilt[:, None] * octaves / 20)).astype(np.float32)
    band = np.exp(-0.5 * ((hz - curves.hiss_hz[:, None]) / (0.28 * curves.hiss_hz[:, None])) ** 2)
    shape = tract_response(curves.formants, length)
    throat = np.minimum(hz / 500, 1).astype(np.float32)  # aspiration noise is weak at low frequencies
    spectrum = _frames(source, frames) * shape * slope
    spectrum += _frames(noise, frames) * (
        curves.aspirated[:, None].astype(np.float32) * shape * throat
        + (curves.hissed[:, None] * band).astype(np.float32)
    )
    return _overlap_add(np.fft.irfft(spectrum, _BINS), frames)


_WINDOW = np.hanning(4 * FRAME + 1)[:-1] / 2  # four overlapping windows sum to 1


def _frames(signal: np.ndarray, frames: int) -> np.ndarray:
    padded = np.pad(signal, (2 * FRAME, 2 * FRAME))
    cut = np.lib.stride_tricks.sliding_window_view(padded, 4 * FRAME)[::FRAME][:frames]
    return np.fft.rfft(cut * _WINDOW, _BINS).astype(np.complex64)


def _overlap_add(pieces: np.ndarray, frames: int) -> np.ndarray:
    out = np.zeros((frames + 4 + _BINS // FRAME + 1) * FRAME)
    for start in range(0, _BINS, FRAME):
        part = np.zeros((frames, FRAME))
        take = pieces[:, start : start + FRAME]
        part[:, : take.shape[1]] = take
        out[start : start + frames * FRAME] += part.ravel()
    return out[2 * FRAME : (frames + 2) * FRAME]
