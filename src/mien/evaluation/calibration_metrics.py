"""Calibration metrics: reliability diagram, negative log-likelihood, expected calibration error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from mien.evaluation.predictions import ClipPrediction
from mien.labels import UNLABELLED

#: Lower bound of probabilities, so that one frame with probability 0 cannot dominate the likelihood. Our choice.
MIN_PROBABILITY = 1e-6
#: Bins of the reliability diagram.
BINS = 10


def negative_log_likelihood(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Mean of -log p(true class) in nats, from probabilities `(frame, classes)` and classes `(frame,)`."""
    return float(-log_probabilities(probabilities[np.arange(len(truth)), truth]).mean())


def reliability(clips: Sequence[ClipPrediction], bins: int = BINS) -> pl.DataFrame:
    """Reliability diagram: `confidence, accuracy, share` (of frames) in bins of equal width.

    Empty bins and frames without evidence are left out.
    """
    probabilities, truth = _labelled(clips)
    confidence, is_right = probabilities.max(axis=1, initial=0.0), probabilities.argmax(axis=1) == truth
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    n = np.bincount(bin_of, minlength=bins)
    used = n > 0
    mean, accuracy = (np.bincount(bin_of, weights=w, minlength=bins)[used] / n[used] for w in (confidence, is_right))
    return pl.DataFrame({"confidence": mean, "accuracy": accuracy, "share": n[used] / max(1, n.sum())})


def calibration_error(clips: Sequence[ClipPrediction], bins: int = BINS) -> dict[str, float]:
    """Calibration metrics: negative log-likelihood `nll` in nats and expected calibration error `ece` in [0, 1].

    ECE (Naeini et al., AAAI 2015) is the mean distance of confidence and accuracy over the bins of `reliability`,
    weighted by frames. Both are NaN if nothing is labelled.
    """
    probabilities, truth = _labelled(clips)
    if not len(truth):
        return {"nll": float("nan"), "ece": float("nan")}
    table = reliability(clips, bins)
    gap = float(((table["confidence"] - table["accuracy"]).abs() * table["share"]).sum())
    return {"nll": negative_log_likelihood(probabilities, truth), "ece": gap}


def _labelled(clips: Sequence[ClipPrediction]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities `(frame, classes)` and true classes `(frame,)` of labelled frames with evidence."""
    used = [(c.true_class != UNLABELLED) & np.isfinite(c.probabilities).all(axis=1) for c in clips]
    if not any(u.any() for u in used):
        return np.zeros((0, 1)), np.zeros(0, np.int64)
    probabilities = np.concatenate([c.probabilities[u] for c, u in zip(clips, used, strict=True)])
    return probabilities, np.concatenate([c.true_class[u] for c, u in zip(clips, used, strict=True)])


def log_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Logarithm of probabilities, bounded below by log(MIN_PROBABILITY); NaN stays NaN."""
    logs: np.ndarray = np.log(np.maximum(probabilities, MIN_PROBABILITY))
    return logs
