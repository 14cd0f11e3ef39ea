"""Face tracking: detect the faces of a recording, follow them from frame to frame, and identify their subjects.

A tracked face is read at its last position, so that most frames need one run of the mesh network and no detection.
Detection runs when a face is lost or no face is tracked, and twice a second to find new faces. Landmarks are not
smoothed over time: they jitter by 0.2 to 0.35 % of the distance between the eyes (measured on five talking faces, with
their motion), and a filter would delay the fast movements of expressions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ParamSpec, TypeVar

import numpy as np

from mien import hub
from mien.faces.align import align, five_points
from mien.faces.crops import Square, square_around_box
from mien.faces.detector import UNKNOWN_EYES, BlazeFace, Detection, iou, merge_detections, tiles
from mien.faces.mesh import ENLARGE, FaceMesh, MeshPrediction
from mien.faces.reidentification import SAME_SUBJECT_DISTANCE, Reidentifier, Subject, describe_appearance
from mien.faces.small_face_detectors import SmallFaceDetector
from mien.records import Face, Frame

__all__ = ["FaceTracker", "align", "five_points"]

P = ParamSpec("P")
T = TypeVar("T")

#: Presence logits. Observed faces give 9 to 30, at 16 pixels of height still 5; false detections (cartoon, cat, moon,
#: brick) give -10 to 2. A face is tracked from PRESENT_LOGIT on. It is confirmed at once from CONFIRMED_LOGIT on, and
#: below that after CONFIRM_FRAMES frames.
PRESENT_LOGIT, CONFIRMED_LOGIT = 0.0, 4.0
CONFIRM_FRAMES = 3
#: A detection whose first mesh has a lower logit is dropped without a second prediction in a better square.
RETRY_LOGIT = -4.0
#: A new face below the first logit is read once more in a square turned by 180 degrees. It is upside down if that gives
#: more than its own logit and than the second value. Of 164 upright faces (FER+ and six recordings), 95 % give more
#: than 8.9 as they are and less than 6 turned. Of 68 that are upside down, 95 % give less than 10 as they are and more
#: than 9 turned.
WEAK_LOGIT, TURNED_LOGIT = 12.0, 8.0
#: Seconds between searches for new faces, and between runs of the second detector while a face is tracked.
SEARCH_EVERY_S, SMALL_EVERY_S = 0.5, 2.0
#: Behind a face of this share of the frame's height, a first frame is searched for small faces coarsely. Our choice:
#: such pictures are portraits, and a fine search takes more time than all the rest.
PORTRAIT_SHARE = 1 / 3
#: Smallest height of a tracked face in pixels.
MIN_HEIGHT = 10.0
#: Seconds between appearance descriptors of a tracked face within a scene, of one person and of several.
DESCRIBE_EVERY_S, DESCRIBE_SEVERAL_EVERY_S = 0.5, 0.1
#: The scene changes when this share of a coarse grid of pixels changes by more than so many grey levels. A face whose
#: appearance changes in that frame is another person's.
CHANGED_SHARE, CHANGED_LEVELS = 0.35, 12
#: A box of which so much lies within another is a part of that face: an eye, or a mouth, taken for a face.
WITHIN = 0.85


@dataclass(slots=True, eq=False)
class _Track:
    """A tracked face. descriptor, described_s: its last appearance descriptor and the time of it. frames: its length so
    far. subject: None until the face is confirmed and identified."""

    prediction: MeshPrediction
    descriptor: np.ndarray
    described_s: float
    frames: int = 1
    subject: Subject | None = None


class FaceTracker:
    """Tracks the faces of one recording, called with its frames in order. One tracker for each recording and thread.

    Args:
        max_faces: largest number of faces tracked at once, larger faces first; None: no limit.
        small_faces: also run a second detector for faces too small for BlazeFace, where one is installed.
        reidentify: someone who returns, or is seen again after a cut, keeps the number, by appearance
            (`reidentification.py`). Otherwise a face keeps it only while it is tracked, and for two seconds at its
            place.
        count_others: count the faces beyond `max_faces`, in `passed_over`.
        threads: CPU threads of the networks.

    Attributes:
        passed_over: the largest number of faces seen at once beyond `max_faces`. It is a lower bound: they are counted
            where a scene begins and every `SMALL_EVERY_S`.

    Raises:
        ArtefactError: a network is missing and cannot be downloaded.
    """

    def __init__(
        self,
        *,
        max_faces: int | None = 4,
        small_faces: bool = True,
        count_others: bool = True,
        reidentify: bool = True,
        threads: int = 1,
    ) -> None:
        #: Seconds by stage, `detect` and `mesh`; the rest of a call is tracking and identification.
        self.seconds = {"detect": 0.0, "mesh": 0.0}
        self._detector = self._timed("detect", BlazeFace(hub.fetch("blazeface"), threads=threads))
        self._mesh = self._timed("mesh", FaceMesh(hub.fetch("facemesh"), threads=threads))
        small = SmallFaceDetector(threads=threads) if small_faces else None
        self._small = self._timed("detect", small) if small is not None else None
        self._covers_tiles = small.covers_tiles if small is not None else lambda: False
        self._max_faces = np.inf if max_faces is None else max_faces
        self._count_others, self._reidentify = count_others, reidentify
        self.restart()

    def restart(self) -> None:
        """Forget all faces and subjects: the next frame is the first of another recording."""
        self.passed_over = 0
        self._reidentifier = Reidentifier(appearance=self._reidentify)
        self._tracks: list[_Track] = []
        self._thumbnail: np.ndarray | None = None
        self._search_count, self._search_near = 0, False
        self._scene_start_s = self._searched_s = self._searched_small_s = self._counted_s = -np.inf

    def _timed(self, stage: str, call: Callable[P, T]) -> Callable[P, T]:
        seconds = self.seconds  # not self: a tracker in a cycle would keep its networks until the next collection

        def timed(*args: P.args, **kwargs: P.kwargs) -> T:
            start = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                seconds[stage] += time.perf_counter() - start

        return timed

    def __call__(self, frame: Frame) -> list[Face]:
        """Track faces in the next frame; returns them by subject id.

        Boxes are clipped to the frame; meshes may extend beyond it.
        """
        image, now = frame.image, frame.time_s
        new_scene = self._scene_changed(image)
        if new_scene:
            self._scene_start_s = now
        lost = self._follow(image, now, new_scene)
        if not self._full():
            self._search(image, now, lost, cut=new_scene and lost)
        if self._count_others and self._full() and (new_scene or not 0 <= now - self._counted_s < SMALL_EVERY_S):
            self._count_passed_over(image, now, all_views=new_scene)
        self._identify(now)
        return self._faces(image, now)

    def find_in_box(self, frame: Frame, box: np.ndarray) -> list[Face]:
        """The face in a box `(4,)`, x1, y1, x2, y2 pixels, that a caller knows although no detector finds it."""
        self._scene_changed(frame.image)
        self._scene_start_s = frame.time_s
        self._start_tracks(frame.image, frame.time_s, [Detection(np.asarray(box, float), 1.0, UNKNOWN_EYES)])
        self._identify(frame.time_s)
        return self._faces(frame.image, frame.time_s)

    def _faces(self, image: np.ndarray, now: float) -> list[Face]:
        """The faces of the tracks with a subject, by subject id."""
        height, width = image.shape[:2]
        faces = []
        for track in self._tracks:
            if (subject := track.subject) is not None:
                subject.box, subject.last_seen_s = track.prediction.box, now
                box = np.clip(subject.box, 0, [width, height, width, height])
                faces.append(Face(subject.id, box, track.prediction.mesh, track.prediction.score))
        return sorted(faces, key=lambda face: face.subject)

    def _follow(self, image: np.ndarray, now: float, new_scene: bool) -> bool:
        """Update every track. Returns whether a subject was lost or replaced by another person."""
        previous, self._tracks, lost = self._tracks, [], False
        every_s = DESCRIBE_SEVERAL_EVERY_S if self._reidentifier.several else DESCRIBE_EVERY_S
        for track in previous:
            prediction = self._mesh(image, track.prediction.square)
            if not _plausible(image, prediction, track.prediction):
                lost |= track.subject is not None
                continue
            track.prediction, track.frames = prediction, track.frames + 1
            self._tracks.append(track)
            if new_scene or track.subject is None or not 0 <= now - track.described_s < every_s:
                descriptor = describe_appearance(image, prediction.mesh)
                if new_scene and float(np.linalg.norm(descriptor - track.descriptor)) > SAME_SUBJECT_DISTANCE:
                    track.subject, lost = None, True
                track.descriptor, track.described_s = descriptor, now
        self._drop_duplicates(image)
        self._correct_subjects(now)
        for track in self._tracks:
            if track.subject is not None and track.described_s == now and track.prediction.logit >= CONFIRMED_LOGIT:
                self._reidentifier.learn(track.subject, track.descriptor)
        return lost

    def _correct_subjects(self, now: float) -> None:
        """Exchange or replace subjects whose faces look like another known person's, by the last descriptor of each:
        tracks are described at different frames, and two that exchanged their people must be compared all the same."""
        tracked = [(t, t.subject) for t in self._tracks if t.subject is not None]
        if not self._reidentifier.several or not any(t.described_s == now for t, _ in tracked):
            return
        subjects, descriptors = [s for _, s in tracked], [t.descriptor for t, _ in tracked]
        corrected = self._reidentifier.correct(subjects, descriptors, now, self._present())
        for (track, _), subject in zip(tracked, corrected, strict=True):
            track.subject = subject

    def _drop_duplicates(self, image: np.ndarray) -> None:
        """Of two tracks on one face, keep the one whose subject's appearance is closer to it."""
        boxes = [t.prediction.box for t in self._tracks]
        if not any(_same_face(box, np.stack(boxes[i + 1 :])).any() for i, box in enumerate(boxes[:-1])):
            return

        def distance(track: _Track) -> float:
            if track.subject is None:
                return np.inf
            return track.subject.distance(describe_appearance(image, track.prediction.mesh))

        ranked, self._tracks = sorted(self._tracks, key=distance), []
        for track in ranked:
            if not self._tracked(track.prediction.box):
                self._tracks.append(track)

    def _search(self, image: np.ndarray, now: float, lost: bool, cut: bool) -> None:
        """Run detectors and start tracks until `max_faces` faces are tracked."""
        for detections in self._detect(image, now, lost, cut):
            self._start_tracks(image, now, detections)
            if self._full():
                return

    def _count_passed_over(self, image: np.ndarray, now: float, *, all_views: bool) -> None:
        """Count the faces in this frame that no track follows, confirmed by the mesh network."""
        self._counted_s = now
        views: list[Square | None] = [None, *tiles(image)]
        found = [d for view in (views if all_views else views[:1]) for d in self._detector(image, view)]
        if self._small is not None:
            found += self._small(image, all_views=all_views)
        boxes: list[np.ndarray] = []
        for detection in merge_detections(found):
            if self._tracked(detection.box):
                continue
            prediction = self._mesh(image, detection.square(ENLARGE))
            if prediction.logit > RETRY_LOGIT:
                prediction = self._mesh(image, prediction.square)
            box = prediction.box
            known = self._tracked(box) or (boxes and _same_face(box, np.stack(boxes)).any())
            if prediction.logit >= CONFIRMED_LOGIT and _plausible(image, prediction) and not known:
                boxes.append(box)
        self.passed_over = max(self.passed_over, len(boxes))

    def _detect(self, image: np.ndarray, now: float, lost: bool, cut: bool) -> Iterator[list[Detection]]:
        """Run the detectors on views of the frame; yield the detections of each.

        Surroundings of the last positions of missing subjects, and the whole frame while no face is tracked: in
        alternating frames, both in a frame where a subject is lost. Tiles (in turn while a face is tracked) and the
        second detector only at intervals, so that video without faces stays fast.
        """
        present = self._present()
        missing = [s for s in self._reidentifier.recent(now, self._scene_start_s) if s not in present]
        due = cut or not 0 <= now - self._searched_s < SEARCH_EVERY_S
        self._search_near = due or lost or bool(self._tracks) or not self._search_near
        if self._search_near:
            for subject in missing:
                yield self._detector(image, square_around_box(subject.box, 3))
        if due or lost or not (self._tracks or (self._search_near and missing)):
            yield self._detector(image)
        if not due:
            return
        all_views = cut or not self._search_count
        self._searched_s, self._search_count = now, self._search_count + 1
        coarse = all_views and any(
            np.ptp(t.prediction.box[1::2]) >= PORTRAIT_SHARE * image.shape[0] for t in self._tracks
        )
        squares = tiles(image)
        if coarse and self._covers_tiles():
            squares = []
        elif squares and self._tracks and not all_views:
            squares = [squares[self._search_count % len(squares)]]
        for square in squares:
            yield self._detector(image, square)
        small_due = not 0 <= now - self._searched_small_s < SMALL_EVERY_S
        if self._small is not None and (small_due or not self._tracks):
            self._searched_small_s = now
            yield self._small(image, all_views=all_views, coarse=coarse)

    def _start_tracks(self, image: np.ndarray, now: float, detections: list[Detection]) -> None:
        """Start a track for every detection in which the mesh network also finds a face, larger ones first."""
        for detection in sorted(detections, key=lambda d: -float(np.ptp(d.box[1::2]))):
            if self._full():
                return
            if self._tracked(detection.box):
                continue
            prediction = self._mesh(image, detection.square(ENLARGE))
            for _ in range(2):  # The detector's square is coarse; the mesh's own square gives a better mesh.
                if prediction.logit > RETRY_LOGIT:
                    prediction = self._mesh(image, prediction.square)
            prediction = self._upright(image, prediction)
            if _plausible(image, prediction) and not self._tracked(prediction.box):
                self._tracks.append(_Track(prediction, describe_appearance(image, prediction.mesh), now))

    def _upright(self, image: np.ndarray, prediction: MeshPrediction) -> MeshPrediction:
        """The prediction, or that of the turned square if the face is upside down; see `WEAK_LOGIT`."""
        if not RETRY_LOGIT < prediction.logit < WEAK_LOGIT:
            return prediction
        turned = self._mesh(image, replace(prediction.square, angle=prediction.square.angle + math.pi))
        turned = self._mesh(image, turned.square)  # as in `_start_tracks`, the face's own square is better
        return turned if turned.logit > max(prediction.logit, TURNED_LOGIT) else prediction

    def _identify(self, now: float) -> None:
        """Assign subjects to confirmed new tracks. A track that matches no known subject becomes a new one after
        CONFIRM_FRAMES frames, or at once at the start of a scene."""
        new = [
            t
            for t in self._tracks
            if t.subject is None and (t.prediction.logit >= CONFIRMED_LOGIT or t.frames >= CONFIRM_FRAMES)
        ]
        subjects = self._reidentifier.identify(
            [t.descriptor for t in new],
            [t.prediction.box for t in new],
            now,
            self._present(),
            self._scene_start_s,
            [now == self._scene_start_s or t.frames >= CONFIRM_FRAMES for t in new],
        )
        for track, subject in zip(new, subjects, strict=True):
            track.subject = subject

    def _full(self) -> bool:
        return len(self._tracks) >= self._max_faces

    def _present(self) -> set[Subject]:
        return {t.subject for t in self._tracks if t.subject is not None}

    def _tracked(self, box: np.ndarray) -> bool:
        """Whether a track is already on the face in `box`."""
        return bool(self._tracks) and bool(_same_face(box, np.stack([t.prediction.box for t in self._tracks])).any())

    def _scene_changed(self, image: np.ndarray) -> bool:
        """Whether much of the frame differs from the last one, after a cut or a fast pan."""
        height, width = image.shape[:2]
        thumbnail = image[:: max(1, height // 18), :: max(1, width // 32), 1].astype(np.int16)
        previous, self._thumbnail = self._thumbnail, thumbnail
        if previous is None or previous.shape != thumbnail.shape:
            return True
        return float(np.mean(np.abs(thumbnail - previous) > CHANGED_LEVELS)) >= CHANGED_SHARE


def _plausible(image: np.ndarray, prediction: MeshPrediction, previous: MeshPrediction | None = None) -> bool:
    """Whether a face is present, large enough, centred in the frame, and within half to twice its previous size."""
    square = prediction.square
    if prediction.logit < PRESENT_LOGIT or square.side < ENLARGE * MIN_HEIGHT:
        return False
    if previous is not None and not 0.5 < square.side / previous.square.side < 2:
        return False
    height, width = image.shape[:2]
    return bool(0 <= square.x < width and 0 <= square.y < height)


def _same_face(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """`(n,)` bool: whether `box` `(4,)` and each of `boxes` `(n, 4)` lie on one face: they overlap by more than 0.3,
    one lies within the other by more than `WITHIN`, or their centres are close (boxes of the detector and of the mesh
    differ in extent)."""
    apart = np.linalg.norm((boxes[:, :2] + boxes[:, 2:] - box[:2] - box[2:]) / 2, axis=1)
    sides = np.minimum((boxes[:, 2:] - boxes[:, :2]).max(axis=1), (box[2:] - box[:2]).max())
    shared = np.clip(np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2]), 0, None).prod(axis=1)
    smaller = np.minimum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), (box[2:] - box[:2]).prod())
    same: np.ndarray = (iou(box, boxes) > 0.3) | (shared > WITHIN * smaller) | (apart < 0.4 * sides)
    return same
