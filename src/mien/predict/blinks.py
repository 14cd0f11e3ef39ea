"""Blinks of one person, from the opening between the lids over time.

A blink is a dip of the opening that lasts 0.1 to 0.4 s. The opening is compared with its closing in the sense of
mathematical morphology (a running maximum, then a running minimum), which fills dips shorter than its window and leaves
slower movements: smiling eyes, lids lowered in a glance down, and eyes that stay closed.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from mien import clock

#: Longest dip in seconds that counts as a blink. Blinks last 0.1 to 0.4 s (Stern, Walrath and Goldstein 1984, The
#: endogenous eyeblink, Psychophysiology 21(1)); the rest is for blinks with a slow end. Our choice.
LONGEST_S = 0.5
#: Share of the person's usual opening by which the lids must close, and by which a dip begins and ends. The
#: face mesh reports only a part of a closure: dips of 0.07 to 0.26 on rendered blinks, 0.3 to 0.6 on simulated meshes;
#: elsewhere 99 % of the frames are below 0.06 to 0.09 on the former. Our choice, from both (`bench/features.py`).
DEEP, BEGINS = 0.1, 0.05
#: Share of the depth of a dip by which the lids count as closed. Our choice: half, as widths are mostly measured.
CLOSED_SHARE = 0.5
#: Longest time in seconds between two frames in which blinks can be seen. Our choice: two frames in a blink.
LONGEST_STEP_S = 0.07
#: A longer gap in the face in seconds separates stretches. Our choice.
_GAP_S = 0.25


def find_blinks(opening: np.ndarray, times: np.ndarray) -> np.ndarray | None:
    """Find the blinks of one person.

    Args:
        opening: `(frame,)` opening between the lids, in any unit, NaN without a face.
        times: `(frame,)` seconds, increasing.

    Returns:
        `(frame,)` int: 0, or the number of the blink that the frame belongs to, from 1. None if the frames are further
        apart than `LONGEST_STEP_S`, so that blinks fall between them.
    """
    known = np.flatnonzero(np.isfinite(opening))
    numbers = np.zeros(len(opening), np.int64)
    if len(times) < 2 or clock.median_step(times) > LONGEST_STEP_S:
        return None
    if not len(known):
        return numbers
    usual = float(np.median(opening[known]))
    window = max(3, round(LONGEST_S / clock.median_step(times)) | 1)
    found = 0
    for stretch in np.split(known, np.flatnonzero(np.diff(times[known]) > _GAP_S) + 1):
        values = opening[stretch]
        depth = (_closing(values, window) - values) / max(usual, 1e-9)
        for first, end in _runs(depth > BEGINS):
            dip = depth[first:end]
            # lids open slowly after a blink, and a second one may follow before they are open
            for start, stop in _runs(dip > CLOSED_SHARE * dip.max()):
                if dip[start:stop].max() >= DEEP:
                    found += 1
                    numbers[stretch[first + start : first + stop]] = found
    return numbers


def _closing(values: np.ndarray, window: int) -> np.ndarray:
    """Running maximum, then running minimum, over `window` values (odd), fewer at the ends."""
    ends = (window // 2, window // 2)
    highest = sliding_window_view(np.pad(values, ends, constant_values=-np.inf), window).max(axis=1)
    closed: np.ndarray = sliding_window_view(np.pad(highest, ends, constant_values=np.inf), window).min(axis=1)
    return closed


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """Start and stop of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
