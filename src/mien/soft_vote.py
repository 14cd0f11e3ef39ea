"""Soft vote: overlapping windows of tokens, the mean of their predictions, and smoothing over time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np

from mien.clock import TIME_DECIMALS
from mien.records import Window

#: How a sample's neighbours are weighted in `smooth`.
Kernel = Literal["mean", "hamming", "gaussian", "median"]
#: The kernels in words.
KERNELS: dict[Kernel, str] = {
    "mean": "moving mean", "hamming": "Hamming window", "gaussian": "Gaussian", "median": "moving median",
}  # fmt: skip

#: Tokens in a part of `vote_in_parts`. Our choice: 2 MB of the voice's features.
PART = 1024


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


def new_parts(windows: Sequence[Window], start: int = 0) -> list[Window]:
    """The part of each window that no earlier one covers, and that is not before token `start`; windows in order."""
    ends = [start, *(window.stop for window in windows)]
    return [Window(max(window.start, end), window.stop) for window, end in zip(windows, ends, strict=False)]


def vote(probabilities: Iterable[tuple[Window, np.ndarray]], tokens: int, *, triangular: bool = False) -> np.ndarray:
    """Soft vote: each token's mean over the windows that cover it; NaN where none does.

    Args:
        probabilities: windows and their `(length, k)` values, in any order; read once. Rows with a NaN are ignored.
        triangular: weight a window's rows by `triangle_weights`, because tokens near its ends have context on one side
            only.

    Returns `(tokens, k)` float64; `(tokens, 0)` if there is no window. Memory is that of the result.
    """
    votes: _Votes | None = None
    for window, values in probabilities:
        votes = votes or _Votes(Window(0, tokens), values.shape[1], triangular)
        votes.add(window, values)
    return np.zeros((tokens, 0)) if votes is None else votes.mean()


def vote_in_parts(probabilities: Iterable[tuple[Window, np.ndarray]], tokens: int) -> Iterator[np.ndarray]:
    """`vote` of consecutive parts of the tokens, `(up to PART, k)` each; none if there is no window.

    Args:
        probabilities: as `vote`, by increasing start. They are read as they are needed, so that memory is that of a
            part and of the windows that overlap it.
    """
    source = iter(probabilities)
    following = next(source, None)
    if following is None:
        return
    width = following[1].shape[1]
    overlapping: list[tuple[Window, np.ndarray]] = []
    for start in range(0, tokens, PART):
        votes = _Votes(Window(start, min(start + PART, tokens)), width, False)
        while following is not None and following[0].start < votes.stop:
            overlapping.append(following)
            following = next(source, None)
        for window, values in overlapping:
            votes.add(window, values)
        overlapping = [each for each in overlapping if each[0].stop > votes.stop]
        yield votes.mean()


class _Votes:
    """Weighted sums of the votes for a range of tokens. stop: its end. width: of the values."""

    def __init__(self, tokens: Window, width: int, triangular: bool) -> None:
        self._start, self.stop, self._triangular = tokens.start, tokens.stop, triangular
        self._total, self._weight = (np.zeros((tokens.stop - tokens.start, columns)) for columns in (width, 1))

    def add(self, window: Window, values: np.ndarray) -> None:
        """Add what a window `(length, width)` says of the range."""
        counts = ~np.isnan(values).any(axis=1, keepdims=True)
        share = counts * (triangle_weights(len(values))[:, None] if self._triangular else 1.0)
        inside = slice(max(0, self._start - window.start), max(0, self.stop - window.start))
        place = slice(max(window.start, self._start) - self._start, min(window.stop, self.stop) - self._start)
        self._total[place] += (np.where(counts, values, 0) * share)[inside]
        self._weight[place] += share[inside]

    def mean(self) -> np.ndarray:
        """`(tokens, width)`, NaN where no window voted."""
        with np.errstate(invalid="ignore"):
            return np.where(self._weight > 0, self._total / self._weight, np.nan)


def smooth(
    values: np.ndarray, times: np.ndarray, seconds: float | Sequence[float], *, kernel: Kernel = "mean"
) -> np.ndarray:
    """Moving average or median over a centred window of `seconds` in total, in time and not in samples.

    NaN entries are ignored and stay NaN, so that smoothing fills no gaps. `seconds <= 0` returns a copy.

    Args:
        values: `(time, k)`. times: `(time,)` seconds, increasing.
        seconds: one width for all columns, or `k` widths.
        kernel: `mean`; `hamming`, which weights a neighbour `d` seconds away by `.54 + .46 cos(2 pi d / seconds)`;
            `gaussian`, three moving means over a third of `seconds` each, which is within 7 % of a Gaussian with a
            standard deviation of a sixth of `seconds`; `median`, of each column on its own, so that the columns of a
            row need not add up to what they did.

    Returns `(time, k)` float64. O(time), the median O(time x window).
    """
    values = np.asarray(values, np.float64)
    if not isinstance(seconds, (int, float)):
        widths, smoothed = np.asarray(seconds, float), np.empty_like(values)
        for width in np.unique(widths).tolist():
            smoothed[:, widths == width] = smooth(values[:, widths == width], times, width, kernel=kernel)
        return smoothed
    if seconds <= 0 or not len(values):
        return values.copy()
    if kernel == "median":
        return _rolling_median(values, times, seconds)
    if kernel == "gaussian":
        for _ in range(3):
            values = _weighted_mean(values, times, seconds / 3, hamming=False)
        return values
    return _weighted_mean(values, times, seconds, hamming=kernel == "hamming")


def _weighted_mean(values: np.ndarray, times: np.ndarray, seconds: float, *, hamming: bool) -> np.ndarray:
    """`smooth` by cumulative sums; the cosine of a difference is a sum of products, so they suffice for Hamming too."""
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


def _rolling_median(values: np.ndarray, times: np.ndarray, seconds: float) -> np.ndarray:
    """`smooth` by medians of the present values."""
    import polars as pl

    unit = 10**TIME_DECIMALS
    half = round(seconds / 2 * unit)
    names = [str(column) for column in range(values.shape[1])]
    table = pl.DataFrame(values, schema=names, orient="row").with_columns(pl.all().fill_nan(None))
    table = table.with_columns(pl.Series("time", np.round(np.asarray(times, float) * unit).astype(np.int64)))
    rolled = table.rolling("time", period=f"{2 * half}i", offset=f"-{half}i", closed="both")
    medians = rolled.agg(pl.col(names).median()).select(names).to_numpy()
    return np.where(np.isnan(values), np.nan, medians)
