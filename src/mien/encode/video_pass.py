"""The pass over the frames of a recording: track faces, encode crops, meshes and segments, drop the frames.

`read_faces` is called by `encode_media.py`. It returns `VideoFaces`: the time of every frame, and for each subject its
boxes and features, from which a `FaceTrack` and `Stream`s are made on request. Memory grows by about 300 bytes for each
frame and face, and by the encoders' feature vectors.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from mien.clock import row_durations
from mien.encode.batches import BatchEncoder
from mien.encode.brief_subjects import drop_brief_subjects
from mien.encode.face_measures import FaceMeasure
from mien.encode.face_rate import FaceSchedule
from mien.encode.segments import Segmenter
from mien.encode.so_far import FacesSoFar, OnFaces
from mien.encode.subject_features import OnError, SubjectCollector, VideoFaces
from mien.encode.subject_selection import SubjectSelector
from mien.encoders.protocol import CropEncoder, MeshEncoder, SegmentEncoder
from mien.errors import MediaError
from mien.faces.still_image import StillImageFaces
from mien.faces.tracker import FaceTracker
from mien.media import image
from mien.media.video import MediaInfo
from mien.memory import GrowingArray, PeriodicRelease
from mien.records import Frame, Stream

Item = TypeVar("Item")

#: Larger frames are scaled down to this side, pixels. Our choice: a face of 40 pixels in a 4K frame is still detected,
#: and a frame takes 11 MB at most.
MAX_SIDE = 1920
#: Side of the frames where only their times are needed, pixels.
TIMES_ONLY_SIDE = 64
#: Most bytes and most frames that wait for the face tracker. Our choice: a search for small faces takes as long as
#: decoding eight frames of 640 × 360.
PREFETCH_BYTES, PREFETCH_FRAMES = 32 << 20, 8
#: Subjects never visible for this long without a gap are left out, as passers-by or false detections. Our choice: the
#: shortest expressions last about as long.
MIN_VISIBLE_S = 0.5
#: In a recording shorter than that, subjects never visible for this share of it are left out. Our choice.
BRIEF_CLIP_SHARE = 0.5


class Prefetch(Generic[Item]):
    """Iterator that computes its items ahead, in a thread. Use `contextlib.closing`, or exhaust it, to end the thread.

    An exception of `items` is raised in its place among the items.

    Args:
        depth: number of items that may wait when an item is added, computed from that item.

    Attributes:
        seconds: time spent on the items.
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
        start = time.perf_counter()
        try:
            for item in self._items:
                self.seconds += time.perf_counter() - start
                self._queue.maxsize = self._depth(item)
                if not self._put(item, None):
                    break
                start = time.perf_counter()
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


class _InTurn:
    """Items computed when they are asked for. seconds: time spent on them."""

    def __init__(self, items: Iterable[Frame]) -> None:
        self.seconds = 0.0
        self._items = items

    def __iter__(self) -> Iterator[Frame]:
        iterator = iter(self._items)
        while True:
            start = time.perf_counter()
            item = next(iterator, None)
            self.seconds += time.perf_counter() - start
            if item is None:
                return
            yield item

    def close(self) -> None:
        """Nothing to end."""


class _Calls:
    """Calls of a function one after another, in a thread of their own: at most `BEHIND` wait. Use as a context: at its
    end all have been made. What a call raises is raised by a later one, or at the end.

    Args:
        function: called. in_thread: otherwise it is called at once.
    """

    #: Calls that may wait, each with its frame. Our choice: cutting a face takes less time than finding the next one.
    BEHIND = 3

    def __init__(self, function: Callable[..., None], *, in_thread: bool) -> None:
        self._function = function
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="mien-crops") if in_thread else None
        self._waiting: deque[Future[None]] = deque()

    def __call__(self, *arguments: Any) -> None:
        if self._pool is None:
            self._function(*arguments)
            return
        self._waiting.append(self._pool.submit(self._function, *arguments))
        if len(self._waiting) > self.BEHIND:
            self._waiting.popleft().result()

    def wait(self) -> None:
        """Wait until all calls so far have been made. Raises what one of them raised."""
        while self._waiting:
            self._waiting.popleft().result()

    def __enter__(self) -> _Calls:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._pool is None:
            return
        self._pool.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for call in self._waiting:
                call.result()


