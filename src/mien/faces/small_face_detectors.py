"""Detectors for small faces: BlazeFace full-range, or UltraFace or YuNet where that is not installed.

BlazeFace short-range is trained for faces near the camera. BlazeFace full-range, which comes from the same wheel, finds
faces from about 24 pixels of height in a frame of any size, the other two from about 16 pixels in a 640 × 360 frame
and 40 in a 1920 × 1080 one (`bench/crowds.py`). All are optional: without them only small faces are missed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mien import hub
from mien.faces.crops import Square
from mien.faces.detector import FULL_RANGE, UNKNOWN_EYES, BlazeFace, Detection, merge_detections
from mien.faces.tflite import default_backend
from mien.onnx_session import open_session

log = logging.getLogger("mien")


class UltraFace:
    """Ultra-Light-Fast-Generic-Face-Detector-1MB, RFB-320.

    Input: the frame resized to 320 × 240, (RGB - 127) / 128. Output: 4,420 boxes as shares of width and height, with
    (background, face) probabilities.

    Args:
        path: the ONNX file. threads: CPU threads. threshold: smallest score of a detection, in [0, 1].
    """

    def __init__(self, path: Path, *, threads: int = 1, threshold: float = 0.5) -> None:
        self._session = open_session(path, threads=threads)
        self._threshold = threshold

    def __call__(self, image: np.ndarray) -> list[Detection]:
        """Detections, merged and without eyes, in `image` `(height, width, 3)` uint8 RGB."""
        height, width = image.shape[:2]
        if width < height:  # resized to 4:3, faces of a portrait frame would be twice too wide
            image = cv2.copyMakeBorder(image, 0, 0, 0, height - width, cv2.BORDER_CONSTANT)
            width = height
        small = cv2.resize(image, (320, 240), interpolation=cv2.INTER_AREA)
        planes = ((small.astype(np.float32) - 127) / 128).transpose(2, 0, 1)[None]
        scores, boxes = self._session.run(["scores", "boxes"], {"input": planes})
        chosen = np.flatnonzero(scores[0, :, 1] > self._threshold)
        boxes = boxes[0, chosen] * [width, height, width, height] - 0.5
        return merge_detections(
            Detection(b, float(s), UNKNOWN_EYES) for b, s in zip(boxes, scores[0, chosen, 1], strict=True)
        )


class YuNet:
    """YuNet (Wu et al., Machine Intelligence Research 2023), run and decoded by OpenCV.

    Args:
        path: the ONNX file. threshold: smallest score of a detection, in [0, 1].
    """

    #: Longer side of its input in pixels: the cost grows with the area, and at this size 10-pixel faces are found.
    MAX_SIDE = 640

    def __init__(self, path: Path, *, threshold: float = 0.6) -> None:
        self._network = cv2.FaceDetectorYN.create(str(path), "", (320, 320), threshold)

    def __call__(self, image: np.ndarray) -> list[Detection]:
        """Detections, merged, in `image` `(height, width, 3)` uint8 RGB."""
        scale = min(1.0, self.MAX_SIDE / max(image.shape[:2]))
        size = tuple(max(1, round(v * scale)) for v in image.shape[1::-1])
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image
        self._network.setInputSize(size)
        _, rows = self._network.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        detections = []
        for row in np.asarray([] if rows is None else rows, np.float64).reshape(-1, 15):
            x, y, width, height, *points, score = row / [*[scale] * 14, 1]
            eyes = np.reshape(points[:4], (2, 2))
            detections.append(Detection(np.array([x, y, x + width, y + height]), score, eyes))
        return merge_detections(detections)


class FullRange:
    """BlazeFace full-range on overlapping squares of the frame, `SIDE` pixels or the frame's shorter side.

    Args:
        path: `face_detection_full_range_sparse.tflite`. threads: CPU threads.
    """

    #: Our choice, with THRESHOLD: 96 % of 24-pixel faces in 1920 × 1080 are found. With squares of 360 pixels it is
    #: 75 to 90 %, and squares of 288 take half as long again.
    SIDE = 288
    #: Smallest score of a detection. It is low because the mesh network then rejects false detections.
    THRESHOLD = 0.3

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        self._detector = BlazeFace(path, variant=FULL_RANGE, threads=threads, threshold=self.THRESHOLD)

    def views(self, image: np.ndarray, *, coarse: bool = False) -> list[Square]:
        """Squares that cover the frame. coarse: of the frame's shorter side."""
        return grid(image, min(image.shape[:2]) if coarse else self.SIDE)

    def detect(self, image: np.ndarray, view: Square) -> list[Detection]:
        """Detections, merged, in one square of `image` `(height, width, 3)` uint8 RGB."""
        return self._detector(image, view)


