"""Face alignment: warp a face so that five mesh points lie on the fixed positions of the ArcFace template."""

from __future__ import annotations

import numpy as np

from mien.faces.crops import extract_crop

#: Landmarks whose mean is each of the five points: the subject's right eye, left eye, nose tip, right and left mouth
#: corner. An eye is the mean of its corners and lids, because this mesh has no iris.
_POINTS = ((33, 133, 159, 145), (263, 362, 386, 374), (4,), (61,), (291,))
#: `(5, 2)` pixels of the five points in a 112 × 112 crop: the positions of SphereFace (arXiv 1704.08063) and ArcFace
#: (arXiv 1801.07698), which aligned corpora such as Aff-Wild2's `cropped_aligned` use.
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


def five_points(mesh: np.ndarray) -> np.ndarray:
    """Five alignment points `(5, 2)` of a mesh `(468, 2 or 3)`, in its pixels: eyes, nose tip, corners of the mouth; of
    each pair the one on the left of an upright image first."""
    return np.stack([mesh[list(part), :2].mean(axis=0) for part in _POINTS]).astype(np.float64)


def similarity_transform(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least-squares similarity transform `(2, 3)` from points `source` `(n, 2)` to `target` `(n, 2)`.

    Rotation, scale and shift, no reflection. In the plane the closed form is one complex division.
    Source points that all coincide are only shifted.
    """
    a, b = source.mean(axis=0), target.mean(axis=0)
    z, w = (source - a) @ [1, 1j], (target - b) @ [1, 1j]
    power = float((np.abs(z) ** 2).sum())
    factor = np.vdot(z, w) / power if power > 0 else 1.0 + 0j
    linear = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    return np.column_stack([linear, b - linear @ a])


def align(image: np.ndarray, mesh: np.ndarray, size: int = 112, margin: float = 0.0, down: float = 0.0) -> np.ndarray:
    """Aligned face crop `(size, size, 3)` uint8 RGB, its five points on `TEMPLATE` scaled to `size`; black beyond the
    frame.

    Args:
        image: `(height, width, 3)` uint8 RGB, the frame in which `mesh` `(468, 3)` was found.
        margin: context around the template's 112 × 112, as a share of the side (0.25: a quarter wider and higher).
        down: shift of the crop's centre downwards, as a share of the template's side.
    """
    # .5: from pixel centres at whole numbers to pixel edges at whole numbers
    target = ((TEMPLATE + 0.5 - (56, 56 + 112 * down)) / (1 + margin) + 56) * (size / 112)
    return extract_crop(image, similarity_transform(target, five_points(mesh)), size)
