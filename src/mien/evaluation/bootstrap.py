"""Bootstrap confidence intervals of scores, resampled by clip or subject.

Frames of one clip are strongly correlated: resampling frames would give intervals many times too narrow. Each group of
clips is reduced once to additive statistics (a confusion matrix, or the sums behind a CCC). A resample is a weighted
sum of them, so its cost does not depend on the number of frames.

Intervals are bias-corrected and accelerated (BCa; Efron 1987, Better bootstrap confidence intervals, JASA 82): the ends
are quantiles of the resampled scores, moved by their median bias and by the skewness of the scores that leave out one
group. Macro F1 and CCC need that: with few groups, percentile intervals are too narrow and lie too low.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from mien.evaluation.metrics import confusion, f1_from_confusion
from mien.evaluation.predictions import ClipPrediction
from mien.labels import EXPRESSIONS

#: Resamples and confidence level. Our choice: 2,000 resamples settle the ends of an interval to about .001.
DRAWS, LEVEL = 2000, 0.95
#: Groups under which an interval is too narrow even so. Our choice, from the coverage at 12 groups: .86, not .95.
FEW_GROUPS = 25
#: Function from summed statistics `(..., *shape)` to scores by name, each `(...)`.
Scores = Callable[[np.ndarray], Mapping[str, np.ndarray]]


@dataclass(frozen=True, slots=True)
class Interval:
    """Score with the ends of its confidence interval; the ends are NaN for fewer than two groups."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def confusions(
    truth: Sequence[np.ndarray], prediction: Sequence[np.ndarray], *, classes: int = len(EXPRESSIONS)
) -> np.ndarray:
    """Confusion matrix of each clip, `(clip, classes, classes)` counts. Raises ValueError as `metrics.confusion`."""
    parts = [confusion(t, p, classes=classes) for t, p in zip(truth, prediction, strict=True)]
    return np.stack(parts) if parts else np.zeros((0, classes, classes), np.int64)


def moments(truth: Sequence[np.ndarray], prediction: Sequence[np.ndarray]) -> np.ndarray:
    """Additive statistics of a pooled CCC, `(clip, 6)` float64: count and sums of x, y, x², y², xy.

    Args:
        truth, prediction: one `(frame,)` array per clip, values about [-1, 1]; frames with NaN truth are left out.

    Raises ValueError for a NaN prediction on a labelled frame, as `metrics.ccc`.
    """
    rows = np.zeros((len(truth), 6))
    for row, x, y in zip(rows, truth, prediction, strict=True):
        labelled = np.isfinite(x)
        x, y = np.asarray(x, np.float64)[labelled], np.asarray(y, np.float64)[labelled]
        if not np.isfinite(y).all():
            raise ValueError("prediction is NaN or infinite at a labelled position; give every one a value")
        row[:] = len(x), x.sum(), y.sum(), x @ x, y @ y, x @ y
    return rows


def ccc_from_moments(sums: np.ndarray) -> np.ndarray:
    """CCC, as `metrics.ccc`, from rows of `moments` or sums of such rows, `(..., 6)` -> `(...)`."""
    with np.errstate(invalid="ignore", divide="ignore"):
        x, y, xx, yy, xy = np.moveaxis(sums[..., 1:] / sums[..., :1], -1, 0)
    spread = (xx - x * x) + (yy - y * y) + (x - y) ** 2
    empty = np.where(np.isnan(spread), np.nan, 0.0)
    # A spread below 1e-12 of values up to 1 is rounding: both sequences are the same constant.
    ccc: np.ndarray = np.divide(2 * (xy - x * y), spread, out=empty, where=spread > 1e-12)
    return ccc


def expression_intervals(
    predictions: Sequence[ClipPrediction],
    *,
    classes: Sequence[str] = EXPRESSIONS,
    over: Sequence[int] | None = None,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Interval]:
    """`macro_f1`, `accuracy` and `f1 <class>`, pooled over clips, with intervals over groups.

    A frame without evidence counts as the class of its nearest predicted frame (`predictions.nearest_valid`).

    Args:
        over: classes in the macro mean; None takes all. A resample without any frame of such a class scores 0 for
            it, as a test set would.
        draws: number of resamples. level: confidence level in (0, 1).
    """
    counts = confusions(
        [p.true_class for p in predictions], [p.predicted_class for p in predictions], classes=len(classes)
    )
    scores = expression_scores(classes, range(len(classes)) if over is None else over)
    return intervals(_by_group(counts, predictions), scores, draws=draws, level=level, seed=seed)


def expression_scores(classes: Sequence[str], over: Sequence[int]) -> Scores:
    """Function from pooled confusions `(..., classes, classes)` to macro F1, accuracy and F1 of each class."""

    def scores(counts: np.ndarray) -> dict[str, np.ndarray]:
        f1, total = f1_from_confusion(counts), counts.sum((-1, -2))
        with np.errstate(invalid="ignore"):
            accuracy = np.trace(counts, axis1=-2, axis2=-1) / total
        by_class = {f"f1 {name}": f1[..., i] for i, name in enumerate(classes)}
        return {"macro_f1": f1[..., list(over)].mean(-1), "accuracy": accuracy, **by_class}

    return scores


