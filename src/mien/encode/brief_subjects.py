"""Leave out who is visible too briefly: passers-by and false detections."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mien.clock import row_durations
from mien.encode.face_rate import fill
from mien.encode.subject_track import SubjectTrack

#: A face missing for less than this is no gap, seconds.
MAX_GAP_S = 0.25


def drop_brief_subjects(
    times: np.ndarray, subjects: Mapping[int, SubjectTrack], min_visible_s: float, read: np.ndarray | None = None
) -> tuple[list[SubjectTrack], int]:
    """The subjects visible for `min_visible_s` without a gap, in order of appearance, and the number of the others.
    read: as in `VideoFaces`."""
    durations = row_durations(times)
    everyone = sorted(subjects.values(), key=lambda subject: subject.rows.array()[0])

    def visible_s(subject: SubjectTrack) -> float:
        return _longest_visible_s(times, durations, fill(subject.rows.array(), read, times).frames, min_visible_s)

    kept = [subject for subject in everyone if visible_s(subject) >= min_visible_s]
    return kept, len(everyone) - len(kept)


def _longest_visible_s(times: np.ndarray, durations: np.ndarray, rows: np.ndarray, gap_s: float) -> float:
    """Longest time without a gap, seconds. The total does not serve: a false detection may recur for a frame or two."""
    breaks = np.flatnonzero(np.diff(times[rows]) > max(gap_s, MAX_GAP_S)) + 1
    return max(float(durations[stretch].sum()) for stretch in np.split(rows, breaks))
