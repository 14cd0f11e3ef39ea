"""Square crops of a frame: their position and the mapping of their pixels to the frame."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True, slots=True)
class Square:
    """A square in a frame. x, y: centre in pixels (pixel centres lie at whole numbers). side: pixels.
    angle: rotation in radians, clockwise on the screen; 0 is upright."""

    x: float
    y: float
    side: float
    angle: float = 0.0

    def matrix(self, size: int) -> np.ndarray:
        """Affine map `(2, 3)` from a `size` × `size` crop of this square, its edges at 0 and `size`, to the frame."""
        scale = self.side / size
        cos, sin = scale * math.cos(self.angle), scale * math.sin(self.angle)
        half = size / 2
        return np.array(
            [
                [cos, -sin, self.x - half * (cos - sin)],
                [sin, cos, self.y - half * (sin + cos)],
            ]
        )


def square_around_box(box: np.ndarray, enlarge: float, angle: float = 0.0) -> Square:
    """Square with the centre of a box and `enlarge` times its longer side. box: `(4,)` x1, y1, x2, y2."""
    x1, y1, x2, y2 = (float(v) for v in box)
    return Square((x1 + x2) / 2, (y1 + y2) / 2, enlarge * max(x2 - x1, y2 - y1), angle)


def extract_crop(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Crop `(size, size, 3)` whose points `matrix` `(2, 3)` maps into `image`; black beyond its border.

    Bilinear interpolation. A crop that shrinks to half or less is averaged down first, because bilinear sampling of
    every second or third pixel aliases, and large faces would flicker.
    """
    (a, b, x), (c, d, y) = matrix.tolist()
    mapping = np.array([[a, b, x + (a + b) / 2], [c, d, y + (c + d) / 2]])  # pixel (0, 0) has its centre at .5, .5
    factor = int(math.hypot(a, c))
    if factor >= 2:
        image, mapping = _downscale(image, mapping, size, factor)
    return cv2.warpAffine(image, mapping, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def _downscale(image: np.ndarray, mapping: np.ndarray, size: int, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """The part of `image` that the crop shows, averaged `factor` times smaller, and the mapping into it."""
    corners = np.array([[0, 0, 1], [size, 0, 1], [0, size, 1], [size, size, 1]]) @ mapping.T
    (left, width), (top, height) = (
        _span(places, factor, limit) for places, limit in zip(corners.T.tolist(), image.shape[1::-1], strict=True)
    )
    if width < 1 or height < 1:
        return np.zeros((1, 1, 3), np.uint8), mapping
    part = image[top : top + height * factor, left : left + width * factor]
    smaller = mapping / factor
    smaller[0, 2] += (0.5 - left) / factor - 0.5
    smaller[1, 2] += (0.5 - top) / factor - 0.5
    return cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA), smaller


def _span(places: list[float], factor: int, limit: int) -> tuple[int, int]:
    """First pixel of a range of places with `factor` pixels more on either side, within `limit`, and its length in
    multiples of `factor`. Plain numbers: numpy takes ten times as long for four of them."""
    low = min(max(math.floor(min(places)) - factor, 0), limit)
    high = min(max(math.ceil(max(places)) + factor, 0), limit)
    return low, (high - low) // factor
