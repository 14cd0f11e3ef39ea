"""Faces of the last seconds of a live video, as `VideoFaces`."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from mien.encode.brief_subjects import drop_brief_subjects
from mien.encode.subject_features import SubjectCollector, VideoFaces
from mien.encode.video_pass import BRIEF_CLIP_SHARE, MAX_SIDE, MIN_VISIBLE_S
from mien.encoders.protocol import CropEncoder, MeshEncoder
from mien.faces.reidentification import DESCRIPTOR_MEMORY_S
from mien.faces.tracker import FaceTracker
from mien.media.frame_converter import fitted_size
from mien.records import Frame

Box = tuple[float, float, float, float]


class LivePictures:
    """Track faces in frames as they come, and keep what the encoders make of the last ones.

    Args:
        encoders: modality -> encoder of crops or meshes; without any, only the times of frames are kept.
        max_faces, reidentify: see `FaceTracker`.

    Attributes:
        boxes: subject -> x1, y1, x2, y2 in pixels of the latest frame, for subjects that have a number.
        latest_s: time of the latest frame in seconds; minus infinity before the first.
    """

    def __init__(
        self, encoders: Mapping[str, CropEncoder | MeshEncoder], *, max_faces: int = 4, reidentify: bool = True
    ) -> None:
        self._encoders = dict(encoders)
        self._collector = SubjectCollector(encoders)
        self._tracker: FaceTracker | None = None
        if encoders:
            # Faces beyond the limit are not counted: nobody reads the number, and counting costs a detection.
            self._tracker = FaceTracker(max_faces=max_faces, reidentify=reidentify, count_others=False)
        self._times: list[float] = []
        self._frames: list[int] = []
        self._numbers: dict[int, int] = {}  # the tracker's subject -> number in the rows
        self._count = 0
        self._in_rows: list[int] = []
        self._last_seen: dict[int, float] = {}  # the tracker's subject -> seconds
        self.boxes: dict[int, Box] = {}
        self.latest_s = -np.inf

    def warm_up(self) -> None:
        """Run the networks once, because the first run takes several times as long."""
        if self._tracker is not None:
            self._tracker(Frame(0, 0.0, np.zeros((96, 96, 3), np.uint8)))
            self._tracker.restart()

    def add(self, number: int, image: np.ndarray, time_s: float) -> None:
        """Read a frame. number: of the frame. image: `(height, width, 3)` uint8 RGB. time_s: later than the last."""
        width = image.shape[1]
        size = fitted_size(width, image.shape[0], MAX_SIDE)
        if size != (width, image.shape[0]):
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        frame, scale = Frame(number, time_s, image), width / size[0]
        self.boxes = {}
        for face in self._tracker(frame) if self._tracker is not None else ():
            self._collector.add(len(self._times), frame, face, scale)
            self._last_seen[face.subject] = time_s
            if face.subject in self._numbers:
                x1, y1, x2, y2 = (float(v) for v in face.box * scale)
                self.boxes[self._numbers[face.subject]] = (x1, y1, x2, y2)
        self._times.append(time_s)
        self._frames.append(number)
        self.latest_s = time_s

    def faces(self, start_s: float, *, is_end: bool = False) -> VideoFaces:
        """The faces since `start_s`, with times from there on; earlier frames are dropped.

        Someone gets a number after `MIN_VISIBLE_S` in view without a gap, as in a file. The person who was seen last is
        kept, so that a camera nobody stands before still gives rows.

        Args:
            is_end: no frame follows: the last crops are encoded, and all of a stream shorter than `MIN_VISIBLE_S`
                counts.
        """
        if is_end:
            self._collector.flush()
        else:
            self._collector.drain()
        self._forget(start_s)
        times = np.array(self._times)
        shortest = MIN_VISIBLE_S
        if is_end and not self._count and len(times):
            shortest = min(shortest, BRIEF_CLIP_SHARE * float(times[-1] - times[0]))
        seen = {n: s for n, s in self._collector.subjects.items() if len(s.rows)}
        if any(number not in self._numbers for number in seen):
            for subject in drop_brief_subjects(times, seen, shortest)[0]:
                if subject.id not in self._numbers:
                    self._numbers[subject.id], self._count = self._count, self._count + 1
        subjects = [s for n, s in self._collector.subjects.items() if n in self._numbers]
        subjects.sort(key=lambda subject: self._numbers[subject.id])
        self._in_rows = [subject.id for subject in subjects]
        return VideoFaces(times - start_s, subjects, self._encoders, seen_before=self._count > 0)

    def numbers(self) -> list[int]:
        """Number of each subject of the last `faces`."""
        return [self._numbers[subject] for subject in self._in_rows]

    def last_seen(self) -> dict[int, float]:
        """Number -> seconds at which the subject was seen last, of the subjects of the last `faces`."""
        return {self._numbers[subject]: self._last_seen[subject] for subject in self._in_rows}

    def frame(self, index: int) -> tuple[int, float]:
        """Number and time in seconds of the frame at an index of the last `faces`."""
        return self._frames[index], self._times[index]

    def _forget(self, start_s: float) -> None:
        first = int(np.searchsorted(self._times, start_s))
        if not first:
            return
        known = [n for n in self._collector.subjects if n in self._numbers]
        latest = max(known, key=lambda n: self._last_seen[n], default=None)
        self._collector.forget(first, keep=latest)
        self._times, self._frames = self._times[first:], self._frames[first:]
        # The tracker gives the number of someone who is away for longer to nobody.
        since_s = self.latest_s - DESCRIPTOR_MEMORY_S - 1
        self._last_seen = {
            n: seen_s for n, seen_s in self._last_seen.items() if n in self._collector.subjects or seen_s >= since_s
        }
        self._numbers = {n: number for n, number in self._numbers.items() if n in self._last_seen}
