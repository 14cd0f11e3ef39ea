"""The synthetic corpus's face: mesh landmarks by name, and smooth fields that move them.

A field is written by a few landmarks and where each goes, in interocular units; a Gaussian radial-basis
interpolant carries the rest of the skin along and dies out by itself. Distances are taken on a face whose mouth
and eyes are pulled open (`sheet`), so that the upper lip never drags the lower one, nor a lid the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from mien.encoders.face_geometry import LANDMARKS, canonical, mirror

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
#: The face's outline, from the forehead down the subject's left side and up the right one.
OVAL = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)
#: What holds still when its neighbours move.
EYES = (33, 133, *LID_UPPER, *LID_LOWER)
NOSE = (2, 97, 98, 64, 48, 4)
CHIN = (200, 199, 152, 148, 176, 149, 150, 136, 172, 58, 132, 93)
REACH = 0.24  # interocular units; how far a landmark's move carries the skin around it
RIDGE = 0.02  # neighbouring landmarks with unlike moves are averaged a little instead of tearing the skin


def both_sides(*groups: tuple[int, ...]) -> np.ndarray:
    """Indices of groups and of their mirror images, each once."""
    right = np.array([i for g in groups for i in g])
    return np.unique(np.concatenate([right, mirror()[right]]))


def inner_lip_pairs() -> tuple[np.ndarray, np.ndarray]:
    """Upper and lower inner-lip landmarks that meet when the mouth is shut."""
    upper, lower = np.array(LIP_INNER_UPPER[1:]), np.array(LIP_INNER_LOWER[1:])
    return np.concatenate([upper, mirror()[upper[:-1]]]), np.concatenate([lower, mirror()[lower[:-1]]])


def lid_pairs() -> tuple[np.ndarray, np.ndarray]:
    """Upper and lower lid landmarks that meet when the eye is shut, the right eye's first."""
    upper, lower = np.array(LID_UPPER), np.array(LID_LOWER)
    return np.concatenate([upper, mirror()[upper]]), np.concatenate([lower, mirror()[lower]])


@lru_cache(maxsize=1)
def lower_lip() -> np.ndarray:
    """`(468,)` bool: the lower lip, corners left out."""
    out = np.zeros(LANDMARKS, dtype=bool)
    for group in (LIP_OUTER_LOWER, *LIP_MIDDLE_LOWER, LIP_INNER_LOWER):
        out[both_sides(group[1:])] = True
    return out


@lru_cache(maxsize=1)
def sheet() -> np.ndarray:
    """`(468, 3)` where the skin lies for measuring distances: mouth and eyes pulled open, depth halved."""
    vertices = canonical()["vertices"].astype(float).copy()
    x, y = np.abs(vertices[:, 0]), vertices[:, 1].copy()
    corner = vertices[61]
    below = lower_lip() | (y > vertices[17, 1] - 0.02)
    vertices[below, 1] += 0.4 * np.sqrt(np.clip(1 - (x[below] / (abs(corner[0]) + 0.05)) ** 2, 0, 1))
    eye = np.abs(vertices[[33, 133], 0])
    centre, half = eye.mean(), np.ptp(eye) / 2 + 0.04
    upper, lower = lid_pairs()
    under = (y > 0) & (y < 0.5)
    under[lower], under[upper] = True, False
    vertices[under, 1] += 0.2 * np.sqrt(np.clip(1 - ((x[under] - centre) / half) ** 2, 0, 1))
    vertices[:, 2] *= 0.5
    return vertices


def field(
    moves: Mapping[int, tuple[float, float, float]], *, still: tuple[int, ...] = (), reach: float = REACH
) -> np.ndarray:
    """The whole skin's displacement when some landmarks move.

    Args:
        moves: landmark -> (outward, down, away) in interocular units. Outward is away from the midline, so a
            right-half or midline landmark written once moves its mirror image likewise.
        still: landmarks held in place, where `moves` does not name them.

    Returns:
        `(468, 3)` x, y, z displacement, mirror-symmetric.
    """
    skin, other = sheet(), mirror()
    moves = dict.fromkeys(still, (0.0, 0.0, 0.0)) | dict(moves)
    index = np.array(list(moves))
    outward = np.array(list(moves.values()), dtype=float)
    right = outward * np.where(canonical()["vertices"][index, :1] > 1e-3, (1, 1, 1), (-1, 1, 1))
    right[other[index] == index, 0] = 0.0
    paired = other[index] != index
    index = np.concatenate([index, other[index[paired]]])
    wanted = np.concatenate([right, right[paired] * (-1, 1, 1)])

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / (2 * reach**2))

    weights = np.linalg.solve(kernel(skin[index], skin[index]) + RIDGE * np.eye(len(index)), wanted)
    return kernel(skin, skin[index]) @ weights


def side_weight(width: float = 0.12) -> np.ndarray:
    """`(468,)` share of a symmetric field that belongs to the subject's right side: 1 right, 0 left, smooth."""
    return 1 / (1 + np.exp(canonical()["vertices"][:, 0] / (width / 2)))


@lru_cache(maxsize=4)
def _knots(reach: float) -> np.ndarray:
    vertices = canonical()["vertices"].astype(float)
    return np.exp(-((vertices[:, None] - vertices[None, ::9]) ** 2).sum(-1) / (2 * reach**2))


def smooth_fields(rng: np.random.Generator, count: int, *, reach: float = 0.45) -> np.ndarray:
    """`(count, 468, 3)` random smooth displacement fields of unit root mean square."""
    kernel = _knots(reach)
    fields = kernel @ rng.standard_normal((count, kernel.shape[1], 3))
    return np.asarray(fields / np.sqrt((fields**2).mean(axis=(1, 2), keepdims=True)))
