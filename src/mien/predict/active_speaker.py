"""Active-speaker detection: speech belongs to the subject whose mouth moves with it.

A recording has one sound. With several people in view, a piece of speech is attributed to the one whose mouth moves
during it, and opens when the sound is loud. Where no mouth moves, or two do alike, the speech is shared by all who are
in view: whoever is not in view, and was not a moment ago, does not speak. Where no face is found in the whole
recording, all speech belongs to its one subject.

Our choice of method and thresholds, from six recordings: over one second of speech, the mouth opening of talking faces
changes by 0.26 to 0.9 face units per second, and that of silent faces by 0.06 to 0.25. The correlation with the level
of the sound tells a talking mouth from one that laughs or chews (`experiments/who_speaks.py` measures it).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from mien.clock import median_step
from mien.predict.presence import is_near

#: Values of the Timeline's column `speech`: the subject speaks, it cannot be decided, somebody else speaks (another
#: subject, or a voice while this subject is out of view).
OWN, SHARED, OTHER = "own", "shared", "other"
#: Mean change of the mouth opening (face units per second) from which a mouth counts as talking.
MIN_TALKING_MOTION = 0.2
#: How many times larger this must be than that of any other mouth.
MIN_MOTION_RATIO = 2.0
#: A mouth's motion counts exp(SYNC_WEIGHT * correlation with the level of the sound) times. Our choice, from rendered
#: clips: 0.5 to 1.5 differ little where two people talk by turns; larger ones decide more speech beside somebody who
#: chews, and more of it wrongly.
SYNC_WEIGHT = 1.0
#: Seconds by which a piece is widened on both sides for that correlation, which needs several syllables.
SYNC_MARGIN_S = 0.5
#: Levels further below the loudest one (dB) count as this far: pauses do not differ in meaning.
MAX_RANGE_DB = 40.0
#: Pauses shorter than this (seconds) do not end a stretch of speech.
MAX_PAUSE_S = 0.3
#: Stretches are cut into pieces of about this length (seconds), because speakers may change without a pause.
PIECE_S = 1.0
#: Share of a piece in which a face must be visible to count.
MIN_VISIBLE_SHARE = 0.5


def attribute_speech(
    openings: Sequence[np.ndarray],
    times: np.ndarray,
    is_speech: np.ndarray,
    level: np.ndarray | None = None,
    *,
    seen_before: bool = False,
) -> np.ndarray:
    """Attribute speech to subjects: `(subject, time)` str, OWN, SHARED or OTHER, and "" where nobody speaks.

    Args:
        openings: for each subject, `(time,)` mouth opening in face units (`encoders.face_geometry`); NaN where the
            face is not visible.
        times: `(time,)` seconds, increasing.
        is_speech: `(time,)` bool.
        level: `(time,)` level of the sound in dB; None decides by the motion of the mouths alone.
        seen_before: one of them was in view before these times, so that nobody in view means that nobody of them
            speaks.
    """
    speech = np.where(is_speech, SHARED, "").astype("<U6")[None].repeat(len(openings), axis=0)
    if len(times) < 2:
        return speech
    motions = np.stack([_motion(opening, times) for opening in openings])
    for piece in _pieces(times, is_speech):
        means = np.array([_mean(motion[piece]) for motion in motions])
        evidence = means
        if level is not None and len(openings) > 1:
            evidence = means * np.exp(SYNC_WEIGHT * _synchrony(openings, level, _widened(piece, times)))
        speaker = int(evidence.argmax())
        next_evidence = np.delete(evidence, speaker).max(initial=0.0)
        if means[speaker] >= MIN_TALKING_MOTION and evidence[speaker] >= MIN_MOTION_RATIO * next_evidence:
            speech[:, piece] = np.where(is_speech[piece], OTHER, "")
            speech[speaker, piece] = np.where(is_speech[piece], OWN, "")
    visible = np.stack([is_near(np.isfinite(opening), times) for opening in openings])
    if visible.any() or seen_before:
        speech[(speech == SHARED) & ~visible] = OTHER
    return speech


def _motion(opening: np.ndarray, times: np.ndarray) -> np.ndarray:
    """`(time,)` change per second since the previous frame, NaN where the face is missing in either."""
    change = np.abs(np.diff(opening)) / np.maximum(np.diff(times), 1e-6)
    return np.concatenate([[np.nan], change])


def _mean(motion: np.ndarray) -> float:
    known = np.isfinite(motion)
    return float(motion[known].mean()) if known.any() and known.mean() >= MIN_VISIBLE_SHARE else 0.0


def _widened(piece: slice, times: np.ndarray) -> slice:
    """The piece and SYNC_MARGIN_S around it."""
    first, last = times[piece.start] - SYNC_MARGIN_S, times[piece.stop - 1] + SYNC_MARGIN_S
    return slice(int(np.searchsorted(times, first)), int(np.searchsorted(times, last, side="right")))


def _synchrony(openings: Sequence[np.ndarray], level: np.ndarray, rows: slice) -> np.ndarray:
    """`(subject,)` Pearson's correlation of each mouth opening with the level of the sound; 0 where one is constant, or
    the mouth is visible in less than MIN_VISIBLE_SHARE."""
    sound = np.maximum(level[rows], level[rows].max() - MAX_RANGE_DB)
    found = np.zeros(len(openings))
    for number, opening in enumerate(openings):
        known = np.isfinite(opening[rows])
        if known.sum() < 3 or known.mean() < MIN_VISIBLE_SHARE:
            continue
        x, y = opening[rows][known], sound[known]
        x, y = x - x.mean(), y - y.mean()
        spread = float(np.sqrt((x @ x) * (y @ y)))
        found[number] = x @ y / spread if spread > 1e-9 else 0.0
    return found


def _pieces(times: np.ndarray, is_speech: np.ndarray) -> list[slice]:
    """Stretches of speech, short pauses included, cut into pieces of about PIECE_S."""
    rows = np.flatnonzero(is_speech)
    if not len(rows):
        return []
    step = median_step(times)
    breaks = np.flatnonzero(np.diff(times[rows]) > MAX_PAUSE_S + step) + 1
    pieces = []
    for stretch in np.split(rows, breaks):
        first, last = int(stretch[0]), int(stretch[-1])
        count = max(1, round((times[last] - times[first]) / PIECE_S))
        cuts = np.searchsorted(times, np.linspace(times[first], times[last], count + 1)[1:-1])
        edges = [first, *cuts.tolist(), last + 1]
        pieces += [slice(a, b) for a, b in itertools.pairwise(edges) if b > a]
    return pieces
