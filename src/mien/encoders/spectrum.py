"""Spectral measurements of audio every 10 ms: log-mel bands, spectral tilt, pitch candidates, first two harmonics."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache

import av
import numpy as np
from numpy.fft import rfft
from numpy.lib.stride_tricks import sliding_window_view

from mien.encoders import pitch

SAMPLE_RATE = pitch.SAMPLE_RATE
#: Samples between frames, 10 ms. Frame i is centred on sample i * HOP + HOP / 2.
HOP = 160
BANDS = 40
#: Windows: 25 ms for the shape of the spectrum, 64 ms to resolve the harmonics of a low voice.
_SHORT, _SHORT_FFT = 400, 512
_LONG = 1024
_LOWEST_BAND_HZ, _HIGHEST_BAND_HZ = 50.0, 7600.0
#: Removes rumble, mains hum and constant offsets; the lowest pitch is 60 Hz.
_HIGH_PASS_HZ = 50.0
#: Frames per batch, which takes less than 10 MB. Batches start at multiples of it whatever the caller's blocks are, so
#: that even rounding is the same.
_BATCH = 256
#: Power floor: -140 dB of full scale, far below the noise of a 16-bit file.
_SILENCE = 1e-14

#: Columns of a measured frame. Powers are in bel (log10).
BAND = slice(0, BANDS)
POWER, ALPHA, HAMMARBERG, CENTROID = range(BANDS, BANDS + 4)
PITCH = slice(BANDS + 4, BANDS + 4 + pitch.CANDIDATES)
STRENGTH = slice(PITCH.stop, PITCH.stop + pitch.CANDIDATES)
HARMONICS = slice(STRENGTH.stop, STRENGTH.stop + pitch.CANDIDATES)
COLUMNS = HARMONICS.stop


class SpectrumFrames:
    """Measure the audio of one recording block by block.

    Call it with consecutive blocks, then call `finish`. Both yield `(frames, COLUMNS)` float32.

    Args:
        batch: frames yielded at once.

    frames: number of frames yielded so far.
    """

    def __init__(self, *, batch: int = _BATCH) -> None:
        self._size = batch
        self._high_pass = _HighPass()
        self._buffer = np.zeros(_LONG // 2 - HOP // 2, np.float32)
        self._new_blocks: list[np.ndarray] = []
        self._count = len(self._buffer)
        self.frames = 0

    def __call__(self, samples: np.ndarray) -> Iterator[np.ndarray]:
        """Add a block of `(n,)` float32 samples at 16 kHz; yield the frames that are complete."""
        yield from self._add(self._high_pass(samples))

    def finish(self, frames: int) -> Iterator[np.ndarray]:
        """Yield the remaining frames up to `frames` in total, with zeros after the last sample."""
        left = frames - self.frames
        if left <= 0:
            return
        yield from self._add(np.zeros(max(0, (left - 1) * HOP + _LONG - self._count), np.float32))
        left = frames - self.frames
        if left > 0:
            yield self._batch(left)

    def _add(self, samples: np.ndarray) -> Iterator[np.ndarray]:
        self._new_blocks.append(samples)
        self._count += len(samples)
        while self._count >= (self._size - 1) * HOP + _LONG:
            yield self._batch(self._size)

    def _batch(self, frames: int) -> np.ndarray:
        if self._new_blocks:
            self._buffer = np.concatenate([self._buffer, *self._new_blocks])
            self._new_blocks = []
        out = measure(self._buffer[: (frames - 1) * HOP + _LONG])
        self._buffer = self._buffer[frames * HOP :]
        self._count = len(self._buffer)
        self.frames += frames
        return out


class _HighPass:
    """Second-order Butterworth high pass with state, by libavfilter.

    libavfilter is loaded already wherever audio is decoded; importing scipy.signal would delay every prediction by two
    seconds.
    """

    def __init__(self) -> None:
        clock = Fraction(1, SAMPLE_RATE)
        self._graph = av.filter.Graph()
        self._in = self._graph.add_abuffer(sample_rate=SAMPLE_RATE, format="dblp", layout="mono", time_base=clock)
        high_pass = self._graph.add("highpass", f"frequency={_HIGH_PASS_HZ}:poles=2:precision=f64")
        self._out = self._graph.add("abuffersink")
        self._in.link_to(high_pass)
        high_pass.link_to(self._out)
        self._graph.configure()

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Filter the next n samples of the recording: `(n,)` float32 -> `(n,)` float32."""
        if not len(samples):
            return np.zeros(0, np.float32)
        block = av.AudioFrame.from_ndarray(samples.astype(np.float64)[None], format="dblp", layout="mono")
        block.sample_rate = SAMPLE_RATE
        self._in.push(block)
        out: list[np.ndarray] = []
        while sum(len(piece) for piece in out) < len(samples):
            clean = self._out.pull()
            assert isinstance(clean, av.AudioFrame)
            out.append(clean.to_ndarray()[0].astype(np.float32))
        return np.concatenate(out)


