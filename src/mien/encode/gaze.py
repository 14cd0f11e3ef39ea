"""Gaze: where each eye points, from its iris, the corners of its lids and the head pose.

The eye is a ball that the head carries. Its centre lies at a fixed place behind the middle between the corners of the
lids, so that the picture, the landmarks and the head pose give its position; the iris centre lies on a sphere around
it, so that the distance of both in the picture gives the direction. The projection is orthographic, as in
`mien.encoders.face_geometry`: directions are relative to the line from the face to the camera, not to the optical axis.
Nothing is calibrated to a person, so that each has a constant error of some degrees.
"""

from __future__ import annotations

import math

import numpy as np

from mien.encoders.face_geometry import align
from mien.faces.face_landmarker import LANDMARKS, LEFT_IRIS, RIGHT_IRIS

#: Millimetres between the centres of the eyes, which is the unit of the neutral face. Of adults, the distance between
#: the pupils is 63 mm on average (Dodgson 2004, Variation and extrema of human interpupillary distance).
INTEROCULAR_MM = 63.0
#: Radius of the eyeball and of the iris, whose diameter is 11.7 ± 0.4 mm (Ruefer, Schroeder and Erb 2005,
#: White-to-white corneal diameter, Cornea 24(3)).
EYEBALL_MM, IRIS_MM = 12.0, 11.7 / 2
#: From the centre of the eyeball to that of the iris.
IRIS_DISTANCE_MM = math.sqrt(EYEBALL_MM**2 - IRIS_MM**2)
#: From the middle between the corners of the lids to the centre of the eyeball: outward, down, and away from the
#: camera, in the axes of the head. The first two make the mean gaze of six people who look at the camera zero. The
#: third is our choice: in the mesh the lids, and so the cornea, lie some 5 mm before the corners, and the centre of the
#: eyeball lies 12 mm behind the cornea.
CENTRE_MM = (1.6, -1.9, 6.0)
#: Lid opening, as a share of the eye's width, below which the eye counts as closed and has no gaze. Our choice.
CLOSED_BELOW = 0.16
#: Head yaw in radians from which the eyes are not read: the nose hides one, and the other is seen from the side.
TURNED_FROM = math.radians(45)
#: Sine of the largest angle between gaze and camera. Beyond it the iris is hardly seen, and landmarks are guesses.
_LARGEST_SINE = math.sin(math.radians(65))
#: Outer and inner corner, upper and lower lid of the right and of the left eye.
CORNERS = ((33, 133), (263, 362))
LIDS = ((159, 145), (386, 374))
_SIDES = (-1.0, 1.0)  # the right eye lies left in the picture
EYES = 2


def iris_centres(landmarks: np.ndarray) -> np.ndarray:
    """Centres of the right and the left iris, `(n, 2, 2)` x, y, from landmarks `(n, 478, 3)`, in their unit."""
    rings = [landmarks[:, list(iris), :2].mean(axis=1) for iris in (RIGHT_IRIS, LEFT_IRIS)]
    return np.stack(rings, axis=1)


def measure(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gaze and irises of faces.

    Args:
        landmarks: `(n, 478, 3)` pixels, x right, y down, z away; NaN for no face.

    Returns:
        Gaze of the right and the left eye, `(n, 2, 3)` unit vectors in the axes of the picture (to the camera is
        0, 0, -1), and the centres of their irises `(n, 2, 2)` in pixels. Both are NaN where an eye is closed, the head
        is turned by more than `TURNED_FROM`, or there is no face.
    """
    count = len(landmarks)
    gaze, irises = np.full((count, EYES, 3), np.nan), np.full((count, EYES, 2), np.nan)
    known = np.isfinite(landmarks).all(axis=(1, 2))
    if not known.any():
        return gaze, irises
    points = np.asarray(landmarks[known], float)
    aligned, rotation = align(points[:, : LANDMARKS - len(RIGHT_IRIS) - len(LEFT_IRIS)])
    mm = INTEROCULAR_MM * _distance(aligned, 33, 263) / _distance(points, 33, 263)  # of a pixel
    centres = iris_centres(points)
    facing = np.abs(np.arcsin(np.clip(rotation[:, 2, 0], -1, 1))) < TURNED_FROM
    for eye, (corners, (upper, lower)) in enumerate(zip(CORNERS, LIDS, strict=True)):
        offset = (centres[:, eye] - points[:, list(corners), :2].mean(axis=1)) * mm[:, None]
        middle = rotation @ (np.array(CENTRE_MM) * (_SIDES[eye], 1, 1))
        sine = (offset - middle[:, :2]) / IRIS_DISTANCE_MM
        squared = (sine**2).sum(axis=1)
        is_open = _distance(aligned, upper, lower) >= CLOSED_BELOW * _distance(aligned, *corners)
        seen = is_open & facing & (squared <= _LARGEST_SINE**2)
        vectors = np.column_stack([sine, -np.sqrt(np.maximum(1 - squared, 0))])
        gaze[known, eye] = np.where(seen[:, None], vectors, np.nan)
        irises[known, eye] = np.where((is_open & facing)[:, None], centres[:, eye], np.nan)
    return gaze, irises


def _distance(points: np.ndarray, a: int, b: int) -> np.ndarray:
    distance: np.ndarray = np.linalg.norm(points[:, a] - points[:, b], axis=1)
    return distance


def angles(gaze: np.ndarray) -> np.ndarray:
    """Horizontal and vertical angle of the gaze in radians, `(n, 2)`, as OpenFace computes them from the mean of both
    eyes: positive to the right of the picture, and down; 0 towards the camera.

    gaze: `(n, 2, 3)` vectors. An eye that is not known is left out; the angles are NaN where none is.
    """
    seen = np.isfinite(gaze).all(axis=2)
    total = np.where(seen[..., None], gaze, 0.0).sum(axis=1)
    both: np.ndarray = np.arctan2(total[:, :2], -total[:, 2:])
    return np.where(seen.any(axis=1)[:, None], both, np.nan)
