"""Scores with intervals. What is drawn anew is the clip (or the subject), never the frame.

Frames of one clip say nearly the same, so resampling frames would give intervals many times too narrow. Each group
of clips is boiled down once to what the scores are made of (a confusion; six sums), a resample is a weighted sum of
those, and a thousand resamples of 2.7 million frames cost no more than those of a thousand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mien.evaluation.metrics import confusion
from mien.evaluation.predictions import ClipPrediction
from mien.labels import EXPRESSIONS, UNLABELLED

#: Resamples, and the share of them that an interval covers. Our choice; 2,000 settle the ends to about .001.
DRAWS, LEVEL = 2000, 0.95
#: Summed statistics `(..., *shape)` -> scores by name, each `(...)`.
Scores = Callable[[np.ndarray], Mapping[str, np.ndarray]]


@dataclass(frozen=True, slots=True)
class Interval:
    """A score of all clips, and the ends of its interval; NaN ends where there are fewer than two groups."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def confusions(
    truth: Sequence[np.ndarray], prediction: Sequence[np.ndarray], *, classes: int = len(EXPRESSIONS)
) -> np.ndarray:
    """Counts `(clip, classes, classes)`, see `metrics.confusion`. Raises ValueError as that does."""
    parts = [confusion(t, p, classes=classes) for t, p in zip(truth, prediction, strict=True)]
    return np.stack(parts) if parts else np.zeros((0, classes, classes), np.int64)


def moments(truth: Sequence[np.ndarray], prediction: Sequence[np.ndarray]) -> np.ndarray:
    """What a pooled CCC is made of, `(clip, 6)` float64: count and sums of x, y, x², y², xy over the labelled frames.

    Args:
        truth, prediction: `(frame,)` values in [-1, 1] or thereabouts; NaN truth is left out.

    Raises ValueError for a NaN prediction on a labelled frame, as `metrics.ccc`.
    """
    rows = np.zeros((len(truth), 6))
    for row, x, y in zip(rows, truth, prediction, strict=True):
        kept = np.isfinite(x)
        x, y = np.asarray(x, np.float64)[kept], np.asarray(y, np.float64)[kept]
        if not np.isfinite(y).all():
            raise ValueError("prediction is NaN or infinite at a labelled position; give every one a value")
        row[:] = len(x), x.sum(), y.sum(), x @ x, y @ y, x @ y
    return rows


def ccc_of(sums: np.ndarray) -> np.ndarray:
    """The CCC of `metrics.ccc` from (sums of) rows of `moments`, `(..., 6)` -> `(...)`: CCC pools frames, so sums
    add up."""
    with np.errstate(invalid="ignore", divide="ignore"):
        x, y, xx, yy, xy = np.moveaxis(sums[..., 1:] / sums[..., :1], -1, 0)
    spread = (xx - x * x) + (yy - y * y) + (x - y) ** 2
    # Below this the spread of values up to 1 is rounding: one and the same constant.
    return np.divide(2 * (xy - x * y), spread, out=np.where(np.isnan(spread), np.nan, 0.0), where=spread > 1e-12)


def f1_of(counts: np.ndarray) -> np.ndarray:
    """`metrics.f1_of` of many confusions at once, `(..., classes, classes)` -> `(..., classes)`."""
    hits = np.diagonal(counts, axis1=-2, axis2=-1).astype(float)
    either = counts.sum(-1) + counts.sum(-2)
    return np.divide(2 * hits, either, out=np.zeros_like(hits), where=either > 0)


def expression(
    predictions: Sequence[ClipPrediction],
    *,
    classes: Sequence[str] = EXPRESSIONS,
    over: Sequence[int] | None = None,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Interval]:
    """`macro_f1`, `accuracy` and `f1 <class>`, pooled over clips, with percentile intervals over resampled groups.

    A frame without evidence counts as its nearest neighbour's class (`predictions.nearest_known`).

    Args:
        over: classes that the macro mean runs over; None takes all. The classes of the whole count in each
            resample, also in one that holds none of their frames, where their F1 is 0: a resample is scored like
            a test set.
    """
    counts = confusions([p.expression for p in predictions], [p.chosen for p in predictions], classes=len(classes))
    chosen = list(range(len(classes))) if over is None else list(over)
    return intervals(_grouped(counts, predictions), scores_of(classes, chosen), draws=draws, level=level, seed=seed)


