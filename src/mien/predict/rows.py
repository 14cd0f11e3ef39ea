"""From streams to rows: the model's answer for each subject, and what each row rests on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mien import clock
from mien.encode.video_pass import FacesSeen
from mien.encoders import face_geometry as face_encoder
from mien.encoders import voice_prosody as voice_encoder
from mien.errors import ConfigError
from mien.labels import EXPRESSIONS
from mien.predict.active_speaker import OTHER, attributed
from mien.records import FACE, VOICE, Stream
from mien.timeline.table import subject_rows

if TYPE_CHECKING:
    from mien.checkpoint import Checkpoint
    from mien.onnx_model import OnnxModel

#: Rows a second where there are no pictures to give the rows their times.
SOUND_ROWS_HZ = 10


def fused(checkpoint: Checkpoint | OnnxModel, faces: FacesSeen, heard: Stream | None) -> pl.DataFrame:
    """A timeline's table: every subject's streams through the model, read off at the times of the rows.

    Raises:
        ConfigError: the checkpoint reads features that are not made here, or names unknown classes.
    """
    _readable(checkpoint)
    uses = set(checkpoint.features)
    if heard is not None and VOICE not in uses:
        heard = None
    pictures = len(faces.times) > 0
    stop = _stop(faces.times, heard)
    times = faces.times if pictures else np.arange(max(1, int(np.ceil(stop * SOUND_ROWS_HZ)))) / SOUND_ROWS_HZ
    voice = heard_at(heard, times)
    none = np.zeros(len(times), bool)
    openings = [faces.opening(n) for n in range(len(faces.subjects))] or [np.full(len(times), np.nan)]
    whose = attributed(openings, times, voice)
    tables = []
    for number in range(max(1, len(faces.subjects))):
        streams = {VOICE: _theirs(heard, times, whose[number])} if heard is not None else {}
        track = faces.track(number) if faces.subjects else None
        if track is not None and FACE in uses:
            streams[FACE] = faces.stream(number)
        token_times, probabilities, affect = checkpoint.predict_streams(streams, 0.0, stop)
        tables.append(
            subject_rows(
                number,
                times,
                probabilities=clock.at(ordered(probabilities, checkpoint.labels), token_times, times),
                valence_arousal=clock.at(affect, token_times, times),
                voice=voice & (whose[number] != OTHER),
                speech=whose[number],
                face=track.valid if track is not None and FACE in uses else none,
                boxes=track.boxes if track is not None else None,
                frames=np.arange(len(times)) if pictures else None,
            )
        )
    return pl.concat(tables)


def _stop(times: np.ndarray, heard: Stream | None) -> float:
    """Where the rows end: the last picture, held as long as the one before it; without pictures, the sound."""
    if len(times):
        return float(times[-1] + clock.median_step(times))
    assert heard is not None
    return float(heard.times[-1] + clock.median_step(heard.times) / 2) if len(heard.times) else 0.0


def heard_at(heard: Stream | None, times: np.ndarray) -> np.ndarray:
    """Whether speech was heard at each time: the nearest voice sample says so, if it is no further than one."""
    if heard is None or not len(heard.times):
        return np.zeros(len(times), bool)
    nearest = clock.nearest(heard.times, times)
    return heard.valid[nearest] & (np.abs(heard.times[nearest] - times) <= clock.median_step(heard.times, 0.1))


def _theirs(heard: Stream, times: np.ndarray, whose: np.ndarray) -> Stream:
    """The voice as one subject's evidence: missing where it is somebody else's."""
    if not len(heard.times) or not len(times) or not (whose == OTHER).any():
        return heard
    own = whose[clock.nearest(times, heard.times)] != OTHER
    return Stream(heard.values, heard.times, heard.valid & own, heard.provenance)


def ordered(probabilities: np.ndarray, labels: list[str]) -> np.ndarray:
    """Columns in the order of EXPRESSIONS; a class the model does not know has probability 0."""
    unknown = [label for label in labels if label not in EXPRESSIONS]
    if unknown:
        raise ConfigError(
            f"the checkpoint names the class {unknown[0]!r}, which a timeline has no column for",
            remedy=f"train with classes among {', '.join(EXPRESSIONS)}",
        )
    out = np.where(np.isnan(probabilities).any(axis=1, keepdims=True), np.nan, np.zeros(len(EXPRESSIONS)))
    out[:, [EXPRESSIONS.index(label) for label in labels]] = probabilities
    return out


def _readable(checkpoint: Checkpoint | OnnxModel) -> None:
    """The features of the checkpoint must be those that this path makes."""
    ours = {
        FACE: (face_encoder.NAME, face_encoder.DIM),
        VOICE: (voice_encoder.NAME, voice_encoder.DIM),
    }
    for name, feature in checkpoint.features.items():
        encoder, dim = ours.get(name, ("", 0))
        if feature.encoder != encoder:
            raise ConfigError(
                f"the checkpoint reads {name!r} features of the encoder {feature.encoder!r}, "
                "which `predict` cannot make",
                follows=f"it makes {', '.join(f'{k} features of {v!r}' for k, (v, _) in ours.items())}",
                remedy="use a checkpoint trained on those, or evaluate this one on stored features",
            )
        if feature.dim != dim:
            raise ConfigError(
                f"the checkpoint was trained on {feature.dim} {name} features; {encoder!r} now makes {dim}",
                follows="it is of another version of mien, and its numbers would mean nothing here",
                remedy="train it again, or install the version that checkpoint.json names",
            )
