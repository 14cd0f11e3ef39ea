"""Scores of predictions for files: macro F1 with an interval, accuracy, F1 by class, calibration, groups of people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mien.benchmark.corpora import LabelledFiles, class_names
from mien.benchmark.predict_files import FilePredictions
from mien.evaluation.bootstrap import Interval, confusions, expression_scores, intervals, sum_by_group
from mien.evaluation.calibration_metrics import calibration_error
from mien.evaluation.metrics import macro_f1
from mien.evaluation.predictions import ClipPrediction
from mien.labels import EXPRESSIONS

#: Class index of a file without a prediction: wrong for every file.
NO_PREDICTION = len(EXPRESSIONS)


@dataclass(frozen=True, slots=True)
class GroupScore:
    """Macro F1 of the files of one sex or age band, over the classes that occur in them."""

    group: str
    files: int
    macro_f1: float


@dataclass(frozen=True, slots=True)
class CorpusScores:
    """Scores of one model on one corpus.

    files: number of files; without_prediction: those that have none, which count as wrong. subjects: number of people,
    0 where unknown; the intervals resample people, or else files. macro_f1: over the classes that occur in the corpus;
    other predicted classes count as wrong. f1: class -> F1. calibration_error: expected calibration error in [0, 1],
    over files with a prediction; NaN without any.
    """

    corpus: str
    split: str
    condition: str
    model: str
    files: int
    subjects: int
    without_prediction: int
    macro_f1: Interval
    accuracy: Interval
    f1: dict[str, float]
    calibration_error: float
    groups: tuple[GroupScore, ...]
    first_error: str = ""

    def record(self) -> dict[str, Any]:
        """The scores as JSON; NaN becomes null."""
        record = asdict(self)
        for name in ("macro_f1", "accuracy"):
            record[name] = {key: _finite(value) for key, value in record[name].items()}
        record["calibration_error"] = _finite(self.calibration_error)
        return record


def score(corpus: LabelledFiles, predictions: FilePredictions, *, model: str, condition: str = "") -> CorpusScores:
    """Score the predictions of a model for the files of a corpus."""
    truth, predicted = corpus.labels, predicted_classes(predictions.probabilities)
    names = [*EXPRESSIONS, "no prediction"]
    counts = confusions(list(truth[:, None]), list(predicted[:, None]), classes=len(names))
    found = intervals(sum_by_group(counts, corpus.groups), expression_scores(names, corpus.classes))
    return CorpusScores(
        corpus=corpus.corpus,
        split=corpus.split,
        condition=condition,
        model=model,
        files=len(corpus.files),
        subjects=len({file.subject for file in corpus.files if file.subject}),
        without_prediction=int((predicted == NO_PREDICTION).sum()),
        macro_f1=found["macro_f1"],
        accuracy=found["accuracy"],
        f1={name: found[f"f1 {name}"].value for name in class_names(corpus.classes)},
        calibration_error=_calibration_error(truth, predictions),
        groups=_group_scores(corpus, truth, predicted),
        first_error=next(iter(predictions.errors.values()), ""),
    )


def predicted_classes(probabilities: np.ndarray) -> np.ndarray:
    """Most probable class `(n,)` of probabilities `(n, 8)`; `NO_PREDICTION` in rows that are not finite."""
    known = np.isfinite(probabilities).all(axis=1)
    return np.where(known, np.where(known[:, None], probabilities, 0.0).argmax(axis=1), NO_PREDICTION)


def pooled_macro_f1(truth: np.ndarray, predicted: np.ndarray, over: Sequence[int]) -> float:
    """Macro F1 over some classes; files without a prediction count as wrong."""
    return macro_f1(truth, predicted, classes=NO_PREDICTION + 1, over=over)


def _calibration_error(truth: np.ndarray, predictions: FilePredictions) -> float:
    n = len(truth)
    unknown = np.full((n, 2), np.nan)
    clip = ClipPrediction("files", np.arange(n, dtype=float), predictions.probabilities, unknown, truth, unknown)
    return calibration_error([clip])["ece"]


def _group_scores(corpus: LabelledFiles, truth: np.ndarray, predicted: np.ndarray) -> tuple[GroupScore, ...]:
    """Scores by sex and by age band, where the corpus has more than one of them."""
    scores = []
    for values in ([file.sex for file in corpus.files], [file.age_band for file in corpus.files]):
        present = sorted({value for value in values if value})
        for value in present if len(present) > 1 else ():
            places = np.flatnonzero(np.array(values) == value)
            over = np.unique(truth[places]).tolist()
            scores.append(GroupScore(value, len(places), pooled_macro_f1(truth[places], predicted[places], over)))
    return tuple(scores)


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
