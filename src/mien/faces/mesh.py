"""Face mesh: 468 landmarks of one face from a square crop, with the probability that a face is present.

Network: MediaPipe Face Mesh (Kartynnik et al., "Real-time Facial Surface Geometry from Monocular Video on Mobile GPUs",
arXiv 1907.06724), `face_landmark.tflite`: 192 × 192 RGB in [0, 1] with the eyes level → 468 × 3 in pixels of the crop
and one presence logit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mien.faces.crops import Square, extract_crop, square_around_box
from mien.faces.tflite import Backend, TfliteNetwork

INPUT_SIZE = 192
LANDMARKS = 468
#: Side of the network's training crops, in sides of the box around the landmarks (arXiv 1907.06724, § 2).
ENLARGE = 1.5
#: Outer eye corners: the subject's right eye (left in the image), then the left.
RIGHT_EYE, LEFT_EYE = 33, 263


@dataclass(frozen=True, slots=True)
class MeshPrediction:
    """Output of the mesh network for one square.

    mesh: `(468, 3)` x, y, z in pixels of the frame, z scaled like x (towards the camera is negative).
    logit: of the presence of a face. box: `(4,)` x1, y1, x2, y2 around the landmarks, possibly beyond the frame.
    square: crop for this face in the next frame: around the box, turned to level the eyes.
    """

    mesh: np.ndarray
    logit: float
    box: np.ndarray
    square: Square

    @classmethod
    def from_mesh(cls, mesh: np.ndarray, logit: float) -> MeshPrediction:
        """Derive box and square from a mesh `(468, 3)`."""
        points = np.ascontiguousarray(mesh[:, :2].T)
        box = np.concatenate([points.min(axis=1), points.max(axis=1)]).astype(np.float64)
        dx, dy = (points[:, LEFT_EYE] - points[:, RIGHT_EYE]).tolist()
        return cls(mesh, logit, box, square_around_box(box, ENLARGE, math.atan2(dy, dx)))

    @property
    def score(self) -> float:
        """Presence probability in [0, 1]."""
        return float(1 / (1 + np.exp(-np.clip(self.logit, -50, 50))))


class FaceMesh:
    """The mesh network, called with one square of a frame.

    Args:
        path: `face_landmark.tflite`. threads, backend: as `TfliteNetwork`.
    """

    def __init__(self, path: Path, *, threads: int = 1, backend: Backend | None = None) -> None:
        self._network = TfliteNetwork(path, threads=threads, backend=backend)
        self._input = np.empty((INPUT_SIZE, INPUT_SIZE, 3), np.float32)

    def __call__(self, image: np.ndarray, square: Square) -> MeshPrediction:
        """Predict the mesh in a square of `image` `(height, width, 3)` uint8 RGB; beyond the frame it is black."""
        matrix = square.matrix(INPUT_SIZE)
        np.multiply(extract_crop(image, matrix, INPUT_SIZE), np.float32(1 / 255), out=self._input)
        logit, points = self._network(self._input)
        points = points.reshape(LANDMARKS, 3)
        mesh = np.empty((LANDMARKS, 3), np.float32)
        mesh[:, :2] = points[:, :2] @ matrix[:, :2].T + matrix[:, 2]
        mesh[:, 2] = points[:, 2] * (square.side / INPUT_SIZE)
        return MeshPrediction.from_mesh(mesh, float(logit[0]))
