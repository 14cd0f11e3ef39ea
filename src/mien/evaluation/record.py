"""Evaluation record: all results as plain numbers, for the evaluation page and its JSON file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import polars as pl

from mien.evaluation import bootstrap, metrics
from mien.evaluation.bootstrap import Interval
from mien.evaluation.calibration_fit import Comparison
from mien.evaluation.calibration_metrics import calibration_error, reliability
from mien.evaluation.predictions import ClipPrediction
from mien.evaluation.score_tasks import TASK_SCORES, column_key, score_intervals, scored_tasks
from mien.labels import EXPRESSIONS, SCORE_TASKS, UNLABELLED

#: Score keys and their display names.
SCORES = {
    "macro_f1": "macro F1",
    "accuracy": "accuracy",
    "ccc valence": "CCC valence",
    "ccc arousal": "CCC arousal",
    "va_score": "mean CCC",
    **dict(TASK_SCORES.values()),
}


def summarise(
    scored: Sequence[ClipPrediction],
    *,
    name: str,
    classes: Sequence[str] = EXPRESSIONS,
    over: Sequence[int] | None = None,
    split: str = "",
    comparison: Comparison | None = None,
    curves: pl.DataFrame | None = None,
    reported: Mapping[str, float] | None = None,
    differs: Sequence[str] = (),
    notes: Sequence[str] = (),
    expression: bool = True,
    valence_arousal: bool = True,
    draws: int = bootstrap.DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """Builds the evaluation record of predictions: JSON-able dicts, lists, strings and numbers, None for missing ones.

    Args:
        name: of the system. split: of the scored clips.
        over: classes in the macro F1, see `bootstrap.expression_intervals`.
        comparison: result of `calibration_fit.compare` on these clips.
        curves: table of `robustness.score_conditions`.
        reported: published scores by key, as in a recipe: `macro_f1`, or with the split `val_macro_f1`.
        differs: differences to the publication, in words. notes: further remarks for the reader.
        expression, valence_arousal: whether the system was trained to predict them. What it does not predict has no
            scores, even where the clips are labelled.
        draws: bootstrap resamples.
    """
    has_classes = expression and any((p.true_class != UNLABELLED).any() for p in scored)
    has_affect = valence_arousal and any(np.isfinite(p.true_valence_arousal).all(axis=1).any() for p in scored)
    options = {"draws": draws, "seed": seed}
    by_expression = bootstrap.expression_intervals(scored, classes=classes, over=over, **options) if has_classes else {}
    affect = bootstrap.affect_intervals(scored, **options) if has_affect else {}
    by_task = {task: score_intervals(scored, task, **options) for task in scored_tasks(scored)}
    scores = {**by_expression, **affect}
    for intervals in by_task.values():
        scores |= {key: intervals[key] for key in SCORES if key in intervals}
    confusion = _pooled_confusion(scored, len(classes)) if has_classes else np.zeros((0, 0), int)
    groups = len({p.group or p.id for p in scored})
    notes = [*notes, *_few_groups(groups)]
    record = {
        "name": name,
        "split": split,
        "classes": list(classes),
        "clips": len(scored),
        "groups": groups,
        "frames": int(sum((p.true_class != UNLABELLED).sum() for p in scored)) if has_classes else None,
        "draws": draws,
        "level": bootstrap.LEVEL,
        "scores": [{"key": k, "name": SCORES[k], **asdict(scores[k])} for k in SCORES if k in scores],
        "by_class": _by_class(confusion, classes, by_expression) if has_classes else [],
        "by_column": [row for task, intervals in by_task.items() for row in _by_column(scored, task, intervals)],
        "confusion": confusion.tolist(),
        "by_clip": [_by_clip(p, expression, valence_arousal, has_classes) for p in scored],
        "calibration_error": calibration_error(scored) if has_classes else None,
        "reliability": reliability(scored).to_dicts() if has_classes else [],
        "calibration": _calibration(comparison) if comparison else None,
        "robustness": curves.to_dicts() if curves is not None else [],
        "reported": _reported(scores, reported or {}, split),
        "differs": list(differs),
        "notes": list(notes),
    }
    return dict(_plain(record))


def _few_groups(groups: int) -> list[str]:
    """A note on intervals from few groups."""
    if not 1 < groups < bootstrap.FEW_GROUPS:
        return []
    return [f"the intervals resample {groups} subjects or clips only, and are too narrow for so few"]


def _pooled_confusion(scored: Sequence[ClipPrediction], classes: int) -> np.ndarray:
    return metrics.confusion([p.true_class for p in scored], [p.predicted_class for p in scored], classes=classes)


def _by_class(counts: np.ndarray, classes: Sequence[str], scores: Mapping[str, Interval]) -> list[dict[str, Any]]:
    hits, true, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
    return [
        {
            "name": name,
            "frames": int(true[i]),
            "precision": hits[i] / predicted[i] if predicted[i] else None,
            "recall": hits[i] / true[i] if true[i] else None,
            "f1": asdict(scores[f"f1 {name}"]),
        }
        for i, name in enumerate(classes)
    ]


def _by_column(clips: Sequence[ClipPrediction], task: str, scores: Mapping[str, Interval]) -> list[dict[str, Any]]:
    """The score of each column of a task, with its mean label."""
    labels = np.concatenate([c.true_scores[task] for c in clips if task in c.true_scores])
    return [
        {
            "task": SCORE_TASKS[task].title,
            "name": name,
            "labels": int(np.isfinite(labels[:, i]).sum()),
            "mean_label": float(np.nanmean(labels[:, i])) if np.isfinite(labels[:, i]).any() else None,
            "score": asdict(scores[column_key(task, name)]),
        }
        for i, name in enumerate(SCORE_TASKS[task].columns)
    ]


def _by_clip(clip: ClipPrediction, expression: bool, valence_arousal: bool, has_classes: bool) -> dict[str, Any]:
    """One clip's share of rows without evidence, and its accuracy if expressions are scored."""
    predicted = [clip.probabilities] * expression + [clip.valence_arousal] * valence_arousal + [*clip.scores.values()]
    has_evidence = np.isfinite(predicted[0] if predicted else clip.probabilities).all(axis=1)
    labelled = (clip.true_class != UNLABELLED) & has_classes
    is_right = clip.predicted_class[labelled] == clip.true_class[labelled]
    return {
        "id": clip.id,
        "frames": int(labelled.sum()),
        "accuracy": float(is_right.mean()) if labelled.any() else None,
        "without_evidence": float((~has_evidence).mean()) if len(has_evidence) else None,
    }


