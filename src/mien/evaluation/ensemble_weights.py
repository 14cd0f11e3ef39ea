"""Average the predictions of several systems, and fit the weights of that average on validation clips."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mien import clock, ensemble
from mien.ensemble import EnsembleModel
from mien.errors import ConfigError
from mien.evaluation import metrics
from mien.evaluation.calibration_fit import FOLDS, fold_clips
from mien.evaluation.predictions import ClipPrediction, nearest_valid, predict
from mien.labels import NEUTRAL, UNLABELLED
from mien.layers.late_fusion import search_weights
from mien.records import Recording

#: `macro_f1` of expressions, or `va_score`, the mean CCC of valence and arousal.
Measure = Literal["macro_f1", "va_score"]
#: Random weights that are tried beside equal ones. Our choice.
DRAWS = 2000
#: Most frames that the search scores; beyond it every k-th, because neighbours are similar. Our choice.
MAX_FRAMES = 50_000


@dataclass(frozen=True, slots=True)
class FittedWeights:
    """Weights of an ensemble. weights: one per member, with the sum 1. measure: the score that was maximised.
    score, equal_score: with these weights and with equal ones, on the clips of the fit. held_out: by nested
    cross-validation, each subject scored with weights chosen on the others; NaN with fewer than two subjects. clips:
    number of clips of the fit."""

    weights: list[float]
    measure: Measure
    score: float
    equal_score: float
    held_out: float
    clips: int


def predict_members(
    model: EnsembleModel, recordings: Sequence[Recording], *, progress: Callable[[int], None] = lambda done: None
) -> dict[str, list[ClipPrediction]]:
    """Each member's predictions of recordings whose streams are named as the ensemble's features, in its classes.

    progress: called with the number of finished recordings. Returns `NUMBER NAME` -> predictions.
    """
    alone = [
        replace(model, weights=tuple(float(i == number) for i in range(len(model.members))))
        for number in range(len(model.members))
    ]
    predicted: dict[str, list[ClipPrediction]] = {f"{i} {name}": [] for i, name in enumerate(model.names)}
    for done, recording in enumerate(recordings, 1):
        for member, clips in zip(alone, predicted.values(), strict=True):
            clips.append(predict(member.predict_streams, recording))
        progress(done)
    return predicted


def average_predictions(
    members: Sequence[Sequence[ClipPrediction]], weights: Sequence[float] | None = None
) -> list[ClipPrediction]:
    """The weighted mean of several systems' predictions of clips, with the same classes in the same order.

    Clips are matched by id, and times are those of the first member that has the clip. A clip that some members lack is
    averaged over the others. Frames as in `mien.ensemble.average`.

    Raises ConfigError for unusable weights.
    """
    shares = ensemble.check_weights(weights, len(members))
    by_id = [{clip.id: clip for clip in clips} for clips in members]
    averaged = []
    for clip in dict.fromkeys(clip for clips in by_id for clip in clips):
        having = [(clips[clip], share) for clips, share in zip(by_id, shares, strict=True) if clip in clips]
        first, times = having[0][0], having[0][0].times
        parts = [share for _, share in having]
        values = [clock.interpolate(p.probabilities, p.times, times) for p, _ in having]
        affect = [clock.interpolate(p.valence_arousal, p.times, times) for p, _ in having]
        mean = ensemble.average(values, parts), ensemble.average(affect, parts)
        scores = {
            task: ensemble.average(
                [clock.interpolate(p.scores[task], p.times, times) for p, _ in having if task in p.scores],
                [share for p, share in having if task in p.scores],
            )
            for task in dict.fromkeys(task for p, _ in having for task in p.scores)
        }
        averaged.append(replace(first, probabilities=mean[0], valence_arousal=mean[1], scores=scores))
    return averaged


def score(clips: Sequence[ClipPrediction], measure: Measure) -> float:
    """A score of predictions, pooled over clips; frames without a prediction take the nearest one of their clip."""
    if measure == "va_score":
        return metrics.va_score([c.true_valence_arousal for c in clips], [c.filled_valence_arousal for c in clips])
    classes = clips[0].probabilities.shape[1]
    return metrics.macro_f1([c.true_class for c in clips], [c.predicted_class for c in clips], classes=classes)


def fit_weights(
    members: Mapping[str, Sequence[ClipPrediction]],
    *,
    measure: Measure | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> FittedWeights:
    """Choose the weights of an ensemble on labelled clips: the best of equal ones and `draws` random ones.

    Random weights are uniform on the simplex (Dirichlet, as `mien.layers.late_fusion.search_weights`). The result is
    never worse than equal weights on these clips.

    Args:
        members: name -> its predictions, all of the same clips in the same order and at the same times.
        measure: by default macro F1 if the clips have expression labels and a member predicts expressions.

    Raises:
        ConfigError: no clip is labelled for the measure.
        ValueError: the members' clips differ.
    """
    lists = [list(clips) for clips in members.values()]
    if any([c.id for c in clips] != [c.id for c in lists[0]] for clips in lists):
        raise ValueError("the members' predictions are of different clips")
    measure = measure or _default_measure(lists)
    frames = _LabelledFrames(lists, measure)
    if not len(frames.truth):
        raise ConfigError(
            f"none of the {len(lists[0])} clips is labelled for the score {measure}",
            follows="No weights were fitted.",
            remedy="Name a labelled split with --split, or give the weights with --weights.",
        )
    equal = score(average_predictions(lists), measure)
    weights = _search(frames, len(lists), draws, seed)
    best = score(average_predictions(lists, weights), measure)
    if best < equal:  # possible where the search scored every k-th frame only
        weights, best = [1 / len(lists)] * len(lists), equal
    held_out = _held_out(lists, measure, draws, seed)
    return FittedWeights(weights, measure, best, equal, held_out, len(lists[0]))


def _held_out(lists: Sequence[Sequence[ClipPrediction]], measure: Measure, draws: int, seed: int) -> float:
    """The score of clips that are averaged with the weights that the other subjects choose."""
    expression = measure == "macro_f1"
    try:
        fold_of, folds = fold_clips(lists[0], FOLDS, seed, expression=expression, valence_arousal=not expression)
    except ValueError:
        return float("nan")
    averaged: list[ClipPrediction] = []
    for fold in range(folds):
        inside, outside = (
            [[c for c, f in zip(clips, fold_of, strict=True) if (f == fold) == own] for clips in lists]
            for own in (True, False)
        )
        chosen = _search(_LabelledFrames(outside, measure), len(lists), draws, seed)
        averaged += average_predictions(inside, chosen)
    return score(averaged, measure)


def _search(frames: _LabelledFrames, members: int, draws: int, seed: int) -> list[float]:
    # rounded, so that a difference in the last bits does not replace equal weights
    found, _ = search_weights(lambda w: round(frames.score(w[:, 0]), 9), (members, 1), draws=draws, seed=seed)
    weights: list[float] = found[:, 0].tolist()
    return weights


def _default_measure(lists: Sequence[Sequence[ClipPrediction]]) -> Measure:
    labelled = any((c.true_class != UNLABELLED).any() for c in lists[0])
    predicted = any(np.isfinite(c.probabilities).any() for clips in lists for c in clips)
    return "macro_f1" if labelled and predicted else "va_score"


class _LabelledFrames:
    """Labelled frames of all clips, thinned to MAX_FRAMES, with gaps of all members filled from the nearest frame.

    truth: `(frame,)` classes or `(frame, 2)`. values: `(member, frame, k)`, 0 where missing. known: `(member, frame)`.
    """

    def __init__(self, lists: Sequence[Sequence[ClipPrediction]], measure: Measure) -> None:
        self.measure: Measure = measure
        truth, values, known = [], [], []
        for clips in zip(*lists, strict=True):
            target = clips[0].true_class if measure == "macro_f1" else clips[0].true_valence_arousal
            labelled = np.flatnonzero(target != UNLABELLED if target.ndim == 1 else np.isfinite(target).all(axis=1))
            predicted = np.stack([c.probabilities if measure == "macro_f1" else c.valence_arousal for c in clips])
            is_known = np.isfinite(predicted).all(axis=2)
            if not is_known.any():
                predicted = np.zeros_like(predicted)
                predicted[..., NEUTRAL] = 1.0 if measure == "macro_f1" else 0.0
                is_known = np.ones_like(is_known)
            rows = nearest_valid(is_known.any(axis=0))[labelled] if len(labelled) else labelled
            truth.append(target[labelled])
            values.append(np.where(is_known[:, rows, None], predicted[:, rows], 0.0))
            known.append(is_known[:, rows])
        step = max(1, -(-sum(map(len, truth)) // MAX_FRAMES))
        self.truth = np.concatenate(truth)[::step]
        self.values = np.concatenate(values, axis=1)[:, ::step]
        self.known = np.concatenate(known, axis=1)[:, ::step]

    def score(self, weights: np.ndarray) -> float:
        """The score of the members' mean with `weights` `(member,)`."""
        total = np.tensordot(weights, self.values, 1)
        if self.measure == "macro_f1":  # dividing by the sum of weights does not change the largest class
            return metrics.macro_f1(self.truth, total.argmax(axis=1), classes=total.shape[1])
        share = (weights @ self.known)[:, None]
        mean = np.divide(total, share, out=np.zeros_like(total), where=share > 0)
        return metrics.va_score(self.truth, mean)