def affect_intervals(
    predictions: Sequence[ClipPrediction], *, draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> dict[str, Interval]:
    """`ccc valence`, `ccc arousal` and their mean `va_score` (ABAW), pooled over clips, with intervals.

    Frames with only one of the two labels are left out. draws, level: as in `expression_intervals`.
    """
    statistics = _by_group(affect_moments(predictions), predictions)
    return intervals(statistics, affect_scores, draws=draws, level=level, seed=seed)


def affect_moments(predictions: Sequence[ClipPrediction]) -> np.ndarray:
    """`moments` of valence and of arousal for each clip, `(clip, 2, 6)`."""
    parts = []
    for p in predictions:
        labelled = np.isfinite(p.true_valence_arousal).all(axis=1)
        x, y = p.true_valence_arousal[labelled], p.filled_valence_arousal[labelled]
        parts.append(moments([x[:, 0], x[:, 1]], [y[:, 0], y[:, 1]]))
    return np.stack(parts) if parts else np.zeros((0, 2, 6))


def affect_scores(sums: np.ndarray) -> dict[str, np.ndarray]:
    """CCC of valence, CCC of arousal and their mean from summed moments `(..., 2, 6)`."""
    valence, arousal = ccc_from_moments(sums[..., 0, :]), ccc_from_moments(sums[..., 1, :])
    return {"ccc valence": valence, "ccc arousal": arousal, "va_score": (valence + arousal) / 2}


def intervals(
    statistics: np.ndarray, scores: Scores, *, draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> dict[str, Interval]:
    """BCa intervals of scores over resampled groups.

    Args:
        statistics: `(group, ...)`, additive over groups.
        scores: function from summed statistics to scores.
        draws: number of resamples. level: confidence level in (0, 1).
    """
    point = scores(statistics.sum(axis=0))
    samples, without_one = scores(resample(statistics, draws, seed)), scores(leave_one_out(statistics))
    return {name: _interval(float(point[name]), samples[name], without_one[name], level) for name in point}


def paired_difference(
    first: np.ndarray, second: np.ndarray, scores: Scores, *, draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> dict[str, Interval]:
    """Intervals of the score difference first - second, both scored on the same resamples.

    Pairing removes the variance that both systems share, such as hard clips.

    Args:
        first, second: statistics `(group, ...)` of the same groups in the same order.

    Raises ValueError for different shapes.
    """
    if first.shape != second.shape:
        raise ValueError(f"paired systems need the same groups; got {first.shape} and {second.shape}")
    a, b = scores(first.sum(axis=0)), scores(second.sum(axis=0))
    a_samples, b_samples = scores(resample(first, draws, seed)), scores(resample(second, draws, seed))
    a_jack, b_jack = scores(leave_one_out(first)), scores(leave_one_out(second))
    return {
        name: _interval(float(a[name] - b[name]), a_samples[name] - b_samples[name], a_jack[name] - b_jack[name], level)
        for name in a
    }


def resample(statistics: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Sums `(draws, ...)` of `(group, ...)` statistics over groups drawn with replacement; empty for one group."""
    groups = len(statistics)
    draws = draws if groups > 1 else 0
    weights = np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / max(groups, 1)), draws)
    return (weights @ statistics.reshape(groups, -1).astype(np.float64)).reshape(draws, *statistics.shape[1:])


def leave_one_out(statistics: np.ndarray) -> np.ndarray:
    """Sums `(group, ...)` of `(group, ...)` statistics over all groups but one; empty for one group."""
    if len(statistics) < 2:
        return np.zeros((0, *statistics.shape[1:]))
    values = statistics.astype(np.float64)
    sums: np.ndarray = values.sum(axis=0) - values
    return sums


def sum_by_group(statistics: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """Sums `(clip, ...)` statistics to `(group, ...)`, groups sorted by name."""
    if not len(statistics):
        return statistics
    _, group_of = np.unique(np.asarray(groups), return_inverse=True)
    out = np.zeros((group_of.max() + 1, *statistics.shape[1:]), statistics.dtype)
    np.add.at(out, group_of, statistics)
    return out


def _by_group(statistics: np.ndarray, predictions: Sequence[ClipPrediction]) -> np.ndarray:
    return sum_by_group(statistics, [p.group or p.id for p in predictions])


def _interval(value: float, samples: np.ndarray, without_one: np.ndarray, level: float) -> Interval:
    """BCa interval of a score from its resamples, and from its values without each of the groups."""
    finite = samples[np.isfinite(samples)]
    if not len(finite):
        return Interval(value, float("nan"), float("nan"))
    ends = np.array([(1 - level) / 2, (1 + level) / 2])
    low, high = np.quantile(finite, _bca_levels(value, finite, without_one[np.isfinite(without_one)], ends))
    return Interval(value, float(low), float(high))


def _bca_levels(value: float, samples: np.ndarray, without_one: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Quantiles of the resamples at which a BCa interval ends, those of a percentile interval if all resamples lie on
    one side of the score."""
    below = float((samples < value).mean() + (samples == value).mean() / 2)
    if not 0 < below < 1 or not np.isfinite(value):
        return ends
    distance = without_one.mean() - without_one if len(without_one) else np.zeros(1)
    spread = float((distance**2).sum()) ** 1.5
    acceleration = float((distance**3).sum()) / (6 * spread) if spread > 0 else 0.0
    bias = ndtri(below)
    shifted = bias + ndtri(ends)
    levels: np.ndarray = ndtr(bias + shifted / (1 - acceleration * shifted))
    return levels
