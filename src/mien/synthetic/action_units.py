"""Facial action units as fields on the mesh, at full strength (FACS intensity E).

What each unit does is FACS (Ekman, Friesen, Hager 2002); how far each landmark goes stands in
`action_units.json` beside this file, in interocular units (about 63 mm). Those lengths are our choice, set by
looking at the drawn faces and, for units 12 and 25, at how the face-mesh network reports a real smile.

An entry of the file: `sided` (each half of the face can do it alone); `points` landmark -> outward, down, away;
`brow` the same for inner, middle and outer brow; `upper_lip`, `lower_lip` for six columns from corner to
middle, with `*_roll` moving the outer edge towards the inner one; `upper_lid`, `lower_lid` down at the middle
of the lid; `still` what holds; `reach` how far the skin follows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mien.synthetic import mesh_deformation

Move = tuple[float, float, float]
Moves = dict[int, Move]

TABLE = Path(__file__).with_name("action_units.json")
STILL = {"eyes": mesh_deformation.EYES, "nose": mesh_deformation.NOSE, "chin": mesh_deformation.CHIN}
#: How far each column of a lip follows a roll, and each landmark of a lid its middle.
ROLL = (0.0, 0.5, 0.8, 1.0, 1.0, 1.0)
LID_ARC = (0.35, 0.75, 0.95, 1.0, 0.95, 0.75, 0.35)


def lip(upper: bool, columns: Sequence[Sequence[float]], roll: float = 0.0) -> Moves:
    """One lip: six columns from corner to middle. A roll thins the red; the inner edge stays."""
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


def lids(upper: float = 0.0, lower: float = 0.0) -> Moves:
    """Lid rims down by so much at their middle; the creases follow by a third."""
    moves: Moves = {}
    for rim, crease, amount in (
        (mesh_deformation.LID_UPPER, mesh_deformation.CREASE_UPPER, upper),
        (mesh_deformation.LID_LOWER, mesh_deformation.CREASE_LOWER, lower),
    ):
        moves |= {i: (0.0, amount * a, 0.0) for i, a in zip(rim, LID_ARC, strict=True)}
        moves |= {i: (0.0, amount * a / 3, 0.0) for i, a in zip(crease, LID_ARC, strict=True)}
    return moves


def brow(inner: Sequence[float], middle: Sequence[float], outer: Sequence[float]) -> Moves:
    """Both rows of the brow, by its inner, middle and outer point."""
    grid = np.array([outer, (np.array(outer) + middle) / 2, middle, (np.array(middle) + inner) / 2, inner])
    return {
        i: tuple(m)
        for row in (mesh_deformation.BROW_UPPER, mesh_deformation.BROW_LOWER)
        for i, m in zip(row, grid, strict=True)
    }


def unit_field(entry: dict[str, Any]) -> np.ndarray:
    """`(468, 3)` field of one entry of the table, both sides of the face."""
    moves: Moves = {}
    for key in ("upper_lip", "lower_lip"):
        if key in entry:
            moves |= lip(key == "upper_lip", entry[key], entry.get(f"{key}_roll", 0.0))
    if "brow" in entry:
        moves |= brow(*entry["brow"])
    if "upper_lid" in entry or "lower_lid" in entry:
        moves |= lids(entry.get("upper_lid", 0.0), entry.get("lower_lid", 0.0))
    moves |= {int(i): tuple(m) for i, m in entry.get("points", {}).items()}
    still = tuple(i for group in entry.get("still", ()) for i in STILL[group])
    return mesh_deformation.field(moves, still=still, reach=entry.get("reach", mesh_deformation.REACH))


@lru_cache(maxsize=1)
def units() -> tuple[tuple[str, ...], np.ndarray]:
    """Names and `(units, 468, 3)` fields: `12_right`, `12_left`, ..., `26`; `30` moves the jaw to the left."""
    names: list[str] = []
    fields: list[np.ndarray] = []
    right = mesh_deformation.side_weight()[:, None]
    for name, entry in json.loads(TABLE.read_text()).items():
        whole = unit_field(entry)
        if entry["sided"]:
            names += [f"{name}_right", f"{name}_left"]
            fields += [whole * right, whole * (1 - right)]
        else:
            names.append(name)
            fields.append(whole)
    # 30, jaw sideways: what a jaw drop lowers moves to the side, in proportion
    sideways = np.zeros_like(fields[0])
    sideways[:, 0] = 0.5 * fields[names.index("26")][:, 1]
    return (*names, "30"), np.stack([*fields, sideways])


@lru_cache(maxsize=1)
def names() -> tuple[str, ...]:
    return units()[0]


def index(name: str) -> list[int]:
    """Positions of a unit in the action vector: two for a sided unit named without its side."""
    known = names()
    found = [known.index(n) for n in (name, f"{name}_right", f"{name}_left") if n in known]
    if not found:
        raise KeyError(f"no action unit {name!r}; there are {', '.join(known)}")
    return found


@lru_cache(maxsize=1)
def other_side() -> np.ndarray:
    """`(units,)` position of each unit's mirror image; `30`, the jaw to the left, stays where it is."""
    known = names()
    swap = {"right": "left", "left": "right"}
    return np.array([known.index("_".join((u.split("_")[0], swap[u.split("_")[1]])) if "_" in u else u) for u in known])
