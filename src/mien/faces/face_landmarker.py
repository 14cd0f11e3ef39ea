"""MediaPipe's Face Landmarker: 478 landmarks of a face, irises included, and 52 blendshape scores.

The bundle `face_landmarker.task` (float16, version 1) is a zip file with two networks that are used here:

* `face_landmarks_detector.tflite`: 256 × 256 RGB in [0, 1] with the eyes level → 478 × 3 in pixels of the crop and one
  presence logit. The first 468 landmarks are those of `mien.faces.mesh`, the last ten are the irises (Grishchenko et
  al., "Attention Mesh: High-fidelity Face Mesh Prediction in Real-time", arXiv 2006.10962).
* `face_blendshapes.tflite`: 146 of these landmarks, x and y in pixels of the picture → 52 scores in [0, 1] (Grishchenko
  et al., "Blendshapes GHUM: Real-time Monocular Facial Blendshape Prediction", arXiv 2309.05782).

Landmarks, names and their order are those of MediaPipe's `face_blendshapes_graph.cc`. MediaPipe's own program also
smooths the landmarks of a video over time, and crops around the landmarks of the frame before; both are left out here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mien import hub
from mien.faces.crops import extract_crop
from mien.faces.mesh import MeshPrediction
from mien.faces.tflite import Backend, TfliteNetwork

ARTEFACT = "face-landmarker"
INPUT_SIZE = 256
LANDMARKS = 478
#: Centre and four points of the rim of the subject's right iris, then of the left.
RIGHT_IRIS, LEFT_IRIS = tuple(range(468, 473)), tuple(range(473, 478))
#: Presence logit below which the network sees no face: MediaPipe's default confidence of 0.5.
PRESENT_LOGIT = 0.0

#: Landmarks that the blendshape network reads.
# fmt: off
BLENDSHAPE_LANDMARKS: tuple[int, ...] = (
    0, 1, 4, 5, 6, 7, 8, 10, 13, 14, 17, 21, 33, 37, 39, 40, 46, 52, 53, 54, 55, 58, 61, 63, 65, 66, 67, 70, 78, 80,
    81, 82, 84, 87, 88, 91, 93, 95, 103, 105, 107, 109, 127, 132, 133, 136, 144, 145, 146, 148, 149, 150, 152, 153,
    154, 155, 157, 158, 159, 160, 161, 162, 163, 168, 172, 173, 176, 178, 181, 185, 191, 195, 197, 234, 246, 249, 251,
    263, 267, 269, 270, 276, 282, 283, 284, 285, 288, 291, 293, 295, 296, 297, 300, 308, 310, 311, 312, 314, 317, 318,
    321, 323, 324, 332, 334, 336, 338, 356, 361, 362, 365, 373, 374, 375, 377, 378, 379, 380, 381, 382, 384, 385, 386,
    387, 388, 389, 390, 397, 398, 400, 402, 405, 409, 415, 454, 466, *RIGHT_IRIS, *LEFT_IRIS,
)
# fmt: on


def _sided(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}{side}" for name in names for side in ("Left", "Right"))


#: Names of the scores in the order of the network. The first is not a movement: MediaPipe says to ignore it.
BLENDSHAPES: tuple[str, ...] = (
    "_neutral",
    *_sided("browDown"),
    "browInnerUp",
    *_sided("browOuterUp"),
    "cheekPuff",
    *_sided("cheekSquint", "eyeBlink", "eyeLookDown", "eyeLookIn", "eyeLookOut", "eyeLookUp", "eyeSquint", "eyeWide"),
    *("jawForward", "jawLeft", "jawOpen", "jawRight", "mouthClose"),
    *_sided("mouthDimple", "mouthFrown"),
    *("mouthFunnel", "mouthLeft"),
    *_sided("mouthLowerDown", "mouthPress"),
    *("mouthPucker", "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper"),
    *_sided("mouthSmile", "mouthStretch", "mouthUpperUp", "noseSneer"),
)


class FaceLandmarker:
    """The two networks of the bundle.

    Args:
        path: `face_landmarker.task`; None fetches it, see `mien.hub`. threads, backend: as `TfliteNetwork`.

    Raises:
        ArtefactError: the bundle is missing and cannot be downloaded.
    """

    def __init__(self, path: Path | None = None, *, threads: int = 1, backend: Backend | None = None) -> None:
        path = hub.fetch(ARTEFACT) if path is None else path
        self._landmarks = TfliteNetwork(
            path,
            member="face_landmarks_detector.tflite",
            outputs=("Identity", "Identity_1"),
            threads=threads,
            backend=backend,
        )
        # so small that a second thread costs more than it saves
        self._blendshapes = TfliteNetwork(path, member="face_blendshapes.tflite", backend=backend)
        self._input = np.empty((INPUT_SIZE, INPUT_SIZE, 3), np.float32)

    def landmarks(self, image: np.ndarray, mesh: np.ndarray) -> np.ndarray:
        """Landmarks of a face.

        Args:
            image: `(height, width, 3)` uint8 RGB; beyond its border it is black.
            mesh: `(468, 3)` pixels, of the face in this picture, from `mien.faces.mesh`.

        Returns:
            `(478, 3)` float32 x, y, z in pixels of the image, z scaled like x; NaN if the network sees no face.
        """
        square = MeshPrediction.from_mesh(mesh, 0.0).square
        matrix = square.matrix(INPUT_SIZE)
        np.multiply(extract_crop(image, matrix, INPUT_SIZE), np.float32(1 / 255), out=self._input)
        points, logit = self._landmarks(self._input)
        if not logit[0] >= PRESENT_LOGIT:
            return np.full((LANDMARKS, 3), np.nan, np.float32)
        points = points.reshape(LANDMARKS, 3)
        landmarks = np.empty((LANDMARKS, 3), np.float32)
        landmarks[:, :2] = points[:, :2] @ matrix[:, :2].T + matrix[:, 2]
        landmarks[:, 2] = points[:, 2] * (square.side / INPUT_SIZE)
        return landmarks

    def blendshapes(self, landmarks: np.ndarray) -> np.ndarray:
        """Scores of landmarks `(478, 3)` in any unit, y down, all finite -> `(52,)` float32 in [0, 1], in the order of
        `BLENDSHAPES`. Left and right are the subject's. Position and scale in the picture do not count."""
        points = np.ascontiguousarray(landmarks[list(BLENDSHAPE_LANDMARKS), :2], np.float32)
        scores: np.ndarray = self._blendshapes(points)[0].copy()
        return scores