def _with_last(frames: Iterable[Frame]) -> Iterator[tuple[Frame, bool]]:
    """Each frame, and whether it is the last one, which is read in any case: the end of a recording is seen."""
    waiting: Frame | None = None
    for frame in frames:
        if waiting is not None:
            yield waiting, False
        waiting = frame
    if waiting is not None:
        yield waiting, True


def _prefetch_depth(frame: Frame) -> int:
    return max(1, min(PREFETCH_FRAMES, PREFETCH_BYTES // max(1, frame.held_bytes)))


def _with_images(frames: Iterable[Frame], rate_hz: float | None) -> Iterator[Frame]:
    """The frames, with the images of those made whose faces are read at `rate_hz` in any case. The images of the others
    are made if a moving face is read in them."""
    schedule = FaceSchedule(rate_hz)
    for frame in frames:
        if schedule.is_due(frame.time_s):
            _ = frame.image
        yield frame


def read_faces(
    decoded: Iterable[Frame],
    *,
    tracker: FaceTracker | StillImageFaces | None,
    encoders: Mapping[str, CropEncoder | MeshEncoder | SegmentEncoder],
    width: int | None,
    seconds: dict[str, float],
    on_time: Callable[[float], None],
    min_visible_s: float = MIN_VISIBLE_S,
    sides: Sequence[str] | None = None,
    geometry: bool = True,
    measures: Sequence[FaceMeasure] = (),
    decode_ahead: bool = True,
    rate_hz: float | None = None,
    several_hz: float | None = None,
    on_error: OnError | None = None,
    on_faces: OnFaces | None = None,
) -> VideoFaces:
    """Read frames once; return their times, the faces in them, and what the encoders make of both.

    Args:
        decoded: frames of one recording, in order; they are dropped after use.
        tracker: detects and tracks the faces; None returns times and segments only.
        encoders: modality -> encoder of crops, meshes or segments.
        width: of the original frames in pixels, to which boxes are scaled; None: that of the frames given.
        seconds: gets the seconds of `decode`, `detect`, `mesh` and `track`.
        on_time: called with the time of each frame, seconds.
        min_visible_s: subjects never visible for this long without a gap are left out; in a shorter recording, for half
            of it.
        sides: the subjects are the faces that `SubjectSelector` chooses for these sides, in their order, also those
            that are never visible; None: everyone.
        geometry: measure mouth openings too.
        measures: of faces, which no encoder reads; see `VideoFaces.measures`.
        decode_ahead: decode in a thread of its own.
        rate_hz, several_hz: faces are read so many times a second, see `FaceSchedule`; None: in every frame.
        on_error: see `SubjectCollector`.
        on_faces: called after each frame with the faces so far, where there is a tracker.

    Raises:
        MediaError: the video cannot be decoded. ArtefactError: a face network is missing.
    """
    faces = {m: e for m, e in encoders.items() if isinstance(e, CropEncoder | MeshEncoder)}
    segments = [_SegmentPass(m, e, on_error) for m, e in encoders.items() if isinstance(e, SegmentEncoder)]
    collector = SubjectCollector(faces, geometry=geometry, measures=measures, on_error=on_error)
    selector, schedule = SubjectSelector(), FaceSchedule(rate_hz, several_hz)
    times: list[float] = []
    read: list[int] = []
    tracker_s, release = 0.0, PeriodicRelease()
    so_far = FacesSoFar(times, read, collector, faces, min_visible_s)
    if tracker is not None and decode_ahead:
        decoded = _with_images(decoded, rate_hz)
    source = Prefetch(decoded, _prefetch_depth) if decode_ahead else _InTurn(decoded)
    with closing(source), _Calls(collector.add, in_thread=decode_ahead) as add:
        so_far.settle = add.wait
        for frame, is_last in _with_last(source):
            if tracker is not None and (schedule.is_due(frame.time_s) or is_last):
                read.append(len(times))
                start = time.perf_counter()
                found = tracker(frame)
                schedule.note(found)
                tracker_s += time.perf_counter() - start
                if sides is not None:
                    chosen = selector(found, frame.image.shape[1])
                    found = [replace(chosen[side], subject=i) for i, side in enumerate(sides) if side in chosen]
                for face in found:
                    add(len(times), frame, face, width / frame.image.shape[1] if width else 1.0)
            for one in segments:
                one.push(frame)
            times.append(frame.time_s)
            on_time(frame.time_s)
            if on_faces is not None and tracker is not None:
                on_faces(frame.time_s, so_far)
            if decode_ahead:
                release(frame.time_s)
    collector.flush()
    seconds["decode"] = seconds.get("decode", 0.0) + source.seconds
    if tracker is not None:
        seconds |= tracker.seconds
        seconds["track"] = tracker_s - sum(tracker.seconds.values())
    some = np.array(read, np.int64) if len(read) < len(times) and tracker is not None else None
    if sides is None:
        length_s = float(row_durations(np.array(times)).sum())
        if length_s < min_visible_s:
            min_visible_s = BRIEF_CLIP_SHARE * length_s
        subjects, brief = drop_brief_subjects(np.array(times), collector.subjects, min_visible_s, some)
    else:
        subjects, brief = [collector.subject(i) for i in range(len(sides))], 0
    shared = {one.modality: one.end() for one in segments}
    passed_over = tracker.passed_over if isinstance(tracker, FaceTracker) else 0
    return VideoFaces(
        np.array(times), subjects, faces, brief, collector.seconds, shared, passed_over=passed_over, read=some
    )


@dataclass(frozen=True, slots=True)
class CropFolder:
    """Face crops of one clip that the corpus provides, named by frame number: `00001.jpg` and so on.

    times: `(frame,)` seconds. present: `(frame,)` bool, frames that have a crop.
    """

    folder: Path
    times: np.ndarray
    present: np.ndarray


def list_crops(folder: Path) -> dict[int, Path]:
    """Number of the frame, from 1 -> file of its crop, for the files of a `CropFolder`. Raises OSError."""
    return {int(p.stem): p for p in folder.iterdir() if p.stem.isdigit() and p.name[0] != "."}


def read_crops(
    crops: CropFolder, encoders: Mapping[str, CropEncoder], notes: list[str], on_error: OnError | None = None
) -> VideoFaces:
    """Encode the corpus's own crops of one subject. A crop that cannot be read is an invalid row and a note.

    Raises:
        OSError: the folder cannot be read.
    """
    collector = SubjectCollector(encoders, on_error=on_error)
    subject = collector.subject(0)
    files = list_crops(crops.folder)
    unreadable: list[str] = []
    for row in np.flatnonzero(crops.present).tolist():
        image = _read_image(files.get(row + 1), unreadable)
        if image is not None:
            collector.add_crop(row, float(crops.times[row]), image)
    collector.flush()
    if unreadable:
        notes.append(f"{len(unreadable)} crops cannot be read, such as {unreadable[0]}")
    return VideoFaces(np.asarray(crops.times, float), [subject], encoders, encode_s=collector.seconds)


def _read_image(path: Path | None, unreadable: list[str]) -> np.ndarray | None:
    if path is not None:
        with suppress(MediaError):
            return image.read(path)
    unreadable.append(path.name if path is not None else "a missing one")
    return None


class _SegmentPass:
    """Cuts frames into segments and encodes them in batches."""

    def __init__(self, modality: str, encoder: SegmentEncoder, on_error: OnError | None) -> None:
        self.modality, self._encoder = modality, encoder
        self._segmenter = Segmenter(encoder.segments)
        self._times: list[float] = []
        self._values = GrowingArray(encoder.dim)
        failed = None if on_error is None else lambda error: on_error(modality, error)
        self._batches: BatchEncoder[list[np.ndarray], float] = BatchEncoder(
            encoder, encoder.encode_segments, self._on_values, failed
        )

    def push(self, frame: Frame) -> None:
        self._add(self._segmenter.push(frame))

    def end(self) -> Stream:
        """The stream of all segments, at their centres."""
        self._add(self._segmenter.end())
        self._batches.flush()
        count = len(self._times)
        return Stream(self._values.array(), np.array(self._times), np.ones(count, bool), self._encoder.provenance)

    def _add(self, segments: Iterator[tuple[float, list[np.ndarray]]]) -> None:
        for centre_s, pictures in segments:
            self._batches.add(centre_s, pictures)

    def _on_values(self, centres_s: list[float], values: np.ndarray) -> None:
        self._times += centres_s
        self._values.extend(values)


def media_facts(info: MediaInfo, frames: int) -> dict[str, Any]:
    """Properties of a recording for the `media` entry of `Timeline.info`. frames: number of decoded frames."""
    return {
        "kind": info.kind,
        "width": info.width,
        "height": info.height,
        "duration_s": info.duration_s,
        "frames": frames,
    }
