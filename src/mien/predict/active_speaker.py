"""Whose voice it is: the one whose mouth moves while it is heard.

A recording's sound is one. With several people in view, a stretch of speech belongs to the one whose mouth moves with
it; where that cannot be told (nobody's mouth moves, or two do) it is shared by all. Our choice, by measurement: over a
second of speech the opening between the lips of talking faces changes by 0.26 to 0.9 of the face's unit of length a
second (six recordings), by 0.06 to 0.25 when they are silent.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from mien.clock import median_step

#: What speech is to a subject, in the Timeline's column `speech`.
OWN, SHARED, OTHER = "own", "shared", "other"
#: Mean change of the mouth's opening, in its unit a second, from which a mouth counts as talking, and how many times
#: the next one's it must be.
TALKING, AHEAD = 0.2, 2.0
#: Speech that pauses for less than this is one stretch; stretches are judged in pieces of about so long, because
#: people answer one another without a pause.
PAUSE_S, PIECE_S = 0.3, 1.0
#: Share of a piece in which a face must be seen to be judged.
SEEN = 0.5


def attributed(openings: Sequence[np.ndarray], times: np.ndarray, heard: np.ndarray) -> np.ndarray:
    """`(subject, time)` str: what the speech at each time is to each subject; empty where nobody speaks.

    Args:
        openings: of each subject, `(time,)` opening between the lips (`encoders.face`), NaN where not seen.
        times: `(time,)` seconds, increasing.
        heard: `(time,)` bool, speech.
    """
    out = np.where(heard, SHARED, "").astype("<U6")[None].repeat(len(openings), axis=0)
    if len(times) < 2:
        return out
    moving = np.stack([_motion(opening, times) for opening in openings])
    for piece in _pieces(times, heard):
        means = np.array([_mean(row[piece]) for row in moving])
        first = int(means.argmax())
        rest = np.delete(means, first).max(initial=0.0)
        if means[first] >= TALKING and means[first] >= AHEAD * rest:
            out[:, piece] = np.where(heard[piece], OTHER, "")
            out[first, piece] = np.where(heard[piece], OWN, "")
    return out


def _motion(opening: np.ndarray, times: np.ndarray) -> np.ndarray:
    """`(time,)` change a second between a frame and the one before, NaN where either is not seen."""
    change = np.abs(np.diff(opening)) / np.maximum(np.diff(times), 1e-6)
    return np.concatenate([[np.nan], change])


def _mean(motion: np.ndarray) -> float:
    known = np.isfinite(motion)
    return float(motion[known].mean()) if known.any() and known.mean() >= SEEN else 0.0


def _pieces(times: np.ndarray, heard: np.ndarray) -> list[slice]:
    """Stretches of speech, short pauses bridged, cut into pieces of about PIECE_S."""
    rows = np.flatnonzero(heard)
    if not len(rows):
        return []
    step = median_step(times)
    breaks = np.flatnonzero(np.diff(times[rows]) > PAUSE_S + step) + 1
    pieces = []
    for stretch in np.split(rows, breaks):
        first, last = int(stretch[0]), int(stretch[-1])
        count = max(1, round((times[last] - times[first]) / PIECE_S))
        cuts = np.searchsorted(times, np.linspace(times[first], times[last], count + 1)[1:-1])
        edges = [first, *cuts.tolist(), last + 1]
        pieces += [slice(a, b) for a, b in itertools.pairwise(edges) if b > a]
    return pieces
