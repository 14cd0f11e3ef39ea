"""Features of each subject of a recording, collected while it is decoded.

Memory holds feature vectors, never pictures: crops wait for a full batch at most.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import cv2
import numpy as np

from mien.clock import TIME_DECIMALS
from mien.encode import face_quality
from mien.encode.batches import BatchEncoder
from mien.encode.face_measures import FaceMeasure
from mien.encode.face_rate import Filled, fill
from mien.encode.subject_track import SubjectTrack
from mien.encoders import face_geometry
from mien.encoders.face_geometry import FaceGeometry
from mien.encoders.protocol import Crop, CropEncoder, MeshEncoder
from mien.faces.align import align
from mien.memory import GrowingArray, scatter
from mien.records import FACE, Face, FaceTrack, Frame, Stream

#: Gets the name of an encoder's input, and what the encoder raised.
OnError = Callable[[str, Exception], None]
#: Meshes converted to geometry at once: the overhead of one call equals forty meshes.
_MESH_BATCH = 256
#: Presence probability of a face that is certain: a logit of 11.5. Faces upside down give up to 10.
CERTAIN_SCORE = 0.99999
#: A face whose mesh waits: subject, row, box, mesh, quality, readings of each of the measures.
_Pending = tuple[int, int, np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]
_OPENING = face_geometry.NAMES.index("mouth_opening")
_POSE = {name: face_geometry.NAMES.index(f"head_{name}") for name in ("yaw", "pitch", "roll")}


@dataclass(slots=True)
class VideoFaces:
    """Faces of one recording.

    times: `(frame,)` seconds. subjects: in order of appearance; methods take the index into this list. encoders:
    modality -> face encoder. brief: number of subjects left out because they were visible too briefly. encode_s:
    seconds spent on encoding. shared: modality -> stream of a segment encoder, shared by all subjects.
    names: modality -> key of `encoders`; two modalities may share one encoder. turned: (width, height) in pixels where
    the frames were turned by half to be read; boxes are then given in pixels of the frames as they are stored.
    passed_over: most faces seen at once beyond the limit of tracked ones. read: `(n,)` frames whose faces were read, if
    not all were; in the others, boxes and measures are interpolated (`mien.encode.face_rate`). seen_before: somebody
    was seen before these frames, as in the last minute of a camera.

    Tracks and streams are made on request and not cached, so that memory holds those of one subject at a time.
    """

    times: np.ndarray
    subjects: list[SubjectTrack] = field(default_factory=list)
    encoders: Mapping[str, CropEncoder | MeshEncoder] = field(default_factory=dict)
    brief: int = 0
    encode_s: float = 0.0
    shared: dict[str, Stream] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    turned: tuple[int, int] | None = None
    passed_over: int = 0
    read: np.ndarray | None = None
    seen_before: bool = False

    def __post_init__(self) -> None:
        self.names = self.names or {name: name for name in self.encoders}

    def _filled(self, number: int) -> Filled:
        return fill(self.subjects[number].rows.array(), self.read, self.times)

    def _valid(self, number: int) -> np.ndarray:
        """`(frame,)` bool, whether the subject has a face."""
        valid = np.zeros(len(self.times), bool)
        valid[self._filled(number).frames] = True
        return valid

    def _over_frames(self, number: int, values: np.ndarray) -> np.ndarray:
        """`(frame, width)` float64 values of a subject, from those of its readings; NaN without a face."""
        filled = self._filled(number)
        out = np.full((len(self.times), values.shape[1]), np.nan)
        out[filled.frames] = filled.interpolate(values)
        return out

    def track(self, number: int) -> FaceTrack:
        """Track of a subject over all frames."""
        boxes = self._over_frames(number, self.subjects[number].boxes.array())
        if self.turned is not None:
            boxes = np.tile(self.turned, 2) - boxes[:, [2, 3, 0, 1]]
        return FaceTrack(number, self.times, boxes, self._valid(number))

    def geometry(self, number: int) -> np.ndarray:
        """`(frame, features)` of `face_geometry.compute_features` of a subject, NaN without a face."""
        return self._over_frames(number, self.subjects[number].geometry.array())

    def measures(self, number: int, name: str) -> np.ndarray:
        """`(frame, dim)` values of a `FaceMeasure` of a subject, NaN without a face."""
        return self._over_frames(number, self.subjects[number].features[name].array())

    def mouth_opening(self, number: int) -> np.ndarray:
        """Mouth opening of a subject, `(frame,)`: the feature `mouth_opening` of face geometry, NaN without a face."""
        return self._over_frames(number, self.subjects[number].geometry.array()[:, _OPENING : _OPENING + 1])[:, 0]

    def quality(self, number: int) -> dict[str, np.ndarray]:
        """Measures of a subject's face over all frames, each `(frame,)`, NaN without a face: `face_quality.NAMES`;
        `yaw`, `pitch`, `roll` in degrees (positive: nose to the subject's left, looking down, leaning clockwise in the
        picture); and `quality` in [0, 1]."""
        subject, filled = self.subjects[number], self._filled(number)
        measured, geometry = subject.quality.array(), subject.geometry.array()
        is_measured = len(measured) == len(subject.rows) == len(geometry)  # crops that a corpus provides are not
        sources = {name: (measured, i) for i, name in enumerate(face_quality.NAMES)}
        sources |= {name: (geometry, i) for name, i in _POSE.items()}
        known = {}
        for name, (values, i) in sources.items():  # one by one, because those of an hour take much memory
            known[name] = np.full(len(self.times), np.nan, np.float32)
            if is_measured:
                column = np.degrees(values[:, i]) if name in _POSE else values[:, i]
                known[name][filled.frames] = filled.interpolate(column[:, None])[:, 0]
        return known | {"quality": face_quality.quality(known)}

    def has_upright_face(self) -> bool:
        """Whether a face is certain and not upside down in any frame."""
        for number in range(len(self.subjects)):
            measured = self.quality(number)
            if ((measured["face_score"] >= CERTAIN_SCORE) & (np.abs(measured["roll"]) < 90)).any():
                return True
        return False

    def stream(self, number: int, modality: str = FACE) -> Stream:
        """Stream of a subject and a face encoder over all frames; invalid where the subject has no face. That of a crop
        encoder with a rate leaves out the frames with a face that it did not encode."""
        start = time.perf_counter()
        modality = self.names[modality]
        encoder, subject = self.encoders[modality], self.subjects[number]
        rows, valid = subject.rows.array(), self._valid(number)
        if not len(rows):
            return Stream(np.zeros((len(self.times), encoder.dim), np.float32), self.times, valid, encoder.provenance)
        known = subject.geometry.array() if isinstance(encoder, FaceGeometry) else subject.features[modality].array()
        if isinstance(encoder, MeshEncoder):
            filled = self._filled(number)
            values = np.full((len(self.times), known.shape[1]), np.nan, np.float32)
            values[filled.frames] = filled.interpolate(known)
            stream = encoder.encode_measures(values, self.times, valid)
        elif modality in subject.encoded_rows or self.read is not None:
            encoded = subject.encoded_rows[modality].array() if modality in subject.encoded_rows else rows
            kept = ~valid
            kept[encoded] = True
            places = np.searchsorted(np.flatnonzero(kept), encoded)
            values = scatter(known, places, int(kept.sum()))
            stream = Stream(values, self.times[kept], valid[kept], encoder.provenance)
        else:
            stream = Stream(scatter(known, rows, len(self.times)), self.times, valid, encoder.provenance)
        self.encode_s += time.perf_counter() - start
        return stream

    def most_visible(self) -> int | None:
        """The subject with a face in most frames, the first of equals; None without any."""
        counts = [len(subject.rows) for subject in self.subjects]
        return int(np.argmax(counts)) if counts else None


class SubjectCollector:
    """Collects boxes, geometry and features of all subjects of one recording.

    Meshes are measured and crops encoded in batches across subjects, then dropped.

    Args:
        encoders: modality -> encoder of crops or meshes.
        geometry: also measure face geometry, for mouth openings, where no encoder needs it, and the quality of faces.
        measures: of faces, which no encoder reads; see `VideoFaces.measures`.
        on_error: gets the modality and the exception of an encoder, which then gives no more features; None raises it.
    """

    def __init__(
        self,
        encoders: Mapping[str, CropEncoder | MeshEncoder],
        *,
        geometry: bool = True,
        measures: Sequence[FaceMeasure] = (),
        on_error: OnError | None = None,
    ) -> None:
        self.subjects: dict[int, SubjectTrack] = {}
        self._measure_s = 0.0
        self._on_error = on_error
        self._face_measures = tuple(measures)
        self._meshes = {m: e for m, e in encoders.items() if isinstance(e, MeshEncoder)}
        self._measures_quality = geometry
        self._qualities: dict[int, tuple[float, np.ndarray]] = {}  # subject -> time of its last measures, and these
        self._measures_geometry = geometry or any(isinstance(e, FaceGeometry) for e in self._meshes.values())
        self._crops = {m: self._batches(m, e) for m, e in encoders.items() if isinstance(e, CropEncoder)}
        self._framing = {m: e.crop for m, e in encoders.items() if isinstance(e, CropEncoder)}
        self._rates = {m: e.rate_hz for m, e in encoders.items() if isinstance(e, CropEncoder) and e.rate_hz}
        self._cells: dict[tuple[int, str], int] = {}
        self._skipped: dict[tuple[int, str], tuple[int, Callable[[], np.ndarray]]] = {}
        self._pending: list[_Pending] = []

    def _batches(self, modality: str, encoder: CropEncoder) -> BatchEncoder[np.ndarray, int]:
        def on_values(subjects: list[int], values: np.ndarray) -> None:
            numbers = np.array(subjects)
            for number in np.unique(numbers).tolist():
                self.subject(number).extend(modality, values[numbers == number])

        def encode(crops: list[np.ndarray]) -> np.ndarray:
            return encoder.encode_crops(np.stack(crops))

        return BatchEncoder(encoder, encode, on_values, _for_modality(self._on_error, modality))

    @property
    def seconds(self) -> float:
        """Time of measuring and encoding."""
        return self._measure_s + sum(batches.seconds for batches in self._crops.values())

    def add(self, row: int, frame: Frame, face: Face, scale: float) -> None:
        """Add a face of a frame. row: index of the frame. scale: original pixels in a pixel of the frame."""
        cut: dict[Crop, np.ndarray] = {}
        for modality, batches in self._crops.items():
            crop = self._framing[modality]
            if not self._is_due(face.subject, modality, frame.time_s):
                later = partial(align, frame.image, face.mesh, crop.size, crop.margin, crop.down)
                self._skipped[face.subject, modality] = row, later
                continue
            self._note_encoded(face.subject, modality, row)
            if crop not in cut:
                cut[crop] = align(frame.image, face.mesh, crop.size, crop.margin, crop.down)
            batches.add(face.subject, cut[crop])
        quality = self._quality_of(frame, face) if self._measures_quality else np.zeros(0, np.float32)
        mesh = np.asarray(face.mesh, np.float32)
        start = time.perf_counter()
        readings = [measure.read(frame.image, mesh, scale) for measure in self._face_measures]
        self._measure_s += time.perf_counter() - start
        self._pending.append((face.subject, row, np.asarray(face.box) * scale, mesh, quality, readings))
        if len(self._pending) >= _MESH_BATCH:
            self._measure_meshes()

    def _quality_of(self, frame: Frame, face: Face) -> np.ndarray:
        """`face_quality.measure` of a face, ten times a second; between, the last measures with the own score."""
        last_s, last = self._qualities.get(face.subject, (-np.inf, None))
        if last is None or not 0 <= frame.time_s - last_s < face_quality.EVERY_S:
            start = time.perf_counter()
            last = face_quality.measure(frame.image, face)
            self._qualities[face.subject] = frame.time_s, last
            self._measure_s += time.perf_counter() - start
        return np.append(np.float32(face.score), last[1:])

    def add_crop(self, row: int, time_s: float, image: np.ndarray, subject: int = 0) -> None:
        """Add a face crop `(height, width, 3)` uint8 RGB that the corpus provides, for the encoders of crops."""
        self.subject(subject).rows.extend(np.array([row]))
        for modality, batches in self._crops.items():
            if not self._is_due(subject, modality, time_s):
                self._skipped[subject, modality] = row, partial(resize_square, image, self._framing[modality].size)
                continue
            self._note_encoded(subject, modality, row)
            batches.add(subject, resize_square(image, self._framing[modality].size))

    def _is_due(self, number: int, modality: str, time_s: float) -> bool:
        """Whether a face is encoded: of an encoder with a rate, the first one of a subject in each of its periods."""
        rate_hz = self._rates.get(modality)
        if rate_hz is None:
            return True
        cell = int(np.floor(round(time_s * rate_hz, TIME_DECIMALS)))
        if self._cells.get((number, modality)) == cell:
            return False
        self._cells[number, modality] = cell
        return True

    def _note_encoded(self, number: int, modality: str, row: int) -> None:
        """Record which frame an encoder with a rate reads."""
        self._skipped.pop((number, modality), None)
        if modality in self._rates:
            rows = self.subject(number).encoded_rows
            rows.setdefault(modality, GrowingArray(0, np.int64)).extend(np.array([row]))

    def flush(self) -> None:
        """Encode what waits. The last face of each subject is encoded in any case: the end of a recording is seen."""
        for (number, modality), (row, crop) in list(self._skipped.items()):
            self._note_encoded(number, modality, row)
            self._crops[modality].add(number, crop())
        self._measure_meshes()
        for batches in self._crops.values():
            batches.flush()

    def drain(self) -> None:
        """Encode what waits, so that the subjects hold all frames so far; more may be added."""
        self._measure_meshes()
        for batches in self._crops.values():
            batches.drain()

    def since(self, row: int) -> dict[int, SubjectTrack]:
        """Copies of all subjects from frame `row` on, whose index becomes 0. Faces that wait are measured for the
        copies alone, and crops that wait are not encoded: what is collected does not depend on this."""
        parts = {number: subject.since(row) for number, subject in self.subjects.items()}
        pending = [(face[0], face[1] - row, *face[2:]) for face in self._pending if face[1] >= row]
        self._add_measured(pending, lambda number: parts.setdefault(number, SubjectTrack(number)))
        return parts

    def forget(self, row: int, *, keep: int | None = None) -> None:
        """Drop the frames before `row`, whose index becomes 0, and the subjects other than `keep` that are in none of
        the rest.

        Call `drain` first. Memory is then bounded by the frames that are kept.
        """
        later = {number: subject.since(row) for number, subject in self.subjects.items()}
        self.subjects = {number: subject for number, subject in later.items() if number == keep or len(subject.rows)}
        self._skipped = {
            key: (at - row, crop) for key, (at, crop) in self._skipped.items() if at >= row and key[0] in self.subjects
        }
        self._cells = {key: cell for key, cell in self._cells.items() if key[0] in self.subjects}
        self._qualities = {number: last for number, last in self._qualities.items() if number in self.subjects}

    def subject(self, number: int) -> SubjectTrack:
        """The subject of a number, created if it is new."""
        if number not in self.subjects:
            self.subjects[number] = SubjectTrack(number)
        return self.subjects[number]

    def _measure_meshes(self) -> None:
        start = time.perf_counter()
        self._add_measured(self._pending, self.subject)
        self._pending = []
        self._measure_s += time.perf_counter() - start

    def _add_measured(self, faces: Sequence[_Pending], subject_of: Callable[[int], SubjectTrack]) -> None:
        if not faces:
            return
        *columns, readings = zip(*faces, strict=True)
        numbers, rows, boxes, meshes, qualities = map(np.array, columns)
        geometry = face_geometry.compute_features(meshes) if self._measures_geometry else None
        measures = self._measures(meshes)
        for measure, read in zip(self._face_measures, zip(*readings, strict=True), strict=True):
            measures[measure.name] = measure.measure(np.stack(read))
        for number in np.unique(numbers).tolist():
            subject, mask = subject_of(number), numbers == number
            subject.rows.extend(rows[mask])
            subject.boxes.extend(boxes[mask])
            if self._measures_quality:
                subject.quality.extend(qualities[mask])
            if geometry is not None:
                subject.geometry.extend(geometry[mask])
            for modality, values in measures.items():
                subject.extend(modality, values[mask])

    def _measures(self, meshes: np.ndarray) -> dict[str, np.ndarray]:
        """Modality -> measures of meshes; geometry is measured apart."""
        measures = {}
        for modality, encoder in list(self._meshes.items()):
            if isinstance(encoder, FaceGeometry):
                continue
            try:
                measures[modality] = encoder.measure(meshes)
            except Exception as error:
                if self._on_error is None:
                    raise
                del self._meshes[modality]
                self._on_error(modality, error)
        return measures


def _for_modality(on_error: OnError | None, modality: str) -> Callable[[Exception], None] | None:
    return None if on_error is None else lambda error: on_error(modality, error)


def resize_square(image: np.ndarray, size: int) -> np.ndarray:
    """An image scaled to `(size, size, 3)`; one of that size as it is."""
    if image.shape[:2] == (size, size):
        return image
    shrinks = size < min(image.shape[:2])
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
