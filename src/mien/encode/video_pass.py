"""From a recording to what is kept of it: times, boxes, geometry and voice features. No picture is kept, so
memory is flat but for about 300 bytes a frame and face."""

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

#: Larger pictures are scaled down before faces are looked for: a face of 40 pixels in a 4K frame is still
#: read, and a frame never takes more than 11 MB. Our choice.
MAX_SIDE = 1920
#: Without faces only the times of the pictures matter.
TIMES_ONLY_SIDE = 64
#: Decoded pictures that wait for the face reader hold at most this many bytes.
WAITING_BYTES = 48 << 20
#: Threads of the face networks: more than two gain nothing on pictures this small, measured.
THREADS = min(2, os.cpu_count() or 1)
#: Faces seen for less than this at a stretch are passers-by or mistakes. Our choice: the shortest expressions last
#: about as long.
LEAST_SEEN_S = 0.5
#: A face lost for less than this is still the same stretch.
LONGEST_BLINK_S = 0.25
#: Meshes turned into geometry at once: one call costs as much as forty meshes.
_MESHES = 256
_OPENING = face_encoder.NAMES.index("mouth_opening")


@dataclass(slots=True)
class SubjectTrack:
    """One subject, only in the frames where it was seen. id: the reader's number of it. rows: their numbers. boxes:
    four pixels each, of the original. geometry: the features of the mesh."""

    id: int
    rows: GrowingArray = field(default_factory=lambda: GrowingArray(0, np.int64))
    boxes: GrowingArray = field(default_factory=lambda: GrowingArray(4))
    geometry: GrowingArray = field(default_factory=lambda: GrowingArray(len(face_encoder.NAMES)))


@dataclass(slots=True)
class FacesSeen:
    """What the pictures held. times: `(frame,)` seconds. subjects: in the order they appeared. brief: how many
    were left out because they were seen for less than half a second. encode_s: processor seconds of encoding.

    Tracks and streams are made when they are asked for and not kept: for one subject at a time they are small, for
    several people over an hour they are not.
    """

    times: np.ndarray
    subjects: list[SubjectTrack] = field(default_factory=list)
    brief: int = 0
    encode_s: float = 0.0

    def track(self, number: int) -> FaceTrack:
        """Where a subject was seen, over all frames."""
        seen = self.subjects[number]
        valid = np.zeros(len(self.times), bool)
        valid[seen.rows.array()] = True
        boxes = np.full((len(self.times), 4), np.nan)
        boxes[seen.rows.array()] = seen.boxes.array()
        return FaceTrack(number, self.times, boxes, valid)

    def opening(self, number: int) -> np.ndarray:
        """`(frame,)` how far a subject's lips are apart, NaN where it was not seen."""
        seen = self.subjects[number]
        out = np.full(len(self.times), np.nan)
        out[seen.rows.array()] = seen.geometry.array()[:, _OPENING]
        return out

    def stream(self, number: int) -> Stream:
        """A subject's face features, over all frames."""
        began = time.thread_time()
        seen = self.subjects[number]
        values = np.full((len(self.times), len(face_encoder.NAMES)), np.nan, np.float32)
        values[seen.rows.array()] = seen.geometry.array()
        stream = face_encoder.encode(values, self.times)
        self.encode_s += time.thread_time() - began
        return stream


class Prefetch(Generic[Item]):
    """Runs an iterable in a thread of its own, a few items ahead. Errors come out where they would have;
    close it (or exhaust it) and the thread ends.

    Attributes:
        seconds: processor time that making the items took.
    """

    def __init__(self, items: Iterable[Item], room: Callable[[Item], int]) -> None:
        self.seconds = 0.0
        self._items, self._room = items, room
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
        self._closed.set()
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.02)
            except queue.Empty:
                continue

    def _run(self) -> None:
        began = time.thread_time()
        try:
            for item in self._items:
                self.seconds = time.thread_time() - began
                # The first item says how large they are, and so how many may wait.
                self._queue.maxsize = max(self._queue.maxsize, self._room(item))
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


