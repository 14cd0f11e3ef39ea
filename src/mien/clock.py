"""Seconds to tokens and back: the one room that counts.

A token clock divides a stretch of time into equal cells, one token each. Streams of any rate are brought
onto it (`resample`), cut into windows (`windows`), and what a network said about the windows is laid back
onto the clock (`vote`), smoothed in seconds (`smooth`) and read off at any time (`at`). Numpy throughout;
values are `(time, k)`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mien.records import Stream, Window

# Presentation times are exact fractions of a second written as floats; a sample that lies on a cell's
# edge must not change cells by the last bit. Nanoseconds are far below any sample period and far above
# that bit.
_DECIMALS = 9


def token_times(start_s: float, stop_s: float, rate_hz: float) -> np.ndarray:
    """Centres of the cells that cover `[start_s, stop_s)`: `start_s + (i + .5) / rate_hz`, at least one.

    Returns `(time,)` float64 seconds. Raises ValueError for a rate that is not positive or times that are
    not finite.
    """
    if not rate_hz > 0:
        raise ValueError(f"rate_hz must be positive, got {rate_hz}")
    if not (np.isfinite(start_s) and np.isfinite(stop_s)):
        raise ValueError(f"start_s and stop_s must be finite, got {start_s} and {stop_s}")
    count = max(1, int(np.ceil(round((stop_s - start_s) * rate_hz, 6))))
    return start_s + (np.arange(count) + 0.5) / rate_hz


def tokens_in(seconds: float, rate_hz: float) -> int:
    """How many tokens a span takes, to the nearest one and at least one."""
    return max(1, round(seconds * rate_hz))


#: Cells averaged at once: their sums are doubles, and an hour of them would be as large as the stream.
_CELLS = 1024


def resample(
    stream: Stream, times: np.ndarray, rate_hz: float, tolerance_s: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """A stream on a token clock.

    A token is the mean of the valid samples in its cell `[t - 1/(2 rate), t + 1/(2 rate))`. A cell with
    samples of which none is valid stays invalid: a face that was looked for and not found is not filled
    in. A cell without any sample (a stream slower than the tokens) takes the nearest valid sample within
    `tolerance_s` seconds; the default is one token or one sample period of the stream, whichever is
    longer, so that a slow stream holds its value. Values that are not finite count as invalid wherever
    they stand.

    Args:
        stream: values `(sample, dim)`, times increasing.
        times: `(time,)` cell centres in seconds, increasing.

    Returns:
        values `(time, dim)` float32, zero where invalid; valid `(time,)` bool. One pass, O(samples + tokens).
    """
    out = np.zeros((len(times), stream.dim), np.float32)
    usable = np.asarray(stream.valid, bool) & np.isfinite(stream.values).all(axis=1)
    if not usable.any() or not len(times):
        return out, np.zeros(len(times), bool)
    low, high = (np.round(times + sign * 0.5 / rate_hz, _DECIMALS) for sign in (-1, 1))
    every = np.round(np.asarray(stream.times, float), _DECIMALS)
    seen = np.searchsorted(every, high) > np.searchsorted(every, low)
    when, values = every[usable], np.asarray(stream.values)[usable]
    first, last = np.searchsorted(when, low), np.searchsorted(when, high)
    valid = last > first
    cells = np.flatnonzero(valid)
    for part in (cells[i : i + _CELLS] for i in range(0, len(cells), _CELLS)):
        begin, end = first[part[0]], last[part[-1]]
        out[part] = _means(values[begin:end], first[part] - begin, last[part] - begin)
    empty = np.flatnonzero(~seen)
    if len(empty):
        if tolerance_s is None:
            tolerance_s = max(1 / rate_hz, median_step(every))
        pick = nearest(when, times[empty])
        near = np.abs(when[pick] - times[empty]) <= tolerance_s + 10.0**-_DECIMALS
        out[empty[near]] = values[pick[near]]
        valid[empty[near]] = True
    return out, valid


def _means(values: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    # reduceat over [first, last, first, last, ...]: the even segments are the cells, the odd ones the
    # gaps between. An index may not equal the length, so the last cell's end is left to mean "to the
    # end".
    edges = np.stack((first, last), axis=1).ravel()
    inside = edges[:-1] if edges[-1] >= len(values) else edges
    if inside.max() >= len(values):  # overlapping cells at the end: give them a row to point at
        values = np.concatenate((values, np.zeros_like(values[:1])))
    sums = np.add.reduceat(values, inside, axis=0, dtype=np.float64)[::2]
    return sums / (last - first)[:, None]


def nearest(sorted_times: np.ndarray, query: np.ndarray) -> np.ndarray:
    """`(query,)` int: the index of the nearest of `(time,)` increasing times, the earlier one of two at the same
    distance. Raises ValueError if there are no times."""
    if not len(sorted_times):
        raise ValueError("nearest: no times to choose from")
    right = np.clip(np.searchsorted(sorted_times, query), 1, max(1, len(sorted_times) - 1))
    left = right - 1
    right = np.minimum(right, len(sorted_times) - 1)
    return np.where(query - sorted_times[left] <= sorted_times[right] - query, left, right)


def median_step(times: np.ndarray, default: float = 0.0) -> float:
    """Median distance of neighbouring times in seconds; `default` for fewer than two times."""
    return float(np.median(np.diff(times))) if len(times) > 1 else default


def windows(tokens: int, length: int, hop: int) -> list[Window]:
    """Windows of `length` tokens every `hop` that together cover every token of a clock of `tokens`.

    The last one is aligned to the end. Fewer tokens than `length`: one short window. No tokens: none.
    Raises ValueError if `hop` is not in 1..length, since tokens would fall between windows.
    """
    if not 1 <= hop <= length:
        raise ValueError(f"hop must lie in 1..length ({length}) so that windows cover every token, got {hop}")
    if tokens <= 0:
        return []
    if tokens <= length:
        return [Window(0, tokens)]
    starts = [*range(0, tokens - length, hop), tokens - length]
    return [Window(start, start + length) for start in starts]


def triangle(length: int) -> np.ndarray:
    """Vote weights `(length,)` that fall linearly from the middle of a window to its ends, all positive."""
    return np.minimum(np.arange(1, length + 1), np.arange(length, 0, -1)) / ((length + 1) // 2)


def vote(
    probabilities: Iterable[tuple[Window, np.ndarray]], tokens: int, *, triangular: bool = False, trailing: bool = False
) -> np.ndarray:
    """Soft vote: each token's mean over the windows that cover it; NaN where none does.

    Args:
        probabilities: window and its `(length, k)` values, in any order; read once. A row with a NaN
            abstains.
        triangular: weigh a window's rows by `triangle`, so that tokens near its ends, which saw context
            on one side only, count less.
        trailing: a window answers only for tokens beyond all earlier windows' ends; windows come in order.

    Returns `(tokens, k)` float64; `(tokens, 0)` if there was no window. Time is that of reading the
    input; memory is that of the result.
    """
    total: np.ndarray | None = None
    weight, reached = np.zeros((tokens, 1)), 0
    for window, values in probabilities:
        if total is None:
            total = np.zeros((tokens, values.shape[1]))
        speaks = ~np.isnan(values).any(axis=1, keepdims=True)
        if trailing:
            speaks = speaks & (np.arange(window.start, window.stop) >= reached)[:, None]
            reached = max(reached, window.stop)
        share = speaks * (triangle(len(values))[:, None] if triangular else 1.0)
        total[window.start : window.stop] += np.where(speaks, values, 0) * share
        weight[window.start : window.stop] += share
    if total is None:
        return np.zeros((tokens, 0))
    with np.errstate(invalid="ignore"):
        return np.where(weight > 0, total / weight, np.nan)


def smooth(values: np.ndarray, times: np.ndarray, seconds: float, *, hamming: bool = False) -> np.ndarray:
    """Moving mean over a centred window of total width `seconds`, in time and not in samples.

    `(time, k)` at increasing `times`. NaN entries give nothing to their neighbours and stay NaN:
    smoothing invents no evidence. `seconds <= 0` returns a copy. O(time) by cumulative sums.

    hamming: weigh a neighbour `d` seconds away by `.54 + .46 cos(2 pi d / seconds)` (a Hamming window) instead of
    evenly. The cosine of a difference is a sum of products, so cumulative sums do that too.
    """
    values = np.asarray(values, np.float64)
    if seconds <= 0 or not len(values):
        return values.copy()
    when = np.round(np.asarray(times, float), _DECIMALS)
    low = np.searchsorted(when, np.round(when - seconds / 2, _DECIMALS), side="left")
    high = np.searchsorted(when, np.round(when + seconds / 2, _DECIMALS), side="right")
    present = ~np.isnan(values)

    def over(part: np.ndarray) -> np.ndarray:
        sums = np.concatenate((np.zeros_like(part[:1], float), np.cumsum(part, axis=0, dtype=np.float64)))
        return sums[high] - sums[low]

    def weighed(part: np.ndarray) -> np.ndarray:
        if not hamming:
            return over(part)
        angle = 2 * np.pi * (when - when[0])[:, None] / seconds
        turned = np.cos(angle) * over(part * np.cos(angle)) + np.sin(angle) * over(part * np.sin(angle))
        return 0.54 * over(part) + 0.46 * turned

    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(present, weighed(np.where(present, values, 0.0)) / weighed(present.astype(float)), np.nan)


def at(values: np.ndarray, times: np.ndarray, query_times: np.ndarray) -> np.ndarray:
    """`(time, k)` values read off at `query_times` `(query,)`: linear between neighbours, the ends held.

    Between a value and a NaN the nearer one counts, so a NaN span stays NaN and ends half-way to its
    neighbours.
    """
    values, times = np.asarray(values, np.float64), np.asarray(times, float)
    query = np.asarray(query_times, float)
    if not len(times):
        return np.full((len(query), values.shape[1]), np.nan)
    right = np.clip(np.searchsorted(times, query), 1, max(1, len(times) - 1))
    left = right - 1
    right = np.minimum(right, len(times) - 1)
    span = times[right] - times[left]
    share = np.clip(np.divide(query - times[left], span, out=np.zeros_like(query), where=span > 0), 0, 1)
    a, b, share = values[left], values[right], share[:, None]
    nearer = np.where(share <= 0.5, a, b)
    blend = a + share * (b - a)
    return np.where(np.isnan(a) | np.isnan(b), nearer, blend)


def row_durations(times: np.ndarray) -> np.ndarray:
    """How long each row stands, `(time,)` seconds: until the next row; the last as long as the median row. A
    single row stands for 0 s, and then counts as weight 1 wherever shares are taken."""
    if len(times) < 2:
        return np.zeros(len(times))
    return np.append(np.diff(times), median_step(times))
