"""When each frame of a recording is shown, from its container, without decoding where that can be avoided."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from mien.clock import median_step
from mien.media.container import opened, video_of
from mien.media.video import frames

_GIGA = 10**9


@dataclass(frozen=True)
class FrameTimes:
    """Presentation times of a video's frames. seconds: `(frame,)` float64, increasing."""

    seconds: np.ndarray

    def __len__(self) -> int:
        return len(self.seconds)

    @property
    def step_s(self) -> float:
        """The usual time between frames (median)."""
        return median_step(self.seconds)

    @property
    def rate_hz(self) -> float:
        """Frames a second over the whole recording (mean)."""
        span = self.seconds[-1] - self.seconds[0] if len(self.seconds) > 1 else 0.0
        return float((len(self.seconds) - 1) / span) if span > 0 else 0.0

    def first(self, rows: int) -> np.ndarray:
        """Times of the first `rows` rows of a label file, whose row i belongs to frame i. Rows beyond the
        last frame (+1 and +2 are usual in Aff-Wild2) are placed after it at the usual step."""
        if rows <= len(self.seconds):
            return self.seconds[:rows].copy()
        last = self.seconds[-1] if len(self.seconds) else 0.0
        beyond = np.arange(1, rows - len(self.seconds) + 1) * (self.step_s or 1.0)
        return np.concatenate([self.seconds, last + beyond])

    def packed(self) -> str:
        """As text: whole nanoseconds, their differences, deflated. A constant rate takes some dozen
        characters."""
        ticks = np.round(self.seconds * _GIGA).astype("<i8")
        return base64.b85encode(zlib.compress(np.diff(ticks, prepend=0).astype("<i8").tobytes(), 9)).decode()

    @classmethod
    def unpacked(cls, text: str) -> FrameTimes:
        steps = np.frombuffer(zlib.decompress(base64.b85decode(text)), "<i8")
        return cls(np.cumsum(steps) / _GIGA)


def frame_times(path: Path, origin: Fraction) -> FrameTimes:
    """Times of the frames that decoding `path` gives, in seconds from `origin` (`MediaInfo.origin`).

    Read from the packets of the container (fast: nothing is decoded); decoded only where a packet has no
    presentation time of its own, as in some AVI files. Raises MediaError.
    """
    with opened(path) as container:
        stream = video_of(container)
        if stream is None:
            return FrameTimes(np.zeros(0))
        ticks: list[int | None] = []
        try:
            for packet in container.demux(stream):
                if packet.size and not packet.is_discard:
                    ticks.append(packet.pts)
        except (av.FFmpegError, OSError):
            pass  # a file that was cut: what was read until there is what decoding gives
        base = stream.time_base
    known = [t for t in ticks if t is not None]
    if base is None or len(known) < len(ticks) or len(set(known)) < len(known):
        return FrameTimes(np.array([frame.time_s for frame in frames(path, max_side=32)]))
    return FrameTimes(np.array([float(tick * base - origin) for tick in sorted(known)]))