def _room(frame: Frame) -> int:
    return max(1, min(32, WAITING_BYTES // frame.image.nbytes))


class _Keeper:
    """Turns meshes into geometry, many at once, and lets go of them."""

    def __init__(self) -> None:
        self.subjects: dict[int, SubjectTrack] = {}
        self.seconds = 0.0
        self._waiting: list[tuple[int, int, np.ndarray, np.ndarray]] = []

    def add(self, row: int, face: Face, scale: float) -> None:
        self._waiting.append((face.subject, row, np.asarray(face.box) * scale, np.asarray(face.mesh, np.float32)))
        if len(self._waiting) >= _MESHES:
            self.flush()

    def flush(self) -> None:
        if not self._waiting:
            return
        began = time.thread_time()
        whose, rows, boxes, meshes = map(np.array, zip(*self._waiting, strict=True))
        geometry = face_encoder.geometry(meshes)
        for number in np.unique(whose).tolist():
            seen, theirs = self.subjects.setdefault(number, SubjectTrack(number)), whose == number
            seen.rows.extend(rows[theirs])
            seen.boxes.extend(boxes[theirs])
            seen.geometry.extend(geometry[theirs])
        self._waiting = []
        self.seconds += time.thread_time() - began


def read_faces(
    info: MediaInfo,
    *,
    look: bool,
    max_faces: int,
    notes: list[str],
    seconds: dict[str, float],
    tell: Callable[[float], None],
    least_s: float = LEAST_SEEN_S,
    each: Callable[[Frame, list[Face]], None] | None = None,
) -> FacesSeen:
    """Every frame's time and, if `look`, what is kept of every subject.

    Args:
        least_s: who is seen for less than this at a stretch is left out (0 for a still image).
        seconds: gets the processor seconds of `decode`, `detect`, `mesh` and `track`.
        tell: called with the time of each frame.
        each: called with each frame and the faces in it, while the picture is there.
    """
    if not info.has_video:
        return FacesSeen(np.zeros(0))
    reader = FaceTracker(max_faces=max_faces, threads=THREADS) if look else None
    keeper = _Keeper()
    times: list[float] = []
    spent = 0.0
    with closing(
        Prefetch(frames(info.path, max_side=MAX_SIDE if look else TIMES_ONLY_SIDE, notes=notes), _room)
    ) as ahead:
        for frame in ahead:
            if reader is not None:
                began = time.thread_time()
                seen = reader(frame)
                spent += time.thread_time() - began
                if each is not None:
                    each(frame, seen)
                for face in seen:
                    keeper.add(len(times), face, info.width / frame.image.shape[1])
            times.append(frame.time_s)
            tell(frame.time_s)
    keeper.flush()
    seconds["decode"] = seconds.get("decode", 0.0) + ahead.seconds
    if reader is not None:
        seconds |= reader.seconds
        seconds["track"] = spent - sum(reader.seconds.values())
    return _long_enough(np.array(times), keeper, least_s)


def media_facts(info: MediaInfo, frames: int) -> dict[str, Any]:
    """What a Timeline's `info` says of the recording."""
    return {
        "kind": info.kind,
        "width": info.width,
        "height": info.height,
        "duration_s": info.duration_s,
        "frames": frames,
    }


def _long_enough(times: np.ndarray, keeper: _Keeper, least_s: float) -> FacesSeen:
    """Those seen for `least_s` at a stretch, numbered anew from 0 in the order they appeared."""
    lasting = row_durations(times)
    everyone = sorted(keeper.subjects.values(), key=lambda seen: seen.rows.array()[0])
    subjects = [seen for seen in everyone if _longest(times, lasting, seen.rows.array(), least_s) >= least_s]
    return FacesSeen(times, subjects, len(everyone) - len(subjects), keeper.seconds)


def _longest(times: np.ndarray, lasting: np.ndarray, rows: np.ndarray, gap_s: float) -> float:
    """Seconds of the longest stretch of `rows` in which no two neighbours lie further apart than `gap_s`. In all a
    mistake may be seen for long: for a frame or two each time that somebody comes back."""
    breaks = np.flatnonzero(np.diff(times[rows]) > max(gap_s, LONGEST_BLINK_S)) + 1
    return max(float(lasting[stretch].sum()) for stretch in np.split(rows, breaks))
