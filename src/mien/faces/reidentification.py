"""Who is who in a recording: a face that comes back gets the number it had.

A face is compared by its *look*: the aligned face, 8 × 8, its brightness standardised, with a little colour.
Our choice, by measurement on six recordings: looks of one person (talking, smiling, blinking) lie within 0.35
of one another, with half the light within 0.45; those of two people are 0.75 and more apart. Ratios of
distances between the mesh's bony points, tried first, move more with one person's smile (0.036) than they
differ between the closest two people (0.017). A look tells people of one recording apart. It is no face
recognition, and is not kept.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from mien.faces.align import align

#: Below this distance two looks are of one person.
SAME_LOOK = 0.55
#: A look this far from all that are known of a person (turned, laughing) is added to them, up to MOST_LOOKS.
NEW_LOOK, MOST_LOOKS = 0.2, 8
#: How long someone out of the picture is remembered by look, and by the place where they were last.
LOOK_MEMORY_S, PLACE_MEMORY_S = 120.0, 2.0
#: Who was here a moment ago has not moved further than this share of their box's longer side. Centres are
#: compared, not boxes: the mesh of a half hidden face is too small.
SAME_PLACE = 0.5
_GRID = 8


def look(image: np.ndarray, mesh: np.ndarray) -> np.ndarray:
    """`(192,)`: how the face of `mesh` looks in `image`. The Euclidean distance of two looks is 0 for equal
    ones, about 1.4 for unrelated brightness patterns, plus what the colours differ (0.3 for 10 units of
    Lab)."""
    small = cv2.resize(align(image, mesh, 4 * _GRID), (_GRID, _GRID), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).reshape(-1, 3).astype(np.float32)
    light = lab[:, 0]
    light = (light - light.mean()) / (light.std() + 1)  # + 1: a dark or flat face is all noise
    colour = lab[:, 1:].ravel() * 0.03
    return np.concatenate([light / np.sqrt(light.size), colour / np.sqrt(colour.size)])


@dataclass(slots=True, eq=False)
class Subject:
    """One person: `id` from 0, their looks, and where (`box`, pixels) and when they were seen last."""

    id: int
    box: np.ndarray
    seen_s: float
    looks: list[np.ndarray] = field(default_factory=list)

    def distance(self, to: np.ndarray) -> float:
        """From the nearest of this person's looks."""
        return min((float(np.linalg.norm(to - known)) for known in self.looks), default=np.inf)

    def learn(self, seen: np.ndarray) -> None:
        """Add a look that is new, but not so new that it may be somebody else's."""
        if len(self.looks) < MOST_LOOKS and NEW_LOOK < self.distance(seen) < SAME_LOOK:
            self.looks.append(seen)


class Reidentifier:
    """Everybody seen in one recording."""

    def __init__(self) -> None:
        self._known: list[Subject] = []
        self._count = 0

    def recent(self, now: float, since_s: float) -> list[Subject]:
        """Those last seen within PLACE_MEMORY_S and not before `since_s`, when the scene began."""
        return [s for s in self._known if now - s.seen_s <= PLACE_MEMORY_S and s.seen_s >= since_s]

    def recognise(
        self,
        looks: Sequence[np.ndarray],
        boxes: Sequence[np.ndarray],
        now: float,
        present: Collection[Subject],
        since_s: float,
        settled: Sequence[bool],
    ) -> list[Subject | None]:
        """A Subject for each newcomer: the absent one that looks alike (closest pairs first), else the one
        who was just there (not before `since_s`, when the scene began), else somebody new if the newcomer is
        `settled`, else None: half a face at the edge of the picture looks like nobody."""
        self._known = [s for s in self._known if s in present or now - s.seen_s <= LOOK_MEMORY_S]
        absent = [s for s in self._known if s not in present]
        answer: dict[int, Subject] = {}

        def match(pairs: list[tuple[float, int, Subject]]) -> None:
            for _, newcomer, subject in sorted(pairs, key=lambda pair: pair[0]):
                if newcomer not in answer and subject not in answer.values():
                    answer[newcomer] = subject

        alike = [(s.distance(seen), i, s) for i, seen in enumerate(looks) for s in absent]
        match([pair for pair in alike if pair[0] < SAME_LOOK])
        near = [s for s in self.recent(now, since_s) if s not in present]
        apart = [(_apart(s.box, box), i, s) for i, box in enumerate(boxes) for s in near]
        match([pair for pair in apart if pair[0] < SAME_PLACE])
        for i, (seen, box) in enumerate(zip(looks, boxes, strict=True)):
            if i not in answer and settled[i]:
                answer[i] = Subject(self._count, box, now, [seen])
                self._known.append(answer[i])
                self._count += 1
        return [answer.get(i) for i in range(len(looks))]


def _apart(box: np.ndarray, other: np.ndarray) -> float:
    """Distance of the boxes' centres `(4,)`, in longer sides of the first."""
    centres = (other[:2] + other[2:] - box[:2] - box[2:]) / 2
    return float(np.linalg.norm(centres) / max(1.0, float((box[2:] - box[:2]).max())))
