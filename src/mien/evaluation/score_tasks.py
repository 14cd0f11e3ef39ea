"""Scores of action units, compound expressions and Emotional Mimicry Intensity, and the rule for compound expressions.

An action unit is predicted as active where its score is at least .5 (our choice: the loss weights rare units instead).
Frames without evidence take the nearest prediction, as in `mien.evaluation.predictions`. A task with one label a clip
is scored on one row for each clip, the mean over its frames, or 0 for a clip without evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mien.errors import ConfigError
from mien.evaluation import bootstrap, metrics
from mien.evaluation.bootstrap import Interval, Scores
from mien.evaluation.predictions import ClipPrediction
from mien.inference import StreamModel
from mien.labels import COMPOUND_EXPRESSIONS, EXPRESSIONS, SCORE_TASKS, TASKS

#: The task that is derived from expressions.
COMPOUND = "ce"
#: Task -> key and display name of its challenge score.
TASK_SCORES = {
    "au": ("au_f1", "mean F1 of action units"),
    "ce": ("ce_macro_f1", "macro F1 of compound expressions"),
    "emi": ("emi_pearson", "mean Pearson correlation"),
}
#: Start of the keys of single columns, such as `f1 AU1`.
_COLUMN_KEYS = {"au": "f1", "ce": "f1", "emi": "pearson"}
#: Score from which a binary column is predicted as 1.
THRESHOLD = 0.5


def check_task(model: StreamModel, task: str | None, name: str, *, follows: str = "Nothing was scored.") -> None:
    """Check that a model predicts what a task is scored on. None, `expr` and `va` pass.

    Raises ConfigError for an unknown task, or a score task that the model `name` does not predict.
    """
    if task is not None and task not in TASKS:
        raise ConfigError(f"no task is called {task!r}", follows=follows, remedy=f"Use one of {', '.join(TASKS)}.")
    if task not in SCORE_TASKS or task in model.settings.scores:
        return
    title = SCORE_TASKS[task].title
    if task == COMPOUND:
        if model.settings.expression:
            return
        remedy = "Use a system that predicts expressions: compound expressions are derived from them."
    else:
        key = SCORE_TASKS[task].objective
        remedy = f"Train one: `mien train RECIPE objective.{key}=1 --task {task} --index INDEX --store DIR`."
    raise ConfigError(f"{name} does not predict {title}", follows=follows, remedy=remedy)


# --- compound expressions ------------------------------------------------------------------------------------


def compound_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities of the seven compound expressions from those of basic expressions: `(..., 8)` -> `(..., 7)`.

    The product of the two basic probabilities, divided by the sum of the seven products. C-EXPR-DB has no training set,
    so a compound has to follow from its parts; the product is their joint probability if they are independent (our
    choice; entries of the challenge also use the sum, which an expression that dominates decides alone). NaN stays NaN.

    Args:
        probabilities: in the order of `mien.labels.EXPRESSIONS`.
    """
    first, second = np.array(list(COMPOUND_EXPRESSIONS.values())).T
    products = np.maximum(probabilities[..., first], 1e-12) * np.maximum(probabilities[..., second], 1e-12)
    shares: np.ndarray = products / products.sum(axis=-1, keepdims=True)
    return shares


def with_compound_expressions(clip: ClipPrediction, classes: Sequence[str]) -> ClipPrediction:
    """The prediction with scores of the task `ce`, derived from its expressions. Raises ConfigError for other classes
    than `EXPRESSIONS`."""
    if tuple(classes) != EXPRESSIONS:
        raise ConfigError(
            f"compound expressions are derived from {', '.join(EXPRESSIONS)}; these predictions have "
            f"{', '.join(classes)}",
            follows="Nothing was computed.",
            remedy="Use a system that is trained on the eight expressions of Aff-Wild2.",
        )
    return replace(clip, scores={**clip.scores, COMPOUND: compound_probabilities(clip.probabilities)})


# --- scores --------------------------------------------------------------------------------------------------


def scored_tasks(clips: Sequence[ClipPrediction]) -> list[str]:
    """Score tasks that are both predicted and labelled in some clip."""
    return [
        task
        for task in SCORE_TASKS
        if any(task in c.scores and np.isfinite(c.true_scores.get(task, np.nan)).any() for c in clips)
    ]


def decisions(scores: np.ndarray) -> np.ndarray:
    """Active (1) or not (0), `(frame, columns)` int64, of scores in [0, 1]."""
    return (scores >= THRESHOLD).astype(np.int64)


def score_intervals(
    clips: Sequence[ClipPrediction],
    task: str,
    *,
    draws: int = bootstrap.DRAWS,
    level: float = bootstrap.LEVEL,
    seed: int = 0,
) -> dict[str, Interval]:
    """The challenge's score of a task and the score of each column, with intervals over groups of clips.

    Args:
        task: `au`, `ce` or `emi`. draws, level, seed: as in `bootstrap.expression_intervals`.
    """
    clips = [c for c in clips if task in c.scores and task in c.true_scores]
    statistics = np.stack([_statistics(clip, task) for clip in clips])
    by_group = bootstrap.sum_by_group(statistics, [clip.group or clip.id for clip in clips])
    return bootstrap.intervals(by_group, _scores(task), draws=draws, level=level, seed=seed)


def _statistics(clip: ClipPrediction, task: str) -> np.ndarray:
    """Additive statistics of one clip."""
    truth = clip.true_scores[task]
    columns = truth.shape[1]
    if SCORE_TASKS[task].per_clip:
        known = np.isfinite(truth).all(axis=1)
        true = truth[known].mean(axis=0) if known.any() else np.full(columns, np.nan)
        return bootstrap.moments(list(true[:, None]), list(np.nan_to_num(clip.mean_scores(task))[:, None]))
    predicted = clip.filled_scores(task)
    if SCORE_TASKS[task].is_exclusive:
        known = np.isfinite(truth).all(axis=1)
        return metrics.confusion(truth[known].argmax(axis=1), predicted[known].argmax(axis=1), classes=columns)
    return metrics.binary_counts(truth, decisions(predicted))


def _scores(task: str) -> Scores:
    """Function from summed statistics to the score of the task and of each column."""
    key, _ = TASK_SCORES[task]

    def scores(sums: np.ndarray) -> dict[str, np.ndarray]:
        if SCORE_TASKS[task].per_clip:
            by_column = pearson_from_moments(sums)
        elif SCORE_TASKS[task].is_exclusive:
            by_column = metrics.f1_from_confusion(sums)
        else:
            by_column = metrics.f1_from_binary_counts(sums)
        names = SCORE_TASKS[task].columns
        return {key: by_column.mean(-1)} | {column_key(task, n): by_column[..., i] for i, n in enumerate(names)}

    return scores


def column_key(task: str, column: str) -> str:
    """Key of a column's score, such as `f1 AU1`."""
    return f"{_COLUMN_KEYS[task]} {column}"


def pearson_from_moments(sums: np.ndarray) -> np.ndarray:
    """Pearson's correlation from rows of `bootstrap.moments` or sums of such rows, `(..., 6)` -> `(...)`; 0 where one
    side is constant."""
    with np.errstate(invalid="ignore", divide="ignore"):
        x, y, xx, yy, xy = np.moveaxis(sums[..., 1:] / sums[..., :1], -1, 0)
    product = (xx - x * x) * (yy - y * y)
    empty = np.where(np.isnan(product), np.nan, 0.0)
    root = np.sqrt(np.maximum(np.nan_to_num(product), 0.0))
    correlation: np.ndarray = np.divide(xy - x * y, root, out=empty, where=product > 1e-18)
    return correlation
