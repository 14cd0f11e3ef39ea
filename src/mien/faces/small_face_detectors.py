"""Detectors for small faces: UltraFace, or YuNet where UltraFace is not installed.

BlazeFace short-range is trained for faces near the camera. In a 640 × 360 frame these detectors find faces from about
16 pixels of height. Both are optional: without them only small faces are missed.
"""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from mien import hub
from mien.faces.detector import UNKNOWN_EYES, Detection, merge_detections

log = logging.getLogger("mien")


class UltraFace:
    """Ultra-Light-Fast-Generic-Face-Detector-1MB, RFB-320.

    Input: the frame resized to 320 × 240, (RGB - 127) / 128. Output: 4,420 boxes as shares of width and height, with
    (background, face) probabilities.

    Args:
        path: the ONNX file. threads: CPU threads. threshold: smallest score of a detection, in [0, 1].
    """

    def __init__(self, path: Path, *, threads: int = 1, threshold: float = 0.5) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # onnxruntime warns of every initializer of this old file
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
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


class SmallFaceDetector:
    """The installed detector for small faces, UltraFace before YuNet, loaded at the first call; without one, no
    detections.

    It runs on one view of the frame at a time: the whole frame and, from `LARGE` pixels of the longer side, its
    quarters too. It downloads nothing, because predictions must not depend on the availability of the internet.
    """

    LARGE = 960

    def __init__(self, *, threads: int = 1) -> None:
        self._threads = threads
        self._loaded = False
        self._detector: UltraFace | YuNet | None = None
        self._calls = 0

    def __call__(self, image: np.ndarray, *, all_views: bool) -> list[Detection]:
        """Detections, merged, in `image` `(height, width, 3)` uint8 RGB.

        all_views: search all views (for a first frame or a new scene), not only the next one in turn.
        """
        detect = self._load_detector()
        if detect is None:
            return []
        views = _views(image, self.LARGE)
        self._calls += 1
        detections = []
        for x, y, width, height in views if all_views else [views[self._calls % len(views)]]:
            shift = np.array([x, y])
            for d in detect(np.ascontiguousarray(image[y : y + height, x : x + width])):
                detections.append(Detection(d.box + np.tile(shift, 2), d.score, d.eyes + shift))
        return merge_detections(detections)

    def _load_detector(self) -> UltraFace | YuNet | None:
        if not self._loaded:
            self._loaded = True
            if hub.available("ultraface"):
                self._detector = UltraFace(hub.fetch("ultraface"), threads=self._threads)
            elif hub.available("yunet"):
                self._detector = YuNet(hub.fetch("yunet"))
            else:
                _log_missing_detector()
        return self._detector


def _views(image: np.ndarray, large: int) -> list[tuple[int, int, int, int]]:
    """(x, y, width, height) of the whole frame and, for large frames, of four overlapping quarters."""
    height, width = image.shape[:2]
    views = [(0, 0, width, height)]
    if max(height, width) >= large:
        w, h = int(width * 0.6), int(height * 0.6)
        views += [(x, y, w, h) for y in (0, height - h) for x in (0, width - w)]
    return views


@cache
def _log_missing_detector() -> None:
    log.info("No detector for small faces is installed. `mien hub pull ultraface` downloads one (1.3 MB).")
