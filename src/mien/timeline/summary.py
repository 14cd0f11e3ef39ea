"""Summary of a timeline by subject: shares of expressions and evidence, means, and stretches of one expression.

Everything is weighted by time rather than by rows, so a variable frame rate does not bias it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from mien.clock import row_durations
from mien.labels import EXPRESSIONS, score_columns, score_tasks
from mien.records import Stretch, SubjectSummary

#: Values of the column `evidence`.
EVIDENCE: tuple[str, ...] = ("both", "face", "voice", "none")


def summarise(table: pl.DataFrame, classes: Sequence[str] = EXPRESSIONS) -> list[SubjectSummary]:
    """Summaries of a timeline's table, one per subject, sorted by subject.

    Args:
        classes: the timeline's class names.
    """
    subjects = table["subject"].unique().sort().to_list()
    return [
        _summarise_subject(subject, _rows_of(table, subject, len(subjects)), tuple(classes)) for subject in subjects
    ]


def _rows_of(table: pl.DataFrame, subject: int, subjects: int) -> pl.DataFrame:
    """The rows of a subject by time; the table itself, without a copy, where it holds no others and is sorted."""
    rows = table if subjects == 1 else table.filter(pl.col("subject") == subject)
    return rows if rows["time_s"].is_sorted() else rows.sort("time_s")


def _summarise_subject(subject: int, table: pl.DataFrame, classes: tuple[str, ...]) -> SubjectSummary:
    times = table["time_s"].to_numpy()
    durations = row_durations(times)
    weight = durations if durations.sum() > 0 else np.ones(len(times))
    number = {name: i for i, name in enumerate(classes)} | {None: -1, "": -1}
    expression = np.fromiter((number[name] for name in table["expression"]), np.int64, len(table))
    seconds = {name: float(weight[expression == i].sum()) for i, name in enumerate(classes)}
    total = sum(seconds.values())
    shares = {k: v / total for k, v in sorted(seconds.items(), key=lambda kv: -kv[1]) if v > 0}
    return SubjectSummary(
        subject=subject,
        rows=len(table),
        start_s=float(times[0]),
        stop_s=float(times[-1] + durations[-1]),
        shares=shares,
        unnamed=1 - total / float(weight.sum()),
        evidence={
            kind: float(weight[(table["evidence"] == kind).to_numpy()].sum() / weight.sum()) for kind in EVIDENCE
        },
        valence=_mean(table["valence"], weight),
        arousal=_mean(table["arousal"], weight),
        scores={c: _mean(table[c], weight) for task in score_tasks(table.columns) for c in score_columns(task)},
        stretches=tuple(_stretches(times, durations, expression, table["confidence"].to_numpy(), classes)),
    )


def _mean(column: pl.Series, weight: np.ndarray) -> float | None:
    values = column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    known = np.isfinite(values)
    return float(np.average(values[known], weights=weight[known])) if known.any() else None


def _stretches(
    times: np.ndarray,
    durations: np.ndarray,
    expression: np.ndarray,
    confidence: np.ndarray,
    classes: tuple[str, ...],
) -> list[Stretch]:
    starts = np.flatnonzero(np.diff(expression, prepend=-2))
    stops = np.append(starts[1:], len(expression))
    means = np.add.reduceat(confidence, starts) / (stops - starts)
    return [
        Stretch(classes[expression[a]], float(times[a]), float(times[b - 1] + durations[b - 1]), float(mean))
        for a, b, mean in zip(starts, stops, means, strict=True)
        if expression[a] >= 0
    ]
