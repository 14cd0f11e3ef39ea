"""Metrics of the ABAW challenge on numpy arrays: confusion matrix, macro F1, accuracy, CCC, binary F1, Pearson.

Every metric is pooled: a list with one array per recording is concatenated first, so a long video has more weight than
a short one. Public code for the ABAW challenge scores this way; Kollias, arXiv:2202.10659, defines the metrics.
Unlabelled positions carry a marker (-1 or NaN) and are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mien.labels import EXPRESSIONS, UNLABELLED

Arrays = np.ndarray | Sequence[np.ndarray]


def confusion(
    truth: Arrays, prediction: Arrays, *, classes: int = len(EXPRESSIONS), ignore: int = UNLABELLED
) -> np.ndarray:
    """Confusion matrix `(classes, classes)` int64: rows are true classes, columns predicted ones.

    Matrices of parts add up to the matrix of the whole.

    Args:
        truth, prediction: class indices of equal shape; positions where truth is `ignore` are left out.

    Raises:
        ValueError: shapes differ, or a class index lies outside 0..classes-1. That includes a prediction of -1 at a
            labelled position: every labelled frame is scored, so the caller has to choose a class for it.
    """
    true, predicted = pool(truth), pool(prediction)
    _check_shapes(true, predicted)
    labelled = true != ignore
    true, predicted = true[labelled].astype(np.int64), predicted[labelled].astype(np.int64)
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
    """F1 of each class, `(classes,)` in [0, 1]; see `f1_from_confusion`."""
    return f1_from_confusion(confusion(truth, prediction, classes=classes, ignore=ignore))


def macro_f1(
    truth: Arrays,
    prediction: Arrays,
    *,
    classes: int = len(EXPRESSIONS),
    over: Sequence[int] | None = None,
    ignore: int = UNLABELLED,
) -> float:
    """Mean of the F1 of the classes in [0, 1]: the ABAW expression score.

    Args:
        over: classes in the mean (default: all). Name those that the corpus has: EMO-DB, for example, has no
            Surprise. Predictions of the other classes still count as wrong.
    """
    per_class = f1_per_class(truth, prediction, classes=classes, ignore=ignore)
    return float(per_class[list(over) if over is not None else slice(None)].mean())


def f1_from_confusion(counts: np.ndarray) -> np.ndarray:
    """F1 of each class from confusion matrices, `(..., classes, classes)` -> `(..., classes)`.

    F1 = 2·TP / (2·TP + FP + FN). 0 for a class that neither occurs nor is predicted, the default of scikit-learn,
    which the challenge uses.
    """
    hits = np.diagonal(counts, axis1=-2, axis2=-1).astype(float)
    either = counts.sum(-1) + counts.sum(-2)
    f1: np.ndarray = np.divide(2 * hits, either, out=np.zeros_like(hits), where=either > 0)
    return f1


def kappa_from_confusion(counts: np.ndarray) -> np.ndarray:
    """Cohen's kappa (1960) from confusion matrices of two raters, `(..., classes, classes)` -> `(...)` in [-1, 1].

    1 is full agreement, 0 that of chance with each rater's own class shares. NaN without counts, or where both raters
    gave one and the same class throughout.
    """
    total = counts.sum((-1, -2)).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = np.trace(counts, axis1=-2, axis2=-1) / total
        expected = (counts.sum(-1) / total[..., None] * counts.sum(-2) / total[..., None]).sum(-1)
        kappa: np.ndarray = np.where(expected < 1 - 1e-12, (observed - expected) / (1 - expected), np.nan)
    return kappa


def alpha_from_confusion(counts: np.ndarray) -> np.ndarray:
    """Krippendorff's alpha of nominal data and two raters without gaps, `(..., classes, classes)` -> `(...)`.

    Chance agreement is that of the pooled class shares of both raters, drawn without replacement (Krippendorff 2004,
    Content Analysis, chapter 11). NaN as for `kappa_from_confusion`.
    """
    both = (counts + np.swapaxes(counts, -1, -2)).astype(float)  # each unit gives two pairs of values
    shares = both.sum(-1)
    total = shares.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = 1 - np.trace(both, axis1=-2, axis2=-1) / total
        expected = 1 - (shares * (shares - 1)).sum(-1) / (total * (total - 1))
        alpha: np.ndarray = np.where(expected > 1e-12, 1 - observed / expected, np.nan)
    return alpha


def accuracy(truth: Arrays, prediction: Arrays, *, ignore: int = UNLABELLED) -> float:
    """Share of labelled positions with the right class, in [0, 1]; NaN if nothing is labelled."""
    true, predicted = pool(truth), pool(prediction)
    _check_shapes(true, predicted)
    labelled = true != ignore
    return float((true[labelled] == predicted[labelled]).mean()) if labelled.any() else float("nan")


def ccc(truth: Arrays, prediction: Arrays) -> float:
    """Lin's concordance correlation coefficient in [-1, 1], with population variances (ABAW's definition):

        2·cov(x, y) / (var(x) + var(y) + (mean(x) - mean(y))²)

    Positions where truth is NaN are left out. 0 where both are the same constant (0/0; our choice, because a constant
    shows no concordance); NaN if nothing is labelled.

    Raises ValueError for different shapes, or a NaN prediction at a labelled position.
    """
    true, predicted = pool(truth).astype(np.float64), pool(prediction).astype(np.float64)
    _check_shapes(true, predicted)
    labelled = np.isfinite(true)
    true, predicted = true[labelled], predicted[labelled]
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
    """ABAW valence–arousal score: mean of the CCC of valence and of arousal, both arrays `(..., 2)`.

    A position with NaN in either truth is left out of both, as in the challenge.
    """
    true = pool(truth, width=2).astype(np.float64)
    predicted = pool(prediction, width=2)
    _check_shapes(true, predicted)
    labelled = np.isfinite(true).all(axis=1)
    return (ccc(true[labelled, 0], predicted[labelled, 0]) + ccc(true[labelled, 1], predicted[labelled, 1])) / 2


def binary_counts(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """True positives, false positives and false negatives of binary labels, `(columns, 3)` int64.

    Counts of parts add up to those of the whole.

    Args:
        truth: `(positions, columns)` 0 or 1, NaN where unlabelled, which is left out.
        prediction: `(positions, columns)` 0 or 1.

    Raises ValueError for different shapes, or a prediction that is neither 0 nor 1 at a labelled position.
    """
    _check_shapes(truth, prediction)
    labelled = np.isfinite(truth)
    wrong = labelled & ~np.isin(prediction, (0, 1))
    if wrong.any():
        raise ValueError(
            f"prediction is {prediction[wrong][0]} at {int(wrong.sum())} labelled position(s), neither 0 nor 1; no "
            "score was computed; give every labelled position a decision"
        )
    true, predicted = labelled & (truth > 0.5), labelled & (prediction > 0.5)
    return np.stack([(true & predicted).sum(0), (~true & predicted).sum(0), (true & ~predicted).sum(0)], axis=1)


def f1_from_binary_counts(counts: np.ndarray) -> np.ndarray:
    """F1 of the positive class from `binary_counts`, `(..., columns, 3)` -> `(..., columns)`.

    0 for a column without positives in truth and prediction, the default of scikit-learn.
    """
    hits, false_positives, false_negatives = np.moveaxis(counts.astype(float), -1, 0)
    either = 2 * hits + false_positives + false_negatives
    f1: np.ndarray = np.divide(2 * hits, either, out=np.zeros_like(either), where=either > 0)
    return f1


def mean_binary_f1(truth: Arrays, prediction: Arrays, width: int) -> float:
    """Mean of the F1 of each binary column in [0, 1]: the ABAW score of action units, where `width` is 12.

    A position counts for the columns that are labelled in it.
    """
    return float(f1_from_binary_counts(binary_counts(pool(truth, width), pool(prediction, width))).mean())


def mean_pearson(truth: Arrays, prediction: Arrays, width: int) -> float:
    """Mean of Pearson's correlation of each column in [-1, 1]: the ABAW score of Emotional Mimicry Intensity.

    Args:
        truth, prediction: `(clips, width)`, one row for each clip; rows with NaN in truth are left out.

    A column in which either side is constant counts 0 (0/0; our choice, as in `ccc`); NaN if nothing is labelled.
    """
    true, predicted = pool(truth, width).astype(np.float64), pool(prediction, width).astype(np.float64)
    _check_shapes(true, predicted)
    labelled = np.isfinite(true).all(axis=1)
    if not labelled.any():
        return float("nan")
    true, predicted = (values[labelled] - values[labelled].mean(axis=0) for values in (true, predicted))
    spread = np.sqrt((true**2).sum(axis=0) * (predicted**2).sum(axis=0))
    products = (true * predicted).sum(axis=0)
    return float(np.divide(products, spread, out=np.zeros(width), where=spread > 1e-12).mean())


def pool(arrays: Arrays, width: int | None = None) -> np.ndarray:
    """Concatenates arrays to `(positions,)`, or to `(positions, width)` for rows of `width` values."""
    shape = (-1,) if width is None else (-1, width)
    if isinstance(arrays, np.ndarray):
        return arrays.reshape(shape)
    parts = [np.asarray(a).reshape(shape) for a in arrays]
    return np.concatenate(parts) if parts else np.zeros((0, *shape[1:]))


def _check_shapes(truth: np.ndarray, prediction: np.ndarray) -> None:
    if truth.shape != prediction.shape:
        raise ValueError(
            f"truth has {len(truth)} positions and prediction {len(prediction)}; no score was computed; "
            "align them first (challenge files may be a row short or long of the video)"
        )
