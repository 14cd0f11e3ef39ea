"""Re-identification: a face that reappears in a recording gets its earlier subject id.

A face is compared by an appearance descriptor: the aligned face at 8 × 8 pixels, its brightness standardised, with a
small share of colour. Our choice, because of measurements on six recordings: descriptors of one person (talking,
smiling, blinking) lie within 0.35 of each other, at half the light within 0.45; those of two people are at least 0.75
apart. Ratios of distances between bony points of the mesh vary more with one person's smile (0.036) than between the
closest two people (0.017). The descriptor separates the people of one recording. It is not face recognition and is not
stored.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from mien.faces.align import align

#: Two descriptors closer than this belong to one person.
SAME_SUBJECT_DISTANCE = 0.55
#: A descriptor at least this far from all known ones of a person (turned, laughing) is added, up to MAX_DESCRIPTORS.
NEW_DESCRIPTOR_DISTANCE, MAX_DESCRIPTORS = 0.2, 8
#: Seconds for which an absent person is matched by descriptor, and by last position.
DESCRIPTOR_MEMORY_S, POSITION_MEMORY_S = 120.0, 2.0
#: Largest movement of a person matched by position, as a share of the longer side of their box. Box centres are
#: compared, not overlaps, because the mesh of a half-hidden face is too small.
SAME_POSITION_SHARE = 0.5
#: A number is corrected where the new one is closer by this distance. Our choice: more than a person's own descriptors
#: differ by in neighbouring frames.
CORRECTION_MARGIN = 0.15
#: Seconds in which a new number is given up for that of an absent person who looks the same: a face that returns from
#: behind another, or over the edge of the frame, at first resembles nobody.
PROBATION_S = 2.0
_GRID = 8


def describe_appearance(image: np.ndarray, mesh: np.ndarray) -> np.ndarray:
    """Appearance descriptor `(192,)` of the face with `mesh` `(468, 3)` in `image` `(height, width, 3)` uint8 RGB.

    The Euclidean distance of two descriptors is 0 for equal faces and about 1.4 for unrelated brightness patterns, plus
    the difference in colour (0.3 for 10 units of Lab).
    """
    small = cv2.resize(align(image, mesh, 4 * _GRID), (_GRID, _GRID), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).reshape(-1, 3).astype(np.float32)
    light = lab[:, 0]
    light = (light - light.mean()) / (light.std() + 1)  # + 1: a dark or flat face is mostly noise
    colour = lab[:, 1:].ravel() * 0.03
    return np.concatenate([light / np.sqrt(light.size), colour / np.sqrt(colour.size)])


@dataclass(slots=True, eq=False)
class Subject:
    """One person of a recording. id: from 0. box: last `(4,)` x1, y1, x2, y2 in pixels. last_seen_s, first_seen_s:
    seconds. descriptors: `(192,)` each."""

    id: int
    box: np.ndarray
    last_seen_s: float
    first_seen_s: float
    descriptors: list[np.ndarray] = field(default_factory=list)

    def distance(self, descriptor: np.ndarray) -> float:
        """Distance to the nearest of this person's descriptors."""
        return min((float(np.linalg.norm(descriptor - known)) for known in self.descriptors), default=np.inf)

    def add_descriptor(self, descriptor: np.ndarray) -> None:
        """Add a descriptor that differs from the known ones, but less than another person's may."""
        is_new = NEW_DESCRIPTOR_DISTANCE < self.distance(descriptor) < SAME_SUBJECT_DISTANCE
        if len(self.descriptors) < MAX_DESCRIPTORS and is_new:
            self.descriptors.append(descriptor)


