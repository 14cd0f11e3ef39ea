"""Level of the sound over time, in decibels relative to full scale."""

from __future__ import annotations

import numpy as np

from mien.memory import GrowingArray
from mien.records import Stream

RATE = 16_000
#: Samples of one value (100 ms): about a syllable, so that pauses within words do not count. Our choice.
STEP = RATE // 10
#: Level of digital silence: below the noise of 16 bits.
FLOOR_DB = -100.0


class SoundLevel:
    """Root-mean-square level of consecutive sound, one value every 100 ms. Call `add` with each block in order.

    A sine of full scale has -3 dB.
    """

    def __init__(self) -> None:
        self._times, self._levels = GrowingArray(0, np.float64), GrowingArray(1)
        self._rest, self._rest_s = np.zeros(0, np.float32), 0.0

    def add(self, start_s: float, samples: np.ndarray) -> None:
        """Add `(n,)` float32 samples at 16 kHz that start at `start_s`. After a gap a new value begins."""
        if len(self._rest) and abs(self._rest_s + len(self._rest) / RATE - start_s) > 1.5 / RATE:
            self._rest = self._rest[:0]
        if not len(self._rest):
            self._rest_s = start_s
        samples = np.concatenate((self._rest, samples))
        count = len(samples) // STEP
        power = np.square(samples[: count * STEP].reshape(count, STEP), dtype=np.float64).mean(axis=1)
        self._levels.extend(np.maximum(10 * np.log10(np.maximum(power, 1e-20)), FLOOR_DB)[:, None].astype(np.float32))
        self._times.extend(self._rest_s + (np.arange(count) + 0.5) * STEP / RATE)
        self._rest, self._rest_s = samples[count * STEP :], self._rest_s + count * STEP / RATE

    def take(self) -> Stream:
        """The levels since the last call, as in `stream`; they are forgotten, so that memory stays bounded."""
        taken = self.stream()
        self._times, self._levels = GrowingArray(0, np.float64), GrowingArray(1)
        return taken

    def stream(self) -> Stream:
        """The levels `(n, 1)` in dB, each at the middle of its 100 ms; a shorter rest at the end is left out."""
        times = self._times.array()
        return Stream(self._levels.array(), times, np.ones(len(times), bool))
