"""Expression prototypes: action units of the eight classes, in several variants each.

Prototypes and variants after FACS's emotion tables (Ekman, Friesen, Hager 2002, ch. 12; EMFACS); weights and
strengths are our choice. A prototype is a line of terms: `unit:low-high` is always present, `unit?p:low-high` with
probability p, `unit/:low-high` on one side of the face (drawn at random), `unit\\:low-high` on the opposite side.
Strengths are relative to the unit's field at full strength, before scaling by the segment's intensity.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mien.labels import ANGER, DISGUST, FEAR, HAPPINESS, NEUTRAL, OTHER, SADNESS, SURPRISE
from mien.synthetic.action_units import unit_indices, unit_names

#: Labelled frames with a face for each class: training set of Aff-Wild2 EXPR, 10th ABAW challenge (2026).
TRAIN_FRAMES = np.array([177198, 16573, 10771, 9080, 95463, 78751, 31615, 165866])
CLASS_SHARES = TRAIN_FRAMES / TRAIN_FRAMES.sum()

#: Valence and arousal of each class at full intensity: points on Russell's circumplex (1980); our choice.
CIRCUMPLEX = {
    NEUTRAL: (0.0, 0.0),
    ANGER: (-0.55, 0.65),
    DISGUST: (-0.6, 0.35),
    FEAR: (-0.6, 0.75),
    HAPPINESS: (0.8, 0.45),
    SADNESS: (-0.7, -0.35),
    SURPRISE: (0.15, 0.75),
    OTHER: (-0.1, 0.05),
}


@dataclass(frozen=True, slots=True)
class Prototype:
    """One variant of a class.

    weight: relative frequency within the class. units: terms as in the module's docstring. valence_arousal: at full
    intensity, each in [-1, 1].
    """

    name: str
    expression: int
    weight: float
    units: str
    valence_arousal: tuple[float, float]


_TABLE: dict[int, tuple[tuple[str, float, str], ...]] = {
    NEUTRAL: (("rest", 1.0, ""),),
    ANGER: (
        ("glare", 3, "4:.6-1 5?.5:.3-.8 7:.5-1 23:.4-.9 17?.3:.2-.6"),
        ("pressed", 2, "4:.6-1 7:.4-1 24:.5-1 17:.3-.8"),
        ("frown", 2, "4:.7-1 7:.5-1 10?.2:.2-.5"),
        ("bared teeth", 2, "4:.6-1 5?.6:.3-.8 7:.4-.9 10:.4-.9 25:.4-.9 16?.5:.3-.7 26?.3:.2-.6"),
        ("shout", 1, "4:.6-1 7:.4-.9 10?.5:.3-.7 25:.5-1 26:.4-.9 20?.4:.2-.5"),
    ),
    DISGUST: (
        ("wrinkled nose", 3, "9:.6-1 4?.5:.2-.6 7?.4:.3-.7 17?.4:.3-.7"),
        ("raised lip", 2, "10:.6-1 9?.3:.2-.5 17?.4:.3-.8 7?.3:.2-.6"),
        ("sneer with teeth", 2, "10:.5-1 9:.3-.8 25:.4-.9 16?.3:.2-.6"),
        ("pulled down", 2, "9:.5-1 15:.4-.9 17:.4-.9 4?.4:.2-.6"),
        ("gag", 1, "9:.5-.9 10:.4-.8 25:.4-.8 26:.3-.7 15?.4:.3-.6"),
    ),
    FEAR: (
        ("stretched", 3, "1:.6-1 2:.4-.9 4:.4-.9 5:.6-1 20:.5-1 25:.4-.9"),
        ("gaping", 2, "1:.6-1 2:.4-.9 4:.4-.8 5:.6-1 25:.4-.8 26:.4-.9 20?.5:.3-.7"),
        ("tense", 2, "1:.5-1 4:.4-.8 5:.6-1 20:.5-1 7?.4:.2-.5"),
        ("startled brow", 1, "1:.6-1 2:.4-.8 4:.4-.8 5:.7-1 7?.3:.2-.5 25?.6:.2-.5"),
    ),
    HAPPINESS: (
        ("smile", 3, "12:.5-1 6?.5:.3-.8"),
        ("Duchenne smile", 3, "12:.6-1.1 6:.5-1 7?.2:.2-.5"),
        ("open smile", 4, "12:.7-1.2 6?.8:.4-1 25:.5-1.3 26?.2:.1-.3 16?.3:.2-.5"),
        ("laugh", 2, "12:.8-1.2 6:.5-1 25:.7-1.4 26:.3-.9 7?.4:.3-.7 43?.2:.2-.5"),
        ("slight smile", 1, "12:.35-.55 6?.3:.2-.5"),
    ),
    SADNESS: (
        ("oblique brows", 3, "1:.6-1 4:.3-.8 15:.5-1 17?.5:.3-.8 43?.3:.1-.4"),
        ("pout", 2, "15:.6-1 17:.4-1 1?.5:.3-.7 4?.4:.2-.5 43?.3:.1-.4"),
        ("grief", 2, "1:.6-1 4:.4-.8 11:.4-.9 15?.6:.3-.6 25?.3:.2-.4"),
        ("weeping", 1, "1:.5-1 4:.4-.9 6:.4-.8 15:.4-.9 17?.6:.3-.7 20?.4:.3-.6 25:.2-.6"),
        ("downcast", 2, "1:.3-.8 4?.5:.2-.5 15:.5-.9 43:.25-.55"),
    ),
    SURPRISE: (
        ("open mouth", 4, "1:.7-1.1 2:.7-1.1 5:.5-1 25:.3-.6 26:.4-1"),
        ("gape", 2, "1:.6-1.1 2:.6-1.1 5:.5-1 27:.4-1"),
        ("parted", 2, "1:.7-1.1 2:.7-1.1 5:.5-1 25:.3-.7"),
        ("brows", 2, "1:.8-1.2 2:.8-1.2 5:.4-.9 26?.4:.2-.4"),
    ),
    OTHER: (
        ("lopsided smirk", 3, "12/:.6-1.1 14/?.5:.3-.7 12\\?.3:.1-.25"),
        ("contempt", 1, "14/:.6-1 12/:.3-.6 17?.3:.2-.4"),
        ("boredom", 3, "43:.5-.9 15?.3:.15-.3 26?.3:.1-.25 2?.2:.2-.4"),
        ("doubt", 1, "4/:.5-1 2\\:.6-1 1\\?.5:.4-.8 17:.3-.6 30/?.5:.4-.8"),
        ("pressed lips", 1, "24:.8-1.2 14:.4-.8 17?.3:.2-.5"),
        ("sucked lips", 1, "28:.7-1 14?.3:.2-.5"),
        ("pucker", 3, "18:.7-1.2 17?.3:.2-.5 22?.3:.2-.5"),
        ("puffed cheeks", 1, "34:.7-1.2 18:.3-.7"),
        ("facial shrug", 2, "1:.4-.9 2:.5-1 15:.4-.8 17:.5-1"),
        ("jaw aside", 1, "30/:.7-1.1 26?.4:.1-.3"),
        ("yawn", 2, "27:.6-1 43:.5-.9 1?.3:.2-.5"),
        ("wink", 1, "43/:.8-1.1 12/:.3-.6 6/:.3-.8"),
        ("grimace", 2, "20:.6-1.1 25:.5-1 16:.4-.9"),
        ("funnel", 2, "22:.7-1.1 18?.5:.2-.5 25:.2-.5"),
    ),
}
_OTHER_VALENCE_AROUSAL = {
    "contempt": (-0.45, 0.2),
    "lopsided smirk": (0.15, 0.15),
    "boredom": (-0.3, -0.6),
    "doubt": (-0.2, 0.15),
    "yawn": (-0.1, -0.7),
    "wink": (0.45, 0.3),
    "grimace": (-0.4, 0.4),
    "puffed cheeks": (0.05, 0.15),
    "facial shrug": (-0.1, -0.1),
    "pucker": (0.1, 0.1),
}
_TERM = re.compile(r"^(?P<unit>\d+)(?P<side>[/\\]?)(?:\?(?P<p>[\d.]+))?:(?P<low>[\d.]+)-(?P<high>[\d.]+)$")


@lru_cache(maxsize=1)
def prototypes() -> dict[str, Prototype]:
    """All prototypes by name; names are unique over the classes."""
    return {
        name: Prototype(name, expression, weight, units, _OTHER_VALENCE_AROUSAL.get(name, CIRCUMPLEX[expression]))
        for expression, rows in _TABLE.items()
        for name, weight, units in rows
    }


def choose_prototype(rng: np.random.Generator, expression: int) -> Prototype:
    """Draw a prototype of a class by weight."""
    rows = [p for p in prototypes().values() if p.expression == expression]
    weight = np.array([p.weight for p in rows])
    return rows[int(rng.choice(len(rows), p=weight / weight.sum()))]


def draw_strengths(rng: np.random.Generator, prototype: Prototype) -> np.ndarray:
    """Draw `(units,)` action-unit strengths of a prototype. The sides of a face differ by about a tenth.

    Raises ValueError for a term that cannot be parsed.
    """
    strengths = np.zeros(len(unit_names()))
    right = int(rng.integers(2))
    for term in prototype.units.split():
        parts = _TERM.match(term)
        if parts is None:
            raise ValueError(f"prototype {prototype.name!r}: {term!r} is not unit[/ or \\][?p]:low-high")
        amount = rng.uniform(float(parts["low"]), float(parts["high"]))
        if parts["p"] and rng.random() >= float(parts["p"]):
            continue
        indices = unit_indices(parts["unit"])
        if len(indices) == 1:
            # unit 30 is signed: positive moves the jaw to the left
            strengths[indices] = amount * ((1 - 2 * right) if parts["side"] else 1)
        elif parts["side"]:
            strengths[indices[right if parts["side"] == "/" else 1 - right]] = amount
        else:
            strengths[indices] = amount * np.exp(0.12 * rng.standard_normal(2))
    return strengths
