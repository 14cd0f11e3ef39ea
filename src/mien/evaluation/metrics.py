"""The numbers a system is judged by, on numpy arrays, with marks for what nobody labelled.

Every figure is pooled: arrays may be given as one array or as a list with one array a recording, and the list
is joined before anything is counted. That is how the ABAW challenge scores (PAPERS §0): a long video counts
for more than a short one, and a class that one video lacks costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mien.labels import EXPRESSIONS, UNLABELLED

Arrays = np.ndarray | Sequence[np.ndarray]


def confusion(
    truth: Arrays, prediction: Arrays, *, classes: int = len(EXPRESSIONS), ignore: int = UNLABELLED
) -> np.ndarray:
    """Counts `(classes, classes)` int64: row = the true class, column = the predicted one.

    Confusions of parts add up to the confusion of the whole, so a long evaluation need not hold its frames.

    Args:
        truth, prediction: class indices of equal shape; positions where truth is `ignore` are left out.

    Raises:
        ValueError: shapes differ, or a class index lies outside 0..classes-1. A prediction of -1 on a
            labelled position is such a fault: an unanswered frame is a wrong frame, and the caller must say
            which class it stands for.
    """
    true, predicted = pooled(truth), pooled(prediction)
    _same_shape(true, predicted)
    kept = true != ignore
    true, predicted = true[kept].astype(np.int64), predicted[kept].astype(np.int64)
    for name, values in (("truth", true), ("prediction", predicted)):
        wrong = values[(values < 0) | (values >= classes)]
        if len(wrong):
            raise ValueError(
                f"{name} holds class {wrong[0]} at {len(wrong)} labelled position(s), outside "
                f"0..{classes - 1}; no score was computed; give every labelled position a class"
            )
    return np.bincount(true * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def f1_per_class(
    truth: Arrays, prediction: Arrays, *, classes: int = len(EXPRESSIONS), ignore: int = UNLABELLED
) -> np.ndarray:
    """F1 = 2·TP / (2·TP + FP + FN) of each class, `(classes,)` in [0, 1]; 0 for a class that neither occurs
    nor is predicted, as the challenge's own scoring (scikit-learn's default) has it."""
    return f1_of(confusion(truth, prediction, classes=classes, ignore=ignore))


def macro_f1(
    truth: Arrays,
    prediction: Arrays,
    *,
    classes: int = len(EXPRESSIONS),
    over: Sequence[int] | None = None,
    ignore: int = UNLABELLED,
) -> float:
    """The mean of the F1 of the classes, the ABAW expression score, in [0, 1].

    Args:
        over: the classes the mean runs over (default: all). A corpus without a class (EMO-DB has no Surprise)
            names those it has; predictions of the others still count as false.
    """
    per_class = f1_per_class(truth, prediction, classes=classes, ignore=ignore)
    return float(per_class[list(over) if over is not None else slice(None)].mean())


def f1_of(counts: np.ndarray) -> np.ndarray:
    """F1 of each class from a confusion `(classes, classes)`, see f1_per_class."""
    hits = np.diag(counts).astype(float)
    either = counts.sum(0) + counts.sum(1)
    return np.divide(2 * hits, either, out=np.zeros(len(counts)), where=either > 0)


def accuracy(truth: Arrays, prediction: Arrays, *, ignore: int = UNLABELLED) -> float:
    """The share of labelled positions whose class was named, in [0, 1]; NaN where nothing is labelled."""
    true, predicted = pooled(truth), pooled(prediction)
    _same_shape(true, predicted)
    kept = true != ignore
    return float((true[kept] == predicted[kept]).mean()) if kept.any() else float("nan")


def ccc(truth: Arrays, prediction: Arrays) -> float:
    """Lin's concordance correlation coefficient, in [-1, 1], with population variances (ABAW's definition,
    PAPERS §0):

        2·cov(x, y) / (var(x) + var(y) + (mean(x) - mean(y))²)

    Positions where truth is NaN (unlabelled) are left out. A NaN prediction on a labelled position is an
    error, for the same reason as in `confusion`. 0 where both are one and the same constant (0/0: our
    choice, because a constant shows no concordance); NaN where nothing is labelled.
    """
    true, predicted = pooled(truth).astype(np.float64), pooled(prediction).astype(np.float64)
    _same_shape(true, predicted)
    kept = np.isfinite(true)
    true, predicted = true[kept], predicted[kept]
    if not len(true):
        return float("nan")
    missing = int((~np.isfinite(predicted)).sum())
    if missing:
        raise ValueError(
            f"prediction is NaN or infinite at {missing} labelled position(s); no score was computed; "
            "give every labelled position a value"
        )
    mean_true, mean_predicted = true.mean(), predicted.mean()
    covariance = ((true - mean_true) * (predicted - mean_predicted)).mean()
    spread = true.var() + predicted.var() + (mean_true - mean_predicted) ** 2
    return float(2 * covariance / spread) if spread > 0 else 0.0


def va_score(truth: Arrays, prediction: Arrays) -> float:
    """The ABAW valence–arousal score: the mean of the CCC of valence and of arousal. Both `(..., 2)`; a
    position where either truth is NaN counts in neither, as the challenge leaves out rows with one mark."""
    true = pooled(truth, width=2).astype(np.float64)
    predicted = pooled(prediction, width=2)
    _same_shape(true, predicted)
    kept = np.isfinite(true).all(axis=1)
    return (ccc(true[kept, 0], predicted[kept, 0]) + ccc(true[kept, 1], predicted[kept, 1])) / 2


def pooled(arrays: Arrays, width: int | None = None) -> np.ndarray:
    """One array of all positions: `(positions,)`, or `(positions, width)` for rows of `width` values."""
    shape = (-1,) if width is None else (-1, width)
    if isinstance(arrays, np.ndarray):
        return arrays.reshape(shape)
    parts = [np.asarray(a).reshape(shape) for a in arrays]
    return np.concatenate(parts) if parts else np.zeros((0, *shape[1:]))


def _same_shape(truth: np.ndarray, prediction: np.ndarray) -> None:
    if truth.shape != prediction.shape:
        raise ValueError(
            f"truth has {len(truth)} positions and prediction {len(prediction)}; no score was computed; "
            "align them first (challenge files may be a row short or long of the video)"
        )
