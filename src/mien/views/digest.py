"""A timeline in a few numbers: what each subject showed, for how long, and on what evidence.

Everything is weighed by time, not by rows, so that a variable frame rate does not tilt a share.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from mien.labels import EXPRESSIONS

EVIDENCE: tuple[str, ...] = ("both", "face", "voice", "none")


@dataclass(frozen=True, slots=True)
class Stretch:
    """One expression named without interruption from start_s to stop_s (seconds; stop_s: the end of the last
    row's span). confidence: the mean over the stretch, in [0, 1]."""

    expression: str
    start_s: float
    stop_s: float
    confidence: float

    @property
    def seconds(self) -> float:
        return self.stop_s - self.start_s


@dataclass(frozen=True, slots=True)
class Digest:
    """One subject's timeline in numbers. shares: expression -> share of the time that has a named expression,
    largest first, in [0, 1]; unnamed: share of all time without one. evidence: kind -> share of all time.
    valence, arousal: means over the time that has them, in [-1, 1], or None. stretches: in order of time."""

    subject: int
    rows: int
    start_s: float
    stop_s: float
    shares: dict[str, float]
    unnamed: float
    evidence: dict[str, float]
    valence: float | None
    arousal: float | None
    stretches: tuple[Stretch, ...]

    def dominant(self, most: int = 6) -> list[Stretch]:
        """The longest stretches, in order of time."""
        longest = sorted(self.stretches, key=lambda s: -s.seconds)[:most]
        return sorted(longest, key=lambda s: s.start_s)


def digest(table: pl.DataFrame) -> list[Digest]:
    """The numbers of each subject of a timeline's table, by subject."""
    subjects = table["subject"].unique().sort().to_list()
    return [_one(subject, table.filter(pl.col("subject") == subject).sort("time_s")) for subject in subjects]


def spans(times: np.ndarray) -> np.ndarray:
    """How long each row stands, `(time,)` seconds: until the next row; the last as long as the median row. A
    single row stands for 0 s, and then counts as weight 1 wherever shares are taken."""
    if len(times) < 2:
        return np.zeros(len(times))
    gaps = np.diff(times)
    return np.append(gaps, np.median(gaps))


def _one(subject: int, table: pl.DataFrame) -> Digest:
    times = table["time_s"].to_numpy()
    lasting = spans(times)
    weight = lasting if lasting.sum() > 0 else np.ones(len(times))
    expression = np.array([EXPRESSIONS.index(e) if e else -1 for e in table["expression"]])
    seconds = {name: float(weight[expression == i].sum()) for i, name in enumerate(EXPRESSIONS)}
    named = sum(seconds.values())
    shares = {k: v / named for k, v in sorted(seconds.items(), key=lambda kv: -kv[1]) if v > 0}
    evidence = table["evidence"].to_numpy()
    return Digest(
        subject=subject,
        rows=len(table),
        start_s=float(times[0]),
        stop_s=float(times[-1] + lasting[-1]),
        shares=shares,
        unnamed=1 - named / float(weight.sum()),
        evidence={kind: float(weight[evidence == kind].sum() / weight.sum()) for kind in EVIDENCE},
        valence=_mean(table["valence"], weight),
        arousal=_mean(table["arousal"], weight),
        stretches=tuple(_stretches(times, lasting, expression, table["confidence"].to_numpy())),
    )


def _mean(column: pl.Series, weight: np.ndarray) -> float | None:
    values = column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    known = np.isfinite(values)
    return float(np.average(values[known], weights=weight[known])) if known.any() else None


def _stretches(times: np.ndarray, lasting: np.ndarray, expression: np.ndarray, confidence: np.ndarray) -> list[Stretch]:
    starts = np.flatnonzero(np.diff(expression, prepend=-2))
    stops = np.append(starts[1:], len(expression))
    sure = np.add.reduceat(confidence, starts) / (stops - starts)
    return [
        Stretch(EXPRESSIONS[expression[a]], float(times[a]), float(times[b - 1] + lasting[b - 1]), float(mean))
        for a, b, mean in zip(starts, stops, sure, strict=True)
        if expression[a] >= 0
    ]
