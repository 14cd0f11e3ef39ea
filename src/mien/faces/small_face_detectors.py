"""A second opinion for small faces: UltraFace, or YuNet where only that is here.

BlazeFace short-range was trained for faces near the camera. In a 640 × 360 frame these find faces from about
16 pixels of height. Neither is needed: without them small faces are missed, and nothing else changes.
"""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from mien import hub
from mien.faces.detector import NO_EYES, Detection, merge

log = logging.getLogger("mien")


class UltraFace:
    """Ultra-Light-Fast-Generic-Face-Detector-1MB, RFB-320: the frame squeezed to 320 × 240, (RGB - 127) / 128
    → 4,420 boxes as shares of width and height, with (background, face) probabilities."""

    def __init__(self, path: Path, *, threads: int = 1, threshold: float = 0.5) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # it warns of every initializer of this old file
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._net = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._threshold = threshold

    def __call__(self, image: np.ndarray) -> list[Detection]:
        height, width = image.shape[:2]
        if width < height:  # squeezed to 4:3, faces of an upright frame would be twice too wide
            image = cv2.copyMakeBorder(image, 0, 0, 0, height - width, cv2.BORDER_CONSTANT)
            width = height
        small = cv2.resize(image, (320, 240), interpolation=cv2.INTER_AREA)
        planes = ((small.astype(np.float32) - 127) / 128).transpose(2, 0, 1)[None]
        scores, boxes = self._net.run(["scores", "boxes"], {"input": planes})
        chosen = np.flatnonzero(scores[0, :, 1] > self._threshold)
        boxes = boxes[0, chosen] * [width, height, width, height] - 0.5
        return merge(Detection(b, float(s), NO_EYES) for b, s in zip(boxes, scores[0, chosen, 1], strict=True))


class YuNet:
    """YuNet (Wu et al., Machine Intelligence Research 2023) through OpenCV, which holds its decoder."""

    #: Longer side it is given: its cost grows with the area, and from here on 10-pixel faces are found.
    SIDE = 640

    def __init__(self, path: Path, *, threshold: float = 0.6) -> None:
        self._net = cv2.FaceDetectorYN.create(str(path), "", (320, 320), threshold)

    def __call__(self, image: np.ndarray) -> list[Detection]:
        scale = min(1.0, self.SIDE / max(image.shape[:2]))
        size = tuple(max(1, round(v * scale)) for v in image.shape[1::-1])
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image
        self._net.setInputSize(size)
        _, rows = self._net.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        found = []
        for row in np.asarray([] if rows is None else rows, np.float64).reshape(-1, 15):
            x, y, width, height, *points, score = row / [*[scale] * 14, 1]
            found.append(Detection(np.array([x, y, x + width, y + height]), score, np.reshape(points[:4], (2, 2))))
        return merge(found)


class SmallFaces:
    """The second detector that is here, asked about one view of the frame at a time: the whole of it, and for
    frames longer than `LARGE` its quarters too. Chosen when first asked; UltraFace before YuNet.

    Nothing is downloaded on the way: what a prediction finds must not depend on the network of that minute.
    """

    LARGE = 960

    def __init__(self, *, threads: int = 1) -> None:
        self._threads = threads
        self._chosen = False
        self._net: UltraFace | YuNet | None = None
        self._turn = 0

    def __call__(self, image: np.ndarray, *, everything: bool) -> list[Detection]:
        """everything: all views at once (a first frame, a new scene); else the next view in turn."""
        net = self._detector()
        if net is None:
            return []
        parts = _parts(image, self.LARGE)
        self._turn += 1
        found = []
        for x, y, width, height in parts if everything else [parts[self._turn % len(parts)]]:
            shift = np.array([x, y])
            for f in net(np.ascontiguousarray(image[y : y + height, x : x + width])):
                found.append(Detection(f.box + np.tile(shift, 2), f.score, f.eyes + shift))
        return merge(found)

    def _detector(self) -> UltraFace | YuNet | None:
        if not self._chosen:
            self._chosen = True
            if hub.available("ultraface"):
                self._net = UltraFace(hub.fetch("ultraface"), threads=self._threads)
            elif hub.available("yunet"):
                self._net = YuNet(hub.fetch("yunet"))
            else:
                _say_once()
        return self._net


def _parts(image: np.ndarray, large: int) -> list[tuple[int, int, int, int]]:
    """(x, y, width, height) of the whole frame, and of its four overlapping quarters where it is large."""
    height, width = image.shape[:2]
    parts = [(0, 0, width, height)]
    if max(height, width) >= large:
        w, h = int(width * 0.6), int(height * 0.6)
        parts += [(x, y, w, h) for y in (0, height - h) for x in (0, width - w)]
    return parts


@cache
def _say_once() -> None:
    log.info("no detector for small faces is here: `mien hub pull ultraface` fetches one, 1.3 MB")
