"""Which of the faces in a picture a clip is about."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mien.records import Face


class SubjectSelector:
    """Chooses, frame by frame, the face of each clip that shares a recording. One for each recording.

    A clip without a side is about the person who has filled most of the picture so far (sum over frames of
    the box's area): in one pass, and the same person keeps the place when another walks by. A clip with a
    side is about the left or right one of the two such persons; where only one of them is seen, that person
    keeps the side she had, and a person never seen beside another belongs to the half of the picture she is
    in. Our choice: the corpora that name sides do not say how they were told apart; `left` is the left of the
    picture.
    """

    def __init__(self) -> None:
        self._area: dict[int, float] = {}
        self._votes: dict[int, int] = {}

    def __call__(self, faces: Sequence[Face], width: int) -> dict[str, Face]:
        """The face for each of "", `left` and `right` that is seen. width: of the picture, pixels."""
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
