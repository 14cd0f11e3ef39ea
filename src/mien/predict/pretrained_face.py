"""Predicting with a face network that somebody else trained: no training, no voice, one frame at a time.

Any ONNX network over a face crop with a card beside it (`mien.encoders.cards`); `hsemotion` and `fer` have theirs
built in. Frames are read as everywhere in mien: true times, several people, misses as misses. What one frame says is
then averaged over a third of a second: such networks flicker, expressions do not (our choice).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mien import clock
from mien.encode.video_pass import LEAST_SEEN_S, FacesSeen, SubjectTrack, media_facts, read_faces
from mien.errors import ConfigError, MediaError
from mien.faces.align import align
from mien.media.video import probe
from mien.records import Face, Frame
from mien.timeline.table import Timeline, subject_rows

if TYPE_CHECKING:
    from mien.encoders.onnx_face import OnnxFace
    from mien.predict.predictor import ProgressCallback

#: Networks with a built-in card, and the files that name another.
NAMES, SUFFIXES = ("fer", "hsemotion"), (".onnx", ".yaml", ".yml")
SMOOTH_S = 1 / 3
#: Crops that are read at once; with it the memory is flat.
BATCH = 32


def load(name: str, *, device: str = "auto", max_faces: int = 4) -> PretrainedFacePredictor:
    """The predictor of a face network: a built-in card's name, a card, or an ONNX file with a card beside it.

    Raises:
        ConfigError: no such card, a card with faults, or one whose network predicts nothing.
        ArtefactError: the network is not here (the error names it and the command that fetches it).
    """
    from mien.encoders.onnx_face import OnnxFace

    network = OnnxFace(name, device="cuda" if device.startswith("cuda") else "cpu")
    network.interpret(np.ones((1, network.dim), np.float32))  # a card without labels predicts nothing
    return PretrainedFacePredictor(network, max_faces=max_faces)


class PretrainedFacePredictor:
    """Asked as `mien.predict.Predictor` is, in one thread at a time."""

    def __init__(self, network: OnnxFace, *, max_faces: int = 4) -> None:
        self.network, self.max_faces, self.name = network, max_faces, network.card.name

    def predict(
        self, path: str | Path, *, face: bool = True, voice: bool = True, progress: ProgressCallback | None = None
    ) -> Timeline:
        """What each person in a video or picture shows. One row per decoded frame and subject; rows without a face
        name nothing. The sound is not used.

        Raises:
            ConfigError: `face=False`. MediaError: the file cannot be read, or holds no picture.
        """
        if not face:
            raise ConfigError(
                f"the model {self.name!r} reads faces only, and --no-face leaves them out",
                follows="nothing is left to predict from",
                remedy="leave --no-face away, or use --model starter",
            )
        began, path = time.perf_counter(), Path(path)
        info = probe(path, video=True, audio=False)
        if not info.has_video:
            raise MediaError(
                f"{path} has sound only, and the model {self.name!r} reads faces",
                follows="nothing is left to predict from",
                remedy="use --model starter, which listens as well",
            )
        notes: list[str] = []
        seconds: dict[str, float] = {}
        reader = _Crops(self.network)
        faces = read_faces(
            info,
            look=True,
            max_faces=self.max_faces,
            notes=notes,
            seconds=seconds,
            tell=(lambda done: progress(done, info.duration_s)) if progress else (lambda _: None),
            least_s=0.0 if info.kind == "image" else LEAST_SEEN_S,
            each=reader,
        )
        reader.flush()
        table = pl.concat([self._rows(faces, number, reader) for number in range(max(1, len(faces.subjects)))])
        seconds |= {"encode": reader.seconds, "total": time.perf_counter() - began}
        if voice:
            notes.append(f"the model {self.name!r} reads faces only: the sound was not used")
        if not faces.subjects:
            notes.append("no face was seen: nothing can be said")
        facts = {
            "model": self.name,
            "licence": self.network.licence,
            "media": media_facts(info, len(faces.times)),
            "seconds": {stage: round(spent, 3) for stage, spent in seconds.items()},
        }
        return Timeline(table, media=path, notes=notes, info=facts)

    def _rows(self, faces: FacesSeen, number: int, reader: _Crops) -> pl.DataFrame:
        times = faces.times
        probabilities, affect = np.full((len(times), 8), np.nan), np.full((len(times), 2), np.nan)
        track = faces.track(number) if faces.subjects else None
        if faces.subjects:
            seen: SubjectTrack = faces.subjects[number]
            rows = seen.rows.array()
            probabilities[rows], affect[rows] = self.network.interpret(reader.of(seen.id))
        nobody = np.zeros(len(times), bool)
        return subject_rows(
            number,
            times,
            probabilities=clock.smooth(probabilities, times, SMOOTH_S),
            valence_arousal=clock.smooth(affect, times, SMOOTH_S),
            voice=nobody,
            face=track.valid if track is not None else nobody,
            boxes=track.boxes if track is not None else None,
            frames=np.arange(len(times)),
        )


class _Crops:
    """Faces to network outputs while the pictures are there, BATCH at a time, whoever they are of."""

    def __init__(self, network: OnnxFace) -> None:
        self.seconds = 0.0
        self._network = network
        self._waiting: list[tuple[int, np.ndarray]] = []
        self._said: dict[int, list[np.ndarray]] = {}

    def __call__(self, frame: Frame, seen: list[Face]) -> None:
        crop = self._network.crop
        self._waiting += [(f.subject, align(frame.image, f.mesh, crop.size, crop.margin, crop.down)) for f in seen]
        if len(self._waiting) >= BATCH:
            self.flush()

    def flush(self) -> None:
        if not self._waiting:
            return
        began = time.perf_counter()
        values = self._network.encode_crops(np.stack([crop for _, crop in self._waiting]))
        for (subject, _), row in zip(self._waiting, values, strict=True):
            self._said.setdefault(subject, []).append(row)
        self._waiting = []
        self.seconds += time.perf_counter() - began

    def of(self, subject: int) -> np.ndarray:
        """`(frames in which it was seen, outputs)`."""
        return np.stack(self._said[subject])
