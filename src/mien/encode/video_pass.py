"""The pass over the frames of a recording: track faces, encode crops, meshes and segments, drop the frames.

`read_faces` is called by `encode_media.py`. It returns `VideoFaces`: the time of every frame, and for each subject its
boxes and features, from which a `FaceTrack` and `Stream`s are made on request. Memory grows by about 300 bytes for each
frame and face, and by the encoders' feature vectors.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any, Generic, TypeVar

import numpy as np

from mien.encode.segments import Segmenter
from mien.encode.subject_features import SubjectCollector, VideoFaces, drop_brief_subjects
from mien.encoders.protocol import CropEncoder, MeshEncoder, SegmentEncoder
from mien.faces.tracker import FaceTracker
from mien.media.video import MediaInfo
from mien.memory import GrowingArray
from mien.records import Frame, Stream

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


def read_faces(
    decoded: Iterable[Frame],
    *,
    tracker: FaceTracker | None,
    encoders: Mapping[str, CropEncoder | MeshEncoder | SegmentEncoder],
    width: int | None,
    seconds: dict[str, float],
    on_time: Callable[[float], None],
    min_visible_s: float = MIN_VISIBLE_S,
) -> VideoFaces:
    """Read frames once; return their times, the faces in them, and what the encoders make of both.

    Args:
        decoded: frames of one recording, in order. They are decoded ahead in a thread and dropped after use.
        tracker: detects and tracks the faces; None returns times and segments only.
        encoders: modality -> encoder of crops, meshes or segments.
        width: of the original frames in pixels, to which boxes are scaled; None: that of the frames given.
        seconds: gets the processor seconds of `decode`, `detect`, `mesh` and `track`.
        on_time: called with the time of each frame, seconds.
        min_visible_s: subjects never visible for this long without a gap are left out; 0 for a still image.

    Raises:
        MediaError: the video cannot be decoded. ArtefactError: a face network is missing.
    """
    faces = {m: e for m, e in encoders.items() if isinstance(e, CropEncoder | MeshEncoder)}
    segments = [_SegmentPass(m, e) for m, e in encoders.items() if isinstance(e, SegmentEncoder)]
    collector = SubjectCollector(faces)
    times: list[float] = []
    tracker_s = 0.0
    with closing(Prefetch(decoded, _prefetch_depth)) as ahead:
        for frame in ahead:
            if tracker is not None:
                start = time.thread_time()
                found = tracker(frame)
                tracker_s += time.thread_time() - start
                for face in found:
                    collector.add(len(times), frame, face, width / frame.image.shape[1] if width else 1.0)
            for one in segments:
                one.push(frame)
            times.append(frame.time_s)
            on_time(frame.time_s)
    collector.flush()
    seconds["decode"] = seconds.get("decode", 0.0) + ahead.seconds
    if tracker is not None:
        seconds |= tracker.seconds
        seconds["track"] = tracker_s - sum(tracker.seconds.values())
    subjects, brief = drop_brief_subjects(np.array(times), collector, min_visible_s)
    shared = {one.modality: one.end() for one in segments}
    return VideoFaces(np.array(times), subjects, faces, brief, collector.seconds, shared)


class _SegmentPass:
    """Cuts frames into segments and encodes them in batches."""

    def __init__(self, modality: str, encoder: SegmentEncoder) -> None:
        self.modality, self._encoder = modality, encoder
        self._segmenter = Segmenter(encoder.segments)
        self._waiting: list[list[np.ndarray]] = []
        self._times: list[float] = []
        self._values = GrowingArray(encoder.dim)

    def push(self, frame: Frame) -> None:
        self._add(self._segmenter.push(frame))

    def end(self) -> Stream:
        """The stream of all segments, at their centres."""
        self._add(self._segmenter.end())
        self._encode()
        count = len(self._times)
        return Stream(self._values.array(), np.array(self._times), np.ones(count, bool), self._encoder.provenance)

    def _add(self, segments: Iterator[tuple[float, list[np.ndarray]]]) -> None:
        for centre_s, pictures in segments:
            self._times.append(centre_s)
            self._waiting.append(pictures)
            if len(self._waiting) >= self._encoder.batch_size:
                self._encode()

    def _encode(self) -> None:
        if self._waiting:
            self._values.extend(np.asarray(self._encoder.encode_segments(self._waiting), np.float32))
            self._waiting = []


def media_facts(info: MediaInfo, frames: int) -> dict[str, Any]:
    """Properties of a recording for the `media` entry of `Timeline.info`. frames: number of decoded frames."""
    return {
        "kind": info.kind,
        "width": info.width,
        "height": info.height,
        "duration_s": info.duration_s,
        "frames": frames,
    }
