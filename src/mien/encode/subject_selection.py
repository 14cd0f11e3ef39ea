"""Subject selection: choose the face of each clip among the faces of a frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mien.records import Face


class SubjectSelector:
    """Chooses the face of each clip, frame by frame. Use one selector for each recording.

    A clip without a side gets the subject with the largest box area summed over the frames so far, so that a passer-by
    does not replace it. A clip with a side gets the left or right one of the two subjects in the picture with the
    largest
    sums. A subject that is alone in the picture keeps the side that it had most often before; a subject that never
    had a
    side gets that of its half of the picture. Our choice, because corpora with sides do not document how they assigned
    them; `left` is the left of the picture.
    """

    def __init__(self) -> None:
        self._area: dict[int, float] = {}
        self._votes: dict[int, int] = {}

    def __call__(self, faces: Sequence[Face], width: int) -> dict[str, Face]:
        """Side ("", `left`, `right`) -> chosen face; sides without one are left out. width: of the frame, pixels."""
        if not faces:
            return {}
        for face in faces:
            x1, y1, x2, y2 = face.box
            self._area[face.subject] = self._area.get(face.subject, 0.0) + float((x2 - x1) * (y2 - y1))
        ranked = sorted(faces, key=lambda face: (-self._area[face.subject], face.subject))
        chosen = {"": ranked[0]}
        if len(ranked) > 1:
            left, right = sorted(ranked[:2], key=_centre)
            self._votes[left.subject] = self._votes.get(left.subject, 0) - 1
            self._votes[right.subject] = self._votes.get(right.subject, 0) + 1
            return chosen | {"left": left, "right": right}
        vote = self._votes.get(ranked[0].subject, 0) or _centre(ranked[0]) - width / 2
        return chosen | {"left" if vote < 0 else "right": ranked[0]}


def _centre(face: Face) -> float:
    return float(np.mean(face.box[[0, 2]]))