def scores_of(classes: Sequence[str], over: Sequence[int]) -> Scores:
    """Macro F1, accuracy and each class's F1 of a pooled confusion."""

    def scores(counts: np.ndarray) -> dict[str, np.ndarray]:
        f1, total = f1_of(counts), counts.sum((-1, -2))
        with np.errstate(invalid="ignore"):
            accuracy = np.trace(counts, axis1=-2, axis2=-1) / total
        each = {f"f1 {name}": f1[..., i] for i, name in enumerate(classes)}
        return {"macro_f1": f1[..., list(over)].mean(-1), "accuracy": accuracy, **each}

    return scores


def affect(
    predictions: Sequence[ClipPrediction], *, draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> dict[str, Interval]:
    """`ccc valence`, `ccc arousal` and their mean `va_score` (ABAW), pooled over clips, with intervals. Rows with one
    of the two labels count in neither."""
    return intervals(
        _grouped(affect_moments(predictions), predictions), affect_scores, draws=draws, level=level, seed=seed
    )


def affect_moments(predictions: Sequence[ClipPrediction]) -> np.ndarray:
    """`(clip, 2, 6)` moments of valence and of arousal."""
    parts = []
    for p in predictions:
        kept = np.isfinite(p.true_valence_arousal).all(axis=1)
        x, y = p.true_valence_arousal[kept], p.affect[kept]
        parts.append(moments([x[:, 0], x[:, 1]], [y[:, 0], y[:, 1]]))
    return np.stack(parts) if parts else np.zeros((0, 2, 6))


def affect_scores(sums: np.ndarray) -> dict[str, np.ndarray]:
    """CCC of valence and arousal, and their mean, of summed moments `(..., 2, 6)`."""
    valence, arousal = ccc_of(sums[..., 0, :]), ccc_of(sums[..., 1, :])
    return {"ccc valence": valence, "ccc arousal": arousal, "va_score": (valence + arousal) / 2}


def intervals(
    statistics: np.ndarray, scores: Scores, *, draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> dict[str, Interval]:
    """Percentile intervals of scores over resampled groups.

    Args:
        statistics: `(group, ...)` that add up over groups.
        scores: of one sum of them.
        seed: same seed, same resamples.
    """
    point = scores(statistics.sum(axis=0))
    drawn = scores(resampled(statistics, draws, seed))
    return {name: _interval(float(value), drawn[name], level) for name, value in point.items()}


def difference(
    first: np.ndarray, second: np.ndarray, scores: Scores, *, draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> dict[str, Interval]:
    """First minus second, paired: both systems are scored on the same resample each time, so what makes a clip hard
    for both cancels out. statistics `(group, ...)` of the same groups in the same order."""
    if first.shape != second.shape:
        raise ValueError(f"paired systems need the same groups; got {first.shape} and {second.shape}")
    a, b = scores(first.sum(axis=0)), scores(second.sum(axis=0))
    one, two = scores(resampled(first, draws, seed)), scores(resampled(second, draws, seed))
    return {name: _interval(float(a[name] - b[name]), one[name] - two[name], level) for name in a}


def resampled(statistics: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Sums `(draws, ...)` of groups drawn with replacement, as many as there are; no draws of fewer than two."""
    groups = len(statistics)
    draws = draws if groups > 1 else 0
    weights = np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / max(groups, 1)), draws)
    return (weights @ statistics.reshape(groups, -1).astype(np.float64)).reshape(draws, *statistics.shape[1:])


def grouped(statistics: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """`(clip, ...)` summed to `(group, ...)`, groups in the order of their names."""
    if not len(statistics):
        return statistics
    _, back = np.unique(np.asarray(groups), return_inverse=True)
    out = np.zeros((back.max() + 1, *statistics.shape[1:]), statistics.dtype)
    np.add.at(out, back, statistics)
    return out


def _grouped(statistics: np.ndarray, predictions: Sequence[ClipPrediction]) -> np.ndarray:
    return grouped(statistics, [p.group or p.id for p in predictions])


def _interval(value: float, drawn: np.ndarray, level: float) -> Interval:
    known = drawn[np.isfinite(drawn)]
    if not len(known):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def supports(predictions: Sequence[ClipPrediction], classes: int) -> np.ndarray:
    """`(classes,)` labelled frames of each class."""
    out = np.zeros(classes, np.int64)
    for p in predictions:
        out += np.bincount(p.expression[p.expression != UNLABELLED], minlength=classes)
    return out
