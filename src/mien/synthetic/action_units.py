"""Facial action units (FACS) as displacement fields of the face mesh at full strength (FACS intensity E).

The movement of each unit follows FACS (Ekman, Friesen and Hager 2002). `action_units.json` beside this file gives
the displacement of each landmark in interocular units (about 63 mm). These lengths are our choice, set by inspection
of rendered faces and, for units 12 and 25, by the output of the face-mesh network on real smiles.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypedDict

import numpy as np

from mien.labels import ACTION_UNITS
from mien.synthetic import mesh_deformation

Move = tuple[float, float, float]
Moves = dict[int, Move]

TABLE = Path(__file__).with_name("action_units.json")
#: Groups of landmarks that an entry can hold in place.
FIXED_GROUPS = {"eyes": mesh_deformation.EYES, "nose": mesh_deformation.NOSE, "chin": mesh_deformation.CHIN}
#: Strength from which a unit is labelled as active. Full strength is FACS intensity E, so this is about B to C, which
#: annotators see (our choice); small movements of a resting face stay below it.
ACTIVE = 0.3
#: Share of a roll that each column of a lip follows, and share of a lid's movement that each of its landmarks follows.
ROLL = (0.0, 0.5, 0.8, 1.0, 1.0, 1.0)
LID_ARC = (0.35, 0.75, 0.95, 1.0, 0.95, 0.75, 0.35)


class UnitEntry(TypedDict, total=False):
    """One action unit of `action_units.json`; displacements are (outward, down, away).

    what: its FACS name. sided: each half of the face can move alone. points: landmark -> displacement. brow:
    displacements of the inner, middle and outer brow. upper_lip, lower_lip: displacements of six columns from corner
    to middle. upper_lip_roll, lower_lip_roll: movement of the outer edge towards the inner edge. upper_lid, lower_lid:
    downward movement of the middle of the lid. still: landmark groups that stay in place. reach: standard deviation of
    the interpolant.
    """

    what: str
    sided: bool
    points: dict[str, list[float]]
    brow: list[list[float]]
    upper_lip: list[list[float]]
    lower_lip: list[list[float]]
    upper_lip_roll: float
    lower_lip_roll: float
    upper_lid: float
    lower_lid: float
    still: list[str]
    reach: float


def lip_moves(upper: bool, columns: Sequence[Sequence[float]], roll: float = 0.0) -> Moves:
    """Displacements of one lip from six columns, corner to middle. A roll thins the lip; its inner edge stays."""
    if upper:
        rows = (mesh_deformation.LIP_OUTER_UPPER, *mesh_deformation.LIP_MIDDLE_UPPER, mesh_deformation.LIP_INNER_UPPER)
    else:
        rows = (mesh_deformation.LIP_OUTER_LOWER, *mesh_deformation.LIP_MIDDLE_LOWER, mesh_deformation.LIP_INNER_LOWER)
        roll = -roll
    moves: Moves = {}
    for k, row in enumerate(rows):
        for landmark, (x, y, z), follows in zip(row, columns, ROLL, strict=True):
            moves[landmark] = (x, y + roll * follows * (1 - k / (len(rows) - 1)), z)
    return moves


def lid_moves(upper: float = 0.0, lower: float = 0.0) -> Moves:
    """Downward displacements of both lids, given at the middle of each rim; the creases follow by a third."""
    moves: Moves = {}
    for rim, crease, amount in (
        (mesh_deformation.LID_UPPER, mesh_deformation.CREASE_UPPER, upper),
        (mesh_deformation.LID_LOWER, mesh_deformation.CREASE_LOWER, lower),
    ):
        moves |= {i: (0.0, amount * a, 0.0) for i, a in zip(rim, LID_ARC, strict=True)}
        moves |= {i: (0.0, amount * a / 3, 0.0) for i, a in zip(crease, LID_ARC, strict=True)}
    return moves


def brow_moves(inner: Sequence[float], middle: Sequence[float], outer: Sequence[float]) -> Moves:
    """Displacements of both rows of the brow, interpolated between its inner, middle and outer point."""
    grid = np.array([outer, (np.array(outer) + middle) / 2, middle, (np.array(middle) + inner) / 2, inner])
    rows = (mesh_deformation.BROW_UPPER, mesh_deformation.BROW_LOWER)
    return {i: (float(x), float(y), float(z)) for row in rows for i, (x, y, z) in zip(row, grid, strict=True)}


def unit_field(entry: UnitEntry) -> np.ndarray:
    """`(468, 3)` displacement field of one entry of the table, for both sides of the face."""
    moves: Moves = {}
    if "upper_lip" in entry:
        moves |= lip_moves(True, entry["upper_lip"], entry.get("upper_lip_roll", 0.0))
    if "lower_lip" in entry:
        moves |= lip_moves(False, entry["lower_lip"], entry.get("lower_lip_roll", 0.0))
    if "brow" in entry:
        moves |= brow_moves(*entry["brow"])
    if "upper_lid" in entry or "lower_lid" in entry:
        moves |= lid_moves(entry.get("upper_lid", 0.0), entry.get("lower_lid", 0.0))
    moves |= {int(i): (x, y, z) for i, (x, y, z) in entry.get("points", {}).items()}
    fixed = tuple(i for group in entry.get("still", ()) for i in FIXED_GROUPS[group])
    reach = entry.get("reach", mesh_deformation.REACH)
    return mesh_deformation.displacement_field(moves, fixed=fixed, reach=reach)


@lru_cache(maxsize=1)
def _load_units() -> tuple[tuple[str, ...], np.ndarray]:
    table: Mapping[str, UnitEntry] = json.loads(TABLE.read_text())
    names: list[str] = []
    fields: list[np.ndarray] = []
    right = mesh_deformation.right_side_share()[:, None]
    for name, entry in table.items():
        whole = unit_field(entry)
        if entry["sided"]:
            names += [f"{name}_right", f"{name}_left"]
            fields += [whole * right, whole * (1 - right)]
        else:
            names.append(name)
            fields.append(whole)
    # unit 30, jaw sideways: moves to the side, in proportion, what a jaw drop lowers
    sideways = np.zeros_like(fields[0])
    sideways[:, 0] = 0.5 * fields[names.index("26")][:, 1]
    return (*names, "30"), np.stack([*fields, sideways])


def unit_names() -> tuple[str, ...]:
    """Names in the order of an action vector: `12_right`, `12_left`, ..., `26`, ..., `30` (jaw to the left)."""
    return _load_units()[0]


def unit_fields() -> np.ndarray:
    """`(units, 468, 3)` displacement fields in interocular units, in the order of `unit_names`."""
    return _load_units()[1]


def unit_indices(name: str) -> list[int]:
    """Positions of a unit in the action vector: two for a sided unit named without its side.

    Raises KeyError for a name that is no action unit.
    """
    names = unit_names()
    indices = [names.index(n) for n in (name, f"{name}_right", f"{name}_left") if n in names]
    if not indices:
        raise KeyError(f"no action unit {name!r}; there are {', '.join(names)}")
    return indices


def unit_labels(actions: np.ndarray) -> np.ndarray:
    """Labels of the twelve action units of Aff-Wild2, `(time, units)` strengths -> `(time, 12)` float64, 0 or 1.

    A unit is active where its stronger side reaches `ACTIVE`. Unit 25 (lips part) also counts where the jaw drops (26,
    27), because that parts the lips, and unit 26 also counts for 27, which Aff-Wild2 does not have.
    """
    counted = {"AU25": ("25", "26", "27"), "AU26": ("26", "27")}
    strengths = [
        actions[:, [i for name in counted.get(unit, (unit.removeprefix("AU"),)) for i in unit_indices(name)]].max(
            axis=1
        )
        for unit in ACTION_UNITS
    ]
    return (np.stack(strengths, axis=1) >= ACTIVE).astype(np.float64)


@lru_cache(maxsize=1)
def mirrored_units() -> np.ndarray:
    """`(units,)` position of each unit's mirror image. Unit 30 (jaw to the left) maps to itself."""
    names = unit_names()
    swap = {"right": "left", "left": "right"}
    return np.array([names.index("_".join((u.split("_")[0], swap[u.split("_")[1]])) if "_" in u else u) for u in names])
