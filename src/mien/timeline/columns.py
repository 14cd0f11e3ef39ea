"""Columns and types of a timeline's table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl

from mien.labels import (
    EXPRESSIONS,
    SCORE_TASKS,
    is_probability_column,
    probability_column,
    score_columns,
)

BOX = ("x1", "y1", "x2", "y2")
#: Decimals in CSV and JSON lines (Parquet keeps all): microseconds, hundredths of a pixel, 1e-5 elsewhere.
DECIMALS = {"time_s": 6, **dict.fromkeys(BOX, 2)}
#: Values of the column `speech`: the speech is the subject's, possibly the subject's, or another person's.
SPEECH = ("own", "shared", "other")
#: Columns of the quality of a reading; null in files that were written without them.
QUALITY: dict[str, Any] = {
    **dict.fromkeys(("face_score", "yaw", "pitch", "roll", "visible", "sharpness", "quality"), pl.Float32),
    "speech_db": pl.Float32,
    "uncertain": pl.Boolean,
}


def schema(classes: Sequence[str] = EXPRESSIONS, scores: Iterable[str] = ()) -> pl.Schema:
    """Columns and types of a timeline's table, in order. Missing values are null, never NaN or a marker.

    Args:
        classes: class names, in the order of their probability columns.
        scores: score tasks (`mien.labels.SCORE_TASKS`) that the model predicts, each with its columns at the end.
    """
    return pl.Schema(
        {
            "time_s": pl.Float64,
            "frame": pl.Int64,
            "subject": pl.Int64,
            **dict.fromkeys(BOX, pl.Float32),
            "evidence": pl.String,
            "speech": pl.String,
            "expression": pl.String,
            **{probability_column(name): pl.Float32 for name in classes},
            "valence": pl.Float32,
            "arousal": pl.Float32,
            "confidence": pl.Float32,
            **QUALITY,
            **{column: pl.Float32 for task in scores for column in score_columns(task)},
        }
    )


def file_schema(columns: Iterable[str]) -> pl.Schema:
    """Types of a file's columns: without them, a column whose first rows are empty would be read as text."""
    known = schema((), SCORE_TASKS)
    return pl.Schema({c: pl.Float32 if is_probability_column(c) else known.get(c, pl.String) for c in columns})
