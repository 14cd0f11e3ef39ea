"""Choice of a calibration by cross-validation, on clips that the network was not trained on.

A network is more certain of clips that it was trained on, so what is fitted there is wrong for others: temperatures are
too low and smoothing is too short. `fit` is therefore given validation clips, or the held-out clips of folds.
Its own scores on these clips are reported by nested cross-validation: each subject's clips are corrected by values that
were chosen on the other subjects (`FitResult.held_out`). What is common practice, tuning on the scored clips, stands
beside it in `compare`, marked as optimistic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from scipy.optimize import minimize_scalar

from mien.evaluation import bootstrap
from mien.evaluation.calibration import Calibration, Smoothing, softmax
from mien.evaluation.calibration_metrics import (
    calibration_error,
    log_probabilities,
    negative_log_likelihood,
    reliability,
)
from mien.evaluation.metrics import f1_from_confusion
from mien.evaluation.predictions import ClipPrediction
from mien.labels import EXPRESSIONS, UNLABELLED

#: Candidate widths in seconds. Our choice, around those that public systems for Aff-Wild2 use: 3.4 s (authors' public
#: code), 101 frames.
WIDTHS_S = (0.2, 0.5, 1.0, 2.0, 3.4, 6.0, 10.0, 20.0, 34.0)
#: Candidates, those that change least first: ties go to the earlier one.
SMOOTHINGS = (
    Smoothing(),
    *(Smoothing(kernel, width) for width in WIDTHS_S for kernel in ("mean", "hamming", "gaussian", "median")),
)
#: Candidate strengths of logit adjustment (Menon et al., arXiv:2007.07314): the share of the log class frequencies that
#: is subtracted. 0 keeps the network's prior, 1 gives a balanced prior, which favours macro F1.
STRENGTHS = (0.0, 0.125, 0.25, 0.375, 0.5, 0.75, 1.0)
FOLDS = 5
#: Most frames used to compare candidates; beyond it every k-th frame, since neighbours are similar. Our choice.
MAX_FRAMES = 400_000
_TEMPERATURES = (0.05, 20.0)


@dataclass(frozen=True)
class FitResult:
    """Result of `fit`.

    Attributes:
        calibration: fitted on all given clips.
        held_out: the clips, each corrected by the calibration that the folds of other subjects chose.
        table: `kernel, seconds, strength, macro_f1`, each candidate's score pooled over held-out folds; no rows without
            expressions.
        affect_table: `kernel, seconds, valence, arousal`, each candidate's CCC; no rows without valence and arousal.
        folds: number of folds.
    """

    calibration: Calibration
    held_out: list[ClipPrediction]
    table: pl.DataFrame
    affect_table: pl.DataFrame
    folds: int


def fit(
    clips: Sequence[ClipPrediction],
    *,
    classes: int = len(EXPRESSIONS),
    folds: int = FOLDS,
    smoothings: Sequence[Smoothing] = SMOOTHINGS,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
    expression: bool = True,
    valence_arousal: bool = True,
) -> FitResult:
    """Choose a calibration by cross-validation over groups of clips (subjects).

    Each candidate (smoothing, strength) is scored on each fold with the class frequencies of the other folds. The best
    macro F1, pooled over the held-out folds, wins; ties go to the first, so that candidates are to be sorted by how
    much they change. Class frequencies and temperature then come from all clips. Valence and arousal have a smoothing
    each, of the highest CCC.

    Args:
        clips: predictions without smoothing, by a network that was not trained on them.
        expression, valence_arousal: which of the two to calibrate.

    Raises ValueError if fewer than two groups have labels of what is to be calibrated.
    """
    fold_of, count = fold_clips(clips, folds, seed, expression=expression, valence_arousal=valence_arousal)
    nested = [Calibration()] * count
    calibration, table, affect_table = Calibration(), pl.DataFrame(), pl.DataFrame()
    if expression:
        calibration, nested, table = _fit_expression(clips, classes, smoothings, strengths, fold_of, count)
    if valence_arousal:
        calibration, nested, affect_table = _fit_affect(clips, smoothings, fold_of, calibration, nested)
    held_out = [nested[fold](clip) for fold, clip in zip(fold_of.tolist(), clips, strict=True)]
    return FitResult(calibration, held_out, table, affect_table, count)


# --- expressions ---------------------------------------------------------------------------------------------


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

    def logs(self, smoothing: Smoothing) -> np.ndarray:
        """Smoothed log probabilities `(frame, classes)` without gaps."""
        smooth = Calibration(smoothing)
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

    def calibration(self, smoothing: Smoothing, strength: float, clips: np.ndarray) -> Calibration:
        """A candidate with the class bias and the temperature of the clips in the mask `(clip,)`.

        Temperature scaling (Guo et al., arXiv:1706.04599): the temperature of least negative log-likelihood.
        """
        bias, frames = self.bias(strength, clips), clips[self.clip]
        logits, truth = self.logs(smoothing)[frames] + bias, self.truth[frames]
        low, high = np.log(_TEMPERATURES)
        optimum = minimize_scalar(
            lambda t: negative_log_likelihood(softmax(logits / np.exp(t)), truth), bounds=(low, high), method="bounded"
        )
        return Calibration(
            smoothing, bias=tuple(bias.tolist()), temperature=float(np.exp(optimum.x)), strength=float(strength)
        )


def _fit_expression(
    clips: Sequence[ClipPrediction],
    classes: int,
    smoothings: Sequence[Smoothing],
    strengths: Sequence[float],
    fold_of: np.ndarray,
    folds: int,
) -> tuple[Calibration, list[Calibration], pl.DataFrame]:
    """The calibration of all clips, that of the clips outside each fold, and the table of candidates."""
    data = _LabelledFrames(clips, classes)
    # Confusions of fold g with the class frequencies outside fold f: (f, smoothing, strength, g, classes, classes).
    grid = np.zeros((folds, len(smoothings), len(strengths), folds, classes, classes), np.int64)
    for i, smoothing in enumerate(smoothings):
        logs = data.logs(smoothing)
        for f in range(folds):
            for j, strength in enumerate(strengths):
                grid[f, i, j] = data.confusions(logs + data.bias(strength, fold_of != f), fold_of, folds)
    held_out = grid[np.arange(folds), :, :, np.arange(folds)]

    def best(confusions: np.ndarray, mask: np.ndarray) -> Calibration:
        scores = f1_from_confusion(confusions).mean(-1)
        i, j = np.unravel_index(scores.argmax(), scores.shape)
        return data.calibration(smoothings[i], strengths[j], mask)

    nested = [best(grid[f].sum(axis=2) - held_out[f], fold_of != f) for f in range(folds)]
    pooled = held_out.sum(axis=0)
    table = {
        "kernel": np.repeat([s.kernel for s in smoothings], len(strengths)),
        "seconds": np.repeat([s.seconds for s in smoothings], len(strengths)),
        "strength": np.tile(np.array(strengths, float), len(smoothings)),
        "macro_f1": f1_from_confusion(pooled).mean(-1).ravel(),
    }
    return best(pooled, np.ones(len(clips), bool)), nested, pl.DataFrame(table)


# --- valence and arousal -------------------------------------------------------------------------------------


def _fit_affect(
    clips: Sequence[ClipPrediction],
    smoothings: Sequence[Smoothing],
    fold_of: np.ndarray,
    calibration: Calibration,
    nested: Sequence[Calibration],
) -> tuple[Calibration, list[Calibration], pl.DataFrame]:
    """The calibrations with the smoothing of valence and of arousal, and the table of candidates."""
    moments = np.stack(
        [bootstrap.affect_moments([Calibration(valence=s, arousal=s)(clip) for clip in clips]) for s in smoothings]
    )  # (smoothing, clip, 2, 6)

    def with_best(calibration: Calibration, mask: np.ndarray) -> Calibration:
        ccc = bootstrap.ccc_from_moments(moments[:, mask].sum(axis=1))
        valence, arousal = (
            smoothings[int(np.nanargmax(one))] if np.isfinite(one).any() else Smoothing() for one in ccc.T
        )
        return replace(calibration, valence=valence, arousal=arousal)

    every = np.ones(len(clips), bool)
    ccc = bootstrap.ccc_from_moments(moments.sum(axis=1))
    table = {
        "kernel": [s.kernel for s in smoothings],
        "seconds": [s.seconds for s in smoothings],
        "valence": ccc[:, 0],
        "arousal": ccc[:, 1],
    }
    folds = [with_best(one, fold_of != f) for f, one in enumerate(nested)]
    return with_best(calibration, every), folds, pl.DataFrame(table)


# --- folds ---------------------------------------------------------------------------------------------------


def fold_clips(
    clips: Sequence[ClipPrediction], folds: int, seed: int, *, expression: bool, valence_arousal: bool
) -> tuple[np.ndarray, int]:
    """Fold of each clip `(clip,)` and number of folds; groups stay whole, folds have about equal labelled frames.

    Raises ValueError if fewer than two groups have labels of what is asked for.
    """
    sizes: dict[str, int] = {}
    needed = {"expression labels": expression, "labels of valence and arousal": valence_arousal}
    groups: dict[str, set[str]] = {kind: set() for kind, is_needed in needed.items() if is_needed}
    for c in clips:
        name, labelled = c.group or c.id, np.zeros(len(c.times), bool)
        kinds = (c.true_class != UNLABELLED, np.isfinite(c.true_valence_arousal).all(axis=1))
        for kind, mask in zip(needed, kinds, strict=True):
            if kind in groups and mask.any():
                groups[kind].add(name)
                labelled |= mask
        sizes[name] = sizes.get(name, 0) + int(labelled.sum())
    for kind, having in groups.items():
        if len(having) < 2:
            raise ValueError(
                f"cross-validation needs at least two subjects with {kind}, got {len(having)}; nothing was chosen; "
                "give more clips, or use the predictions without calibration"
            )
    names = sorted(name for name, size in sizes.items() if size)
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
    """Scores with the recipe's own smoothing, with calibration, and tuned on the scored clips.

    Attributes:
        fitted: the fit, on the scored clips or on others.
        as_predicted, calibrated, optimistic: intervals by score name (see `bootstrap.expression_intervals`) with the
            recipe's own smoothing, with `fitted` (by nested cross-validation where it was fitted on the scored clips),
            and with `tuned_on_scored`.
        tuned_on_scored: calibration chosen on the scored clips: common practice, and optimistic.
        nested: whether the scored clips are those of the fit.
        calibration_error: result of `calibration_error` for `as predicted` and `calibrated`; empty without expressions.
        reliability: reliability diagram of the calibrated predictions; no rows without expressions.
    """

    fitted: FitResult
    as_predicted: Mapping[str, bootstrap.Interval]
    calibrated: Mapping[str, bootstrap.Interval]
    optimistic: Mapping[str, bootstrap.Interval]
    tuned_on_scored: Calibration
    nested: bool
    calibration_error: Mapping[str, Mapping[str, float]]
    reliability: pl.DataFrame


def compare(
    scored: Sequence[ClipPrediction],
    fit_on: Sequence[ClipPrediction] | None = None,
    *,
    as_predicted: Sequence[ClipPrediction] | None = None,
    classes: Sequence[str] = EXPRESSIONS,
    draws: int = bootstrap.DRAWS,
    folds: int = FOLDS,
    smoothings: Sequence[Smoothing] = SMOOTHINGS,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
    expression: bool = True,
    valence_arousal: bool = True,
) -> Comparison:
    """Fit a calibration, score it, and compare it with tuning on the scored clips themselves.

    Args:
        scored: predictions without smoothing. fit_on: such predictions of other clips to fit on; None fits on the
            scored ones and scores them by nested cross-validation.
        as_predicted: the scored clips with the recipe's own smoothing; None takes `scored`.
        draws: bootstrap resamples. folds, smoothings, strengths, seed, expression, valence_arousal: as in `fit`.

    Raises ValueError if a clip is in both sets, or as `fit`.
    """
    if both := {c.id for c in fit_on or ()} & {c.id for c in scored}:
        raise ValueError(f"{len(both)} clips are to fit on and to be scored, such as {min(both)!r}")

    def fit_clips(clips: Sequence[ClipPrediction]) -> FitResult:
        return fit(
            clips, classes=len(classes), folds=folds, smoothings=smoothings, strengths=strengths, seed=seed,
            expression=expression, valence_arousal=valence_arousal,
        )  # fmt: skip

    def score(clips: Sequence[ClipPrediction]) -> dict[str, bootstrap.Interval]:
        scores: dict[str, bootstrap.Interval] = {}
        if expression:
            scores |= bootstrap.expression_intervals(clips, classes=classes, draws=draws, seed=seed)
        if valence_arousal:
            scores |= bootstrap.affect_intervals(clips, draws=draws, seed=seed)
        return scores

    fitted = fit_clips(scored if fit_on is None else fit_on)
    tuned = fitted.calibration if fit_on is None else fit_clips(scored).calibration
    corrected = fitted.held_out if fit_on is None else [fitted.calibration(c) for c in scored]
    before = list(as_predicted or scored)
    errors = {"as predicted": calibration_error(before), "calibrated": calibration_error(corrected)}
    return Comparison(
        fitted,
        score(before),
        score(corrected),
        score([tuned(c) for c in scored]),
        tuned,
        fit_on is None,
        errors if expression else {},
        reliability(corrected) if expression else pl.DataFrame(),
    )
