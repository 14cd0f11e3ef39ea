"""What is measured in each 10 ms of speech: log-mel bands, tilt, pitch candidates, the first two harmonics."""

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
#: 25 ms for the spectrum's shape, 64 ms to tell harmonics of a low voice apart.
_SHORT, _SHORT_FFT = 400, 512
_LONG = 1024
_LOWEST_BAND_HZ, _HIGHEST_BAND_HZ = 50.0, 7600.0
#: Rumble, hum's base and constant offsets carry no voice; the lowest pitch is 60 Hz.
_HIGH_PASS_HZ = 50.0
#: Frames measured at once: what is held meanwhile stays under 10 MB. Batches start at multiples of it whatever the
#: caller's blocks are, so that rounding is the same, too.
_BATCH = 256
#: Power below which there is silence: -140 dB of full scale, far under a 16-bit file's own noise.
_SILENCE = 1e-14

#: Columns of a measured frame. Powers are in bel (log10).
BAND = slice(0, BANDS)
POWER, ALPHA, HAMMARBERG, CENTROID = range(BANDS, BANDS + 4)
PITCH = slice(BANDS + 4, BANDS + 4 + pitch.CANDIDATES)
STRENGTH = slice(PITCH.stop, PITCH.stop + pitch.CANDIDATES)
HARMONICS = slice(STRENGTH.stop, STRENGTH.stop + pitch.CANDIDATES)
COLUMNS = HARMONICS.stop


class SpectrumFrames:
    """Streaming measurement. Feed it consecutive `(n,)` float32 samples of one recording, then `finish` it; both
    yield `(frames, COLUMNS)` float32, in all as many frames as asked for."""

    def __init__(self) -> None:
        self._high_pass = _HighPass()
        self._held = np.zeros(_LONG // 2 - HOP // 2, np.float32)
        self._waiting: list[np.ndarray] = []
        self._count = len(self._held)
        self.frames = 0

    def __call__(self, samples: np.ndarray) -> Iterator[np.ndarray]:
        yield from self._take(self._high_pass(samples))

    def finish(self, frames: int) -> Iterator[np.ndarray]:
        """The frames that are left until there are `frames`, zeros standing after the last sample."""
        left = frames - self.frames
        if left <= 0:
            return
        yield from self._take(np.zeros(max(0, (left - 1) * HOP + _LONG - self._count), np.float32))
        left = frames - self.frames
        if left > 0:
            yield self._batch(left)

    def _take(self, samples: np.ndarray) -> Iterator[np.ndarray]:
        self._waiting.append(samples)
        self._count += len(samples)
        while self._count >= (_BATCH - 1) * HOP + _LONG:
            yield self._batch(_BATCH)

    def _batch(self, frames: int) -> np.ndarray:
        if self._waiting:
            self._held = np.concatenate([self._held, *self._waiting])
            self._waiting = []
        out = measure(self._held[: (frames - 1) * HOP + _LONG])
        self._held = self._held[frames * HOP :]
        self._count = len(self._held)
        self.frames += frames
        return out


class _HighPass:
    """Second-order Butterworth high pass with its state, by libavfilter: it is loaded already wherever sound is read,
    while scipy.signal would take two seconds to import before every prediction."""

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
        """`(n,)` float32 -> `(n,)` float32, the next n samples of the recording."""
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
    """`((frames - 1) * HOP + 1024,)` float32 -> `(frames, COLUMNS)` float32; a frame's centre is 512 samples after
    its start."""
    middle = _LONG // 2
    short = _windowed(samples[middle - _SHORT // 2 : len(samples) - middle + _SHORT // 2], _SHORT)
    spectrum = rfft(short, _SHORT_FFT, axis=1)
    power = (np.square(spectrum.real) + np.square(spectrum.imag)) / np.float32(_SHORT)
    before = middle - pitch.WIDTH // 2
    after = len(samples) - _LONG + before + pitch.WIDTH
    hz, strength = pitch.candidates(samples[before:after], HOP)
    out = np.empty((len(power), COLUMNS), np.float32)
    sums = power @ _weights()
    out[:, BAND] = _bel(sums[:, :BANDS])
    low, high, total, moment = sums[:, BANDS:].T
    out[:, POWER] = _bel(total)
    out[:, ALPHA] = _bel(high) - _bel(low)
    hz_of = _bin_hz()
    out[:, HAMMARBERG] = _bel(power[:, hz_of < 2000].max(axis=1)) - _bel(
        power[:, (hz_of >= 2000) & (hz_of < 5000)].max(axis=1)
    )
    out[:, CENTROID] = moment / (total + np.float32(_SILENCE))
    out[:, PITCH], out[:, STRENGTH] = hz, strength
    out[:, HARMONICS] = _harmonics(_windowed(samples, _LONG), hz)
    return out


def _windowed(samples: np.ndarray, width: int) -> np.ndarray:
    return sliding_window_view(samples, width)[::HOP] * _hann(width)


def _harmonics(frames: np.ndarray, hz: np.ndarray) -> np.ndarray:
    """`(frames, candidates)`: first harmonic over second in bel, for each candidate of the pitch; 0 where none."""
    magnitude = np.abs(rfft(frames, axis=1))
    place = np.rint(hz * (_LONG / SAMPLE_RATE)).astype(np.int64)
    spread = np.arange(-1, 2)

    def peak(centre: np.ndarray) -> np.ndarray:
        near = np.clip(centre[..., None] + spread, 0, magnitude.shape[1] - 1)
        return np.take_along_axis(magnitude, near.reshape(len(near), -1), 1).reshape(near.shape).max(axis=2)

    tiny = np.float32(1e-7)
    return np.where(hz > 0, 2 * np.log10((peak(place) + tiny) / (peak(2 * place) + tiny)), 0)


def _bel(power: np.ndarray) -> np.ndarray:
    return np.log10(np.maximum(power, np.float32(_SILENCE)))


@lru_cache(maxsize=2)
def _hann(width: int) -> np.ndarray:
    return np.hanning(width).astype(np.float32)


def _bin_hz() -> np.ndarray:
    return np.fft.rfftfreq(_SHORT_FFT, 1 / SAMPLE_RATE)


@lru_cache(maxsize=1)
def _weights() -> np.ndarray:
    """`(bins, BANDS + 4)`: mel bands (mean power under a triangle), 50 to 1000 Hz, 1 to 5 kHz, all, first moment
    in kHz."""
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
