"""Cross-modal filter: use the voice only while the subject's mouth is open (arXiv 2603.13056 and its authors' code).

The functions take the openness of the mouth as a time series in seconds, at any rate.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mien.clock import median_step
from mien.records import Stream

#: Openings of at most this length are not speech; closures of at most this length do not end speech (seconds,
#: published).
MAX_NOISE_S, MAX_GAP_S = 0.20, 0.15
#: A training window needs at least this share of time with the mouth open, and with the mouth visible.
MIN_OPEN_SHARE, MIN_VISIBLE_SHARE = 0.25, 0.80
#: Fusion needs at least this time with the mouth open in a window, in seconds.
MIN_OPEN_S = 1.0


def detect_talking(opening: np.ndarray, times: np.ndarray, threshold: float) -> np.ndarray:
    """Detect when the mouth is open as in speech.

    Gaps of at most `MAX_GAP_S` are filled first, then runs of at most `MAX_NOISE_S` are dropped. A run lasts from its
    first sample to the sample after its last. An invisible mouth is not open, and no gap is filled across one.

    Args:
        opening: `(time,)` openness of the mouth in any unit, NaN where it is not visible.
        times: `(time,)` seconds, increasing.
        threshold: openness above which the mouth is open.

    Returns:
        `(time,)` bool.
    """
    is_open: np.ndarray = np.nan_to_num(opening, nan=-np.inf) > threshold
    visible = np.isfinite(opening)
    edges = np.append(times, times[-1] + median_step(times)) if len(times) else times
    for start, stop in _runs(~is_open):
        inside = start > 0 and stop < len(times)
        if inside and visible[start:stop].all() and edges[stop] - edges[start] <= MAX_GAP_S + 1e-9:
            is_open[start:stop] = True
    for start, stop in _runs(is_open):
        if edges[stop] - edges[start] <= MAX_NOISE_S + 1e-9:
            is_open[start:stop] = False
    return is_open


def window_durations(
    is_open: np.ndarray, visible: np.ndarray, times: np.ndarray, start_s: float, stop_s: float
) -> tuple[float, float]:
    """Seconds with the mouth open, and seconds with it visible, in [start_s, stop_s).

    Each sample lasts until the next one.

    is_open, visible: `(time,)` bool. times: `(time,)` seconds, increasing.
    """
    if not len(times):
        return 0.0, 0.0
    edges = np.append(times, times[-1] + median_step(times))
    duration = np.clip(np.minimum(edges[1:], stop_s) - np.maximum(edges[:-1], start_s), 0.0, None)
    return float(duration[is_open].sum()), float(duration[visible].sum())


def is_trainable(open_s: float, visible_s: float, window_s: float) -> bool:
    """Whether a window of the voice qualifies for training: open for a quarter of it, visible for four fifths."""
    return open_s >= MIN_OPEN_SHARE * window_s - 1e-9 and visible_s >= MIN_VISIBLE_SHARE * window_s - 1e-9


def mask_voice(
    voice: Stream, opening: np.ndarray, times: np.ndarray, threshold: float, window_s: float = 4.0
) -> Stream:
    """Mask the voice for fusion: valid only inside windows in which the subject speaks visibly.

    Windows of `window_s` seconds overlap by half. One qualifies if the mouth is open for `MIN_OPEN_S` and visible for
    four fifths of it. `opening`, `times` and `threshold` are those of `detect_talking`.
    """
    talking, visible = detect_talking(opening, times, threshold), np.isfinite(opening)
    qualified = np.zeros(len(voice.times), bool)
    last = float(voice.times[-1]) if len(voice.times) else 0.0
    for start in np.arange(0.0, max(last, 1e-9) + window_s / 2, window_s / 2):
        open_s, visible_s = window_durations(talking, visible, times, start, start + window_s)
        if open_s >= MIN_OPEN_S - 1e-9 and visible_s >= MIN_VISIBLE_SHARE * window_s - 1e-9:
            qualified |= (voice.times >= start) & (voice.times < start + window_s)
    return replace(voice, valid=np.asarray(voice.valid) & qualified)


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """Runs of true values as [start, stop) pairs."""
    change = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
    return list(zip(change[::2].tolist(), change[1::2].tolist(), strict=True))
