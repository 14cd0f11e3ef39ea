"""An evaluation as one record of plain numbers: what the report draws and what is kept as JSON beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import polars as pl

from mien.evaluation import bootstrap
from mien.evaluation.bootstrap import Interval
from mien.evaluation.calibration import Comparison, calibration_error, reliability
from mien.evaluation.predictions import ClipPrediction
from mien.labels import EXPRESSIONS, UNLABELLED

#: Names of the scores that papers print, and what they are called here.
SCORES = {
    "macro_f1": "macro F1",
    "accuracy": "accuracy",
    "ccc valence": "CCC valence",
    "ccc arousal": "CCC arousal",
    "va_score": "mean CCC",
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
    draws: int = bootstrap.DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything there is to say about predictions of some clips, as dicts, lists, strings and numbers (None where a
    number does not exist).

    Args:
        name: of the system. split: of the clips that are scored, for the reader.
        over: classes that the macro F1 runs over, see `bootstrap.expression`.
        comparison: of `calibrate.compare` on these clips. curves: of `robustness.curve`.
        reported: published numbers by score, as a recipe has them: `macro_f1`, or with the split `val_macro_f1`.
        differs: what is not as in the publication, in words.
    """
    has_classes = any((p.expression != UNLABELLED).any() for p in scored)
    has_affect = any(np.isfinite(p.true_valence_arousal).all(axis=1).any() for p in scored)
    options = {"draws": draws, "seed": seed}
    expression = bootstrap.expression(scored, classes=classes, over=over, **options) if has_classes else {}
    affect = bootstrap.affect(scored, **options) if has_affect else {}
    found = {**expression, **affect}
    record = {
        "name": name,
        "split": split,
        "classes": list(classes),
        "clips": len(scored),
        "groups": len({p.group or p.id for p in scored}),
        "frames": int(sum((p.expression != UNLABELLED).sum() for p in scored)) if has_classes else None,
        "draws": draws,
        "level": bootstrap.LEVEL,
        "scores": [{"key": k, "name": SCORES[k], **asdict(found[k])} for k in SCORES if k in found],
        "by_class": _by_class(scored, classes, expression) if has_classes else [],
        "confusion": _pooled(scored, len(classes)).tolist() if has_classes else [],
        "by_clip": [_clip(p) for p in scored],
        "calibration_error": calibration_error(scored) if has_classes else None,
        "reliability": reliability(scored).to_dicts() if has_classes else [],
        "calibration": _calibration(comparison) if comparison else None,
        "robustness": curves.to_dicts() if curves is not None else [],
        "reported": _reported(found, reported or {}, split),
        "differs": list(differs),
        "notes": list(notes),
    }
    return dict(_plain(record))


def _pooled(scored: Sequence[ClipPrediction], classes: int) -> np.ndarray:
    return bootstrap.confusions([p.expression for p in scored], [p.chosen for p in scored], classes=classes).sum(axis=0)


def _by_class(
    scored: Sequence[ClipPrediction], classes: Sequence[str], found: Mapping[str, Interval]
) -> list[dict[str, Any]]:
    counts = _pooled(scored, len(classes))
    hits, true, said = np.diag(counts), counts.sum(1), counts.sum(0)
    return [
        {
            "name": name,
            "frames": int(true[i]),
            "precision": hits[i] / said[i] if said[i] else None,
            "recall": hits[i] / true[i] if true[i] else None,
            "f1": asdict(found[f"f1 {name}"]),
        }
        for i, name in enumerate(classes)
    ]


def _clip(clip: ClipPrediction) -> dict[str, Any]:
    kept = clip.expression != UNLABELLED
    sure = np.isfinite(clip.probabilities).all(axis=1)
    return {
        "id": clip.id,
        "frames": int(kept.sum()),
        "accuracy": float((clip.chosen[kept] == clip.expression[kept]).mean()) if kept.any() else None,
        "without_evidence": float((~sure).mean()) if len(sure) else None,
    }


def _calibration(comparison: Comparison) -> dict[str, Any]:
    fitted = comparison.fitted
    rows = (
        ("as predicted", comparison.as_predicted, ""),
        ("corrected, chosen inside the training clips", comparison.honest, "chosen"),
        ("corrected, tuned on the scored clips", comparison.optimistic, "optimistic"),
    )
    return {
        "rows": [
            {"name": name, "mark": mark, **{k: asdict(said[k]) for k in SCORES if k in said}}
            for name, said, mark in rows
        ],
        "chosen": asdict(fitted.calibration),
        "tuned": asdict(comparison.tuned_on_scored),
        "held_out": fitted.held_out,
        "before": fitted.before,
        "folds": fitted.folds,
        "grid": fitted.table.to_dicts(),
        "affect_grid": fitted.affect_table.to_dicts(),
        "calibration_error": {name: dict(values) for name, values in comparison.calibration_error.items()},
        "reliability": comparison.reliability.to_dicts(),
    }


def _reported(found: Mapping[str, Interval], reported: Mapping[str, float], split: str) -> list[dict[str, Any]]:
    rows = []
    for key, value in reported.items():
        where, _, rest = key.partition("_")
        score = rest if rest in SCORES and key not in SCORES else key
        here = score == key or where == split
        name = SCORES.get(score, score.replace("_", " ")) + ("" if score == key else f", {where}")
        rows.append(
            {"name": name, "obtained": asdict(found[score]) if here and score in found else None, "reported": value}
        )
    return rows


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity, and knows nothing of numpy."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
