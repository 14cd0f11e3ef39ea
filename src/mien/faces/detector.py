"""Where faces are in a frame: BlazeFace, on the whole frame and on squares of it, and merging what was found.

Network: BlazeFace short-range (Bazarevsky et al., "BlazeFace: Sub-millisecond Neural Face Detection on Mobile
GPUs", arXiv 1907.05047), `face_detection_short_range.tflite`: 128 × 128 RGB in [-1, 1] → 896 anchors, each
with a score logit and 16 numbers in pixels: centre, size, then six points (right eye, left eye, nose, mouth,
right ear, left ear), the centre and points counted from the anchor's centre.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mien.faces.crops import Square, around_box, cut
from mien.faces.tflite import Backend, TfliteNetwork

SIZE = 128
#: (stride, anchors at each cell): 16 × 16 × 2 + 8 × 8 × 6 = 896.
_GRIDS = ((8, 2), (16, 6))


@dataclass(frozen=True, slots=True)
class Detection:
    """One face a detector found. box: `(4,)` x1, y1, x2, y2 pixels of the frame. score: in [0, 1].
    eyes: `(2, 2)` the subject's right and left eye, NaN where the detector does not say."""

    box: np.ndarray
    score: float
    eyes: np.ndarray

    def square(self, enlarge: float) -> Square:
        """The square around the box, turned to level the eyes if they are known."""
        across = self.eyes[1] - self.eyes[0]
        angle = float(np.arctan2(across[1], across[0])) if np.isfinite(across).all() else 0.0
        return around_box(self.box, enlarge, angle)


NO_EYES = np.full((2, 2), np.nan)


def anchors() -> np.ndarray:
    """`(896, 2)`: the anchors' centres as shares of the input's side, in the network's order."""
    grids = []
    for stride, count in _GRIDS:
        cells = (np.arange(SIZE // stride) + 0.5) * stride / SIZE
        y, x = np.meshgrid(cells, cells, indexing="ij")
        grids.append(np.repeat(np.stack([x.ravel(), y.ravel()], axis=1), count, axis=0))
    return np.concatenate(grids)


def overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of `box` `(4,)` with each of `boxes` `(n, 4)`, in [0, 1]; 0 for empty boxes."""
    low = np.maximum(box[:2], boxes[:, :2])
    high = np.minimum(box[2:], boxes[:, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    areas = np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1)
    union = np.prod(np.clip(box[2:] - box[:2], 0, None)) + areas - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def merge(found: Iterable[Detection], threshold: float = 0.3) -> list[Detection]:
    """One `Detection` for each group that overlaps its best member by more than `threshold`, best first: the mean
    of the group weighted by score, with the best score. BlazeFace's paper (§ 3.3) blends like this instead of
    taking the best alone: it trembles less."""
    rest = sorted(found, key=lambda f: -f.score)
    merged = []
    while rest:
        same = overlaps(rest[0].box, np.stack([f.box for f in rest])) > threshold
        same[0] = True
        group = [f for f, hit in zip(rest, same, strict=True) if hit]
        weights = [f.score for f in group]
        box = np.average([f.box for f in group], axis=0, weights=weights)
        seeing = [f for f in group if np.isfinite(f.eyes).all()]
        eyes = np.average([f.eyes for f in seeing], axis=0, weights=[f.score for f in seeing]) if seeing else NO_EYES
        merged.append(Detection(box, group[0].score, eyes))
        rest = [f for f, hit in zip(rest, same, strict=True) if not hit]
    return merged


class BlazeFace:
    """The detector. It sees faces of about a seventh of the square's side and more: for smaller ones give it
    smaller squares (`tiles`)."""

    def __init__(self, path: Path, *, threads: int = 1, threshold: float = 0.5, on: Backend | None = None) -> None:
        self._net = TfliteNetwork(path, threads=threads, on=on)
        self._anchors = anchors()
        self._logit = float(np.log(threshold / (1 - threshold)))
        self._input = np.empty((SIZE, SIZE, 3), np.float32)

    def __call__(self, image: np.ndarray, square: Square | None = None) -> list[Detection]:
        """Faces in an upright square of the frame (default: the smallest that holds the whole frame),
        merged."""
        view = square or whole(image)
        np.multiply(cut(image, view.matrix(SIZE), SIZE), np.float32(2 / 255), out=self._input)
        self._input -= 1
        logits, numbers = self._net(self._input)
        chosen = np.flatnonzero(logits > self._logit)
        if not len(chosen):
            return []
        scores = 1 / (1 + np.exp(-logits[chosen].astype(np.float64)))
        points = numbers.reshape(-1, 8, 2)[chosen].astype(np.float64) / SIZE
        size = points[:, 1].copy()
        points += self._anchors[chosen, None]
        corner = np.array([view.x, view.y]) - view.side / 2
        centre, eyes = points[:, 0] * view.side + corner, points[:, 2:4] * view.side + corner
        boxes = np.concatenate([centre - size * view.side / 2, centre + size * view.side / 2], axis=1)
        return merge(Detection(b, float(s), e) for b, s, e in zip(boxes, scores, eyes, strict=True))


def whole(image: np.ndarray) -> Square:
    """The smallest upright square that holds the whole frame."""
    height, width = image.shape[:2]
    return Square((width - 1) / 2, (height - 1) / 2, float(max(width, height)))


def tiles(image: np.ndarray) -> list[Square]:
    """Squares of the shorter side that cover the frame, overlapping; none where the frame is nearly square.

    A 16:9 frame squeezed into a square leaves a face 128/640 of its pixels; each of its two tiles leaves
    128/360.
    """
    height, width = image.shape[:2]
    side = min(height, width)
    if max(height, width) < 1.2 * side:
        return []
    count = int(np.ceil(max(height, width) / side))
    starts = np.linspace(0, max(height, width) - side, count) + (side - 1) / 2
    middle = (side - 1) / 2
    return [Square(s, middle, side) if width > height else Square(middle, s, side) for s in starts]
