"""The cross-modal filter: a voice counts for a face while its mouth is open (arXiv 2603.13056, the authors' code).

Functions of time series in seconds: mouth openness at the pictures' times, whatever their rate.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mien.clock import median_step
from mien.records import Stream

#: Openings at most this long are no speech; closings at most this long end none (seconds, published).
SHORTEST_S, GAP_S = 0.20, 0.15
#: Of a training window: least share of it with the mouth open, least share of it with the mouth seen at all.
RATIO, COVERAGE = 0.25, 0.80
#: At fusion: least time open in a window, seconds.
LEAST_OPEN_S = 1.0


def talking(opening: np.ndarray, times: np.ndarray, threshold: float) -> np.ndarray:
    """`(time,)` bool: the mouth is open, as in speech. opening `(time,)`, NaN where no mouth was seen; times `(time,)`
    seconds, increasing; threshold: of openness.

    Gaps of at most `GAP_S` are filled first, then runs of at most `SHORTEST_S` are dropped; a run lasts from its first
    sample to the sample after its last. An unseen mouth is not open, and no gap is filled across one.
    """
    opened = np.nan_to_num(opening, nan=-np.inf) > threshold
    seen = np.isfinite(opening)
    edges = np.append(times, times[-1] + median_step(times)) if len(times) else times
    for start, stop in _runs(~opened):
        inside = start > 0 and stop < len(times)
        if inside and seen[start:stop].all() and edges[stop] - edges[start] <= GAP_S + 1e-9:
            opened[start:stop] = True
    for start, stop in _runs(opened):
        if edges[stop] - edges[start] <= SHORTEST_S + 1e-9:
            opened[start:stop] = False
    return opened


def window_facts(
    talks: np.ndarray, seen: np.ndarray, times: np.ndarray, start_s: float, stop_s: float
) -> tuple[float, float]:
    """Seconds open and seconds seen within [start_s, stop_s); each sample stands for the time to the next one."""
    if not len(times):
        return 0.0, 0.0
    edges = np.append(times, times[-1] + median_step(times))
    held = np.clip(np.minimum(edges[1:], stop_s) - np.maximum(edges[:-1], start_s), 0.0, None)
    return float(held[talks].sum()), float(held[seen].sum())


def trains(opened_s: float, seen_s: float, window_s: float) -> bool:
    """Whether a window of the voice is worth training on: open for a quarter of it, seen for four fifths."""
    return opened_s >= RATIO * window_s - 1e-9 and seen_s >= COVERAGE * window_s - 1e-9


def masked(voice: Stream, opening: np.ndarray, times: np.ndarray, threshold: float, window_s: float = 4.0) -> Stream:
    """The voice with everything invalid that lies in no window of `window_s` (half overlapping) in which the mouth was
    open for `LEAST_OPEN_S` and seen for four fifths: what fusion is given."""
    talks, seen = talking(opening, times, threshold), np.isfinite(opening)
    kept = np.zeros(len(voice.times), bool)
    last = float(voice.times[-1]) if len(voice.times) else 0.0
    for start in np.arange(0.0, max(last, 1e-9) + window_s / 2, window_s / 2):
        opened_s, seen_s = window_facts(talks, seen, times, start, start + window_s)
        if opened_s >= LEAST_OPEN_S - 1e-9 and seen_s >= COVERAGE * window_s - 1e-9:
            kept |= (voice.times >= start) & (voice.times < start + window_s)
    return replace(voice, valid=np.asarray(voice.valid) & kept)


def _runs(on: np.ndarray) -> list[tuple[int, int]]:
    change = np.flatnonzero(np.diff(np.concatenate(([False], on, [False])).astype(np.int8)))
    return list(zip(change[::2].tolist(), change[1::2].tolist(), strict=True))
