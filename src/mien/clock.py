"""Times: the token clock, resampling to it, interpolation, nearest times and steps.

A token clock divides an interval of time into equal cells, one token each. Streams of any rate are resampled to it
(`resample`). Predictions on tokens come from overlapping windows (`mien.soft_vote`) and are read at any time
(`interpolate`). Arrays are numpy, values `(time, k)`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from mien.memory import release_pages
from mien.records import Stream

# Presentation times are fractions of a second rounded to floats. Times are compared in whole nanoseconds, so that the
# last bit does not move a sample on a cell's edge to the next cell; a nanosecond is far below any sample period.
TIME_DECIMALS = 9
#: Cells averaged at once, because their sums are float64: for an hour they would be as large as the stream.
_CELLS = 256
#: Times interpolated at once: on the way they take four times the memory of the result.
_QUERIES = 8192


def token_times(start_s: float, stop_s: float, rate_hz: float) -> np.ndarray:
    """Centres of the token cells that cover `[start_s, stop_s)`: `start_s + (i + .5) / rate_hz`, at least one.

    Returns `(time,)` float64 seconds. Raises ValueError for a rate that is not positive or times that are
    not finite.
    """
    if not rate_hz > 0:
        raise ValueError(f"rate_hz must be positive, got {rate_hz}")
    if not (np.isfinite(start_s) and np.isfinite(stop_s)):
        raise ValueError(f"start_s and stop_s must be finite, got {start_s} and {stop_s}")
    count = max(1, int(np.ceil(round((stop_s - start_s) * rate_hz, 6))))
    return start_s + (np.arange(count) + 0.5) / rate_hz


def token_count(seconds: float, rate_hz: float) -> int:
    """Number of tokens in a span of time, rounded, at least one."""
    return max(1, round(seconds * rate_hz))


def resample(
    stream: Stream, times: np.ndarray, rate_hz: float, tolerance_s: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Resample a stream to a token clock.

    A token is the mean of the valid samples in its cell `[t - 1/(2 rate), t + 1/(2 rate))`. A cell whose samples are
    all invalid is invalid, so that a missing face is not filled in. A cell without samples (a stream slower than the
    tokens) takes the nearest valid sample within `tolerance_s`, so that a slow stream holds its value. Values that are
    not finite count as invalid. One pass, O(samples + tokens).

    Args:
        stream: values `(sample, dim)`, times increasing.
        times: `(time,)` cell centres in seconds, increasing.
        tolerance_s: seconds; the default is one token or one sample period of the stream, whichever is longer.

    Returns:
        values `(time, dim)` float32, zero where invalid; valid `(time,)` bool.
    """
    return Resampler(stream, rate_hz, tolerance_s)(times)


