"""Audio features without a network: a log-mel spectrogram or the raw samples, for systems that learn from those.

One row every 40 ms. `log-mel`: four frames of 64 bands side by side (25 ms windows every 10 ms, 50 to 8000 Hz, decibels
against full scale: the settings of PANN, arXiv 1912.10211, at its 16 kHz). `waveform`: the 640 samples. Rows of digital
silence are not valid.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np

from mien.records import Stream

SAMPLE_RATE, ROW, HOP, WIDTH, BANDS = 16_000, 640, 160, 400, 64
FRAMES = ROW // HOP
#: Samples of a frame's window beyond its hop, on either side.
_OVERHANG = (WIDTH - HOP) // 2


@lru_cache
def _filters() -> np.ndarray:
    from transformers.audio_utils import mel_filter_bank

    bank: np.ndarray = mel_filter_bank(WIDTH // 2 + 1, BANDS, 50.0, 8000.0, SAMPLE_RATE, norm="slaney")
    return bank


def log_mel(samples: np.ndarray) -> np.ndarray:
    """Log-mel rows in decibels: `(n,)` samples at 16 kHz -> `(rows, 4 * 64)` float32.

    `samples` are those of whole rows (640 each), with 120 more on either side.
    """
    frames = np.lib.stride_tricks.sliding_window_view(samples, WIDTH)[::HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(WIDTH), axis=1)) ** 2 @ _filters()
    decibels: np.ndarray = 10 * np.log10(np.maximum(power, 1e-10))
    return decibels.reshape(-1, FRAMES * BANDS).astype(np.float32)


class AudioFeatures:
    """`AudioEncoder` without weights. name: `log-mel` or `waveform`."""

    modality = "voice"
    rate_hz: float | None = SAMPLE_RATE / ROW
    licence = "MIT"

    def __init__(self, name: str) -> None:
        self.name, self._is_mel = name, name == "log-mel"
        self.dim = FRAMES * BANDS if self._is_mel else ROW
        self.receptive_field_s = (ROW + 2 * _OVERHANG * self._is_mel) / SAMPLE_RATE
        self.provenance = {"network": name, "version": "1", "preprocessing": "16 kHz mono"}

    def encode_audio(self, blocks: Iterable[tuple[float, np.ndarray]]) -> Iterator[Stream]:
        """Encode the audio of one recording.

        Args:
            blocks: `(start in seconds, (n,) float32 samples)` at 16 kHz, consecutive.

        Yields:
            Pieces of one stream at 25 Hz; times are the centres of the rows. A last row that is more than half
            complete is padded with zeros.
        """
        buffer, start_s, done = np.zeros(_OVERHANG, np.float32), 0.0, 0
        for number, (block_start_s, samples) in enumerate(blocks):
            start_s = block_start_s if number == 0 else start_s
            buffer = np.concatenate((buffer, np.asarray(samples, np.float32)))
            rows = (len(buffer) - 2 * _OVERHANG) // ROW
            if rows > 0:
                yield self._piece(buffer[: rows * ROW + 2 * _OVERHANG], start_s, done)
                buffer, done = buffer[rows * ROW :], done + rows
        rows = round((len(buffer) - _OVERHANG) / ROW)
        if rows > 0:
            padded = np.zeros(rows * ROW + 2 * _OVERHANG, np.float32)
            padded[: min(len(buffer), len(padded))] = buffer[: len(padded)]
            yield self._piece(padded, start_s, done)

    def _piece(self, samples: np.ndarray, start_s: float, done: int) -> Stream:
        rows = samples[_OVERHANG : len(samples) - _OVERHANG].reshape(-1, ROW)
        times = start_s + (done + np.arange(len(rows)) + 0.5) * ROW / SAMPLE_RATE
        values = log_mel(samples) if self._is_mel else rows.copy()
        return Stream(values, times, np.asarray(rows.any(axis=1)), self.provenance)


def create_log_mel() -> AudioFeatures:
    """Create the encoder `log-mel`."""
    return AudioFeatures("log-mel")


def create_waveform() -> AudioFeatures:
    """Create the encoder `waveform`."""
    return AudioFeatures("waveform")
