"""Synthetic identities: resting faces with the variation of a population.

An identity is the canonical face plus named modes of shape (length of the nose, position of the brows, ...) and smooth
noise. Means and spreads are our choice, set so that the resting features agree in mean and spread with the output of
the face-mesh network on real faces (GRID talkers, and the hundred 25-pixel faces that scikit-image ships). No real
person's geometry is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mien.encoders.face_geometry import load_canonical_face
from mien.synthetic import mesh_deformation
from mien.synthetic.action_units import brow_moves, lid_moves, lip_moves, unit_indices, unit_names

NOISE_FIELDS, NOISE_SIZE = 6, 0.016
#: Standard deviation of the log gain of an action unit: between identities, and between the sides of one face.
GAIN_SPREAD, SIDE_SPREAD = 0.2, 0.1
#: Action units present at rest: unit -> scale of the half-normal distribution of its strength.
HABITS = {
    "1": 0.07, "2": 0.07, "4": 0.1, "7": 0.12, "12": 0.05, "15": 0.05, "17": 0.08, "24": 0.1, "14": 0.08,
    "43": 0.1,
}  # fmt: skip
#: Shift of a mode's mean for men, in spreads, with the opposite sign for women; our choice after common anthropometry
#: (longer, wider jaws, lower brows and thinner lips in men).
MALE = {
    "jaw_length": 0.5, "jaw_width": 0.5, "brow_height": -0.5, "upper_lip": -0.3, "lower_lip": -0.3,
    "nose_width": 0.3,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ShapeMode:
    """One mode of variation of resting faces.

    field: `(468, 3)` displacement in interocular units for an amount of 1. mean, spread: mean and standard deviation
    of the amount over the population.
    """

    name: str
    field: np.ndarray
    mean: float
    spread: float


@dataclass(frozen=True, slots=True)
class Identity:
    """Face and colours of one simulated person.

    rest: `(468, 3)` resting face in interocular units. gain: `(units,)` factor on each action unit. habit: `(units,)`
    strengths of the action units at rest (a frown, a smirk). tints: `(6,)` in [-1, 1], see `appearance.tint_texture`.
    """

    rest: np.ndarray
    gain: np.ndarray
    habit: np.ndarray
    tints: np.ndarray


def _ramp(values: np.ndarray, start: float, stop: float) -> np.ndarray:
    """Smoothstep from 0 at `start` to 1 at `stop`."""
    t = np.clip((values - start) / (stop - start), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def _axis(values: np.ndarray, axis: int) -> np.ndarray:
    """`(468, 3)` displacement by `values` along one axis."""
    out = np.zeros((len(values), 3))
    out[:, axis] = values
    return out


@lru_cache(maxsize=1)
def shape_modes() -> tuple[ShapeMode, ...]:
    """All modes of variation of resting faces."""
    v = load_canonical_face()["vertices"].astype(float)
    x, y = v[:, 0], v[:, 1]
    field = mesh_deformation.displacement_field
    eyes, nose = mesh_deformation.EYES, mesh_deformation.NOSE
    middle = nose + mesh_deformation.CHIN
    all_lips = [(1.0, 0.0, 0.0), (0.8, 0, 0), (0.55, 0, 0), (0.3, 0, 0), (0.12, 0, 0), (0, 0, 0)]
    corner = [(0, -1.0, 0), (0, -0.6, 0), (0, -0.25, 0), (0, -0.08, 0), (0, 0, 0), (0, 0, 0)]
    forward = [(0, 0, -0.4), (0, 0, -0.7), (0, 0, -0.9), (0, 0, -1), (0, 0, -1), (0, 0, -1)]
    part_up = [(0, 0, 0), (0, -0.1, 0), (0, -0.2, 0), (0, -0.25, 0), (0, -0.25, 0), (0, -0.25, 0)]
    part_down = [(0, 0, 0), (0, 0.3, 0), (0, 0.6, 0), (0, 0.75, 0), (0, 0.75, 0), (0, 0.75, 0)]
    none = [(0, 0, 0)] * 6
    return (
        ShapeMode("nose_length", _axis(_ramp(y, 0.05, 0.45), 1), 0.135, 0.035),
        ShapeMode("philtrum_length", _axis(_ramp(y, 0.55, 0.72), 1), 0.04, 0.018),
        ShapeMode("jaw_length", _axis(_ramp(y, 0.85, 1.4), 1), 0.01, 0.05),
        ShapeMode("face_width", _axis(x * _ramp(np.abs(x), 0.35, 0.9), 0), 0.0, 0.025),
        ShapeMode("jaw_width", _axis(x * _ramp(y, 0.3, 1.0) * _ramp(np.abs(x), 0.2, 0.6), 0), -0.09, 0.04),
        ShapeMode("eye_aperture", field(lid_moves(-0.8, 0.2), reach=0.1), 0.052, 0.02),
        ShapeMode("eye_tilt", field({33: (0, -1, 0), 133: (0, 1, 0)} | lid_moves(0, 0), reach=0.12), 0.0, 0.01),
        ShapeMode("brow_height", field(brow_moves((0, -1, 0), (0, -1, 0), (0, -1, 0)), fixed=eyes), -0.035, 0.03),
        ShapeMode("brow_tilt", field(brow_moves((0, 1, 0), (0, 0, 0), (0, -1, 0)), fixed=eyes), -0.01, 0.014),
        ShapeMode(
            "brow_distance",
            field(brow_moves((1, 0, 0), (0.6, 0, 0), (0.2, 0, 0)), fixed=eyes),
            -0.042,
            0.012,
        ),
        ShapeMode("nose_width", field({64: (1, 0, 0), 98: (0.7, 0, 0), 48: (1, 0, 0)}), -0.02, 0.02),
        ShapeMode(
            "mouth_width", field(lip_moves(True, all_lips) | lip_moves(False, all_lips), fixed=middle), -0.065, 0.03
        ),
        ShapeMode("lip_corner", field(lip_moves(True, corner) | lip_moves(False, corner), fixed=middle), 0.006, 0.016),
        ShapeMode("upper_lip", field(lip_moves(True, none, -1.0), fixed=middle, reach=0.15), 0.012, 0.013),
        ShapeMode("lower_lip", field(lip_moves(False, none, -1.0), fixed=middle, reach=0.15), 0.026, 0.018),
        # the canonical mouth is slightly open; resting mouths are not
        ShapeMode(
            "lips_parted",
            field(lip_moves(True, part_up) | lip_moves(False, part_down), fixed=middle, reach=0.16),
            -0.03,
            0.016,
        ),
        ShapeMode(
            "lips_forward", field(lip_moves(True, forward) | lip_moves(False, forward), fixed=middle), 0.015, 0.012
        ),
        ShapeMode("cheeks", field({205: (0, 0, -1), 50: (0, 0, -1), 187: (0.3, 0, -0.6)}), -0.03, 0.025),
        ShapeMode(
            "folds",
            field({205: (-1, 0, 0), 206: (-1, 0, 0), 207: (-1, 0, 0)}, fixed=nose),
            0.03,
            0.014,
        ),
        ShapeMode("cheek_height", field({205: (0, -1, 0), 50: (0, -1, 0), 101: (0, -1, 0)}), 0.0, 0.015),
        ShapeMode("depth", _axis(v[:, 2], 2), 0.0, 0.05),
    )


def draw_identity(rng: np.random.Generator, sex: str) -> Identity:
    """Draw one identity. `sex` is `female` or `male` and shifts the means of some modes (`MALE`)."""
    sign = 1.0 if sex == "male" else -1.0
    rest = load_canonical_face()["vertices"].astype(float).copy()
    for mode in shape_modes():
        amount = rng.standard_normal() + sign * MALE.get(mode.name, 0.0)
        rest += (mode.mean + mode.spread * amount) * mode.field
    rest += NOISE_SIZE / np.sqrt(NOISE_FIELDS) * mesh_deformation.smooth_fields(rng, NOISE_FIELDS).sum(axis=0)
    units = unit_names()
    gain = np.exp(GAIN_SPREAD * rng.standard_normal(len(units)))
    habit = np.zeros(len(units))
    for pair in dict.fromkeys(tuple(unit_indices(u.split("_")[0])) for u in units):
        # the two sides of a face have nearly the same gain
        gain[list(pair)] = gain[pair[0]] * np.exp(SIDE_SPREAD * rng.standard_normal(len(pair)))
    for unit, spread in HABITS.items():
        habit[unit_indices(unit)] = abs(rng.standard_normal()) * spread
    return Identity(rest, gain, habit, np.clip(0.5 * rng.standard_normal(6), -1, 1))


@lru_cache(maxsize=1)
def mean_face() -> np.ndarray:
    """`(468, 3)` mean resting face of the population in interocular units."""
    return np.asarray(load_canonical_face()["vertices"] + sum(m.mean * m.field for m in shape_modes()))
