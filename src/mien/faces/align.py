"""Face alignment: warp a face so that five mesh points lie on the fixed positions of the ArcFace template."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from mien.faces.crops import extract_crop

#: Landmarks whose mean is each of the five points: the subject's right eye, left eye, nose tip, right and left mouth
#: corner. An eye is the mean of its corners and lids, because this mesh has no iris.
_POINTS = ((33, 133, 159, 145), (263, 362, 386, 374), (4,), (61,), (291,))
_LANDMARKS = np.array([landmark for part in _POINTS for landmark in part])
#: `(5, 2)` pixels of the five points in a 112 × 112 crop: the positions of SphereFace (arXiv 1704.08063) and ArcFace
#: (arXiv 1801.07698), which aligned corpora such as Aff-Wild2's `cropped_aligned` use.
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


def five_points(mesh: np.ndarray) -> np.ndarray:
    """Five alignment points `(5, 2)` of a mesh `(468, 2 or 3)`, in its pixels: eyes, nose tip, corners of the mouth; of
    each pair the one on the left of an upright image first."""
    points = mesh[_LANDMARKS, :2]
    five = np.empty((5, 2))
    five[0] = np.add.reduce(points[:4]) / points.dtype.type(4)
    five[1] = np.add.reduce(points[4:8]) / points.dtype.type(4)
    five[2:] = points[8:]
    return five


class _Points(NamedTuple):
    """Points as complex numbers around their mean, `(n,)`, with the mean `(2,)` and the sum of their squares."""

    mean: np.ndarray
    around: np.ndarray
    power: float


def _centred(points: np.ndarray) -> _Points:
    mean = np.add.reduce(points) / len(points)
    around = (points - mean) @ _COMPLEX
    return _Points(mean, around, float((np.abs(around) ** 2).sum()))


_COMPLEX = np.array([1, 1j])


def similarity_transform(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least-squares similarity transform `(2, 3)` from points `source` `(n, 2)` to `target` `(n, 2)`.

    Rotation, scale and shift, no reflection. In the plane the closed form is one complex division.
    Source points that all coincide are only shifted.
    """
    return _similarity(_centred(source), target)


def _similarity(source: _Points, target: np.ndarray) -> np.ndarray:
    mean = np.add.reduce(target) / len(target)
    factor = np.vdot(source.around, (target - mean) @ _COMPLEX) / source.power if source.power > 0 else 1.0 + 0j
    matrix = np.empty((2, 3))
    matrix[:, :2] = [[factor.real, -factor.imag], [factor.imag, factor.real]]
    matrix[:, 2] = mean - matrix[:, :2] @ source.mean
    return matrix


@lru_cache(maxsize=32)
def _template(size: int, margin: float, down: float) -> _Points:
    """The points of `TEMPLATE` in a crop, see `align`."""
    # .5: from pixel centres at whole numbers to pixel edges at whole numbers
    return _centred(((TEMPLATE + 0.5 - (56, 56 + 112 * down)) / (1 + margin) + 56) * (size / 112))


def align(image: np.ndarray, mesh: np.ndarray, size: int = 112, margin: float = 0.0, down: float = 0.0) -> np.ndarray:
    """Aligned face crop `(size, size, 3)` uint8 RGB, its five points on `TEMPLATE` scaled to `size`; black beyond the
    frame.

    Args:
        image: `(height, width, 3)` uint8 RGB, the frame in which `mesh` `(468, 3)` was found.
        margin: context around the template's 112 × 112, as a share of the side (0.25: a quarter wider and higher).
        down: shift of the crop's centre downwards, as a share of the template's side.
    """
    return extract_crop(image, _similarity(_template(size, margin, down), five_points(mesh)), size)
