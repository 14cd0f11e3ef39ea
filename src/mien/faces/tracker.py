"""Faces of a recording, frame by frame: found, followed, told apart.

A face that was read in the last frame is read again where it was, so that most frames cost one pass of the
mesh network and no detection. Detection runs when a face is lost or none is there, and twice a second for
newcomers. Landmarks are not smoothed over time: they tremble by 0.2 to 0.35 % of the distance between the
eyes (measured on five talking faces, real motion included), and a filter would delay the fast movements that
expressions are made of.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import numpy as np

from mien import hub
from mien.faces.align import align, five_points
from mien.faces.crops import around_box
from mien.faces.detector import BlazeFace, Detection, overlaps, tiles
from mien.faces.mesh import ENLARGE, FaceMesh, Reading
from mien.faces.reidentification import SAME_LOOK, Reidentifier, Subject, look
from mien.faces.small_face_detectors import SmallFaces
from mien.records import Face, Frame

__all__ = ["FaceTracker", "align", "five_points"]

P = ParamSpec("P")
T = TypeVar("T")

#: Presence logits. Faces we have seen give 9 to 30, at 16 pixels of height still 5; what the detectors
#: mistook for a face (cartoon, cat, moon, brick) gives -10 to 2. From THERE on a face is followed, from SURE
#: on it is believed at once, between them when it has stayed for BELIEVED_AFTER frames.
THERE, SURE = 0.0, 4.0
BELIEVED_AFTER = 3
#: Below this the first look through a detector's coarse square is not worth a second through a better one.
HOPELESS = -4.0
#: Seconds between searches for newcomers, and between questions to the second detector while someone is
#: there.
SEARCH_EVERY_S, SMALL_EVERY_S = 0.5, 2.0
#: Faces below this height in pixels are not read.
SMALLEST = 10.0
#: Seconds after which the look of a followed face is taken anew, while the view does not change.
LOOK_EVERY_S = 0.5
#: The view changes when this share of a coarse grid of its pixels jumps by more than so many grey levels. A
#: face whose look changes at that moment is another person's: a cut.
VIEW_SHARE, VIEW_LEVELS = 0.35, 12


@dataclass(slots=True, eq=False)
class _Track:
    """A face being followed. subject: None as long as it is not believed."""

    reading: Reading
    look: np.ndarray
    looked_s: float
    frames: int = 1
    subject: Subject | None = None


class FaceTracker:
    """Reads the faces of one recording, frame after frame in order. One reader for each recording and thread.

    Args:
        max_faces: the most people followed at once; larger faces first.
        small_faces: ask a second detector for faces too small for BlazeFace, where one is here.
        threads: CPU threads of the networks.

    Raises:
        ArtefactError: a network is not here and cannot be fetched.
    """

    def __init__(self, *, max_faces: int = 4, small_faces: bool = True, threads: int = 1) -> None:
        #: Processor seconds by stage; what is left of a call is following and telling apart.
        self.seconds = {"detect": 0.0, "mesh": 0.0}
        self._detector = self._timed("detect", BlazeFace(hub.fetch("blazeface"), threads=threads))
        self._mesh = self._timed("mesh", FaceMesh(hub.fetch("facemesh"), threads=threads))
        self._small = self._timed("detect", SmallFaces(threads=threads)) if small_faces else None
        self._max_faces = max_faces
        self._people = Reidentifier()
        self._tracks: list[_Track] = []
        self._view: np.ndarray | None = None
        self._searches, self._near = 0, False
        self._scene_s = self._searched_s = self._asked_small_s = -np.inf

    def _timed(self, stage: str, call: Callable[P, T]) -> Callable[P, T]:
        def timed(*args: P.args, **kwargs: P.kwargs) -> T:
            began = time.thread_time()
            try:
                return call(*args, **kwargs)
            finally:
                self.seconds[stage] += time.thread_time() - began

        return timed

    def __call__(self, frame: Frame) -> list[Face]:
        """The faces seen in this frame, by subject number. A box lies within the frame; a mesh may reach
        out."""
        image, now = frame.image, frame.time_s
        changed = self._view_changed(image)
        if changed:
            self._scene_s = now
        lost = self._follow(image, now, changed)
        if not self._full():
            self._search(image, now, lost, cut=changed and lost)
        self._name(now)
        height, width = image.shape[:2]
        faces = []
        for track in self._tracks:
            if (subject := track.subject) is not None:
                subject.box, subject.seen_s = track.reading.box, now
                box = np.clip(subject.box, 0, [width, height, width, height])
                faces.append(Face(subject.id, box, track.reading.mesh, track.reading.score))
        return sorted(faces, key=lambda face: face.subject)

    def _follow(self, image: np.ndarray, now: float, changed: bool) -> bool:
        """Read every track again. Returns whether somebody was lost, or is somebody else now."""
        before, self._tracks, lost = self._tracks, [], False
        for track in before:
            reading = self._mesh(image, track.reading.square)
            if not _plausible(image, reading, track.reading):
                lost |= track.subject is not None
                continue
            track.reading, track.frames = reading, track.frames + 1
            self._tracks.append(track)
            if changed or track.subject is None or not 0 <= now - track.looked_s < LOOK_EVERY_S:
                seen = look(image, reading.mesh)
                if changed and float(np.linalg.norm(seen - track.look)) > SAME_LOOK:
                    track.subject, lost = None, True
                elif track.subject is not None and reading.logit >= SURE:
                    track.subject.learn(seen)
                track.look, track.looked_s = seen, now
        self._drop_doubles(image)
        return lost

    def _drop_doubles(self, image: np.ndarray) -> None:
        """Where two tracks slid onto one face, the one whose person looks more like it stays."""
        boxes = [t.reading.box for t in self._tracks]
        if not any(_same_face(box, np.stack(boxes[i + 1 :])).any() for i, box in enumerate(boxes[:-1])):
            return

        def unlike(track: _Track) -> float:
            return track.subject.distance(look(image, track.reading.mesh)) if track.subject else np.inf

        ranked, self._tracks = sorted(self._tracks, key=unlike), []
        for track in ranked:
            if not self._taken(track.reading.box):
                self._tracks.append(track)

    def _search(self, image: np.ndarray, now: float, lost: bool, cut: bool) -> None:
        """Look for people who are not followed yet, until `max_faces` are."""
        for found in self._looking(image, now, lost, cut):
            self._admit(image, now, found)
            if self._full():
                return

    def _looking(self, image: np.ndarray, now: float, lost: bool, cut: bool) -> Iterator[list[Detection]]:
        """What the detectors say, view by view. Where somebody just was, and the whole frame while nobody is
        there: one of them in every frame in turn, both when somebody was lost. Tiles (in turn while somebody is
        there) and the second detector only so often, so that empty video stays fast."""
        missing = [s for s in self._people.recent(now, self._scene_s) if s not in self._present()]
        due = cut or not 0 <= now - self._searched_s < SEARCH_EVERY_S
        self._near = due or lost or bool(self._tracks) or not self._near
        if self._near:
            for subject in missing:
                yield self._detector(image, around_box(subject.box, 3))
        if due or lost or not (self._tracks or (self._near and missing)):
            yield self._detector(image)
        if not due:
            return
        everything = cut or not self._searches
        self._searched_s, self._searches = now, self._searches + 1
        parts = tiles(image)
        if parts and self._tracks and not everything:
            parts = [parts[self._searches % len(parts)]]
        for tile in parts:
            yield self._detector(image, tile)
        rested = not 0 <= now - self._asked_small_s < SMALL_EVERY_S
        if self._small is not None and (rested or not self._tracks):
            self._asked_small_s = now
            yield self._small(image, everything=everything)

    def _admit(self, image: np.ndarray, now: float, found: list[Detection]) -> None:
        """Begin to follow what the mesh network, too, takes for a face. Larger ones first."""
        for candidate in sorted(found, key=lambda f: -float(np.ptp(f.box[1::2]))):
            if self._full():
                return
            if self._taken(candidate.box):
                continue
            reading = self._mesh(image, candidate.square(ENLARGE))
            for _ in range(2):  # a detector's square is coarse: the mesh's own, read again, is better
                if reading.logit > HOPELESS:
                    reading = self._mesh(image, reading.square)
            if _plausible(image, reading) and not self._taken(reading.box):
                self._tracks.append(_Track(reading, look(image, reading.mesh), now))

    def _name(self, now: float) -> None:
        """Give believed newcomers their subject. Whoever looks like nobody known is somebody new after
        BELIEVED_AFTER frames, at once where a scene begins."""
        nameless = [t for t in self._tracks if t.subject is None]
        new = [t for t in nameless if t.reading.logit >= SURE or t.frames >= BELIEVED_AFTER]
        looks, boxes = [t.look for t in new], [t.reading.box for t in new]
        settled = [now == self._scene_s or t.frames >= BELIEVED_AFTER for t in new]
        subjects = self._people.recognise(looks, boxes, now, self._present(), self._scene_s, settled)
        for track, subject in zip(new, subjects, strict=True):
            track.subject = subject

    def _full(self) -> bool:
        return len(self._tracks) >= self._max_faces

    def _present(self) -> set[Subject]:
        return {t.subject for t in self._tracks if t.subject is not None}

    def _taken(self, box: np.ndarray) -> bool:
        """Whether a track is on the face in `box` already."""
        return bool(self._tracks) and bool(_same_face(box, np.stack([t.reading.box for t in self._tracks])).any())

    def _view_changed(self, image: np.ndarray) -> bool:
        """Whether much of the picture differs from the last one: a cut, or a fast pan."""
        height, width = image.shape[:2]
        view = image[:: max(1, height // 18), :: max(1, width // 32), 1].astype(np.int16)
        before, self._view = self._view, view
        if before is None or before.shape != view.shape:
            return True
        return float(np.mean(np.abs(view - before) > VIEW_LEVELS)) >= VIEW_SHARE


def _plausible(image: np.ndarray, reading: Reading, before: Reading | None = None) -> bool:
    """A face is there, large enough, its centre in the frame, and not blown up or collapsed since
    `before`."""
    square = reading.square
    if reading.logit < THERE or square.side < ENLARGE * SMALLEST:
        return False
    if before is not None and not 0.5 < square.side / before.square.side < 2:
        return False
    return 0 <= square.x < image.shape[1] and 0 <= square.y < image.shape[0]


def _same_face(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """`(n,)` bool: whether `box` `(4,)` and each of `boxes` `(n, 4)` lie on one face: they share much, or
    their centres are close (one of them may be a detector's, which draws its boxes otherwise)."""
    apart = np.linalg.norm((boxes[:, :2] + boxes[:, 2:] - box[:2] - box[2:]) / 2, axis=1)
    sides = np.minimum((boxes[:, 2:] - boxes[:, :2]).max(axis=1), (box[2:] - box[:2]).max())
    return (overlaps(box, boxes) > 0.3) | (apart < 0.4 * sides)
