"""Presentation times: of a video's frames, read from the container where possible, and of labels over spans."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from mien.clock import median_step
from mien.media.container import open_container, select_video
from mien.media.video import frames

#: Labels of whole recordings and of spans become samples at this rate. Our choice: finer than any token clock in use.
LABEL_RATE_HZ = 25.0
_NANOSECONDS = 10**9
#: Bytes of unpacked frame times, a bound for damaged text: 8 a frame, so a thousand hours at 30 frames a second.
_MAX_TIMES = 1 << 30


@dataclass(frozen=True)
class FrameTimes:
    """Presentation times of a video's frames. seconds: `(frame,)` float64, increasing, from the recording's origin."""

    seconds: np.ndarray

    def __len__(self) -> int:
        return len(self.seconds)

    @property
    def step_s(self) -> float:
        """Median time between frames, seconds; 0 for fewer than two frames."""
        return median_step(self.seconds)

    @property
    def rate_hz(self) -> float:
        """Mean frame rate over the recording, frames a second; 0 for fewer than two frames."""
        span = self.seconds[-1] - self.seconds[0] if len(self.seconds) > 1 else 0.0
        return float((len(self.seconds) - 1) / span) if span > 0 else 0.0

    def row_times(self, rows: int) -> np.ndarray:
        """Times of a label file's rows, `(rows,)` seconds: the first row belongs to the first frame, and so on.

        Rows beyond the last frame (Aff-Wild2 often has one or two) follow it at the median step, or at 1 s where the
        video has fewer than two frames.
        """
        if rows <= len(self.seconds):
            return self.seconds[:rows].copy()
        last = self.seconds[-1] if len(self.seconds) else 0.0
        beyond = np.arange(1, rows - len(self.seconds) + 1) * (self.step_s or 1.0)
        return np.concatenate([self.seconds, last + beyond])

    def to_text(self) -> str:
        """Pack the times for an index file: differences in whole nanoseconds, deflated, base 85."""
        ticks = np.round(self.seconds * _NANOSECONDS).astype("<i8")
        return base64.b85encode(zlib.compress(np.diff(ticks, prepend=0).astype("<i8").tobytes(), 9)).decode()

    @classmethod
    def from_text(cls, text: str) -> FrameTimes:
        """Unpack the text of `to_text`. Raises ValueError or zlib.error for other text."""
        stream = zlib.decompressobj()
        data = stream.decompress(base64.b85decode(text), _MAX_TIMES)
        if not stream.eof:
            raise ValueError(f"frame times of more than {_MAX_TIMES:,} bytes")
        steps = np.frombuffer(data, "<i8")
        return cls(np.cumsum(steps) / _NANOSECONDS)


def frame_times(path: Path, origin: Fraction) -> FrameTimes:
    """Read the presentation times of a video's frames, in seconds from `origin` (`MediaInfo.origin`).

    The times come from the packets of the container, which is fast. The video is decoded only where packets have no
    presentation time, or share one, as in some AVI files.

    Raises:
        MediaError: the file cannot be opened or decoded.
    """
    with open_container(path) as container:
        stream = select_video(container)
        if stream is None:
            return FrameTimes(np.zeros(0))
        ticks: list[int | None] = []
        try:
            for packet in container.demux(stream):
                if packet.size and not packet.is_discard:
                    ticks.append(packet.pts)
        except (av.FFmpegError, OSError):
            pass  # a truncated file: decoding gives the same frames as the packets read so far
        base = stream.time_base
    known = [t for t in ticks if t is not None]
    if base is None or len(known) < len(ticks) or len(set(known)) < len(known):
        return FrameTimes(np.array([frame.time_s for frame in frames(path, max_side=32)]))
    return FrameTimes(np.array([float(tick * base - origin) for tick in sorted(known)]))


def label_times(duration_s: float) -> np.ndarray:
    """Sample times of labels over a recording, `(time,)` seconds: centres of steps of 1/25 s, at least one."""
    return (np.arange(max(1, round(duration_s * LABEL_RATE_HZ))) + 0.5) / LABEL_RATE_HZ
