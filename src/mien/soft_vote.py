"""Soft vote: overlapping windows of tokens, the mean of their predictions, and smoothing over time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from mien.clock import TIME_DECIMALS
from mien.records import Window


def windows(tokens: int, length: int, hop: int) -> list[Window]:
    """Windows of `length` tokens every `hop` tokens that together cover all of `tokens`.

    The last one is aligned to the end. Fewer tokens than `length` give one short window, no tokens none. Raises
    ValueError if `hop` is not in 1..length, because windows would then miss tokens.
    """
    if not 1 <= hop <= length:
        raise ValueError(f"hop must lie in 1..length ({length}) so that windows cover every token, got {hop}")
    if tokens <= 0:
        return []
    if tokens <= length:
        return [Window(0, tokens)]
    starts = [*range(0, tokens - length, hop), tokens - length]
    return [Window(start, start + length) for start in starts]


def triangle_weights(length: int) -> np.ndarray:
    """Vote weights `(length,)` in (0, 1] that fall linearly from the middle of a window to its ends."""
    return np.minimum(np.arange(1, length + 1), np.arange(length, 0, -1)) / ((length + 1) // 2)


def vote(
    probabilities: Iterable[tuple[Window, np.ndarray]], tokens: int, *, triangular: bool = False, trailing: bool = False
) -> np.ndarray:
    """Soft vote: each token's mean over the windows that cover it; NaN where none does.

    Args:
        probabilities: windows and their `(length, k)` values, in any order; read once. Rows with a NaN are ignored.
        triangular: weight a window's rows by `triangle_weights`, because tokens near its ends have context on one side
            only.
        trailing: each window counts only for the tokens that no earlier window covers; windows must be in order.

    Returns `(tokens, k)` float64; `(tokens, 0)` if there is no window. Memory is that of the result.
    """
    total: np.ndarray | None = None
    weight, reached = np.zeros((tokens, 1)), 0
    for window, values in probabilities:
        if total is None:
            total = np.zeros((tokens, values.shape[1]))
        counts = ~np.isnan(values).any(axis=1, keepdims=True)
        if trailing:
            counts = counts & (np.arange(window.start, window.stop) >= reached)[:, None]
            reached = max(reached, window.stop)
        share = counts * (triangle_weights(len(values))[:, None] if triangular else 1.0)
        total[window.start : window.stop] += np.where(counts, values, 0) * share
        weight[window.start : window.stop] += share
    if total is None:
        return np.zeros((tokens, 0))
    with np.errstate(invalid="ignore"):
        return np.where(weight > 0, total / weight, np.nan)


def smooth(
    values: np.ndarray, times: np.ndarray, seconds: float | Sequence[float], *, hamming: bool = False
) -> np.ndarray:
    """Moving average over a centred window of `seconds` in total, in time and not in samples.

    NaN entries are ignored and stay NaN, so that smoothing fills no gaps. `seconds <= 0` returns a copy. O(time) by
    cumulative sums.

    Args:
        values: `(time, k)`. times: `(time,)` seconds, increasing.
        seconds: one width for all columns, or `k` widths.
        hamming: weight a neighbour `d` seconds away by a Hamming window, `.54 + .46 cos(2 pi d / seconds)`.
            The cosine of a difference is a sum of products, so cumulative sums still suffice.

    Returns `(time, k)` float64.
    """
    values = np.asarray(values, np.float64)
    if not isinstance(seconds, (int, float)):
        widths, smoothed = np.asarray(seconds, float), np.empty_like(values)
        for width in np.unique(widths).tolist():
            smoothed[:, widths == width] = smooth(values[:, widths == width], times, width, hamming=hamming)
        return smoothed
    if seconds <= 0 or not len(values):
        return values.copy()
    times = np.round(np.asarray(times, float), TIME_DECIMALS)
    low = np.searchsorted(times, np.round(times - seconds / 2, TIME_DECIMALS), side="left")
    high = np.searchsorted(times, np.round(times + seconds / 2, TIME_DECIMALS), side="right")
    present = ~np.isnan(values)

    def window_sum(part: np.ndarray) -> np.ndarray:
        sums = np.concatenate((np.zeros_like(part[:1], float), np.cumsum(part, axis=0, dtype=np.float64)))
        result: np.ndarray = sums[high] - sums[low]
        return result

    def weighted_sum(part: np.ndarray) -> np.ndarray:
        if not hamming:
            return window_sum(part)
        angle = 2 * np.pi * (times - times[0])[:, None] / seconds
        cosine = np.cos(angle) * window_sum(part * np.cos(angle)) + np.sin(angle) * window_sum(part * np.sin(angle))
        result: np.ndarray = 0.54 * window_sum(part) + 0.46 * cosine
        return result

    with np.errstate(invalid="ignore", divide="ignore"):
        mean = weighted_sum(np.where(present, values, 0.0)) / weighted_sum(present.astype(float))
        return np.where(present, mean, np.nan)
