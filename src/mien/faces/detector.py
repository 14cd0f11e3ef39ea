"""Face detection with BlazeFace on the whole frame or on squares of it, and blending of overlapping detections.

Networks: BlazeFace (Bazarevsky et al., "BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs", arXiv
1907.05047) in two variants. `SHORT_RANGE`, `face_detection_short_range.tflite`: 128 × 128 RGB in [-1, 1] → 896 anchors.
`FULL_RANGE`, `face_detection_full_range_sparse.tflite`: 192 × 192 → 2,304 anchors. Each anchor has a score logit and 16
numbers in pixels of the input: centre, size, then six points (right eye, left eye, nose, mouth, right ear, left ear).
Centre and points are relative to the anchor's centre.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mien.faces.crops import Square, extract_crop, square_around_box
from mien.faces.tflite import Backend, TfliteNetwork


@dataclass(frozen=True, slots=True)
class Variant:
    """A BlazeFace network. input_size: side of its input in pixels. grids: (stride in pixels, anchors in each cell)."""

    input_size: int
    grids: tuple[tuple[int, int], ...]


#: 16 × 16 × 2 + 8 × 8 × 6 = 896 anchors: faces within two metres of a phone.
SHORT_RANGE = Variant(128, ((8, 2), (16, 6)))
#: 48 × 48 = 2,304 anchors: faces within five metres.
FULL_RANGE = Variant(192, ((4, 1),))


@dataclass(frozen=True, slots=True)
class Detection:
    """One detected face. box: `(4,)` x1, y1, x2, y2 pixels of the frame. score: in [0, 1].
    eyes: `(2, 2)` x, y of the subject's right and left eye, NaN where the detector does not locate them."""

    box: np.ndarray
    score: float
    eyes: np.ndarray

    def square(self, enlarge: float) -> Square:
        """Square around the box, `enlarge` times its longer side, turned to level the eyes if they are known."""
        across = self.eyes[1] - self.eyes[0]
        angle = float(np.arctan2(across[1], across[0])) if np.isfinite(across).all() else 0.0
        return square_around_box(self.box, enlarge, angle)


#: `Detection.eyes` of a detector that does not locate eyes.
UNKNOWN_EYES = np.full((2, 2), np.nan)


def anchors(variant: Variant = SHORT_RANGE) -> np.ndarray:
    """Centres of the anchors `(anchors, 2)` as shares of the input's side, in the network's order."""
    grids = []
    for stride, count in variant.grids:
        cells = (np.arange(variant.input_size // stride) + 0.5) * stride / variant.input_size
        y, x = np.meshgrid(cells, cells, indexing="ij")
        grids.append(np.repeat(np.stack([x.ravel(), y.ravel()], axis=1), count, axis=0))
    return np.concatenate(grids)


def iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of `box` `(4,)` with each of `boxes` `(n, 4)`, in [0, 1]; 0 for empty boxes."""
    low = np.maximum(box[:2], boxes[:, :2])
    high = np.minimum(box[2:], boxes[:, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    areas = np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1)
    union = np.prod(np.clip(box[2:] - box[:2], 0, None)) + areas - shared
    shares: np.ndarray = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return shares


def merge_detections(detections: Iterable[Detection], threshold: float = 0.3) -> list[Detection]:
    """Blend overlapping detections, best score first.

    A group has an intersection over union above `threshold` with its best member. It becomes one `Detection`: the mean
    weighted by score, with the best score. This is the blending of BlazeFace (arXiv 1907.05047, § 3.3), which jitters
    less than non-maximum suppression.
    """
    rest = sorted(detections, key=lambda d: -d.score)
    merged = []
    while rest:
        in_group = iou(rest[0].box, np.stack([d.box for d in rest])) > threshold
        in_group[0] = True
        group = [d for d, hit in zip(rest, in_group, strict=True) if hit]
        box = np.average([d.box for d in group], axis=0, weights=[d.score for d in group])
        with_eyes = [d for d in group if np.isfinite(d.eyes).all()]
        eyes = UNKNOWN_EYES
        if with_eyes:
            eyes = np.average([d.eyes for d in with_eyes], axis=0, weights=[d.score for d in with_eyes])
        merged.append(Detection(box, group[0].score, eyes))
        rest = [d for d, hit in zip(rest, in_group, strict=True) if not hit]
    return merged


class BlazeFace:
    """BlazeFace detector. The short-range variant finds faces from about a seventh of the square's side; use `tiles`
    for smaller ones. The full-range variant finds faces from about a twelfth.

    Args:
        path: the `.tflite` file of `variant`. threads, backend: as `TfliteNetwork`; OpenCV cannot read the full-range
            variant.
        threshold: smallest score of a detection, in (0, 1).
    """

    def __init__(
        self,
        path: Path,
        *,
        variant: Variant = SHORT_RANGE,
        threads: int = 1,
        threshold: float = 0.5,
        backend: Backend | None = None,
    ) -> None:
        self._network = TfliteNetwork(path, threads=threads, backend=backend)
        self._size = variant.input_size
        self._anchors = anchors(variant)
        self._min_logit = float(np.log(threshold / (1 - threshold)))
        self._input = np.empty((self._size, self._size, 3), np.float32)

    def __call__(self, image: np.ndarray, square: Square | None = None) -> list[Detection]:
        """Detections, merged, in an upright square of the frame (default: the smallest that contains the frame).

        image: `(height, width, 3)` uint8 RGB.
        """
        view = square or frame_square(image)
        np.multiply(extract_crop(image, view.matrix(self._size), self._size), np.float32(2 / 255), out=self._input)
        self._input -= 1
        logits, numbers = self._network(self._input)
        chosen = np.flatnonzero(logits > self._min_logit)
        if not len(chosen):
            return []
        scores = 1 / (1 + np.exp(-logits[chosen].astype(np.float64)))
        points = numbers.reshape(-1, 8, 2)[chosen].astype(np.float64) / self._size
        size = points[:, 1].copy()
        points += self._anchors[chosen, None]
        corner = np.array([view.x, view.y]) - view.side / 2
        centre, eyes = points[:, 0] * view.side + corner, points[:, 2:4] * view.side + corner
        boxes = np.concatenate([centre - size * view.side / 2, centre + size * view.side / 2], axis=1)
        return merge_detections(Detection(b, float(s), e) for b, s, e in zip(boxes, scores, eyes, strict=True))


def frame_square(image: np.ndarray) -> Square:
    """The smallest upright square that contains the whole frame."""
    height, width = image.shape[:2]
    return Square((width - 1) / 2, (height - 1) / 2, float(max(width, height)))


def tiles(image: np.ndarray) -> list[Square]:
    """Overlapping squares of the shorter side that cover the frame; none if the frame is nearly square.

    They enlarge the network's view of a face: a 640 × 360 frame shrinks by 128/640, each of its two tiles by 128/360.
    """
    height, width = image.shape[:2]
    side = min(height, width)
    if max(height, width) < 1.2 * side:
        return []
    count = int(np.ceil(max(height, width) / side))
    starts = np.linspace(0, max(height, width) - side, count) + (side - 1) / 2
    middle = (side - 1) / 2
    return [Square(s, middle, side) if width > height else Square(middle, s, side) for s in starts]
