"""Cut a recording into short overlapping segments of a few frames, for behaviour encoders."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import cv2
import numpy as np

from mien.encoders.protocol import Segments
from mien.records import Frame


class Segmenter:
    """Online segmentation: push frames, get segments.

    A frame is sampled where the time since the first frame first reaches a multiple of 1 / rate_hz. A segment holds the
    sampled frames in [start, start + length_s), thinned out evenly to `pictures`. The last segment is as short as the
    recording leaves it, and is left out where it holds no frame of its own. Memory: the frames of one segment.
    """

    def __init__(self, segments: Segments) -> None:
        self._segments = segments
        self._sampled: deque[tuple[float, np.ndarray]] = deque()
        self._origin_s: float | None = None
        self._next_s = self._start_s = self._last_s = self._covered_s = -np.inf

    def push(self, frame: Frame) -> Iterator[tuple[float, list[np.ndarray]]]:
        """Yield the segments that end before this frame: centre in seconds, images `(height, width, 3)` uint8 RGB."""
        now = frame.time_s
        if self._origin_s is None:
            self._origin_s = self._next_s = self._start_s = now
        while now >= self._start_s + self._segments.length_s - 1e-9:
            yield from self._emit(self._start_s + self._segments.length_s)
            self._start_s += self._segments.hop_s
        while self._sampled and self._sampled[0][0] < self._start_s - 1e-9:
            self._sampled.popleft()
        if now >= self._next_s - 1e-9:
            self._sampled.append((now, limit_side(frame.image, self._segments.max_side)))
            ticks = np.floor((now - self._origin_s) * self._segments.rate_hz + 1e-6) + 1
            self._next_s = self._origin_s + ticks / self._segments.rate_hz
        self._last_s = now

    def end(self) -> Iterator[tuple[float, list[np.ndarray]]]:
        """Yield the last, perhaps short, segment."""
        if self._sampled and self._sampled[-1][0] >= self._covered_s:
            yield from self._emit(self._last_s)

    def _emit(self, stop_s: float) -> Iterator[tuple[float, list[np.ndarray]]]:
        pictures = [image for time_s, image in self._sampled if self._start_s - 1e-9 <= time_s < stop_s + 1e-9]
        self._covered_s = stop_s
        if pictures:
            keep = np.linspace(0, len(pictures) - 1, min(len(pictures), self._segments.pictures)).round().astype(int)
            yield (self._start_s + stop_s) / 2, [pictures[i] for i in keep]


def limit_side(image: np.ndarray, max_side: int) -> np.ndarray:
    """Scale an image down so that its longer side is at most `max_side` pixels. Smaller images stay as they are."""
    height, width = image.shape[:2]
    factor = max_side / max(height, width)
    if factor >= 1:
        return image
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
