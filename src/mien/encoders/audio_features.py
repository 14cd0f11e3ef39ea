"""Sound without a network: rows of a log-mel spectrogram, or of raw samples, for systems that learn on those.

A row every 40 ms. `log-mel`: four frames of 64 bands side by side (25 ms windows every 10 ms, 50 to 8000 Hz, decibels
against full scale: the settings of PANN, arXiv 1912.10211, at its 16 kHz). `waveform`: the 640 samples. Rows that are
digital silence are not valid.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np

from mien.errors import ConfigError
from mien.records import Stream

SAMPLE_RATE, ROW, HOP, WIDTH, BANDS = 16_000, 640, 160, 400, 64
FRAMES = ROW // HOP
#: Half of what a frame sees beyond its hop, on either side.
_BEYOND = (WIDTH - HOP) // 2


@lru_cache
def _filters() -> np.ndarray:
    from transformers.audio_utils import mel_filter_bank

    bank: np.ndarray = mel_filter_bank(WIDTH // 2 + 1, BANDS, 50.0, 8000.0, SAMPLE_RATE, norm="slaney")
    return bank


def log_mel(samples: np.ndarray) -> np.ndarray:
    """`(n,)` samples of whole rows, with `_BEYOND` more on either side -> `(rows, 4 * 64)` decibels."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, WIDTH)[::HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(WIDTH), axis=1)) ** 2 @ _filters()
    decibels = 10 * np.log10(np.maximum(power, 1e-10))
    return decibels.reshape(-1, FRAMES * BANDS).astype(np.float32)


class AudioFeatures:
    """An `AudioEncoder` of one of the two kinds."""

    modality = "voice"
    rate_hz: float | None = SAMPLE_RATE / ROW
    licence = "MIT"

    def __init__(self, name: str) -> None:
        self.name, self._mel = name, name == "log-mel"
        self.dim = FRAMES * BANDS if self._mel else ROW
        self.receptive_field_s = (ROW + 2 * _BEYOND * self._mel) / SAMPLE_RATE
        self.provenance = {"network": name, "version": "1", "preprocessing": "16 kHz mono"}

    def encode_audio(self, blocks: Iterable[tuple[float, np.ndarray]]) -> Iterator[Stream]:
        held, start, done = np.zeros(_BEYOND, np.float32), 0.0, 0
        for number, (time_s, samples) in enumerate(blocks):
            start = time_s if number == 0 else start
            held = np.concatenate((held, np.asarray(samples, np.float32)))
            rows = (len(held) - 2 * _BEYOND) // ROW
            if rows > 0:
                yield self._piece(held[: rows * ROW + 2 * _BEYOND], start, done)
                held, done = held[rows * ROW :], done + rows
        rows = round((len(held) - _BEYOND) / ROW)  # a last row that is at least half there
        if rows > 0:
            padded = np.zeros(rows * ROW + 2 * _BEYOND, np.float32)
            padded[: min(len(held), len(padded))] = held[: len(padded)]
            yield self._piece(padded, start, done)

    def _piece(self, samples: np.ndarray, start: float, done: int) -> Stream:
        rows = samples[_BEYOND : len(samples) - _BEYOND].reshape(-1, ROW)
        times = start + (done + np.arange(len(rows)) + 0.5) * ROW / SAMPLE_RATE
        return Stream(
            log_mel(samples) if self._mel else rows.copy(), times, np.asarray(rows.any(axis=1)), self.provenance
        )


def _made(name: str, source: str | None) -> AudioFeatures:
    if source:
        raise ConfigError(f"{name} takes no source, got {source!r}", remedy=f"--encoder {name}")
    return AudioFeatures(name)


def mel(source: str | None = None, *, device: str = "cpu") -> AudioFeatures:
    return _made("log-mel", source)


def waveform(source: str | None = None, *, device: str = "cpu") -> AudioFeatures:
    return _made("waveform", source)
