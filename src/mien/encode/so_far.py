"""Faces of the last seconds of a recording, encoded, while the rest is still being read. For provisional rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from mien.encode.brief_subjects import drop_brief_subjects
from mien.encode.subject_features import SubjectCollector, VideoFaces
from mien.encode.subject_track import SubjectTrack
from mien.encoders.protocol import CropEncoder, MeshEncoder
from mien.memory import GrowingArray


@dataclass(slots=True)
class FacesSoFar:
    """Faces of a pass that goes on. Reading them changes nothing of its result.

    times: seconds of the frames so far. read: frames whose faces were read. collector: of the pass. encoders: modality
    -> face encoder. min_visible_s: see `read_faces`. numbers: the tracker's number -> number in the rows, in the order
    in which the subjects counted first. settle: waits until the collector has the faces of all frames so far.
    """

    times: list[float]
    read: list[int]
    collector: SubjectCollector
    encoders: Mapping[str, CropEncoder | MeshEncoder]
    min_visible_s: float
    numbers: dict[int, int] = field(default_factory=dict)
    settle: Callable[[], None] = lambda: None

    def since(self, start_s: float) -> tuple[VideoFaces, int, float]:
        """The faces from `start_s` on, with times from there on; the index of their first frame; and the time in
        seconds before which all crops are encoded.

        The subjects are those that are or were visible for `min_visible_s`. The end of the result can differ: crops
        wait for a full batch.
        """
        self.settle()
        first = int(np.searchsorted(self.times, start_s))
        times = np.array(self.times[first:])
        first_read = int(np.searchsorted(self.read, first))
        read = np.array(self.read[first_read:], np.int64) - first
        every = len(self.read) == len(self.times)
        subjects = {n: part for n, part in self.collector.since(first).items() if len(part.rows)}
        for subject in drop_brief_subjects(times, subjects, self.min_visible_s, None if every else read)[0]:
            self.numbers.setdefault(subject.id, len(self.numbers))
        kept = sorted((s for s in subjects.values() if s.id in self.numbers), key=lambda s: self.numbers[s.id])
        encoded = [self._cut_to_encoded(subject, name) for subject in kept for name in self.encoders]
        stop_s = min((float(times[row]) for row in encoded if row is not None), default=np.inf)
        faces = VideoFaces(
            times - start_s, kept, self.encoders, read=None if every else read, seen_before=bool(self.numbers)
        )
        return faces, first, stop_s

    def _cut_to_encoded(self, subject: SubjectTrack, modality: str) -> int | None:
        """Keep the frames of a crop encoder whose crops are encoded; returns the first other one, None if there is
        none."""
        encoder = self.encoders[modality]
        if not isinstance(encoder, CropEncoder):
            return None
        values = subject.features.setdefault(modality, GrowingArray(encoder.dim))
        rows = subject.encoded_rows.get(modality, subject.rows).array()
        subject.encoded_rows[modality] = known = GrowingArray(0, np.int64)
        known.extend(rows[: len(values)])
        return int(rows[len(values)]) if len(rows) > len(values) else None


#: Called after each frame of a pass with its time in seconds and the faces so far.
OnFaces = Callable[[float, FacesSoFar], None]
