"""Measures of faces that no model reads, taken while the pictures are at hand: landmarks, blendshapes, gaze.

A measure runs in two steps, because a recording's pictures are dropped at once while arithmetic on many faces costs as
much as on one.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from mien.encode import gaze
from mien.encoders.face_geometry import mirrored_landmarks
from mien.faces.face_landmarker import BLENDSHAPES, FaceLandmarker

#: Points of the 68-point scheme (iBUG 300-W: Sagonas et al. 2016, 300 Faces In-The-Wild Challenge) on the right half of
#: the face and its midline, and the landmarks of the mesh whose mean each is. This is the usual correspondence, made
#: symmetric. The jaw points are approximate: mesh points stay on the same spot of the skin when the head turns, whereas
#: the jaw points of the 68-point scheme follow the visible outline.
# fmt: off
_RIGHT_HALF: dict[int, tuple[int, ...]] = {
    # jaw, from the ear to the chin
    0: (127,), 1: (234,), 2: (93,), 3: (132, 58), 4: (58, 172), 5: (136,), 6: (150,), 7: (176,), 8: (152,),
    # brow, from outside
    17: (70,), 18: (63,), 19: (105,), 20: (66,), 21: (107,),
    # ridge and base of the nose
    27: (168, 6), 28: (197, 195), 29: (5,), 30: (4,), 31: (98,), 32: (97,), 33: (2,),
    # eye, from the outer corner over the upper lid
    36: (33,), 37: (160,), 38: (158,), 39: (133,), 40: (153,), 41: (144,),
    # outer edge of the lips, then the inner edge
    48: (61,), 49: (39,), 50: (37,), 51: (0,), 57: (17,), 58: (84,), 59: (91,),
    60: (78,), 61: (82,), 62: (13,), 66: (14,), 67: (87,),
}
#: Point of the left half -> the point of the right half that it mirrors.
_MIRRORED: dict[int, int] = {
    **{16 - i: i for i in range(8)}, **{43 - i: i for i in range(17, 22)}, 35: 31, 34: 32,
    45: 36, 44: 37, 43: 38, 42: 39, 47: 40, 46: 41, 54: 48, 53: 49, 52: 50, 56: 58, 55: 59,
    64: 60, 63: 61, 65: 67,
}
# fmt: on
POINTS = 68
#: Values of the gaze of a face: two vectors and two points.
GAZE_DIM = 2 * 3 + 2 * 2


def _correspondence() -> tuple[tuple[int, ...], ...]:
    mirror = mirrored_landmarks()
    left = {point: tuple(int(mirror[i]) for i in _RIGHT_HALF[of]) for point, of in _MIRRORED.items()}
    both = _RIGHT_HALF | left
    return tuple(both[point] for point in range(POINTS))


#: For each of the 68 points the landmarks of the mesh whose mean it is.
CORRESPONDENCE: tuple[tuple[int, ...], ...] = _correspondence()
#: The first and the last of them, which are one or two.
_FIRST, _LAST = (np.array([part[end] for part in CORRESPONDENCE]) for end in (0, -1))


class FaceMeasure(Protocol):
    """A measure of one face in one picture.

    Attributes:
        name: key of the values in `VideoFaces.measures`.
        dim: length of the values of a face.
    """

    name: str
    dim: int

    def read(self, image: np.ndarray, mesh: np.ndarray, scale: float) -> np.ndarray:
        """First step, for one face: an array of any shape, the same for all faces, of few kilobytes.

        Args:
            image: `(height, width, 3)` uint8 RGB. mesh: `(468, 3)` of the face, in its pixels.
            scale: original pixels in a pixel of the image.
        """
        ...

    def measure(self, readings: np.ndarray) -> np.ndarray:
        """Compute the values of many faces from what `read` returned: `(n, ...)` -> `(n, dim)`, NaN where unknown."""
        ...


class SparseLandmarks:
    """The 68 landmarks: `x_0, y_0, x_1, y_1, ...` in pixels of the original picture."""

    name, dim = "landmarks", 2 * POINTS

    def read(self, image: np.ndarray, mesh: np.ndarray, scale: float) -> np.ndarray:
        """`(68, 2)` points of a mesh."""
        points = (mesh[_FIRST, :2] + mesh[_LAST, :2]) / 2
        return np.asarray(scale * points, np.float32)

    def measure(self, readings: np.ndarray) -> np.ndarray:
        """`(n, 68, 2)` -> `(n, 136)`."""
        return readings.reshape(len(readings), self.dim)


class DenseFace:
    """What MediaPipe's Face Landmarker sees: scores of blendshapes, then gaze vectors and iris centres.

    The values are the 52 `BLENDSHAPES` if they are asked for, then, for gaze, x, y, z of the gaze of the right and of
    the left eye, and x, y of their irises in pixels of the original picture; see `mien.encode.gaze.measure`.

    Args:
        blendshapes, gaze: which of them; at least one.

    Raises:
        ArtefactError: the networks are missing and cannot be downloaded.
    """

    name = "dense face"

    def __init__(self, *, blendshapes: bool, gaze: bool) -> None:
        self._network = FaceLandmarker()
        self._scores = len(BLENDSHAPES) if blendshapes else 0
        self._gaze = gaze
        self.dim = self._scores + (GAZE_DIM if gaze else 0)

    def read(self, image: np.ndarray, mesh: np.ndarray, scale: float) -> np.ndarray:
        """`(478, 3)` landmarks in pixels of the original picture, NaN where the network sees no face."""
        landmarks: np.ndarray = np.float32(scale) * self._network.landmarks(image, mesh)
        return landmarks

    def measure(self, readings: np.ndarray) -> np.ndarray:
        """`(n, 478, 3)` -> `(n, dim)`."""
        values = np.full((len(readings), self.dim), np.nan, np.float32)
        if self._scores:
            for row in np.flatnonzero(np.isfinite(readings).all(axis=(1, 2))):
                values[row, : self._scores] = self._network.blendshapes(readings[row])
        if self._gaze:
            measured = [part.reshape(len(readings), -1) for part in gaze.measure(readings)]
            values[:, self._scores :] = np.concatenate(measured, axis=1)
        return values
