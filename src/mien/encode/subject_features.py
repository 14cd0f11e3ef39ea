"""Features of each subject of a recording, collected while it is decoded.

Memory holds feature vectors, never pictures: crops wait for a full batch at most.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from mien.clock import row_durations
from mien.encoders import face_geometry
from mien.encoders.face_geometry import FaceGeometry
from mien.encoders.protocol import Crop, CropEncoder, MeshEncoder
from mien.faces.align import align
from mien.memory import GrowingArray
from mien.records import FACE, Face, FaceTrack, Frame, Stream

#: A face missing for less than this is no gap, seconds.
MAX_GAP_S = 0.25
#: Meshes converted to geometry at once: the overhead of one call equals forty meshes.
_MESH_BATCH = 256
_OPENING = face_geometry.NAMES.index("mouth_opening")


@dataclass(slots=True)
class SubjectTrack:
    """One subject in the frames that show it.

    id: the tracker's subject number. rows: `(n,)` frame indices. boxes: `(n, 4)` x1, y1, x2, y2, pixels of the original
    frame. geometry: `(n, features)` of `mien.encoders.face_geometry.compute_features`. features: modality -> `(n, dim)`
    embeddings of a crop encoder, or `(n, measures)` of a mesh encoder.
    """

    id: int
    rows: GrowingArray = field(default_factory=lambda: GrowingArray(0, np.int64))
    boxes: GrowingArray = field(default_factory=lambda: GrowingArray(4))
    geometry: GrowingArray = field(default_factory=lambda: GrowingArray(len(face_geometry.NAMES)))
    features: dict[str, GrowingArray] = field(default_factory=dict)


@dataclass(slots=True)
class VideoFaces:
    """Faces of one recording.

    times: `(frame,)` seconds. subjects: in order of appearance; methods take the index into this list. encoders:
    modality -> face encoder. brief: number of subjects left out because they were visible too briefly. encode_s:
    processor seconds spent on encoding. shared: modality -> stream of a segment encoder, shared by all subjects.

    Tracks and streams are made on request and not cached, so that memory holds those of one subject at a time.
    """

    times: np.ndarray
    subjects: list[SubjectTrack] = field(default_factory=list)
    encoders: Mapping[str, CropEncoder | MeshEncoder] = field(default_factory=dict)
    brief: int = 0
    encode_s: float = 0.0
    shared: dict[str, Stream] = field(default_factory=dict)

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

    def stream(self, number: int, modality: str = FACE) -> Stream:
        """Stream of a subject and a face encoder over all frames; invalid where the subject has no face."""
        start = time.thread_time()
        encoder, subject = self.encoders[modality], self.subjects[number]
        rows = subject.rows.array()
        valid = np.zeros(len(self.times), bool)
        valid[rows] = True
        known = subject.geometry.array() if isinstance(encoder, FaceGeometry) else subject.features[modality].array()
        if isinstance(encoder, MeshEncoder):
            values = np.full((len(self.times), known.shape[1]), np.nan, np.float32)
            values[rows] = known
            stream = encoder.encode_measures(values, self.times, valid)
        else:
            values = np.zeros((len(self.times), encoder.dim), np.float32)
            values[rows] = known
            stream = Stream(values, self.times, valid, encoder.provenance)
        self.encode_s += time.thread_time() - start
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
    """

    def __init__(self, encoders: Mapping[str, CropEncoder | MeshEncoder]) -> None:
        self.subjects: dict[int, SubjectTrack] = {}
        self.seconds = 0.0
        self._encoders = encoders
        self._crop_encoders = {m: e for m, e in encoders.items() if isinstance(e, CropEncoder)}
        self._pending: list[tuple[int, int, np.ndarray, np.ndarray]] = []  # subject, row, box, mesh
        self._crops: dict[str, list[tuple[int, np.ndarray]]] = {m: [] for m in self._crop_encoders}

    def add(self, row: int, frame: Frame, face: Face, scale: float) -> None:
        """Add a face of a frame. row: index of the frame. scale: original pixels in a pixel of the frame."""
        cut: dict[Crop, np.ndarray] = {}
        for modality, encoder in self._crop_encoders.items():
            crop = encoder.crop
            if crop not in cut:
                cut[crop] = align(frame.image, face.mesh, crop.size, crop.margin, crop.down)
            self._crops[modality].append((face.subject, cut[crop]))
            if len(self._crops[modality]) >= encoder.batch_size:
                self._encode_crops(modality)
        self._pending.append((face.subject, row, np.asarray(face.box) * scale, np.asarray(face.mesh, np.float32)))
        if len(self._pending) >= _MESH_BATCH:
            self._measure_meshes()

    def flush(self) -> None:
        """Encode what waits."""
        self._measure_meshes()
        for modality in self._crop_encoders:
            self._encode_crops(modality)

    def _subject(self, number: int) -> SubjectTrack:
        if number not in self.subjects:
            self.subjects[number] = SubjectTrack(number)
        return self.subjects[number]

    def _measure_meshes(self) -> None:
        if not self._pending:
            return
        start = time.thread_time()
        numbers, rows, boxes, meshes = map(np.array, zip(*self._pending, strict=True))
        geometry = face_geometry.compute_features(meshes)
        measures = {
            modality: encoder.measure(meshes)
            for modality, encoder in self._encoders.items()
            if isinstance(encoder, MeshEncoder) and not isinstance(encoder, FaceGeometry)
        }
        for number in np.unique(numbers).tolist():
            subject, mask = self._subject(number), numbers == number
            subject.rows.extend(rows[mask])
            subject.boxes.extend(boxes[mask])
            subject.geometry.extend(geometry[mask])
            for modality, values in measures.items():
                _extend(subject, modality, values[mask])
        self._pending = []
        self.seconds += time.thread_time() - start

    def _encode_crops(self, modality: str) -> None:
        waiting, self._crops[modality] = self._crops[modality], []
        if not waiting:
            return
        start = time.thread_time()
        values = self._crop_encoders[modality].encode_crops(np.stack([crop for _, crop in waiting]))
        numbers = np.array([number for number, _ in waiting])
        for number in np.unique(numbers).tolist():
            _extend(self._subject(number), modality, values[numbers == number])
        self.seconds += time.thread_time() - start


def _extend(subject: SubjectTrack, modality: str, values: np.ndarray) -> None:
    subject.features.setdefault(modality, GrowingArray(values.shape[1])).extend(np.asarray(values, np.float32))


def drop_brief_subjects(
    times: np.ndarray, collector: SubjectCollector, min_visible_s: float
) -> tuple[list[SubjectTrack], int]:
    """The subjects visible for `min_visible_s` without a gap, in order of appearance, and the number of the others."""
    durations = row_durations(times)
    everyone = sorted(collector.subjects.values(), key=lambda subject: subject.rows.array()[0])
    kept = [s for s in everyone if _longest_visible_s(times, durations, s.rows.array(), min_visible_s) >= min_visible_s]
    return kept, len(everyone) - len(kept)


def _longest_visible_s(times: np.ndarray, durations: np.ndarray, rows: np.ndarray, gap_s: float) -> float:
    """Longest time without a gap, seconds. The total does not serve: a false detection may recur for a frame or two."""
    breaks = np.flatnonzero(np.diff(times[rows]) > max(gap_s, MAX_GAP_S)) + 1
    return max(float(durations[stretch].sum()) for stretch in np.split(rows, breaks))
