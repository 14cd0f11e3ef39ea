"""Timeline rows from streams: run the network for each subject and record the evidence behind each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mien import clock
from mien.encode.video_pass import VideoFaces
from mien.encoders import face_geometry as face_encoder
from mien.encoders import voice_prosody as voice_encoder
from mien.errors import ConfigError, MediaError
from mien.labels import EXPRESSIONS
from mien.predict.active_speaker import OTHER, attribute_speech
from mien.records import FACE, VOICE, Stream
from mien.timeline.table import subject_rows

if TYPE_CHECKING:
    from mien.checkpoint import Checkpoint
    from mien.onnx_model import OnnxModel

#: Rows per second of a recording without pictures.
SOUND_ROWS_HZ = 10


def timeline_rows(checkpoint: Checkpoint | OnnxModel, faces: VideoFaces, voice: Stream | None) -> pl.DataFrame:
    """Table of a Timeline: the network's output for each subject, interpolated at the times of the rows.

    Args:
        checkpoint: with features of `face-geometry` and `voice-prosody` (or one of them).
        faces: the subjects of the video; without pictures, rows have 10 a second.
        voice: the voice features of the recording; None without sound.

    Raises:
        ConfigError: the checkpoint reads features of other encoders, or has classes that a Timeline lacks.
        MediaError: the recording has no pictures, and the checkpoint uses the face only.
    """
    _check_features(checkpoint)
    modalities = set(checkpoint.features)
    if VOICE not in modalities:
        voice = None
    has_pictures = len(faces.times) > 0
    if voice is None and not has_pictures:
        raise MediaError(
            "the recording has no pictures, and the checkpoint uses the face only",
            follows="Nothing was predicted.",
            remedy="Use --model starter, which uses the voice as well.",
        )
    stop = _stop(faces.times, voice)
    times = faces.times if has_pictures else np.arange(max(1, int(np.ceil(stop * SOUND_ROWS_HZ)))) / SOUND_ROWS_HZ
    is_speech = speech_at(voice, times)
    openings = [faces.mouth_opening(n) for n in range(len(faces.subjects))] or [np.full(len(times), np.nan)]
    speech = attribute_speech(openings, times, is_speech)
    tables = []
    for number in range(max(1, len(faces.subjects))):
        streams = {VOICE: _mask_other_speech(voice, times, speech[number])} if voice is not None else {}
        track = faces.track(number) if faces.subjects else None
        uses_face = track is not None and FACE in modalities
        if uses_face:
            streams[FACE] = faces.stream(number)
        token_times, probabilities, affect = checkpoint.predict_streams(streams, 0.0, stop)
        tables.append(
            subject_rows(
                number,
                times,
                probabilities=clock.interpolate(reorder_classes(probabilities, checkpoint.labels), token_times, times),
                valence_arousal=clock.interpolate(affect, token_times, times),
                voice=is_speech & (speech[number] != OTHER),
                speech=speech[number],
                face=track.valid if track is not None and uses_face else np.zeros(len(times), bool),
                boxes=track.boxes if track is not None else None,
                frames=np.arange(len(times)) if has_pictures else None,
            )
        )
    return pl.concat(tables)


def _stop(times: np.ndarray, voice: Stream | None) -> float:
    """End of the rows in seconds: that of the last frame, shown as long as the one before it; else of the sound."""
    if len(times):
        return float(times[-1] + clock.median_step(times))
    if voice is None or not len(voice.times):
        return 0.0
    return float(voice.times[-1] + clock.median_step(voice.times) / 2)


def speech_at(voice: Stream | None, times: np.ndarray) -> np.ndarray:
    """`(time,)` whether the voice sample nearest to each time is speech; False where it is over one sample away."""
    if voice is None or not len(voice.times):
        return np.zeros(len(times), bool)
    nearest = clock.nearest(voice.times, times)
    is_near = np.abs(voice.times[nearest] - times) <= clock.median_step(voice.times, 0.1)
    return np.asarray(voice.valid[nearest] & is_near)


def _mask_other_speech(voice: Stream, times: np.ndarray, speech: np.ndarray) -> Stream:
    """Mask the speech of other subjects in the voice stream. speech: `(time,)`, at `times`."""
    if not len(voice.times) or not len(times) or not (speech == OTHER).any():
        return voice
    is_own = speech[clock.nearest(times, voice.times)] != OTHER
    return Stream(voice.values, voice.times, voice.valid & is_own, voice.provenance)


def reorder_classes(probabilities: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """`(time, 8)` probabilities in the order of EXPRESSIONS; a class that the model lacks has probability 0.

    Raises:
        ConfigError: a label is not one of EXPRESSIONS.
    """
    unknown = [label for label in labels if label not in EXPRESSIONS]
    if unknown:
        raise ConfigError(
            f"the checkpoint has the class {unknown[0]!r}, for which a Timeline has no column",
            follows="Nothing was predicted.",
            remedy=f"Train with classes among {', '.join(EXPRESSIONS)}.",
        )
    out = np.where(np.isnan(probabilities).any(axis=1, keepdims=True), np.nan, np.zeros(len(EXPRESSIONS)))
    out[:, [EXPRESSIONS.index(label) for label in labels]] = probabilities
    return out


def _check_features(checkpoint: Checkpoint | OnnxModel) -> None:
    """Raise ConfigError unless the checkpoint reads only features that prediction computes."""
    computed = {
        FACE: (face_encoder.NAME, face_encoder.DIM),
        VOICE: (voice_encoder.NAME, voice_encoder.DIM),
    }
    for name, feature in checkpoint.features.items():
        encoder, dim = computed.get(name, ("", 0))
        if feature.encoder != encoder:
            raise ConfigError(
                f"the checkpoint reads {name!r} features of the encoder {feature.encoder!r}, "
                "which `mien predict` does not compute",
                follows="Nothing was predicted. `mien predict` computes "
                + " and ".join(f"{modality} features of {known!r}" for modality, (known, _) in computed.items())
                + ".",
                remedy="Use a checkpoint trained on those, or evaluate this one on stored features (mien evaluate).",
            )
        if feature.dim != dim:
            raise ConfigError(
                f"the checkpoint was trained on {feature.dim} {name} features; {encoder!r} now computes {dim}",
                follows="Nothing was predicted: the checkpoint belongs to another version of mien.",
                remedy="Train it again, or install the version that checkpoint.json names.",
            )
