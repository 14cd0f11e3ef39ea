"""Two groups of recordings: what each recording shows, its difference between the groups, effect sizes and tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mien.compare.recordings import Person

#: Resamples of the permutation test and of intervals. Our choice: p is exact to .005.
DRAWS = 9999


@dataclass(frozen=True, slots=True)
class Contrast:
    """One measure in two groups.

    Attributes:
        measure: its name.
        a, b: value of each recording, by name.
        mean_a, mean_b: means over recordings. difference: mean of A minus mean of B.
        low, high: 95 % interval of the difference (BCa over recordings), NaN for fewer than two recordings in a group.
        effect: Hedges' g, or of pairs d_z with the same correction (Hedges 1981; Lakens 2013). NaN without variance.
        delta: Cliff's delta in [-1, 1]: how often a recording of A is above one of B, minus the reverse.
        p: of the permutation test of the difference, two-sided.
        p_holm: corrected for the number of measures (Holm 1979).
    """

    measure: str
    a: Mapping[str, float]
    b: Mapping[str, float]
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    effect: float
    delta: float
    p: float
    p_holm: float = float("nan")


def measures(people: Sequence[Person], classes: Sequence[str], rate_hz: float) -> dict[str, float]:
    """What one recording shows, the mean over its people: `share of CLASS` of the time with an expression, `valence`,
    `arousal`, and `changes per minute` of the expression. Measures without any estimate are left out."""
    rows: list[dict[str, float]] = []
    for person in people:
        own: dict[str, float] = {}
        known = person.expression >= 0
        if known.any():
            counts = np.bincount(person.expression[known], minlength=len(classes))
            own |= {f"share of {name}": float(n / known.sum()) for name, n in zip(classes, counts, strict=True)}
            neighbours = known[1:] & known[:-1]
            changes = (person.expression[1:] != person.expression[:-1]) & neighbours
            own["changes per minute"] = float(60 * rate_hz * changes.sum() / max(1, neighbours.sum()))
        for k, name in enumerate(("valence", "arousal")):
            values = person.values[:, k][np.isfinite(person.values[:, k])]
            if len(values):
                own[name] = float(values.mean())
        rows.append(own)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}


def contrast_groups(
    a: Mapping[str, Mapping[str, float]], b: Mapping[str, Mapping[str, float]], *, paired: bool = False, seed: int = 0
) -> list[Contrast]:
    """Contrasts of every measure that both groups have and that varies.

    Args:
        a, b: recording -> measure -> value, see `measures`.
        paired: recordings of the same name belong together, as one person in two conditions; others are left out.
    """
    names = list(dict.fromkeys(m for row in (*a.values(), *b.values()) for m in row))
    found = []
    for name in names:
        x = {key: row[name] for key, row in a.items() if name in row}
        y = {key: row[name] for key, row in b.items() if name in row}
        if paired:
            both = [key for key in x if key in y]
            x, y = {key: x[key] for key in both}, {key: y[key] for key in both}
        if x and y and len({*x.values(), *y.values()}) > 1:
            found.append(_contrast(name, x, y, paired, seed))
    return _with_holm(found)


def _contrast(name: str, a: Mapping[str, float], b: Mapping[str, float], paired: bool, seed: int) -> Contrast:
    from scipy import stats

    x, y = np.array([*a.values()]), np.array([*b.values()])

    def difference(first: np.ndarray, second: np.ndarray, axis: int = -1) -> np.ndarray:
        result: np.ndarray = first.mean(axis=axis) - second.mean(axis=axis)
        return result

    low = high = p = float("nan")
    rng = np.random.default_rng(seed)
    if min(len(x), len(y)) > 1:
        test = stats.permutation_test(
            (x, y),
            difference,
            permutation_type="samples" if paired else "independent",
            vectorized=True,
            n_resamples=DRAWS,
            rng=rng,
        )
        p = float(test.pvalue)
        with np.errstate(invalid="ignore", divide="ignore"):
            ends = stats.bootstrap(
                (x, y),
                difference,
                paired=paired,
                vectorized=True,
                n_resamples=DRAWS,
                method=_method(x, y, paired),
                rng=rng,
            ).confidence_interval
        low, high = float(ends.low), float(ends.high)
    return Contrast(
        name, a, b, float(x.mean()), float(y.mean()), float(x.mean() - y.mean()), low, high,
        effect_size(x, y, paired=paired), cliffs_delta(x, y), p,
    )  # fmt: skip


def _method(x: np.ndarray, y: np.ndarray, paired: bool) -> str:
    """BCa, or percentiles where its acceleration is 0/0: values without variance."""
    varies = np.ptp(x - y) > 0 if paired else np.ptp(x) > 0 and np.ptp(y) > 0
    return "BCa" if varies else "percentile"


def effect_size(x: np.ndarray, y: np.ndarray, *, paired: bool = False) -> float:
    """Hedges' g: the difference of means in pooled standard deviations, corrected for small samples. Of pairs, d_z: the
    mean difference in standard deviations of the differences, with the same correction. NaN without variance."""
    n, m = len(x), len(y)
    if paired:
        freedom, spread = n - 1, float(np.std(x - y, ddof=1)) if n > 1 else 0.0
    else:
        freedom = n + m - 2
        pooled = (np.var(x, ddof=1) * (n - 1) if n > 1 else 0.0) + (np.var(y, ddof=1) * (m - 1) if m > 1 else 0.0)
        spread = float(np.sqrt(pooled / freedom)) if freedom > 0 else 0.0
    if spread <= 0:
        return float("nan")
    return float((x.mean() - y.mean()) / spread * (1 - 3 / (4 * freedom - 1)))


def cliffs_delta(x: np.ndarray, y: np.ndarray) -> float:
    """Cliff's delta in [-1, 1]: P(x > y) - P(x < y) over all pairs."""
    return float(np.sign(x[:, None] - y[None]).mean())


def _with_holm(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """The contrasts with p corrected by Holm's step-down method; those without a p do not count."""
    from dataclasses import replace

    order = sorted((c for c in contrasts if np.isfinite(c.p)), key=lambda c: c.p)
    corrected: dict[str, float] = {}
    highest = 0.0
    for rank, contrast in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * contrast.p))
        corrected[contrast.measure] = highest
    return [replace(c, p_holm=corrected.get(c.measure, float("nan"))) for c in contrasts]
