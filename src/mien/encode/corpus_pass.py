"""One pass over a recording's pictures, or over ready crops, for every encoder that looks at them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mien.encode.segments import Segmenter
from mien.encode.sinks import Batcher, MeshSink, RowSink, StreamSink
from mien.encode.subject_selection import SubjectSelector
from mien.encoders.protocol import Crop, SegmentEncoder
from mien.errors import OutputError
from mien.media.video import frames
from mien.records import Face, Frame


@dataclass(frozen=True, slots=True)
class CropFolder:
    """Aligned crops of one clip, `00001.jpg` and so on. times: `(frame,)` seconds; present: `(frame,)` bool, a crop
    is there."""

    folder: Path
    times: np.ndarray
    present: np.ndarray


class ImagePass:
    """encoders, batchers: by name. passed: told where in the recording the pass is, in seconds."""

    def __init__(
        self,
        encoders: Mapping[str, Any],
        batchers: Mapping[str, Batcher],
        max_faces: int,
        threads: int,
        passed: Callable[[float], None],
    ) -> None:
        self._encoders, self._batchers, self._passed = encoders, batchers, passed
        self._max_faces, self._threads = max_faces, threads

    # -----------------------------------------------------------------------------------------------

    def video(self, media: Path, sides: Mapping[str, str], sinks: Sequence[StreamSink]) -> None:
        """One pass over the frames for every encoder that looks at them. sides: clip -> "", `left` or `right`."""
        if not sinks:
            return
        segmenters = {
            name: Segmenter(encoder.segments)
            for name in {s.encoder for s in sinks}
            if isinstance(encoder := self._encoders[name], SegmentEncoder)
        }
        by_face = [s for s in sinks if s.encoder not in segmenters]
        notes: list[str] = []
        try:
            reader = _reader(self._max_faces, self._threads) if by_face else None
            picker, seen = SubjectSelector(), False
            for frame in frames(media, notes=notes):
                for name, segmenter in segmenters.items():
                    self._segments(name, segmenter.push(frame), sinks)
                if reader is not None:
                    chosen = picker(reader(frame), frame.image.shape[1])
                    self._faces(frame, {s: chosen.get(sides[s.clip]) for s in by_face})
                self._passed(frame.time_s)
                seen = True
                if all(s.done for s in sinks):
                    return
            for name, segmenter in segmenters.items():
                self._segments(name, segmenter.end(), sinks)
            if not seen:
                notes.append("no pictures")
        except OutputError:
            raise
        except Exception as error:
            for sink in sinks:
                sink.fail(error)
        for sink in sinks:
            _end(sink, notes)

    def _faces(self, frame: Frame, faces: dict[StreamSink, Face | None]) -> None:
        cut: dict[tuple[int, Crop], np.ndarray] = {}
        for sink, face in faces.items():
            if isinstance(sink, MeshSink):
                sink.add(frame.time_s, None if face is None else face.mesh)
            elif isinstance(sink, RowSink) and not sink.done:
                if face is None:
                    sink.absent(frame.time_s)
                    continue
                crop = self._encoders[sink.encoder].crop
                key = face.subject, crop
                if key not in cut:
                    cut[key] = _aligned(frame.image, face.mesh, crop)
                self._batchers[sink.encoder].add(cut[key], sink, sink.awaited(frame.time_s))

    def _segments(
        self, name: str, found: Iterator[tuple[float, list[np.ndarray]]], sinks: Sequence[StreamSink]
    ) -> None:
        for centre_s, pictures in found:
            for sink in sinks:
                if sink.encoder == name and isinstance(sink, RowSink) and not sink.done:
                    self._batchers[name].add(pictures, sink, sink.awaited(centre_s))

    def crops(self, folders: Mapping[str, CropFolder], sinks: Sequence[StreamSink]) -> None:
        """The corpus's own crops, frame by frame. folders: clip -> its crops; a clip without has none."""
        for clip in dict.fromkeys(s.clip for s in sinks):
            found, mine = folders.get(clip), [s for s in sinks if s.clip == clip and isinstance(s, RowSink)]
            if found is None:
                continue
            files = {int(p.stem): p for p in found.folder.iterdir() if p.stem.isdigit() and p.name[0] != "."}
            broken: list[str] = []
            for i, time_s in enumerate(found.times):
                image = _picture(files.get(i + 1), broken) if found.present[i] else None
                for sink in mine:
                    if image is None or sink.done:
                        sink.absent(time_s)
                        continue
                    size = self._encoders[sink.encoder].crop.size
                    self._batchers[sink.encoder].add(_sized(image, size), sink, sink.awaited(time_s))
            notes = [f"{len(broken)} crops cannot be read, such as {broken[0]}"] if broken else []
            for sink in mine:
                sink.end(notes)


def _reader(max_faces: int, threads: int) -> Callable[[Frame], list[Face]]:
    # not at the top: the face networks and their hub take longer to import than a process for sound needs at
    # all
    from mien.faces.tracker import FaceTracker

    return FaceTracker(max_faces=max_faces, threads=threads)


def _aligned(image: np.ndarray, mesh: np.ndarray, crop: Crop) -> np.ndarray:
    from mien.faces.align import align

    return align(image, mesh, crop.size, crop.margin, crop.down)


def _end(sink: StreamSink, notes: list[str]) -> None:
    if isinstance(sink, RowSink | MeshSink):
        sink.end(notes)


def _picture(path: Path | None, broken: list[str]) -> np.ndarray | None:
    raw = np.frombuffer(path.read_bytes(), np.uint8) if path is not None else np.zeros(0, np.uint8)
    image = cv2.imdecode(raw, cv2.IMREAD_COLOR) if len(raw) else None
    if image is None:
        broken.append(path.name if path is not None else "one that is gone")
        return None
    return np.ascontiguousarray(image[..., ::-1])


def _sized(image: np.ndarray, size: int) -> np.ndarray:
    if image.shape[:2] == (size, size):
        return image
    shrinks = size < min(image.shape[:2])
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
