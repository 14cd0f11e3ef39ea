"""Video pass of prediction: detect and track all faces of one recording, and keep boxes and geometry.

Called by `predict/predictor.py` and `predict/pretrained_face.py`. `read_faces` returns `VideoFaces`: the time of every
frame, and for each subject its boxes and mesh features, from which a `FaceTrack` and a face `Stream` are made on
request. Frames are decoded in a thread of their own and not kept; memory grows by about 300 bytes for each frame and
face.

The corresponding passes are `corpus_pass.py` for extraction and `encode_media.py` for corrupted media.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np

from mien.clock import row_durations
from mien.encoders import face_geometry as face_encoder
from mien.faces.tracker import FaceTracker
from mien.media.video import MediaInfo, frames
from mien.memory import GrowingArray
from mien.records import Face, FaceTrack, Frame, Stream

Item = TypeVar("Item")

#: Larger frames are scaled down to this side, pixels. Our choice: a face of 40 pixels in a 4K frame is still detected,
#: and a frame takes 11 MB at most.
MAX_SIDE = 1920
#: Side of the frames where only their times are needed, pixels.
TIMES_ONLY_SIDE = 64
#: Most bytes of decoded frames that wait for the face tracker.
PREFETCH_BYTES = 48 << 20
#: Threads of the face networks: on inputs this small more than two are no faster, as measured.
THREADS = min(2, os.cpu_count() or 1)
#: Subjects never visible for this long without a gap are left out, as passers-by or false detections. Our choice: the
#: shortest expressions last about as long.
MIN_VISIBLE_S = 0.5
#: A face missing for less than this is no gap.
MAX_GAP_S = 0.25
#: Meshes converted to geometry at once: the overhead of one call equals forty meshes.
_MESH_BATCH = 256
_OPENING = face_encoder.NAMES.index("mouth_opening")


@dataclass(slots=True)
class SubjectTrack:
    """One subject in the frames that show it.

    id: the tracker's subject number. rows: `(n,)` frame indices. boxes: `(n, 4)` x1, y1, x2, y2, pixels of the original
    frame. geometry: `(n, features)` of `mien.encoders.face_geometry.compute_features`.
    """

    id: int
    rows: GrowingArray = field(default_factory=lambda: GrowingArray(0, np.int64))
    boxes: GrowingArray = field(default_factory=lambda: GrowingArray(4))
    geometry: GrowingArray = field(default_factory=lambda: GrowingArray(len(face_encoder.NAMES)))


@dataclass(slots=True)
class VideoFaces:
    """Faces of one recording.

    times: `(frame,)` seconds. subjects: in order of appearance; methods take the index into this list. brief: number of
    subjects left out because they were visible too briefly. encode_s: processor seconds spent on encoding.

    Tracks and streams are made on request and not cached, so that memory holds those of one subject at a time.
    """

    times: np.ndarray
    subjects: list[SubjectTrack] = field(default_factory=list)
    brief: int = 0
    encode_s: float = 0.0

    def track(self, number: int) -> FaceTrack:
        """Track of a subject over all frames."""
        subject = self.subjects[number]
        valid = np.zeros(len(self.times), bool)
        valid[subject.rows.array()] = True
        boxes = np.full((len(self.times), 4), np.nan)
        boxes[subject.rows.array()] = subject.boxes.array()
        return FaceTrack(number, self.times, boxes, valid)

    def mouth_opening(self, number: int) -> np.ndarray:
        """Mouth opening of a subject, `(frame,)`: the feature `mouth_opening` of face geometry, NaN without a face."""
        subject = self.subjects[number]
        out = np.full(len(self.times), np.nan)
        out[subject.rows.array()] = subject.geometry.array()[:, _OPENING]
        return out

    def stream(self, number: int) -> Stream:
        """Face geometry stream of a subject over all frames; invalid where it has no face."""
        start = time.thread_time()
        subject = self.subjects[number]
        values = np.full((len(self.times), len(face_encoder.NAMES)), np.nan, np.float32)
        values[subject.rows.array()] = subject.geometry.array()
        stream = face_encoder.encode(values, self.times)
        self.encode_s += time.thread_time() - start
        return stream


class Prefetch(Generic[Item]):
    """Iterator that computes its items ahead, in a thread. Use `contextlib.closing`, or exhaust it, to end the thread.

    An exception of `items` is raised in its place among the items.

    Args:
        depth: number of items that may wait, computed from an item, since its size is known only then.

    Attributes:
        seconds: processor time spent on the items.
    """

    def __init__(self, items: Iterable[Item], depth: Callable[[Item], int]) -> None:
        self.seconds = 0.0
        self._items, self._depth = items, depth
        self._queue: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(1)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mien-ahead", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Item]:
        while True:
            item, error = self._queue.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item

    def close(self) -> None:
        """End the thread; items that wait are dropped."""
        self._closed.set()
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.02)
            except queue.Empty:
                continue

    def _run(self) -> None:
        start = time.thread_time()
        try:
            for item in self._items:
                self.seconds = time.thread_time() - start
                self._queue.maxsize = max(self._queue.maxsize, self._depth(item))
                if not self._put(item, None):
                    break
            self._put(None, None)
        except BaseException as error:
            self._put(None, error)

    def _put(self, item: Item | None, error: BaseException | None) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put((item, error), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False


def _prefetch_depth(frame: Frame) -> int:
    return max(1, min(32, PREFETCH_BYTES // frame.image.nbytes))


class _GeometryCollector:
    """Collects the boxes and geometry of all subjects; meshes are converted in batches and dropped."""

    def __init__(self) -> None:
        self.subjects: dict[int, SubjectTrack] = {}
        self.seconds = 0.0
        self._pending: list[tuple[int, int, np.ndarray, np.ndarray]] = []  # subject, row, box, mesh

    def add(self, row: int, face: Face, scale: float) -> None:
        self._pending.append((face.subject, row, np.asarray(face.box) * scale, np.asarray(face.mesh, np.float32)))
        if len(self._pending) >= _MESH_BATCH:
            self.flush()

    def flush(self) -> None:
        if not self._pending:
            return
        start = time.thread_time()
        numbers, rows, boxes, meshes = map(np.array, zip(*self._pending, strict=True))
        geometry = face_encoder.compute_features(meshes)
        for number in np.unique(numbers).tolist():
            subject, mask = self.subjects.setdefault(number, SubjectTrack(number)), numbers == number
            subject.rows.extend(rows[mask])
            subject.boxes.extend(boxes[mask])
            subject.geometry.extend(geometry[mask])
        self._pending = []
        self.seconds += time.thread_time() - start


def read_faces(
    info: MediaInfo,
    *,
    detect: bool,
    max_faces: int,
    notes: list[str],
    seconds: dict[str, float],
    on_time: Callable[[float], None],
    min_visible_s: float = MIN_VISIBLE_S,
    on_faces: Callable[[Frame, list[Face]], None] | None = None,
) -> VideoFaces:
    """Decode a video once; return its frame times and, with `detect`, its faces.

    Args:
        detect: detect and track faces; otherwise only frame times are returned.
        max_faces: most subjects tracked at once.
        notes: gets remarks about damaged parts of the video.
        seconds: gets the processor seconds of `decode`, `detect`, `mesh` and `track`.
        on_time: called with the time of each frame, seconds.
        min_visible_s: subjects never visible for this long without a gap are left out; 0 for a still image.
        on_faces: called with each frame and its faces while the frame is in memory.

    Raises:
        MediaError: the video cannot be decoded. ArtefactError: a face network is missing.
    """
    if not info.has_video:
        return VideoFaces(np.zeros(0))
    tracker = FaceTracker(max_faces=max_faces, threads=THREADS) if detect else None
    collector = _GeometryCollector()
    times: list[float] = []
    tracker_s = 0.0
    decoded = frames(info.path, max_side=MAX_SIDE if detect else TIMES_ONLY_SIDE, notes=notes)
    with closing(Prefetch(decoded, _prefetch_depth)) as ahead:
        for frame in ahead:
            if tracker is not None:
                start = time.thread_time()
                faces = tracker(frame)
                tracker_s += time.thread_time() - start
                if on_faces is not None:
                    on_faces(frame, faces)
                for face in faces:
                    collector.add(len(times), face, info.width / frame.image.shape[1])
            times.append(frame.time_s)
            on_time(frame.time_s)
    collector.flush()
    seconds["decode"] = seconds.get("decode", 0.0) + ahead.seconds
    if tracker is not None:
        seconds |= tracker.seconds
        seconds["track"] = tracker_s - sum(tracker.seconds.values())
    return _drop_brief(np.array(times), collector, min_visible_s)


def media_facts(info: MediaInfo, frames: int) -> dict[str, Any]:
    """Properties of a recording for the `media` entry of `Timeline.info`. frames: number of decoded frames."""
    return {
        "kind": info.kind,
        "width": info.width,
        "height": info.height,
        "duration_s": info.duration_s,
        "frames": frames,
    }


def _drop_brief(times: np.ndarray, collector: _GeometryCollector, min_visible_s: float) -> VideoFaces:
    """Keep the subjects visible for `min_visible_s` without a gap, in order of appearance."""
    durations = row_durations(times)
    everyone = sorted(collector.subjects.values(), key=lambda subject: subject.rows.array()[0])
    subjects = [
        s for s in everyone if _longest_visible_s(times, durations, s.rows.array(), min_visible_s) >= min_visible_s
    ]
    return VideoFaces(times, subjects, len(everyone) - len(subjects), collector.seconds)


def _longest_visible_s(times: np.ndarray, durations: np.ndarray, rows: np.ndarray, gap_s: float) -> float:
    """Longest time without a gap, seconds. The total does not serve: a false detection may recur for a frame or two."""
    breaks = np.flatnonzero(np.diff(times[rows]) > max(gap_s, MAX_GAP_S)) + 1
    return max(float(durations[stretch].sum()) for stretch in np.split(rows, breaks))
