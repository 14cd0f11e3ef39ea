"""Data collected for one tracked person: frame indices, boxes, geometry, quality and features."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mien.encode import face_quality
from mien.encoders import face_geometry
from mien.memory import GrowingArray


@dataclass(slots=True)
class SubjectTrack:
    """One subject in the frames that show it.

    id: the tracker's subject number. rows: `(n,)` frame indices. boxes: `(n, 4)` x1, y1, x2, y2, pixels of the original
    frame. geometry: `(n, features)` of `mien.encoders.face_geometry.compute_features`. quality: `(n, measures)` of
    `mien.encode.face_quality.measure`, empty where geometry is not measured. features: modality -> `(n, dim)`
    embeddings of a crop encoder, or `(n, measures)` of a mesh encoder or of a `FaceMeasure`. encoded_rows: modality ->
    `(m,)` frame indices of the features of a crop encoder with a rate, which encodes fewer frames.
    """

    id: int
    rows: GrowingArray = field(default_factory=lambda: GrowingArray(0, np.int64))
    boxes: GrowingArray = field(default_factory=lambda: GrowingArray(4))
    geometry: GrowingArray = field(default_factory=lambda: GrowingArray(len(face_geometry.NAMES)))
    quality: GrowingArray = field(default_factory=lambda: GrowingArray(len(face_quality.NAMES)))
    features: dict[str, GrowingArray] = field(default_factory=dict)
    encoded_rows: dict[str, GrowingArray] = field(default_factory=dict)

    def since(self, row: int) -> SubjectTrack:
        """The part from frame `row` on, whose index becomes 0."""
        first = int(np.searchsorted(self.rows.array(), row))
        part = SubjectTrack(self.id, _after(self.rows, first, row), _after(self.boxes, first))
        part.geometry = _after(self.geometry, min(first, len(self.geometry)))
        part.quality = _after(self.quality, min(first, len(self.quality)))
        for modality, values in self.features.items():
            encoded = self.encoded_rows.get(modality)
            start = first if encoded is None else int(np.searchsorted(encoded.array(), row))
            part.features[modality] = _after(values, start)
            if encoded is not None:
                part.encoded_rows[modality] = _after(encoded, start, row)
        return part

    def extend(self, modality: str, values: np.ndarray) -> None:
        """Add features of a modality, `(n, dim)`."""
        self.features.setdefault(modality, GrowingArray(values.shape[1])).extend(np.asarray(values, np.float32))


def _after(values: GrowingArray, first: int, less: int = 0) -> GrowingArray:
    """A copy of the rows from `first` on, minus `less`."""
    rest = values.array()[first:]
    copy = GrowingArray(rest.shape[1] if rest.ndim > 1 else 0, rest.dtype)
    copy.extend(rest - less if less else rest)
    return copy