class InQuarters:
    """A detector on the whole frame and, from `LARGE` pixels of the longer side, on its quarters.

    Args:
        detector: called with an image, returns its detections.
    """

    LARGE = 960

    def __init__(self, detector: Callable[[np.ndarray], list[Detection]]) -> None:
        self._detector = detector

    def views(self, image: np.ndarray, *, coarse: bool = False) -> list[tuple[int, int, int, int]]:
        """(x, y, width, height) of the frame and, if it is large and not coarse, of four overlapping quarters."""
        height, width = image.shape[:2]
        views = [(0, 0, width, height)]
        if max(height, width) >= self.LARGE and not coarse:
            w, h = int(width * 0.6), int(height * 0.6)
            views += [(x, y, w, h) for y in (0, height - h) for x in (0, width - w)]
        return views

    def detect(self, image: np.ndarray, view: tuple[int, int, int, int]) -> list[Detection]:
        """Detections in one part of `image`, in pixels of the image."""
        x, y, width, height = view
        shift = np.array([x, y])
        return [
            Detection(d.box + np.tile(shift, 2), d.score, d.eyes + shift)
            for d in self._detector(np.ascontiguousarray(image[y : y + height, x : x + width]))
        ]


class SmallFaceDetector:
    """The installed detector for small faces, loaded at the first call; without one, no detections.

    Order of preference: BlazeFace full-range (LiteRT only), UltraFace, YuNet. It downloads nothing, because predictions
    must not depend on the availability of the internet.
    """

    #: Calls after which every view was searched once.
    CYCLE = 6

    def __init__(self, *, threads: int = 1) -> None:
        self._threads = threads
        self._loaded = False
        self._detector: FullRange | InQuarters | None = None
        self._next = 0

    def __call__(self, image: np.ndarray, *, all_views: bool, coarse: bool = False) -> list[Detection]:
        """Detections, merged, in `image` `(height, width, 3)` uint8 RGB.

        all_views: search all views (for a first frame or a new scene), not only the next ones in turn. coarse: search
        fewer, larger views, in which BlazeFace full-range finds faces from a twelfth of the frame's shorter side.
        """
        detector = self._load_detector()
        if detector is None:
            return []
        views: Sequence[Any] = detector.views(image, coarse=coarse)
        chosen = views
        if not all_views:
            count = -(-len(views) // self.CYCLE)
            chosen = [views[(self._next + i) % len(views)] for i in range(count)]
            self._next = (self._next + count) % len(views)
        return merge_detections(d for view in chosen for d in detector.detect(image, view))

    def covers_tiles(self) -> bool:
        """Whether its coarse views show what the tiles of BlazeFace short-range do, with faces of half the size."""
        return isinstance(self._load_detector(), FullRange)

    def _load_detector(self) -> FullRange | InQuarters | None:
        if not self._loaded:
            self._loaded = True
            if hub.available("blazeface-full-range") and default_backend() == "litert":
                self._detector = FullRange(hub.fetch("blazeface-full-range"), threads=self._threads)
            elif hub.available("ultraface"):
                self._detector = InQuarters(UltraFace(hub.fetch("ultraface"), threads=self._threads))
            elif hub.available("yunet"):
                self._detector = InQuarters(YuNet(hub.fetch("yunet")))
            else:
                _log_missing_detector()
        return self._detector


def grid(image: np.ndarray, side: int, overlap: float = 0.15) -> list[Square]:
    """Squares of `side` pixels, or of the frame's shorter side, that cover the frame and overlap by `overlap`."""
    height, width = image.shape[:2]
    side = min(side, height, width)

    def centres(length: int) -> np.ndarray:
        count = 1 + int(np.ceil((length - side) / (side * (1 - overlap))))
        return np.linspace(0, length - side, count) + (side - 1) / 2

    return [Square(float(x), float(y), float(side)) for y in centres(height) for x in centres(width)]


@cache
def _log_missing_detector() -> None:
    log.info("No detector for small faces is installed. `mien hub pull blazeface-full-range` downloads one (677 kB).")
