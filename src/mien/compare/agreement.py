"""Agreement of two timelines of the same recordings, with intervals over recordings, and by attribute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mien.compare.recordings import Person
from mien.evaluation.bootstrap import Interval, affect_scores, confusions, intervals, moments
from mien.evaluation.metrics import alpha_from_confusion, f1_from_confusion, kappa_from_confusion

#: Scores of agreement by key, and their names. `macro_f1` takes A as the truth.
SCORES = {
    "agreement": "same class",
    "kappa": "Cohen’s κ",
    "alpha": "Krippendorff’s α",
    "macro_f1": "macro F1, {a} as truth",
    "ccc valence": "CCC of valence",
    "ccc arousal": "CCC of arousal",
}
#: Permutations of the test whether agreement differs between values of an attribute. Our choice: p is exact to .01.
DRAWS = 1999


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the scores of one recording need, additive over recordings. confusion: `(classes, classes)` counts, rows
    are A's classes. moments: `(2, 6)` of valence and arousal, see `bootstrap.moments`."""

    recording: str
    confusion: np.ndarray
    moments: np.ndarray

    @property
    def counted(self) -> int:
        """Moments of time with a class in both, or with valence in both."""
        return int(max(self.confusion.sum(), self.moments[0, 0]))


def pair_people(
    a: Sequence[Person], b: Sequence[Person], chosen: Mapping[int, int] | None = None
) -> list[tuple[Person, Person]]:
    """Pairs of the same person: as `chosen` (A's subject -> B's), the only person of both, or equal numbers."""
    if chosen:
        wanted = chosen
    elif len(a) == len(b) == 1:
        wanted = {a[0].subject: b[0].subject}
    else:
        wanted = {p.subject: p.subject for p in a}
    by_number = {p.subject: p for p in b}
    return [(p, by_number[wanted[p.subject]]) for p in a if wanted.get(p.subject) in by_number]


def statistics_of(recording: str, pairs: Sequence[tuple[Person, Person]], classes: int) -> Statistics:
    """The statistics of a recording over its pairs, at the times at which both have an estimate."""
    table, sums = np.zeros((classes, classes), np.int64), np.zeros((2, 6))
    for a, b in pairs:
        n = min(len(a.times), len(b.times))
        x, y = a.expression[:n], b.expression[:n]
        both = (x >= 0) & (y >= 0)
        table += confusions([x[both]], [y[both]], classes=classes)[0]
        for k in (0, 1):
            v, w = a.values[:n, k], b.values[:n, k]
            known = np.isfinite(v) & np.isfinite(w)
            sums[k] += moments([v[known]], [w[known]])[0]
    return Statistics(recording, table, sums)


def _scores(packed: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """Scores of packed statistics `(..., classes² + 12)`, NaN where nothing counts."""
    lead = packed.shape[:-1]
    table = packed[..., : classes * classes].reshape(*lead, classes, classes)
    sums = packed[..., classes * classes :].reshape(*lead, 2, 6)
    total = table.sum((-1, -2))
    occurs = (table.sum(-1) + table.sum(-2)) > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        agreement = np.trace(table, axis1=-2, axis2=-1) / total
        macro = (f1_from_confusion(table) * occurs).sum(-1) / occurs.sum(-1)
    affect = affect_scores(sums)
    return {
        "agreement": agreement,
        "kappa": kappa_from_confusion(table),
        "alpha": alpha_from_confusion(table),
        "macro_f1": macro,
        "ccc valence": affect["ccc valence"],
        "ccc arousal": affect["ccc arousal"],
    }


def _pack(parts: Sequence[Statistics]) -> np.ndarray:
    return np.stack([np.concatenate([p.confusion.ravel(), p.moments.ravel()]).astype(float) for p in parts])


def score(parts: Sequence[Statistics]) -> dict[str, Interval]:
    """The scores of SCORES pooled over recordings, with BCa intervals over recordings (NaN ends for one recording)."""
    classes = len(parts[0].confusion)
    return intervals(_pack(parts), lambda packed: _scores(packed, classes))


def by_recording(parts: Sequence[Statistics]) -> list[dict[str, Any]]:
    """The scores of each recording, None where undefined."""
    rows = []
    for part in parts:
        values = _scores(_pack([part])[0], len(part.confusion))
        rows.append(
            {"recording": part.recording, "counted": part.counted, **{k: _number(v) for k, v in values.items()}}
        )
    return rows


def by_attribute(
    parts: Sequence[Statistics], attributes: Mapping[str, Mapping[str, str]], *, seed: int = 0
) -> list[dict[str, Any]]:
    """The scores for each value of each attribute, and the largest difference between two values.

    Args:
        attributes: recording -> attribute -> value; recordings without a value are left out of that attribute.

    Returns for each attribute: `attribute`, `values` (each with `value`, `recordings` and `scores`), and `gaps`: score
    -> `gap` (largest minus smallest) and `p`, the share of random assignments of the values to the recordings whose gap
    is at least as large. p is None where no assignment can differ.
    """
    found = []
    rng = np.random.default_rng(seed)
    for name in dict.fromkeys(key for row in attributes.values() for key in row):
        own = [(p, attributes.get(p.recording, {}).get(name, "")) for p in parts]
        own = [(p, value) for p, value in own if value]
        values = sorted({value for _, value in own})
        if not values:
            continue
        groups = {value: [p for p, v in own if v == value] for value in values}
        rows = [{"value": value, "recordings": len(group), "scores": score(group)} for value, group in groups.items()]
        packed = _pack([p for p, _ in own])
        codes = np.array([values.index(v) for _, v in own])
        classes = len(own[0][0].confusion)
        seen = _gaps(packed, codes[None], len(values), classes)
        shuffled = rng.permuted(np.tile(codes, (DRAWS if len(values) > 1 else 0, 1)), axis=1)
        draws = _gaps(packed, shuffled, len(values), classes)
        gaps = {key: {"gap": _number(gap[0]), "p": _p_value(gap[0], draws[key])} for key, gap in seen.items()}
        found.append({"attribute": name, "values": rows, "gaps": gaps})
    return found


def _gaps(packed: np.ndarray, codes: np.ndarray, count: int, classes: int) -> dict[str, np.ndarray]:
    """Largest minus smallest score over the values of an attribute, `(draw,)`, NaN where fewer than two are defined.

    packed: `(recording, statistic)`. codes: `(draw, recording)` number of each recording's value, of `count`.
    """
    members = (codes[..., None] == np.arange(count)).astype(float)  # (draw, recording, value)
    scores = _scores(np.einsum("drv,rs->dvs", members, packed), classes)
    gaps = {}
    for key, value in scores.items():
        known = np.isfinite(value)
        spread = np.where(known, value, -np.inf).max(1, initial=-np.inf) - np.where(known, value, np.inf).min(1)
        gaps[key] = np.where(known.sum(1) > 1, spread, np.nan)
    return gaps


def _p_value(gap: float, draws: np.ndarray) -> float | None:
    values = draws[np.isfinite(draws)]
    if not np.isfinite(gap) or not len(values):
        return None
    return float((1 + (values >= gap - 1e-12).sum()) / (1 + len(values)))


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
