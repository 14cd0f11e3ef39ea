"""Prediction with a pretrained face network, frame by frame, without training and without the voice.

`hsemotion` and `fer` are built in; any other ONNX network over a face crop works with a card beside it
(`mien.encoders.cards`). Decoding, tracking and missing faces are handled as with a checkpoint. The outputs are averaged
over a third of a second, because single-frame networks flicker faster than expressions change (our choice).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mien import soft_vote
from mien.encode.encode_media import encode_media
from mien.encode.subject_features import VideoFaces
from mien.encode.video_pass import MAX_SIDE, MIN_VISIBLE_S, media_facts
from mien.errors import ConfigError, MediaError
from mien.media.video import frames, probe
from mien.records import FACE
from mien.timeline.table import Timeline, subject_rows

if TYPE_CHECKING:
    from mien.encoders.onnx_face import OnnxFace
    from mien.predict.protocol import ProgressCallback

#: Networks with a built-in card, and the file suffixes of networks and cards.
NAMES, SUFFIXES = ("fer", "hsemotion"), (".onnx", ".yaml", ".yml")
#: Width in seconds of the moving average over the outputs.
SMOOTH_S = 1 / 3


def load(name: str, *, device: str = "auto", max_faces: int = 4) -> PretrainedFacePredictor:
    """Load a pretrained face network.

    Args:
        name: a built-in network (`hsemotion`, `fer`), a card (YAML), or an ONNX file with a card beside it.
        device: the network runs on the GPU if this starts with `cuda`, else on the CPU.
        max_faces: the largest number of people tracked at once.

    Raises:
        ConfigError: the card is missing or invalid, or its network has no labels to predict.
        ArtefactError: the network has not been downloaded; the error names the command.
    """
    from mien.encoders.onnx_face import OnnxFace

    network = OnnxFace(name, device="cuda" if device.startswith("cuda") else "cpu")
    network.interpret(np.ones((1, network.dim), np.float32))  # raises ConfigError for a card without labels
    return PretrainedFacePredictor(network, max_faces=max_faces)


class PretrainedFacePredictor:
    """The `Predictor` of a pretrained face network. Never uses the voice."""

    def __init__(self, network: OnnxFace, *, max_faces: int = 4) -> None:
        self.network, self.max_faces, self.name = network, max_faces, network.card.name

    def predict(
        self, path: str | Path, *, face: bool = True, voice: bool = True, progress: ProgressCallback | None = None
    ) -> Timeline:
        """Predict the Timeline of a video or picture; see `Predictor.predict`. Rows without a face have no expression.

        Raises:
            ConfigError: `face` is False.
            MediaError: the file cannot be read, or has no pictures.
        """
        if not face:
            raise ConfigError(
                f"the model {self.name!r} uses the face only, which --no-face excludes",
                follows="Nothing was predicted.",
                remedy="Omit --no-face, or use --model starter.",
            )
        start, path = time.perf_counter(), Path(path)
        info = probe(path, video=True, audio=False)
        if not info.has_video:
            raise MediaError(
                f"{path} has sound only, and the model {self.name!r} uses the face only",
                follows="Nothing was predicted.",
                remedy="Use --model starter, which uses the voice as well.",
            )
        notes: list[str] = []
        seconds: dict[str, float] = {}
        faces = encode_media(
            {FACE: self.network},
            frames=lambda: frames(info.path, max_side=MAX_SIDE, notes=notes),
            audio=None,
            width=info.width,
            max_faces=self.max_faces,
            min_visible_s=0.0 if info.kind == "image" else MIN_VISIBLE_S,
            seconds=seconds,
            on_time=(lambda time_s: progress(time_s, info.duration_s)) if progress else (lambda _: None),
        ).faces
        table = pl.concat([self._rows(faces, number) for number in range(max(1, len(faces.subjects)))])
        seconds |= {"encode": faces.encode_s, "total": time.perf_counter() - start}
        if voice:
            notes.append(f"the model {self.name!r} uses the face only; the sound was not used")
        if not faces.subjects:
            notes.append("no face was detected; nothing was predicted")
        facts = {
            "model": self.name,
            "licence": self.network.licence,
            "media": media_facts(info, len(faces.times)),
            "seconds": {stage: round(spent, 3) for stage, spent in seconds.items()},
        }
        return Timeline(table, media=path, notes=notes, info=facts)

    def _rows(self, faces: VideoFaces, number: int) -> pl.DataFrame:
        times = faces.times
        probabilities, affect = np.full((len(times), 8), np.nan), np.full((len(times), 2), np.nan)
        track = faces.track(number) if faces.subjects else None
        if faces.subjects:
            subject = faces.subjects[number]
            rows = subject.rows.array()
            probabilities[rows], affect[rows] = self.network.interpret(subject.features[FACE].array())
        missing = np.zeros(len(times), bool)
        return subject_rows(
            number,
            times,
            probabilities=soft_vote.smooth(probabilities, times, SMOOTH_S),
            valence_arousal=soft_vote.smooth(affect, times, SMOOTH_S),
            voice=missing,
            face=track.valid if track is not None else missing,
            boxes=track.boxes if track is not None else None,
            frames=np.arange(len(times)),
        )