class Reidentifier:
    """The subjects of one recording, and the assignment of tracks to them.

    Args:
        appearance: compare descriptors; otherwise a face keeps its number only where it was seen last.
    """

    def __init__(self, *, appearance: bool = True) -> None:
        self._appearance = appearance
        self._known: list[Subject] = []
        self._count = 0

    @property
    def several(self) -> bool:
        """Whether more than one subject is known, so that numbers can be mistaken."""
        return self._appearance and len(self._known) > 1

    def correct(
        self,
        subjects: Sequence[Subject],
        descriptors: Sequence[np.ndarray],
        now: float,
        present: Collection[Subject] = (),
    ) -> list[Subject]:
        """The subject of each tracked face, corrected where another explains its descriptor better.

        Two faces exchange their subjects if their distances together become smaller by twice CORRECTION_MARGIN. A face
        gets the subject of an absent person who is closer than its own by CORRECTION_MARGIN, or, in the first
        PROBATION_S of its number, who is the same by SAME_SUBJECT_DISTANCE and was known before.

        Args:
            subjects, descriptors: of each tracked face. now: seconds. present: subjects of other tracked faces.
        """
        subjects = list(subjects)
        if not self.several:
            return subjects
        for i in range(len(subjects)):
            for j in range(i):
                own = subjects[i].distance(descriptors[i]), subjects[j].distance(descriptors[j])
                other = subjects[j].distance(descriptors[i]), subjects[i].distance(descriptors[j])
                if max(other) < SAME_SUBJECT_DISTANCE and sum(other) < sum(own) - 2 * CORRECTION_MARGIN:
                    subjects[i], subjects[j] = subjects[j], subjects[i]
        for i, descriptor in enumerate(descriptors):
            own_distance = subjects[i].distance(descriptor)
            absent = [s for s in self._known if s not in subjects and s not in present]
            best = min(absent, key=lambda s: s.distance(descriptor), default=None)
            if best is None or (distance := best.distance(descriptor)) >= SAME_SUBJECT_DISTANCE:
                continue
            is_new = now - subjects[i].first_seen_s < PROBATION_S and best.first_seen_s < subjects[i].first_seen_s
            if is_new:
                self._known.remove(subjects[i])
            if is_new or distance < own_distance - CORRECTION_MARGIN:
                subjects[i] = best
        return subjects

    def learn(self, subject: Subject, descriptor: np.ndarray) -> None:
        """Add a descriptor to those of a subject, if every other subject is farther from it by CORRECTION_MARGIN.

        A track can go over to another person's face, for example of someone who passes in front. Descriptors of that
        person would make both subjects the same, and the mistake could not be corrected any more.
        """
        own = subject.distance(descriptor)
        if all(other is subject or other.distance(descriptor) > own + CORRECTION_MARGIN for other in self._known):
            subject.add_descriptor(descriptor)

    def recent(self, now: float, scene_start_s: float) -> list[Subject]:
        """Subjects last seen within POSITION_MEMORY_S and in the current scene."""
        return [s for s in self._known if now - s.last_seen_s <= POSITION_MEMORY_S and s.last_seen_s >= scene_start_s]

    def identify(
        self,
        descriptors: Sequence[np.ndarray],
        boxes: Sequence[np.ndarray],
        now: float,
        present: Collection[Subject],
        scene_start_s: float,
        settled: Sequence[bool],
    ) -> list[Subject | None]:
        """A Subject for each new track, in this order of preference.

        The absent subject with the closest descriptor; else the one that was at this position in the current scene
        within POSITION_MEMORY_S; else, if the track is `settled`, a new subject; else None, because half a face at the
        edge of the frame resembles nobody.

        Args:
            descriptors, boxes: `(192,)` and `(4,)` of each new track. present: subjects that have a track.
            now, scene_start_s: seconds. settled: whether each track may become a new subject.
        """
        self._known = [s for s in self._known if s in present or now - s.last_seen_s <= DESCRIPTOR_MEMORY_S]
        absent = [s for s in self._known if s not in present]
        matches: dict[int, Subject] = {}

        def match_closest_first(pairs: list[tuple[float, int, Subject]]) -> None:
            for _, index, subject in sorted(pairs, key=lambda pair: pair[0]):
                if index not in matches and subject not in matches.values():
                    matches[index] = subject

        by_appearance = [(s.distance(d), i, s) for i, d in enumerate(descriptors) for s in absent]
        if self._appearance:
            match_closest_first([pair for pair in by_appearance if pair[0] < SAME_SUBJECT_DISTANCE])
        recent = [s for s in self.recent(now, scene_start_s) if s not in present]
        by_position = [(_movement(s.box, box), i, s) for i, box in enumerate(boxes) for s in recent]
        match_closest_first([pair for pair in by_position if pair[0] < SAME_POSITION_SHARE])
        for i, (descriptor, box) in enumerate(zip(descriptors, boxes, strict=True)):
            if i not in matches and settled[i]:
                matches[i] = Subject(self._count, box, now, now, [descriptor])
                self._known.append(matches[i])
                self._count += 1
        return [matches.get(i) for i in range(len(descriptors))]


def _movement(before: np.ndarray, box: np.ndarray) -> float:
    """Distance of the centres of two boxes `(4,)`, as a share of the longer side of the first."""
    centres = (box[:2] + box[2:] - before[:2] - before[2:]) / 2
    return float(np.linalg.norm(centres) / max(1.0, float((before[2:] - before[:2]).max())))
