"""The face mesh: 468 landmarks of one face from a square cut-out, with the probability that a face is there.

Network: MediaPipe Face Mesh (Kartynnik et al., "Real-time Facial Surface Geometry from Monocular Video on
Mobile GPUs", arXiv 1907.06724), `face_landmark.tflite`: 192 × 192 RGB in [0, 1] with the eyes level → 468 × 3
in pixels of the cut-out and one logit of presence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mien.faces.crops import Square, around_box, cut
from mien.faces.tflite import Backend, TfliteNetwork

SIZE = 192
LANDMARKS = 468
#: The network was trained on squares this much larger than the box around the landmarks (the paper, § 2).
ENLARGE = 1.5
#: Outer eye corners: the subject's right eye (left in the picture), then the left.
RIGHT_EYE, LEFT_EYE = 33, 263


@dataclass(frozen=True, slots=True)
class Reading:
    """What the mesh network says of one square.

    mesh: `(468, 3)` x, y, z in pixels of the frame, z scaled like x (towards the camera is negative).
    logit: of the presence of a face. box: `(4,)` x1, y1, x2, y2 around the landmarks, possibly beyond the
    frame.
    square: where to read this face in the next frame: around the box, turned to level the eyes.
    """

    mesh: np.ndarray
    logit: float
    box: np.ndarray
    square: Square

    @property
    def score(self) -> float:
        """Presence probability in [0, 1]."""
        return float(1 / (1 + np.exp(-np.clip(self.logit, -50, 50))))


def read(mesh: np.ndarray, logit: float) -> Reading:
    """The Reading of a mesh `(468, 3)`."""
    flat = np.ascontiguousarray(mesh[:, :2].T)
    box = np.concatenate([flat.min(axis=1), flat.max(axis=1)]).astype(np.float64)
    dx, dy = (flat[:, LEFT_EYE] - flat[:, RIGHT_EYE]).tolist()
    return Reading(mesh, logit, box, around_box(box, ENLARGE, math.atan2(dy, dx)))


class FaceMesh:
    """The mesh network. One call reads one square of a frame."""

    def __init__(self, path: Path, *, threads: int = 1, on: Backend | None = None) -> None:
        self._net = TfliteNetwork(path, threads=threads, on=on)
        self._input = np.empty((SIZE, SIZE, 3), np.float32)

    def __call__(self, image: np.ndarray, square: Square) -> Reading:
        """image: `(height, width, 3)` uint8 RGB. The square may reach beyond the frame (black there)."""
        matrix = square.matrix(SIZE)
        np.multiply(cut(image, matrix, SIZE), np.float32(1 / 255), out=self._input)
        logit, points = self._net(self._input)
        points = points.reshape(LANDMARKS, 3)
        mesh = np.empty((LANDMARKS, 3), np.float32)
        mesh[:, :2] = points[:, :2] @ matrix[:, :2].T + matrix[:, 2]
        mesh[:, 2] = points[:, 2] * (square.side / SIZE)
        return read(mesh, float(logit[0]))
