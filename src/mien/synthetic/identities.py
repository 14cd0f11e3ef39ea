"""Who stands on the synthetic corpus's stage: resting faces that differ as people's do.

An identity is the canonical face plus named modes of shape (length of the nose, set of the brows, ...) plus a
little smooth noise. Means and spreads are our choice, set so that the resting features agree in mean and
spread with what the face-mesh network reports on real faces (GRID talkers, and the hundred 25-pixel faces that
scikit-image ships); no real person's geometry is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mien.encoders.face_geometry import canonical
from mien.synthetic import mesh_deformation
from mien.synthetic.action_units import brow, index, lids, lip, names

NOISE_FIELDS, NOISE_SIZE = 6, 0.016
#: Spread of the log of how strongly a unit shows, for the person and for one side against the other.
GAIN_SPREAD, SIDE_SPREAD = 0.2, 0.1
#: Resting habits: action unit -> spread of a half-normal amount.
HABITS = {
    "1": 0.07,
    "2": 0.07,
    "4": 0.1,
    "7": 0.12,
    "12": 0.05,
    "15": 0.05,
    "17": 0.08,
    "24": 0.1,
    "14": 0.08,
    "43": 0.1,
}
#: Modes with another mean where the person's sex is known, in spreads; our choice after common anthropometry
#: (longer, wider jaws, lower brows and thinner lips in men).
MALE = {
    "jaw_length": 0.5,
    "jaw_width": 0.5,
    "brow_height": -0.5,
    "upper_lip": -0.3,
    "lower_lip": -0.3,
    "nose_width": 0.3,
}


@dataclass(frozen=True, slots=True)
class Mode:
    """One way resting faces differ: `field` `(468, 3)` per unit; population mean and spread of its amount."""

    name: str
    field: np.ndarray
    mean: float
    spread: float


@dataclass(frozen=True, slots=True)
class Identity:
    """One person.

    rest: `(468, 3)` resting face in interocular units. gain: `(units,)` how strongly each action unit shows on
    this face. habit: `(units,)` action units this face carries at rest (a frown, a smirk). look: `(6,)` numbers
    in [-1, 1] for the renderer's tints.
    """

    rest: np.ndarray
    gain: np.ndarray
    habit: np.ndarray
    look: np.ndarray


def _ramp(values: np.ndarray, start: float, stop: float) -> np.ndarray:
    t = np.clip((values - start) / (stop - start), 0, 1)
    return t * t * (3 - 2 * t)


def _axis(values: np.ndarray, axis: int) -> np.ndarray:
    out = np.zeros((len(values), 3))
    out[:, axis] = values
    return out


@lru_cache(maxsize=1)
def modes() -> tuple[Mode, ...]:
    v = canonical()["vertices"].astype(float)
    x, y = v[:, 0], v[:, 1]
    field, still = mesh_deformation.field, mesh_deformation.NOSE + mesh_deformation.CHIN
    all_lips = [(1.0, 0.0, 0.0), (0.8, 0, 0), (0.55, 0, 0), (0.3, 0, 0), (0.12, 0, 0), (0, 0, 0)]
    corner = [(0, -1.0, 0), (0, -0.6, 0), (0, -0.25, 0), (0, -0.08, 0), (0, 0, 0), (0, 0, 0)]
    forward = [(0, 0, -0.4), (0, 0, -0.7), (0, 0, -0.9), (0, 0, -1), (0, 0, -1), (0, 0, -1)]
    part_up = [(0, 0, 0), (0, -0.1, 0), (0, -0.2, 0), (0, -0.25, 0), (0, -0.25, 0), (0, -0.25, 0)]
    part_down = [(0, 0, 0), (0, 0.3, 0), (0, 0.6, 0), (0, 0.75, 0), (0, 0.75, 0), (0, 0.75, 0)]
    none = [(0, 0, 0)] * 6
    return (
        Mode("nose_length", _axis(_ramp(y, 0.05, 0.45), 1), 0.135, 0.035),
        Mode("philtrum_length", _axis(_ramp(y, 0.55, 0.72), 1), 0.04, 0.018),
        Mode("jaw_length", _axis(_ramp(y, 0.85, 1.4), 1), 0.01, 0.05),
        Mode("face_width", _axis(x * _ramp(np.abs(x), 0.35, 0.9), 0), 0.0, 0.025),
        Mode("jaw_width", _axis(x * _ramp(y, 0.3, 1.0) * _ramp(np.abs(x), 0.2, 0.6), 0), -0.09, 0.04),
        Mode("eye_aperture", field(lids(-0.8, 0.2), reach=0.1), 0.052, 0.02),
        Mode("eye_tilt", field({33: (0, -1, 0), 133: (0, 1, 0)} | lids(0, 0), reach=0.12), 0.0, 0.01),
        Mode("brow_height", field(brow((0, -1, 0), (0, -1, 0), (0, -1, 0)), still=mesh_deformation.EYES), -0.035, 0.03),
        Mode("brow_tilt", field(brow((0, 1, 0), (0, 0, 0), (0, -1, 0)), still=mesh_deformation.EYES), -0.01, 0.014),
        Mode(
            "brow_distance",
            field(brow((1, 0, 0), (0.6, 0, 0), (0.2, 0, 0)), still=mesh_deformation.EYES),
            -0.042,
            0.012,
        ),
        Mode("nose_width", field({64: (1, 0, 0), 98: (0.7, 0, 0), 48: (1, 0, 0)}), -0.02, 0.02),
        Mode("mouth_width", field(lip(True, all_lips) | lip(False, all_lips), still=still), -0.065, 0.03),
        Mode("lip_corner", field(lip(True, corner) | lip(False, corner), still=still), 0.006, 0.016),
        Mode("upper_lip", field(lip(True, none, -1.0), still=still, reach=0.15), 0.012, 0.013),
        Mode("lower_lip", field(lip(False, none, -1.0), still=still, reach=0.15), 0.026, 0.018),
        # the canonical mouth stands a little open; resting mouths do not
        Mode("lips_parted", field(lip(True, part_up) | lip(False, part_down), still=still, reach=0.16), -0.03, 0.016),
        Mode("lips_forward", field(lip(True, forward) | lip(False, forward), still=still), 0.015, 0.012),
        Mode("cheeks", field({205: (0, 0, -1), 50: (0, 0, -1), 187: (0.3, 0, -0.6)}), -0.03, 0.025),
        Mode(
            "folds",
            field({205: (-1, 0, 0), 206: (-1, 0, 0), 207: (-1, 0, 0)}, still=mesh_deformation.NOSE),
            0.03,
            0.014,
        ),
        Mode("cheek_height", field({205: (0, -1, 0), 50: (0, -1, 0), 101: (0, -1, 0)}), 0.0, 0.015),
        Mode("depth", _axis(v[:, 2], 2), 0.0, 0.05),
    )


def person(rng: np.random.Generator, sex: str) -> Identity:
    """Draw one person; `sex` is `female` or `male` and shifts a few modes by half a spread."""
    sign = 1.0 if sex == "male" else -1.0
    rest = canonical()["vertices"].astype(float).copy()
    for mode in modes():
        amount = rng.standard_normal() + sign * MALE.get(mode.name, 0.0)
        rest += (mode.mean + mode.spread * amount) * mode.field
    rest += NOISE_SIZE / np.sqrt(NOISE_FIELDS) * mesh_deformation.smooth_fields(rng, NOISE_FIELDS).sum(axis=0)
    units = names()
    gain = np.exp(GAIN_SPREAD * rng.standard_normal(len(units)))
    habit = np.zeros(len(units))
    for pair in dict.fromkeys(tuple(index(u.split("_")[0])) for u in units):
        # both sides of one person share most of their strength
        gain[list(pair)] = gain[pair[0]] * np.exp(SIDE_SPREAD * rng.standard_normal(len(pair)))
    for unit, spread in HABITS.items():
        habit[index(unit)] = abs(rng.standard_normal()) * spread
    return Identity(rest, gain, habit, np.clip(0.5 * rng.standard_normal(6), -1, 1))


@lru_cache(maxsize=1)
def average() -> np.ndarray:
    """`(468, 3)` the population's mean resting face."""
    return canonical()["vertices"] + sum(m.mean * m.field for m in modes())
