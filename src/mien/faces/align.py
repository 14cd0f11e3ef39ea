"""Faces laid over one another: five points of a mesh, and the picture turned so that they stand in fixed
places."""

from __future__ import annotations

import numpy as np

from mien.faces.crops import cut

#: Landmarks whose mean is each of the five points: right eye, left eye (the subject's), nose tip, right and
#: left corner of the mouth. The eyes are the mean of corners and lids; this mesh has no iris.
_POINTS = ((33, 133, 159, 145), (263, 362, 386, 374), (4,), (61,), (291,))
#: Where they stand in a 112 × 112 picture: the positions used since SphereFace and ArcFace, which aligned
#: corpora such as Aff-Wild2's `cropped_aligned` follow.
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


def five_points(mesh: np.ndarray) -> np.ndarray:
    """mesh `(468, 2 or 3)` → `(5, 2)` x, y in the mesh's pixels: eye, eye, nose tip, mouth corner, mouth
    corner, the one on the left of an upright picture first."""
    return np.stack([mesh[list(part), :2].mean(axis=0) for part in _POINTS]).astype(np.float64)


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The `(2, 3)` rotation, scale and shift that brings `source` `(n, 2)` closest to `target` `(n, 2)` in
    least squares, never mirrored. Closed form: in the plane it is one complex division. Points that all
    coincide have no scale; they are only shifted."""
    a, b = source.mean(axis=0), target.mean(axis=0)
    z, w = (source - a) @ [1, 1j], (target - b) @ [1, 1j]
    power = float((np.abs(z) ** 2).sum())
    factor = np.vdot(z, w) / power if power > 0 else 1.0 + 0j
    linear = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    return np.column_stack([linear, b - linear @ a])


def align(image: np.ndarray, mesh: np.ndarray, size: int = 112, margin: float = 0.0, down: float = 0.0) -> np.ndarray:
    """The face as a `(size, size, 3)` uint8 picture, its five points on `TEMPLATE` (scaled to `size`).

    image: `(height, width, 3)` uint8 RGB, the frame that `mesh` `(468, 3)` was read from. margin: how much
    more than the template's 112 × 112 to show around it, as a share of the side (0.25: a quarter wider and
    higher). down: by which share of the template's side the picture is centred lower. Beyond the frame it is black.
    """
    target = ((TEMPLATE + 0.5 - (56, 56 + 112 * down)) / (1 + margin) + 56) * (size / 112)  # .5: to edges at 0
    return cut(image, similarity(target, five_points(mesh)), size)
