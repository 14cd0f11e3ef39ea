"""Whether a prediction that is said with 70 % is right 70 times in a hundred."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from mien.evaluation.predictions import ClipPrediction
from mien.labels import UNLABELLED

#: Probabilities below this count as this: a single frame that was called impossible must not decide everything.
LEAST = 1e-6
BINS = 10


def negative_log_likelihood(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Mean of -log p(true class) over frames, in nats. probabilities `(frame, classes)`, truth `(frame,)`."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(truth)), truth], LEAST)).mean())


def reliability(clips: Sequence[ClipPrediction], bins: int = BINS) -> pl.DataFrame:
    """How often predictions of a given confidence are right: `confidence, accuracy, share` (of frames) in bins of
    equal width, empty ones left out. Frames without evidence claim nothing and are left out."""
    probabilities, truth = _labelled(clips)
    confidence, right = probabilities.max(axis=1, initial=0.0), probabilities.argmax(axis=1) == truth
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    n = np.bincount(place, minlength=bins)
    some = n > 0
    mean, accuracy = (np.bincount(place, weights=w, minlength=bins)[some] / n[some] for w in (confidence, right))
    return pl.DataFrame({"confidence": mean, "accuracy": accuracy, "share": n[some] / max(1, n.sum())})


def sureness(clips: Sequence[ClipPrediction], bins: int = BINS) -> dict[str, float]:
    """`nll`, negative log likelihood in nats, and `ece`, expected calibration error (Naeini et al. 2015): the mean
    distance between confidence and accuracy over the bins of `reliability`. NaN where nothing is labelled."""
    probabilities, truth = _labelled(clips)
    if not len(truth):
        return {"nll": float("nan"), "ece": float("nan")}
    table = reliability(clips, bins)
    gap = float(((table["confidence"] - table["accuracy"]).abs() * table["share"]).sum())
    return {"nll": negative_log_likelihood(probabilities, truth), "ece": gap}


def _labelled(clips: Sequence[ClipPrediction]) -> tuple[np.ndarray, np.ndarray]:
    kept = [(c.expression != UNLABELLED) & np.isfinite(c.probabilities).all(axis=1) for c in clips]
    if not any(k.any() for k in kept):
        return np.zeros((0, 1)), np.zeros(0, np.int64)
    probabilities = np.concatenate([c.probabilities[k] for c, k in zip(clips, kept, strict=True)])
    return probabilities, np.concatenate([c.expression[k] for c, k in zip(clips, kept, strict=True)])