def measure(samples: np.ndarray) -> np.ndarray:
    """Measure frames: `((frames - 1) * HOP + 1024,)` float32 samples -> `(frames, COLUMNS)` float32.

    The centre of a frame is 512 samples after its start.
    """
    middle = _LONG // 2
    short = _windowed(samples[middle - _SHORT // 2 : len(samples) - middle + _SHORT // 2], _SHORT)
    spectrum = rfft(short, _SHORT_FFT, axis=1)
    power = (np.square(spectrum.real) + np.square(spectrum.imag)) / np.float32(_SHORT)
    before = middle - pitch.WIDTH // 2
    after = len(samples) - _LONG + before + pitch.WIDTH
    hz, strength = pitch.find_candidates(samples[before:after], HOP)
    out = np.empty((len(power), COLUMNS), np.float32)
    sums = power @ _weights()
    out[:, BAND] = _bel(sums[:, :BANDS])
    low, high, total, moment = sums[:, BANDS:].T
    out[:, POWER] = _bel(total)
    out[:, ALPHA] = _bel(high) - _bel(low)
    bin_hz = _bin_hz()
    below, above = power[:, bin_hz < 2000], power[:, (bin_hz >= 2000) & (bin_hz < 5000)]
    out[:, HAMMARBERG] = _bel(below.max(axis=1)) - _bel(above.max(axis=1))
    out[:, CENTROID] = moment / (total + np.float32(_SILENCE))
    out[:, PITCH], out[:, STRENGTH] = hz, strength
    out[:, HARMONICS] = _harmonics(_windowed(samples, _LONG), hz)
    return out


def _windowed(samples: np.ndarray, width: int) -> np.ndarray:
    windowed: np.ndarray = sliding_window_view(samples, width)[::HOP] * _hann(width)
    return windowed


def _harmonics(frames: np.ndarray, hz: np.ndarray) -> np.ndarray:
    """First harmonic over second in bel for each pitch candidate, 0 where there is none: `(frames, candidates)`."""
    magnitude: np.ndarray = np.abs(rfft(frames, axis=1))
    place = np.rint(hz * (_LONG / SAMPLE_RATE)).astype(np.int64)
    spread = np.arange(-1, 2)

    def peak(centre: np.ndarray) -> np.ndarray:
        bins = np.clip(centre[..., None] + spread, 0, magnitude.shape[1] - 1)
        peaks: np.ndarray = (
            np.take_along_axis(magnitude, bins.reshape(len(bins), -1), 1).reshape(bins.shape).max(axis=2)
        )
        return peaks

    tiny = np.float32(1e-7)
    return np.where(hz > 0, 2 * np.log10((peak(place) + tiny) / (peak(2 * place) + tiny)), 0)


def _bel(power: np.ndarray) -> np.ndarray:
    bel: np.ndarray = np.log10(np.maximum(power, np.float32(_SILENCE)))
    return bel


@lru_cache(maxsize=2)
def _hann(width: int) -> np.ndarray:
    return np.hanning(width).astype(np.float32)


def _bin_hz() -> np.ndarray:
    return np.fft.rfftfreq(_SHORT_FFT, 1 / SAMPLE_RATE)


@lru_cache(maxsize=1)
def _weights() -> np.ndarray:
    """Weights of the power spectrum, `(bins, BANDS + 4)`.

    Mel bands (mean power under a triangle), then sums: 50 to 1000 Hz, 1 to 5 kHz, all, and first moment in kHz.
    """
    hz = _bin_hz()
    low, high = (2595 * np.log10(1 + f / 700) for f in (_LOWEST_BAND_HZ, _HIGHEST_BAND_HZ))
    mel = np.linspace(low, high, BANDS + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    rising = (hz - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - hz) / np.diff(edges)[1:, None]
    bands = np.clip(np.minimum(rising, falling), 0, None)
    bands /= bands.sum(axis=1, keepdims=True)
    rest = np.stack([(hz >= 50) & (hz < 1000), (hz >= 1000) & (hz < 5000), np.ones(len(hz)), hz / 1000])
    return np.concatenate([bands, rest]).T.astype(np.float32)