def _calibration(comparison: Comparison) -> dict[str, Any]:
    fitted = comparison.fitted
    chosen = "each subject by values chosen on the others" if comparison.nested else "chosen on other clips"
    rows = (
        ("as the recipe smooths", comparison.as_predicted, ""),
        (f"calibrated, {chosen}", comparison.calibrated, "chosen"),
        ("calibrated, chosen on the scored clips", comparison.optimistic, "optimistic"),
    )
    return {
        "rows": [
            {"name": name, "mark": mark, **{k: asdict(scores[k]) for k in SCORES if k in scores}}
            for name, scores, mark in rows
        ],
        "chosen": asdict(fitted.calibration),
        "smoothing": {part: str(getattr(fitted.calibration, part)) for part in ("expression", "valence", "arousal")},
        "nested": comparison.nested,
        "folds": fitted.folds,
        "grid": fitted.table.to_dicts(),
        "affect_grid": fitted.affect_table.to_dicts(),
        "calibration_error": {name: dict(values) for name, values in comparison.calibration_error.items()},
        "reliability": comparison.reliability.to_dicts(),
    }


def _reported(scores: Mapping[str, Interval], reported: Mapping[str, float], split: str) -> list[dict[str, Any]]:
    """Published scores with the obtained score of the same key and split, if there is one."""
    rows = []
    for key, value in reported.items():
        prefix, _, rest = key.partition("_")
        score = rest if rest in SCORES and key not in SCORES else key
        same_split = score == key or prefix == split
        name = SCORES.get(score, score.replace("_", " ")) + ("" if score == key else f", {prefix}")
        obtained = asdict(scores[score]) if same_split and score in scores else None
        rows.append({"name": name, "obtained": obtained, "reported": value})
    return rows


def _plain(value: Any) -> Any:
    """Converts to JSON types: NaN and infinity to None, numpy scalars and tuples to Python numbers and lists."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
