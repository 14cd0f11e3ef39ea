"""Tables of one subject, for tests of timelines and their views."""

from __future__ import annotations

import numpy as np
import polars as pl

from mien.timeline.subject_rows import subject_rows


def rows(
    n: int = 40, subject: int = 0, *, gap: slice | None = None, seed: int = 0, **overrides: object
) -> pl.DataFrame:
    """Table of one subject with n rows at 25 Hz; rows in `gap` have no evidence in reach."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(8), n)
    if gap is not None:
        probabilities[gap] = np.nan
    defaults = {
        "probabilities": probabilities,
        "valence_arousal": rng.uniform(-1, 1, (n, 2)),
        "voice": rng.random(n) < 0.5,
        "face": rng.random(n) < 0.5,
        "boxes": np.tile([10.0, 20.0, 110.0, 140.0], (n, 1)),
        "frames": np.arange(n),
    }
    return subject_rows(subject, np.arange(n) / 25, **{**defaults, **overrides})
