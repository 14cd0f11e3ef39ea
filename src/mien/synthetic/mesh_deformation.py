"""Mesh deformation: named landmark groups and smooth displacement fields of the face mesh.

A field is defined by the displacements of a few landmarks, in interocular units. A Gaussian radial-basis interpolant
moves the skin around them and decays with distance. Distances are measured on a face with mouth and eyes pulled open
(`unfolded_face`), so that one lip or lid does not move the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from mien.encoders.face_geometry import LANDMARKS, load_canonical_face, mirrored_landmarks

# The subject's right half and the midline; the left half is the mirror image.
LIP_OUTER_UPPER = (61, 185, 40, 39, 37, 0)
LIP_OUTER_LOWER = (61, 146, 91, 181, 84, 17)
LIP_MIDDLE_UPPER = ((76, 184, 74, 73, 72, 11), (62, 183, 42, 41, 38, 12))
LIP_MIDDLE_LOWER = ((76, 77, 90, 180, 85, 16), (62, 96, 89, 179, 86, 15))
LIP_INNER_UPPER = (78, 191, 80, 81, 82, 13)
LIP_INNER_LOWER = (78, 95, 88, 178, 87, 14)
LID_UPPER = (246, 161, 160, 159, 158, 157, 173)
LID_LOWER = (7, 163, 144, 145, 153, 154, 155)
CREASE_UPPER = (247, 30, 29, 27, 28, 56, 190)
CREASE_LOWER = (25, 110, 24, 23, 22, 26, 112)
BROW_UPPER = (70, 63, 105, 66, 107)
BROW_LOWER = (46, 53, 52, 65, 55)
#: Outline of the face, from the forehead down the subject's left side and up the right side.
OVAL = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)
#: Landmarks that stay in place while their neighbours move.
EYES = (33, 133, *LID_UPPER, *LID_LOWER)
NOSE = (2, 97, 98, 64, 48, 4)
CHIN = (200, 199, 152, 148, 176, 149, 150, 136, 172, 58, 132, 93)
REACH = 0.24  # standard deviation of the interpolant, in interocular units
RIDGE = 0.02  # ridge of the interpolation: averages opposing displacements of close landmarks instead of tearing


def with_mirror_images(*groups: tuple[int, ...]) -> np.ndarray:
    """Sorted unique indices of landmark groups and of their mirror images."""
    right = np.array([i for g in groups for i in g])
    return np.unique(np.concatenate([right, mirrored_landmarks()[right]]))


def inner_lip_pairs() -> tuple[np.ndarray, np.ndarray]:
    """Upper and lower inner-lip landmarks that meet in a closed mouth, two arrays `(n,)`."""
    upper, lower = np.array(LIP_INNER_UPPER[1:]), np.array(LIP_INNER_LOWER[1:])
    return np.concatenate([upper, mirrored_landmarks()[upper[:-1]]]), np.concatenate(
        [lower, mirrored_landmarks()[lower[:-1]]]
    )


def lid_pairs() -> tuple[np.ndarray, np.ndarray]:
    """Upper and lower lid landmarks that meet in a closed eye, two arrays `(n,)`, right eye first."""
    upper, lower = np.array(LID_UPPER), np.array(LID_LOWER)
    return np.concatenate([upper, mirrored_landmarks()[upper]]), np.concatenate([lower, mirrored_landmarks()[lower]])


@lru_cache(maxsize=1)
def lower_lip_mask() -> np.ndarray:
    """`(468,)` bool mask of the lower lip without its corners."""
    out = np.zeros(LANDMARKS, dtype=bool)
    for group in (LIP_OUTER_LOWER, *LIP_MIDDLE_LOWER, LIP_INNER_LOWER):
        out[with_mirror_images(group[1:])] = True
    return out


@lru_cache(maxsize=1)
def unfolded_face() -> np.ndarray:
    """`(468, 3)` canonical face with mouth and eyes pulled open and depth halved, for measuring distances."""
    vertices = load_canonical_face()["vertices"].astype(float).copy()
    x, y = np.abs(vertices[:, 0]), vertices[:, 1].copy()
    corner = vertices[61]
    below = lower_lip_mask() | (y > vertices[17, 1] - 0.02)
    vertices[below, 1] += 0.4 * np.sqrt(np.clip(1 - (x[below] / (abs(corner[0]) + 0.05)) ** 2, 0, 1))
    eye = np.abs(vertices[[33, 133], 0])
    centre, half = eye.mean(), np.ptp(eye) / 2 + 0.04
    upper, lower = lid_pairs()
    under = (y > 0) & (y < 0.5)
    under[lower], under[upper] = True, False
    vertices[under, 1] += 0.2 * np.sqrt(np.clip(1 - ((x[under] - centre) / half) ** 2, 0, 1))
    vertices[:, 2] *= 0.5
    return vertices


def displacement_field(
    moves: Mapping[int, tuple[float, float, float]], *, fixed: tuple[int, ...] = (), reach: float = REACH
) -> np.ndarray:
    """Displacement of every mesh point that follows from the displacements of some landmarks.

    Args:
        moves: landmark -> (outward, down, away) in interocular units. Outward is away from the midline, so an entry
            for a right-half or midline landmark also moves its mirror image.
        fixed: landmarks with zero displacement, unless `moves` names them.
        reach: standard deviation of the Gaussian interpolant in interocular units.

    Returns:
        `(468, 3)` x, y, z displacement, mirror-symmetric.
    """
    skin, mirrored = unfolded_face(), mirrored_landmarks()
    moves = dict.fromkeys(fixed, (0.0, 0.0, 0.0)) | dict(moves)
    index = np.array(list(moves))
    outward = np.array(list(moves.values()), dtype=float)
    right = outward * np.where(load_canonical_face()["vertices"][index, :1] > 1e-3, (1, 1, 1), (-1, 1, 1))
    right[mirrored[index] == index, 0] = 0.0
    paired = mirrored[index] != index
    index = np.concatenate([index, mirrored[index[paired]]])
    target = np.concatenate([right, right[paired] * (-1, 1, 1)])
    kernel = _gaussian(skin, skin[index], reach)
    weights = np.linalg.solve(kernel[index] + RIDGE * np.eye(len(index)), target)
    return np.asarray(kernel @ weights)


def _gaussian(points: np.ndarray, centres: np.ndarray, reach: float) -> np.ndarray:
    """`(points, centres)` Gaussian kernel of the distances."""
    return np.asarray(np.exp(-((points[:, None] - centres[None]) ** 2).sum(-1) / (2 * reach**2)))


def right_side_share(width: float = 0.12) -> np.ndarray:
    """`(468,)` weight of the subject's right side: 1 right, 0 left, with a smooth transition `width` wide."""
    return np.asarray(1 / (1 + np.exp(load_canonical_face()["vertices"][:, 0] / (width / 2))))


@lru_cache(maxsize=4)
def _noise_kernel(reach: float) -> np.ndarray:
    vertices = load_canonical_face()["vertices"].astype(float)
    return _gaussian(vertices, vertices[::9], reach)


def smooth_fields(rng: np.random.Generator, count: int, *, reach: float = 0.45) -> np.ndarray:
    """Draw random smooth displacement fields.

    Returns:
        `(count, 468, 3)`, each of unit root mean square and correlated over about `reach` interocular units.
    """
    kernel = _noise_kernel(reach)
    fields = kernel @ rng.standard_normal((count, kernel.shape[1], 3))
    return np.asarray(fields / np.sqrt((fields**2).mean(axis=(1, 2), keepdims=True)))
