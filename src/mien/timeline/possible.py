"""Values that a timeline can have: what truncation and damage leave is refused."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from mien.labels import probability_column

#: Largest error of a sum of probabilities. Files round each to 1e-5, and a calibration keeps the sum.
_SUM_TOLERANCE = 0.01


def check_possible(table: pl.DataFrame, classes: Sequence[str]) -> None:
    """Raise ValueError, with the first row, for a timeline's table with values that no prediction has.

    Times are finite, not negative, and increase for each subject. Probabilities and confidence are in [0, 1], and the
    probabilities of a row are all there, with the sum 1, or none is. Valence and arousal are in [-1, 1]. Frames are not
    negative; a box has four finite corners in order, or none.
    """
    probabilities = [probability_column(name) for name in classes]
    some = pl.any_horizontal(pl.col(name).is_not_null() for name in probabilities)
    every = pl.all_horizontal(pl.col(name).is_not_null() for name in probabilities)
    total = pl.sum_horizontal(pl.col(name) for name in probabilities)
    corner = [pl.col(name) for name in ("x1", "y1", "x2", "y2")]
    seen = pl.any_horizontal(c.is_not_null() for c in corner)
    boxed = pl.all_horizontal(c.is_finite() for c in corner) & (corner[0] <= corner[2]) & (corner[1] <= corner[3])
    step = pl.col("time_s").diff().over("subject")
    rules: dict[str, pl.Expr] = {
        "time_s is not a number from 0 up": ~(pl.col("time_s").is_finite() & (pl.col("time_s") >= -1e-6)),
        "time_s does not increase": step <= 0,
        "the frame is negative": pl.col("frame") < 0,
        "confidence is missing": pl.col("confidence").is_null(),
        **{f"{name} is not in [0, 1]": ~_between(name, 0.0, 1.0) for name in (*probabilities, "confidence")},
        **{f"{name} is not in [-1, 1]": ~_between(name, -1.0, 1.0) for name in ("valence", "arousal")},
        "some probabilities are missing": some & ~every,
        "the probabilities do not have the sum 1": every & ((total - 1).abs() > _SUM_TOLERANCE),
        "the box is not one": seen & ~boxed.fill_null(value=False),
    }
    broken = table.select([rule.fill_null(value=False).alias(str(i)) for i, rule in enumerate(rules.values())])
    for i, what in enumerate(rules):
        if broken[str(i)].any():
            raise ValueError(f"row {int(broken[str(i)].arg_max() or 0) + 1}: {what}")


def _between(name: str, low: float, high: float) -> pl.Expr:
    return pl.col(name).is_between(low - 1e-4, high + 1e-4)
