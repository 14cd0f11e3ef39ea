"""Recordings cut into short overlapping segments of a few pictures, for behaviour encoders."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import cv2
import numpy as np

from mien.encoders.protocol import Segments
from mien.records import Frame


class Segmenter:
    """Push frames, get segments. Pictures are taken where the frame clock first reaches a multiple of 1 /
    rate_hz after the first frame; a segment holds those in [start, start + length). The last one is as short
    as the recording leaves it, and is given only where it shows what no other does. Memory: the pictures of
    one segment.
    """

    def __init__(self, how: Segments) -> None:
        self._how = how
        self._taken: deque[tuple[float, np.ndarray]] = deque()
        self._origin_s: float | None = None
        self._next_s = self._start_s = self._last_s = self._covered_s = -np.inf

    def push(self, frame: Frame) -> Iterator[tuple[float, list[np.ndarray]]]:
        """Yields (centre in seconds, pictures) of segments that this frame shows to be complete."""
        now = frame.time_s
        if self._origin_s is None:
            self._origin_s = self._next_s = self._start_s = now
        while now >= self._start_s + self._how.length_s - 1e-9:
            yield from self._give(self._start_s + self._how.length_s)
            self._start_s += self._how.hop_s
        while self._taken and self._taken[0][0] < self._start_s - 1e-9:
            self._taken.popleft()
        if now >= self._next_s - 1e-9:
            self._taken.append((now, shrunk(frame.image, self._how.max_side)))
            passed = np.floor((now - self._origin_s) * self._how.rate_hz + 1e-6) + 1
            self._next_s = self._origin_s + passed / self._how.rate_hz
        self._last_s = now

    def end(self) -> Iterator[tuple[float, list[np.ndarray]]]:
        """The last, perhaps short, segment."""
        if self._taken and self._taken[-1][0] >= self._covered_s:
            yield from self._give(self._last_s)

    def _give(self, stop_s: float) -> Iterator[tuple[float, list[np.ndarray]]]:
        pictures = [image for time_s, image in self._taken if self._start_s - 1e-9 <= time_s < stop_s + 1e-9]
        self._covered_s = stop_s
        if pictures:
            keep = np.linspace(0, len(pictures) - 1, min(len(pictures), self._how.pictures)).round().astype(int)
            yield (self._start_s + stop_s) / 2, [pictures[i] for i in keep]


def shrunk(image: np.ndarray, max_side: int) -> np.ndarray:
    """The picture with its longer side at most `max_side` pixels."""
    height, width = image.shape[:2]
    factor = max_side / max(height, width)
    if factor >= 1:
        return image
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
