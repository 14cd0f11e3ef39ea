"""Image pass of extraction: feed the frames of one recording, or a corpus's own face crops, to every encoder of images.

Called by `extract/job_runner.py` with the recording's sinks (`mien.encode.sinks`) and the run's batchers.
`ImagePass.encode_video` and `ImagePass.encode_crops` return nothing: they add a row for each frame or segment to every
sink, and mark sinks as failed instead of raising. Prediction and the
evaluation on corrupted media go through `encode_media.py`, which gives the same streams (tested).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mien.encode.segments import Segmenter
from mien.encode.sinks import Batcher, MeshSink, RowSink, StreamSink
from mien.encode.subject_selection import SubjectSelector
from mien.encoders.protocol import Crop, CropEncoder, Encoder, SegmentEncoder
from mien.errors import OutputError
from mien.media.video import frames
from mien.records import Face, Frame


@dataclass(frozen=True, slots=True)
class CropFolder:
    """Face crops of one clip that the corpus provides, named by frame number: `00001.jpg` and so on.

    times: `(frame,)` seconds. present: `(frame,)` bool, frames that have a crop.
    """

    folder: Path
    times: np.ndarray
    present: np.ndarray


class ImagePass:
    """The image pass of one process, for many recordings.

    Args:
        encoders: by name. crop_batchers, segment_batchers: of the encoders of crops and of segments, by name.
        max_faces: most subjects tracked at once. threads: of the face networks.
        on_time: called with the position in the recording, seconds.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        crop_batchers: Mapping[str, Batcher[np.ndarray]],
        segment_batchers: Mapping[str, Batcher[list[np.ndarray]]],
        max_faces: int,
        threads: int,
        on_time: Callable[[float], None],
    ) -> None:
        self._encoders, self._on_time = encoders, on_time
        self._crop_batchers, self._segment_batchers = crop_batchers, segment_batchers
        self._max_faces, self._threads = max_faces, threads

    def encode_video(self, media: Path, sides: Mapping[str, str], sinks: Sequence[StreamSink]) -> None:
        """Decode a recording once and feed crops, meshes and segments to the sinks of all its clips.

        Args:
            sides: clip -> "", `left` or `right` (`SubjectSelector`).
            sinks: `RowSink`s and `MeshSink`s, one for each clip and encoder.

        Raises:
            OutputError: a stream cannot be written. Every other exception is stored in the sinks that it affects.
        """
        if not sinks:
            return
        segmenters = {
            name: Segmenter(encoder.segments)
            for name in {s.encoder for s in sinks}
            if isinstance(encoder := self._encoders[name], SegmentEncoder)
        }
        face_sinks = [s for s in sinks if s.encoder not in segmenters]
        crops = self._crop_settings(face_sinks)
        notes: list[str] = []
        try:
            tracker = _make_tracker(self._max_faces, self._threads) if face_sinks else None
            selector, has_frames = SubjectSelector(), False
            for frame in frames(media, notes=notes):
                for name, segmenter in segmenters.items():
                    self._add_segments(name, segmenter.push(frame), sinks)
                if tracker is not None:
                    chosen = selector(tracker(frame), frame.image.shape[1])
                    self._add_faces(frame, {s: chosen.get(sides[s.clip]) for s in face_sinks}, crops)
                self._on_time(frame.time_s)
                has_frames = True
                if all(s.done for s in sinks):
                    return
            for name, segmenter in segmenters.items():
                self._add_segments(name, segmenter.end(), sinks)
            if not has_frames:
                notes.append("no pictures")
        except OutputError:
            raise
        except Exception as error:
            for sink in sinks:
                sink.fail(error)
        for sink in sinks:
            if isinstance(sink, RowSink | MeshSink):
                sink.end(notes)

    def encode_crops(self, folders: Mapping[str, CropFolder], sinks: Sequence[StreamSink]) -> None:
        """Feed the corpus's own crops to the sinks, frame by frame.

        A crop that cannot be read is an invalid row and a note. folders: clip -> its crops; sinks of a clip without
        are left open.

        Raises:
            OSError: a crop folder cannot be read. OutputError: a stream cannot be written.
        """
        crops = self._crop_settings(sinks)
        for clip in dict.fromkeys(s.clip for s in sinks):
            folder = folders.get(clip)
            if folder is None:
                continue
            clip_sinks = [s for s in sinks if s.clip == clip and isinstance(s, RowSink)]
            files = {int(p.stem): p for p in folder.folder.iterdir() if p.stem.isdigit() and p.name[0] != "."}
            unreadable: list[str] = []
            for i, time_s in enumerate(folder.times):
                image = _read_image(files.get(i + 1), unreadable) if folder.present[i] else None
                for sink in clip_sinks:
                    if image is None or sink.done:
                        sink.add_missing(time_s)
                        continue
                    crop = _resize(image, crops[sink.encoder].size)
                    self._crop_batchers[sink.encoder].add(crop, sink, sink.add_pending(time_s))
            notes = [f"{len(unreadable)} crops cannot be read, such as {unreadable[0]}"] if unreadable else []
            for sink in clip_sinks:
                sink.end(notes)

    def _crop_settings(self, sinks: Sequence[StreamSink]) -> dict[str, Crop]:
        encoders = {s.encoder: self._encoders[s.encoder] for s in sinks}
        return {name: encoder.crop for name, encoder in encoders.items() if isinstance(encoder, CropEncoder)}

    def _add_faces(
        self, frame: Frame, faces: Mapping[StreamSink, Face | None], crop_settings: Mapping[str, Crop]
    ) -> None:
        crops: dict[tuple[int, Crop], np.ndarray] = {}  # cut once for all encoders that want the same
        for sink, face in faces.items():
            if isinstance(sink, MeshSink):
                sink.add(frame.time_s, None if face is None else face.mesh)
            elif isinstance(sink, RowSink) and not sink.done:
                if face is None:
                    sink.add_missing(frame.time_s)
                    continue
                crop = crop_settings[sink.encoder]
                key = face.subject, crop
                if key not in crops:
                    crops[key] = _align(frame.image, face.mesh, crop)
                self._crop_batchers[sink.encoder].add(crops[key], sink, sink.add_pending(frame.time_s))

    def _add_segments(
        self, name: str, segments: Iterator[tuple[float, list[np.ndarray]]], sinks: Sequence[StreamSink]
    ) -> None:
        for centre_s, images in segments:
            for sink in sinks:
                if sink.encoder == name and isinstance(sink, RowSink) and not sink.done:
                    self._segment_batchers[name].add(images, sink, sink.add_pending(centre_s))


def _make_tracker(max_faces: int, threads: int) -> Callable[[Frame], list[Face]]:
    # Imported here: the face networks take longer to import than a process for sound alone needs in total.
    from mien.faces.tracker import FaceTracker

    return FaceTracker(max_faces=max_faces, threads=threads)


def _align(image: np.ndarray, mesh: np.ndarray, crop: Crop) -> np.ndarray:
    from mien.faces.align import align

    return align(image, mesh, crop.size, crop.margin, crop.down)


def _read_image(path: Path | None, unreadable: list[str]) -> np.ndarray | None:
    raw = np.frombuffer(path.read_bytes(), np.uint8) if path is not None else np.zeros(0, np.uint8)
    image = cv2.imdecode(raw, cv2.IMREAD_COLOR) if len(raw) else None
    if image is None:
        unreadable.append(path.name if path is not None else "a missing one")
        return None
    return np.ascontiguousarray(image[..., ::-1])


def _resize(image: np.ndarray, size: int) -> np.ndarray:
    if image.shape[:2] == (size, size):
        return image
    shrinks = size < min(image.shape[:2])
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
