"""Who is there: no estimate for a subject whose face and own speech are absent.

A network over windows answers at every token of a window, also where the subject has neither face nor speech: a system
that reads each token alone then returns a uniform distribution, a system with context repeats what came before. A
Timeline keeps only what rests on evidence at that moment, or shortly before or after it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mien import clock
from mien.records import Stream

#: Seconds from the nearest evidence up to which a row keeps an estimate. Our choice: it bridges a hand, a blink of the
#: tracker or a pause between words, and stays below half a second, the length of the shortest expressions (Ekman and
#: Friesen 1969: half a second to four), so that the expression before the gap may still be there.
ABSENT_AFTER_S = 0.4


def is_near(evidence: np.ndarray, times: np.ndarray) -> np.ndarray:
    """`(time,)` bool: whether a time with evidence is at most `ABSENT_AFTER_S` away. evidence: `(time,)` bool."""
    known = times[evidence]
    if not len(known):
        return np.zeros(len(times), bool)
    near: np.ndarray = np.abs(known[clock.nearest(known, times)] - times) <= ABSENT_AFTER_S + 1e-6
    return near


def supported_tokens(streams: Iterable[Stream], token_times: np.ndarray, rate_hz: float) -> np.ndarray:
    """`(token,)` bool: whether any stream has a valid sample for the token, resampled as the network reads it.

    Args:
        streams: inputs of one subject.
        token_times: `(token,)` seconds. rate_hz: tokens a second, used where there is only one token.
    """
    step = clock.median_step(token_times)
    rate_hz = 1 / step if step > 0 else rate_hz
    supported = np.zeros(len(token_times), bool)
    for stream in streams:
        mask = Stream(np.zeros((len(stream.times), 1), np.float32), stream.times, np.asarray(stream.valid, bool))
        supported |= clock.resample(mask, token_times, rate_hz)[1]
    return supported


def rows_from_tokens(
    values: np.ndarray, token_times: np.ndarray, supported: np.ndarray, times: np.ndarray, seen: np.ndarray
) -> np.ndarray:
    """Predictions at the times of the rows, `(row, k)` float32; NaN where the subject is not seen.

    Supported tokens are interpolated. A row between them, in a gap of the evidence, takes the nearest row's values.

    Args:
        values: `(token, k)` predictions. supported: `(token,)` bool, see `supported_tokens`.
        times: `(row,)` seconds. seen: `(row,)` bool, see `is_near`.
    """
    values = np.where(supported[:, None], values, np.nan)
    rows = clock.interpolate(values, token_times, times, dtype=np.float32)
    is_known = np.isfinite(rows).any(axis=1)
    gaps, known = np.flatnonzero(seen & ~is_known), np.flatnonzero(is_known)
    if len(known):
        source = known[clock.nearest(times[known], times[gaps])]
        is_held = np.abs(times[source] - times[gaps]) <= ABSENT_AFTER_S + 1e-6
        rows[gaps[is_held]] = rows[source[is_held]]
    rows[~seen] = np.nan
    return rows
