"""Sound of the last seconds of a live stream: placed by its times, resampled, and encoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import soxr

from mien.live.voice import LiveVoice
from mien.media.audio import SAMPLE_RATE
from mien.media.samples import MonoMix, SampleClock
from mien.media.sound_level import SoundLevel
from mien.records import Stream

#: A longer gap begins a new stretch of sound; a shorter one becomes silence. Our choice: a device that stops, or a
#: network that breaks off, is away for longer, and speech on both sides of such a gap is no phrase.
LONGEST_GAP_S = 5.0
#: A block that begins earlier than the end of the last by more than this begins a new stretch: the clock was set.
LONGEST_OVERLAP_S = 1.0


@dataclass(slots=True)
class _Stretch:
    """Sound without a long gap. clock: places blocks. resampler: to 16 kHz; None for sound of that rate."""

    clock: SampleClock
    voice: LiveVoice
    level: SoundLevel
    rate: int
    resampler: soxr.ResampleStream | None

    @classmethod
    def begin(cls, time_s: float, rate: int) -> _Stretch:
        clock = SampleClock(Fraction(time_s), rate)
        return cls(clock, LiveVoice(time_s), SoundLevel(), rate, _resampler(rate))

    def set_rate(self, rate: int) -> None:
        """Continue with sound of another rate."""
        if rate != self.rate:
            self._encode(self._converted(np.zeros(0, np.float32), last=True))
            self.clock.set_rate(rate)
            self.rate, self.resampler = rate, _resampler(rate)

    def add(self, samples: np.ndarray) -> None:
        """Add `(n,)` float32 samples at `rate`."""
        self._encode(self._converted(samples))

    def end(self) -> None:
        """No sound follows."""
        self._encode(self._converted(np.zeros(0, np.float32), last=True))
        self.voice.finish()

    def _converted(self, samples: np.ndarray, *, last: bool = False) -> np.ndarray:
        if self.resampler is None:
            return samples
        converted: np.ndarray = self.resampler.resample_chunk(np.ascontiguousarray(samples), last=last)
        return converted

    def _encode(self, samples: np.ndarray) -> None:
        if len(samples):
            self.level.add(self.voice.stop_s, samples)
            self.voice.add(samples)


def _resampler(rate: int) -> soxr.ResampleStream | None:
    return None if rate == SAMPLE_RATE else soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")


class LiveSound:
    """Encode sound as it comes, and keep the vectors of the last seconds.

    Args:
        provenance: of the voice stream.
    """

    def __init__(self, provenance: Mapping[str, str]) -> None:
        self._provenance = provenance
        self._mix = MonoMix()
        self._stretch: _Stretch | None = None
        #: Vectors (values, times, valid) of stretches that ended, and levels of all.
        self._earlier: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._levels: list[Stream] = []

    @property
    def latest_s(self) -> float:
        """End of the sound so far in seconds; minus infinity before the first block."""
        return float(self._stretch.clock.now) if self._stretch is not None else -np.inf

    def add(self, samples: np.ndarray, rate: int, time_s: float) -> None:
        """Add a block. samples: `(n,)` or `(n, channels)` float32 in [-1, 1]. rate: Hz. time_s: of the first sample.

        Blocks follow each other: gaps of 50 ms to `LONGEST_GAP_S` become silence, overlaps are cut, and smaller
        differences are taken for jitter, as in files.
        """
        samples = np.asarray(samples, np.float32)
        samples = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
        mono = samples if samples.ndim == 1 else self._mix.mix(np.ascontiguousarray(samples.T))[:, 0]
        if self._stretch is not None:
            ahead = time_s - self.latest_s
            if not -LONGEST_OVERLAP_S <= ahead <= LONGEST_GAP_S:
                self._end_stretch()
        if self._stretch is None:
            self._stretch = _Stretch.begin(time_s, rate)
        stretch = self._stretch
        stretch.set_rate(rate)
        silence, cut = stretch.clock.place(Fraction(time_s), len(mono))
        stretch.clock.count += silence + len(mono) - cut
        if silence:
            stretch.add(np.zeros(silence, np.float32))
        if cut < len(mono):
            stretch.add(mono[cut:])

    def streams(self, start_s: float, *, is_end: bool = False) -> tuple[Stream, Stream]:
        """Voice and level since `start_s`, with times from there on; what is earlier is dropped.

        Args:
            is_end: no sound follows.
        """
        if is_end:
            self._end_stretch()
        elif self._stretch is not None:
            self._levels.append(self._stretch.level.take())
        parts = [*self._earlier]
        if self._stretch is not None:
            parts.append(self._stretch.voice.vectors(start_s))
        self._earlier = [part for part in self._earlier if len(part[1]) and part[1][-1] >= start_s]
        return _joined(parts, start_s, self._provenance), self._level(start_s)

    def _end_stretch(self) -> None:
        if self._stretch is None:
            return
        stretch, self._stretch = self._stretch, None
        stretch.end()
        self._levels.append(stretch.level.take())
        self._earlier.append(stretch.voice.vectors(-np.inf))

    def _level(self, start_s: float) -> Stream:
        values = np.concatenate([np.zeros((0, 1), np.float32), *(level.values for level in self._levels)])
        times = np.concatenate([np.zeros(0), *(level.times for level in self._levels)])
        kept = times >= start_s
        values, times = values[kept], times[kept]
        self._levels = [Stream(values, times, np.ones(len(times), bool))]
        return Stream(values, times - start_s, np.ones(len(times), bool))


def _joined(
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]], start_s: float, provenance: Mapping[str, str]
) -> Stream:
    """One stream of consecutive parts, from `start_s` on; a part that begins before the last one ends is cut."""
    values, times, valid = [], [], []
    last_s = -np.inf
    for part_values, part_times, part_valid in parts:
        kept = part_times > max(last_s, start_s - 1e-9)
        values.append(part_values[kept])
        times.append(part_times[kept])
        valid.append(part_valid[kept])
        last_s = max(last_s, float(part_times[-1])) if len(part_times) else last_s
    return Stream(np.concatenate(values), np.concatenate(times) - start_s, np.concatenate(valid), provenance)
