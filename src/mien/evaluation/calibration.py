"""Smoothing, class bias and temperature, chosen by cross-validation on training clips.

Common practice tunes these on the clips that are then scored, which overstates the result for new clips. Here `fit`
uses training clips only, and `compare` reports the common practice next to it, marked as optimistic.

A network is more confident on clips it was trained on. For a fair calibration, predict the training clips with networks
that did not train on them (one network per fold, or clips held back from training).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.optimize import minimize_scalar

from mien import soft_vote
from mien.errors import ConfigError
from mien.evaluation import bootstrap
from mien.evaluation.calibration_metrics import (
    calibration_error,
    log_probabilities,
    negative_log_likelihood,
    reliability,
)
from mien.evaluation.metrics import f1_from_confusion
from mien.evaluation.predictions import ClipPrediction
from mien.labels import EXPRESSIONS, UNLABELLED

#: Candidate radii of the moving mean, in seconds. Our choice, around the best radius of a public model for Aff-Wild2,
#: 1.7 s (authors' public code).
RADII_S = (0.0, 0.1, 0.25, 0.5, 1.0, 1.7, 3.0, 5.0, 10.0, 17.0)
#: Candidate strengths of logit adjustment (Menon et al., arXiv:2007.07314): the share of the training clips' log class
#: frequencies that is subtracted. 0 keeps the network's prior, 1 gives a balanced prior, which favours macro F1.
STRENGTHS = (0.0, 0.125, 0.25, 0.375, 0.5, 0.75, 1.0)
FOLDS = 5
#: Most frames used to compare candidates; beyond it every k-th frame, since neighbours are similar. Our choice.
MAX_FRAMES = 400_000
FILE_NAME = "calibration.json"
_TEMPERATURES = (0.05, 20.0)
_EMPTY = pl.DataFrame()
_AFFECT_COLUMNS = {"radius_s": pl.Float64, "va_score": pl.Float64}
#: Candidate radii in seconds and strengths.
_Candidates = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Correction of predictions: moving mean, class bias, temperature.

    Attributes:
        radius_s: radius of the moving mean over probabilities, in seconds; the window is twice as wide.
        bias: `(classes,)` offsets of log probabilities, () for none.
        temperature: divides the biased log probabilities. It changes confidence, never the predicted class.
        affect_radius_s: radius of the moving mean over valence and arousal, in seconds.
        strength: share of the log class frequencies that `bias` subtracts.
    """

    radius_s: float = 0.0
    bias: tuple[float, ...] = ()
    temperature: float = 1.0
    affect_radius_s: float = 0.0
    strength: float = 0.0

    def __call__(self, prediction: ClipPrediction) -> ClipPrediction:
        """Corrects a prediction. Frames without evidence stay NaN and do not enter the moving mean."""
        smoothed = soft_vote.smooth(prediction.probabilities, prediction.times, 2 * self.radius_s)
        affect = soft_vote.smooth(prediction.valence_arousal, prediction.times, 2 * self.affect_radius_s)
        logits = (log_probabilities(smoothed) + (np.array(self.bias) if self.bias else 0.0)) / self.temperature
        return replace(prediction, probabilities=_softmax(logits), valence_arousal=affect)

    def save(self, path: Path) -> None:
        """Writes the calibration as JSON."""
        Path(path).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Reads a file of `save`. Raises ConfigError for any other file."""
        try:
            raw: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(**{**raw, "bias": tuple(map(float, raw["bias"]))})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                f"{path} is not a calibration ({type(error).__name__}: {error})",
                follows="No calibration was applied.",
                remedy="Write one with `mien evaluate RUN`.",
            ) from None


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: np.ndarray = shifted / shifted.sum(axis=1, keepdims=True)
    return probabilities


# --- fitting -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FitResult:
    """Result of `fit`; scores are NaN if nothing is labelled, and for a system without expressions.

    Attributes:
        calibration: fitted on all given clips.
        table: `radius_s, strength, macro_f1`, each candidate's score pooled over held-out folds; no rows without
            expressions.
        affect_table: `radius_s, va_score`; no rows without valence and arousal.
        held_out: nested cross-validation: macro F1 of each fold with the candidate chosen on the other folds.
        before: macro F1 without correction.
        folds: number of folds, 0 without expressions.
    """

    calibration: Calibration
    table: pl.DataFrame
    affect_table: pl.DataFrame
    held_out: float
    before: float
    folds: int


def fit(
    clips: Sequence[ClipPrediction],
    *,
    classes: int = len(EXPRESSIONS),
    folds: int = FOLDS,
    radii_s: Sequence[float] = RADII_S,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
    expression: bool = True,
    valence_arousal: bool = True,
) -> FitResult:
    """Chooses a calibration by cross-validation over groups of clips (subjects).

    Each candidate (radius, strength) is scored on each fold with the class frequencies of the other folds. The best
    macro F1, pooled over the held-out folds, wins; ties go to the smaller correction. Class frequencies and temperature
    then come from all clips. Valence and arousal only have a radius, chosen by the mean CCC.

    Args:
        expression, valence_arousal: which of the two to calibrate.

    Raises ValueError if `expression`, and fewer than two groups have expression labels.
    """
    result = FitResult(Calibration(), _EMPTY, _EMPTY, float("nan"), float("nan"), 0)
    if expression:
        fold_of, count = _folds(clips, folds, seed)
        result = _cross_validate(_LabelledFrames(clips, classes), _candidates(radii_s, strengths), fold_of, count)
    table = _affect_table(clips, radii_s if valence_arousal else ())
    calibration = replace(result.calibration, affect_radius_s=_affect_radius(table))
    return replace(result, calibration=calibration, affect_table=table)


class _LabelledFrames:
    """Labelled frames of all clips, thinned to MAX_FRAMES. truth, clip: `(frame,)`; counts: `(clip, classes)`."""

    def __init__(self, clips: Sequence[ClipPrediction], classes: int) -> None:
        self.clips, self.classes = clips, classes
        labelled = sum(int((c.true_class != UNLABELLED).sum()) for c in clips)
        step = max(1, -(-labelled // MAX_FRAMES))
        self.frames = [np.flatnonzero(c.true_class != UNLABELLED)[::step] for c in clips]
        truth = [c.true_class[f] for c, f in zip(clips, self.frames, strict=True)]
        self.truth = np.concatenate(truth)
        self.clip = np.repeat(np.arange(len(clips)), [len(f) for f in self.frames])
        self.counts = np.stack([np.bincount(t, minlength=classes) for t in truth])

    def logs(self, radius_s: float) -> np.ndarray:
        """Smoothed log probabilities `(frame, classes)` without gaps."""
        smooth = Calibration(radius_s)
        filled = [smooth(c).filled_probabilities[f] for c, f in zip(self.clips, self.frames, strict=True)]
        return log_probabilities(np.concatenate(filled))

    def bias(self, strength: float, clips: np.ndarray) -> np.ndarray:
        """Offsets `(classes,)` from the class frequencies of the clips in the mask `(clip,)`; 0 for absent classes."""
        counts = self.counts[clips].sum(axis=0)
        frequency = np.log(np.maximum(counts, 1) / max(1, counts.sum()))
        present = counts > 0
        return np.where(present, -strength * (frequency - frequency[present].mean()), 0.0)

    def confusions(self, logs: np.ndarray, fold_of: np.ndarray, folds: int) -> np.ndarray:
        """Confusion matrix of each fold, `(fold, classes, classes)`, for predictions `logs` `(frame, classes)`."""
        cell = (fold_of[self.clip] * self.classes + self.truth) * self.classes + logs.argmax(axis=1)
        return np.bincount(cell, minlength=folds * self.classes**2).reshape(folds, self.classes, self.classes)


def _candidates(radii_s: Sequence[float], strengths: Sequence[float]) -> _Candidates:
    return tuple(map(float, radii_s)), tuple(map(float, strengths))


def _grid(
    data: _LabelledFrames, candidates: _Candidates, fold_of: np.ndarray, folds: int, *, leave_out: bool
) -> np.ndarray:
    """Confusions `(fold f, radius, strength, fold g, classes, classes)`: fold g's confusion matrix with the class
    frequencies of all clips outside fold f (leave_out), or of all clips."""
    radii, strengths = candidates
    out = np.zeros((folds, len(radii), len(strengths), folds, data.classes, data.classes), np.int64)
    for r, radius in enumerate(radii):
        logs = data.logs(radius)
        for f in range(folds):
            for s, strength in enumerate(strengths):
                bias = data.bias(strength, (fold_of != f) | (not leave_out))
                out[f, r, s] = data.confusions(logs + bias, fold_of, folds)
    return out


def _cross_validate(data: _LabelledFrames, candidates: _Candidates, fold_of: np.ndarray, folds: int) -> FitResult:
    grid = _grid(data, candidates, fold_of, folds, leave_out=True)
    held_out = grid[np.arange(folds), :, :, np.arange(folds)]
    scores = f1_from_confusion(held_out.sum(axis=0)).mean(-1)
    # Nested: each fold is scored with the candidate that the other folds choose.
    nested = np.zeros((data.classes, data.classes), np.int64)
    for f in range(folds):
        others = f1_from_confusion(grid[f].sum(axis=2) - held_out[f]).mean(-1)
        nested += held_out[f][np.unravel_index(others.argmax(), others.shape)]
    radii, strengths = candidates
    before = data.confusions(data.logs(0.0), fold_of, folds).sum(axis=0)
    table = {
        "radius_s": np.repeat(radii, len(strengths)),
        "strength": np.tile(strengths, len(radii)),
        "macro_f1": scores.ravel(),
    }
    return FitResult(
        _best_calibration(data, candidates, scores),
        pl.DataFrame(table),
        pl.DataFrame(),
        float(f1_from_confusion(nested).mean()),
        float(f1_from_confusion(before).mean()),
        folds,
    )


def _best_calibration(data: _LabelledFrames, candidates: _Candidates, scores: np.ndarray) -> Calibration:
    """The candidate with the highest of scores `(radius, strength)`, with bias and temperature from all clips.

    Candidates are sorted by how much they change, so argmax resolves ties to the smallest change.
    """
    r, s = np.unravel_index(scores.argmax(), scores.shape)
    radius, strength = candidates[0][r], candidates[1][s]
    bias = data.bias(strength, np.ones(len(data.clips), bool))
    logits = data.logs(radius) + bias
    low, high = np.log(_TEMPERATURES)
    # Temperature scaling (Guo et al., arXiv:1706.04599): the temperature of least negative log-likelihood.
    optimum = minimize_scalar(
        lambda t: negative_log_likelihood(_softmax(logits / np.exp(t)), data.truth),
        bounds=(low, high),
        method="bounded",
    )
    return Calibration(radius, tuple(bias.tolist()), float(np.exp(optimum.x)), strength=strength)


def _affect_table(clips: Sequence[ClipPrediction], radii_s: Sequence[float]) -> pl.DataFrame:
    scores = []
    for radius in radii_s:
        smooth = Calibration(affect_radius_s=radius)
        sums = bootstrap.affect_moments([smooth(c) for c in clips]).sum(axis=0)
        scores.append(float(bootstrap.affect_scores(sums)["va_score"]))
    return pl.DataFrame({"radius_s": list(map(float, radii_s)), "va_score": scores}, schema=_AFFECT_COLUMNS)


def _affect_radius(table: pl.DataFrame) -> float:
    scores = table["va_score"].to_numpy()
    return float(table["radius_s"][int(np.nanargmax(scores))]) if np.isfinite(scores).any() else 0.0


def _folds(clips: Sequence[ClipPrediction], folds: int, seed: int) -> tuple[np.ndarray, int]:
    """Fold of each clip `(clip,)` and number of folds; groups stay whole, folds have about equal labelled frames."""
    sizes: dict[str, int] = {}
    for c in clips:
        sizes[c.group or c.id] = sizes.get(c.group or c.id, 0) + int((c.true_class != UNLABELLED).sum())
    names = sorted(name for name, size in sizes.items() if size)
    if len(names) < 2:
        raise ValueError(
            f"cross-validation needs at least two subjects with expression labels, got {len(names)}; nothing was "
            "chosen; give more training clips, or use the predictions without calibration"
        )
    count = min(folds, len(names))
    np.random.default_rng(seed).shuffle(names)
    filled, fold_of = np.zeros(count), dict.fromkeys(sizes, 0)
    for name in sorted(names, key=lambda n: -sizes[n]):
        fold_of[name] = int(filled.argmin())
        filled[fold_of[name]] += sizes[name]
    return np.array([fold_of[c.group or c.id] for c in clips]), count


# --- comparison with tuning on the scored clips --------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """Scores without calibration, with calibration fitted on training clips, and tuned on the scored clips.

    Attributes:
        fitted: calibration fitted on the training clips.
        as_predicted, calibrated, optimistic: intervals by score name (see `bootstrap.expression_intervals`) without
            calibration, with `fitted`, and with `tuned_on_scored`.
        tuned_on_scored: calibration chosen on the scored clips: common practice, and optimistic.
        calibration_error: result of `calibration_error` for `as predicted` and `corrected`; empty without expressions.
        reliability: reliability diagram of the calibrated predictions; no rows without expressions.
    """

    fitted: FitResult
    as_predicted: Mapping[str, bootstrap.Interval]
    calibrated: Mapping[str, bootstrap.Interval]
    optimistic: Mapping[str, bootstrap.Interval]
    tuned_on_scored: Calibration
    calibration_error: Mapping[str, Mapping[str, float]]
    reliability: pl.DataFrame


def compare(
    train: Sequence[ClipPrediction],
    scored: Sequence[ClipPrediction],
    *,
    classes: Sequence[str] = EXPRESSIONS,
    draws: int = bootstrap.DRAWS,
    folds: int = FOLDS,
    radii_s: Sequence[float] = RADII_S,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
    expression: bool = True,
    valence_arousal: bool = True,
) -> Comparison:
    """Fits a calibration on `train`, scores it on `scored`, and compares it with tuning on `scored` itself.

    Args:
        draws: bootstrap resamples. folds, radii_s, strengths: as in `fit`.
        expression, valence_arousal: which of the two to calibrate and to score.

    Raises ValueError if a clip is in both sets, or as `fit`.
    """
    if both := {c.id for c in train} & {c.id for c in scored}:
        raise ValueError(f"{len(both)} clips are in the training and in the scored set, such as {min(both)!r}")
    kinds = {"expression": expression, "valence_arousal": valence_arousal}
    fitted = fit(train, classes=len(classes), folds=folds, radii_s=radii_s, strengths=strengths, seed=seed, **kinds)
    tuned = _tune_on_scored(scored, len(classes), radii_s, strengths, **kinds)

    def score(clips: Sequence[ClipPrediction]) -> dict[str, bootstrap.Interval]:
        scores: dict[str, bootstrap.Interval] = {}
        if expression:
            scores |= bootstrap.expression_intervals(clips, classes=classes, draws=draws, seed=seed)
        if valence_arousal:
            scores |= bootstrap.affect_intervals(clips, draws=draws, seed=seed)
        return scores

    corrected = [fitted.calibration(c) for c in scored]
    return Comparison(
        fitted,
        score(scored),
        score(corrected),
        score([tuned(c) for c in scored]),
        tuned,
        {"as predicted": calibration_error(scored), "corrected": calibration_error(corrected)} if expression else {},
        reliability(corrected) if expression else _EMPTY,
    )


def _tune_on_scored(
    scored: Sequence[ClipPrediction],
    classes: int,
    radii_s: Sequence[float],
    strengths: Sequence[float],
    *,
    expression: bool,
    valence_arousal: bool,
) -> Calibration:
    """Choose the candidate that scores best on the scored clips themselves, as is common practice."""
    calibration = Calibration()
    if expression:
        data, candidates = _LabelledFrames(scored, classes), _candidates(radii_s, strengths)
        grid = _grid(data, candidates, np.zeros(len(scored), int), 1, leave_out=False)
        calibration = _best_calibration(data, candidates, f1_from_confusion(grid[0, :, :, 0]).mean(-1))
    table = _affect_table(scored, radii_s if valence_arousal else ())
    return replace(calibration, affect_radius_s=_affect_radius(table))