class Resampler:
    """`resample` of one part of a token clock after another: the stream is examined once.

    Args:
        stream, rate_hz, tolerance_s: as `resample`.
    """

    def __init__(self, stream: Stream, rate_hz: float, tolerance_s: float | None = None) -> None:
        self._values, self._rate_hz, self._dim = stream.values, rate_hz, stream.dim
        self._times = np.round(np.asarray(stream.times, float), TIME_DECIMALS)
        usable = _usable(stream)
        self._usable_times, self._rows = self._times[usable], np.flatnonzero(usable)
        if tolerance_s is None:
            tolerance_s = max(1 / rate_hz, median_step(self._times))
        self._tolerance_s = tolerance_s + 10.0**-TIME_DECIMALS

    def __call__(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values `(time, dim)` float32 and validity `(time,)` of the tokens with these centres."""
        out, (first, last, held, near) = np.zeros((len(times), self._dim), np.float32), self._sources(times)
        valid = last > first
        cells = np.flatnonzero(valid)
        for part in (cells[i : i + _CELLS] for i in range(0, len(cells), _CELLS)):
            begin, end = first[part[0]], last[part[-1]]
            values = np.asarray(self._values[self._rows[begin:end]])
            out[part] = _cell_means(values, first[part] - begin, last[part] - begin)
            release_pages(self._values)
        out[held] = self._values[self._rows[near]]
        valid[held] = True
        return out, valid

    def valid(self, times: np.ndarray) -> np.ndarray:
        """`(time,)` bool, validity of the tokens, without reading a value."""
        first, last, held, _ = self._sources(times)
        valid = last > first
        valid[held] = True
        return valid

    def _sources(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Which samples each token takes its value from.

        Returns first, last: `(time,)` range `[first, last)` of usable samples whose mean is the token's value; held:
        indices of tokens without samples that repeat the nearest one; near: the usable sample that each repeats.
        """
        none = np.zeros(0, np.int64)
        if not len(self._rows) or not len(times):
            nothing = np.zeros(len(times), np.int64)
            return nothing, nothing, none, none
        low, high = (np.round(times + sign * 0.5 / self._rate_hz, TIME_DECIMALS) for sign in (-1, 1))
        first, last = np.searchsorted(self._usable_times, low), np.searchsorted(self._usable_times, high)
        empty = np.flatnonzero(np.searchsorted(self._times, high) <= np.searchsorted(self._times, low))
        if not len(empty):
            return first, last, none, none
        index = nearest(self._usable_times, times[empty])
        near = np.abs(self._usable_times[index] - times[empty]) <= self._tolerance_s
        return first, last, empty[near], index[near]


def _usable(stream: Stream) -> np.ndarray:
    """`(sample,)` bool: valid, with finite values. Read in parts, because a stream may be on disk."""
    usable = np.asarray(stream.valid, bool).copy()
    for start in range(0, len(usable), 4 * _CELLS):
        part = slice(start, start + 4 * _CELLS)
        usable[part] &= _are_finite(np.asarray(stream.values[part]))
        release_pages(stream.values)
    return usable


def _are_finite(values: np.ndarray) -> np.ndarray:
    """`(sample,)` bool: whether all values of a row are finite."""
    finite: np.ndarray
    if values.dtype == np.float16 and values.flags.c_contiguous:
        # An exponent of ones means infinity or NaN. Ten times faster than `isfinite`, which has no fast float16 loop.
        finite = (values.view(np.uint16) & 0x7C00).max(axis=1, initial=0) < 0x7C00
    else:
        finite = np.isfinite(values).all(axis=1)
    return finite


def _cell_means(values: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Means of `values[first[i]:last[i]]`, `(cell, dim)` float64."""
    if values.dtype == np.float16:
        # Three times faster than `reduceat`, and equal to the bit: sums of float16 values in float64 are exact.
        sums = np.empty((len(first), values.shape[1]))
        values = values.astype(np.float64)
        for i, (start, stop) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
            np.add.reduce(values[start:stop], axis=0, out=sums[i])
        exact: np.ndarray = sums / (last - first)[:, None]
        return exact
    # reduceat over [first, last, first, last, ...]: even segments are the cells, odd ones the gaps between them. An
    # index must be below the length, so the last cell's end is omitted, which means "to the end".
    edges = np.stack((first, last), axis=1).ravel()
    inside = edges[:-1] if edges[-1] >= len(values) else edges
    if inside.max() >= len(values):  # overlapping cells at the end need one more row to refer to
        values = np.concatenate((values, np.zeros_like(values[:1])))
    # cast first: `reduceat` with a dtype casts in small pieces, which takes twice as long
    sums = np.add.reduceat(values.astype(np.float64), inside, axis=0)[::2]
    means: np.ndarray = sums / (last - first)[:, None]
    return means


def nearest(sorted_times: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Index `(query,)` of the nearest of `(time,)` increasing times; of two equally near ones, the earlier.

    Raises ValueError if there are no times.
    """
    if not len(sorted_times):
        raise ValueError("nearest: there are no times to choose from")
    left, right = _neighbours(sorted_times, query)
    return np.where(query - sorted_times[left] <= sorted_times[right] - query, left, right)


def _neighbours(sorted_times: np.ndarray, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices `(query,)` of the times before and after each query; at the ends, those of the first or last two."""
    right = np.clip(np.searchsorted(sorted_times, query), 1, max(1, len(sorted_times) - 1))
    return right - 1, np.minimum(right, len(sorted_times) - 1)


def median_step(times: np.ndarray, default: float = 0.0) -> float:
    """Median distance of consecutive times in seconds; `default` for fewer than two times."""
    return float(np.median(np.diff(times))) if len(times) > 1 else default


def interpolate(
    values: np.ndarray, times: np.ndarray, query_times: np.ndarray, *, dtype: DTypeLike = np.float64
) -> np.ndarray:
    """Interpolate `(time, k)` values linearly at `query_times` `(query,)`; constant beyond the ends.

    Between a value and a NaN the nearer one is taken, so a NaN span ends half-way to its neighbours. Returns
    `(query, k)` of type `dtype`, computed in float64; NaN if there are no times.
    """
    values, times = np.asarray(values, np.float64), np.asarray(times, float)
    query = np.asarray(query_times, float)
    if not len(times):
        return np.full((len(query), values.shape[1]), np.nan, dtype)
    out = np.empty((len(query), values.shape[1]), dtype)
    for part in (slice(start, start + _QUERIES) for start in range(0, len(query), _QUERIES)):
        left, right = _neighbours(times, query[part])
        span = times[right] - times[left]
        away = query[part] - times[left]
        share = np.clip(np.divide(away, span, out=np.zeros_like(away), where=span > 0), 0, 1)[:, None]
        a, b = values[left], values[right]
        out[part] = np.where(np.isnan(a) | np.isnan(b), np.where(share <= 0.5, a, b), a + share * (b - a))
    return out


def row_durations(times: np.ndarray) -> np.ndarray:
    """Duration of each row, `(time,)` seconds: until the next row, for the last row the median step.

    A single row has 0 s; callers that compute shares give it weight 1.
    """
    if len(times) < 2:
        return np.zeros(len(times))
    return np.append(np.diff(times), median_step(times))
