"""The table of features beside a Timeline: what prediction measures of faces and voice on its way to an estimate.

`feature_columns.py` lists the columns; docs/FEATURES.md explains them and compares their names with those of OpenFace,
py-feat and openSMILE.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from mien import clock
from mien.encode import gaze
from mien.encode.encode_media import EncodedMedia
from mien.encode.face_measures import GAZE_DIM, POINTS, DenseFace, FaceMeasure, SparseLandmarks
from mien.encode.subject_features import VideoFaces
from mien.encoders import face_geometry, voice_prosody
from mien.encoders.prosody_features import REFERENCE_HZ
from mien.encoders.protocol import Encoder
from mien.encoders.voice_prosody import VoiceProsody
from mien.encoders.voice_speech import VoiceSpeech
from mien.media.video import MediaInfo
from mien.predict.active_speaker import OTHER
from mien.predict.blinks import LONGEST_STEP_S, find_blinks
from mien.predict.feature_columns import (
    BLENDSHAPES,
    CHANGE,
    EXPRESSIVE,
    GEOMETRY,
    OPTIONAL,
    VOICE,
    schema,
)
from mien.predict.rows import at_rows, row_times, sound_level_at, speech_at
from mien.records import Stream

#: Name of the encoder that is run for the features where the model's own measure no prosody.
PROSODY = "features: prosody"
#: Least share of voiced time in a cell whose pitch is given. Our choice.
VOICED_SHARE = 0.5
#: Percentile of the opening between the lids over a recording that is a person's usual opening. Our choice: the median
#: would depend on the time for which the eyes are narrowed.
USUAL_PERCENTILE = 75
_BEL = 10.0  # decibels


def needs_prosody(encoders: Mapping[str, Encoder]) -> bool:
    """Whether sound is read, and none of the encoders measures prosody."""
    hears = any(hasattr(encoder, "encode_audio") for encoder in encoders.values())
    return hears and not any(isinstance(e, VoiceProsody | VoiceSpeech) for e in encoders.values())


def with_prosody(encoders: Mapping[str, Encoder]) -> dict[str, Encoder]:
    """The encoders, and one of prosody, `PROSODY`, where sound is read and none of them measures it."""
    return {**encoders, **({PROSODY: VoiceProsody()} if needs_prosody(encoders) else {})}


def take_prosody(media: EncodedMedia, encoders: Mapping[str, Encoder]) -> Stream | None:
    """The prosody of the sound, `(cell, voice_prosody.DIM)`; None without. That of `PROSODY` is removed from the
    streams, because the model does not read it."""
    name = next((m for m, e in encoders.items() if isinstance(e, VoiceProsody | VoiceSpeech)), PROSODY)
    stream = media.audio.pop(PROSODY, None) if name == PROSODY else media.audio.get(name)
    if stream is None:
        return None
    return Stream(stream.values[:, : voice_prosody.DIM], stream.times, stream.valid, stream.provenance)


def create_measures(groups: Sequence[str]) -> tuple[FaceMeasure, ...]:
    """The measures of faces that the optional groups of columns need.

    Raises:
        ArtefactError: the networks of `blendshapes` and `gaze` are missing and cannot be downloaded.
    """
    measures: list[FaceMeasure] = [SparseLandmarks()] if "landmarks" in groups else []
    scores, looks = "blendshapes" in groups, "gaze" in groups
    if scores or looks:
        measures.append(DenseFace(blendshapes=scores, gaze=looks))
    return tuple(measures)


def feature_rows(media: EncodedMedia, prosody: Stream | None, groups: Sequence[str] = ()) -> pl.DataFrame:
    """Table of features with the rows of `mien.predict.rows.timeline_rows`: keys, then `columns_of(groups)`.

    What is not known is null: measures of a face where it is not seen, of a voice where nobody speaks.
    """
    kinds = schema(groups)
    times, frames = row_times(media.faces.times, media.speech, media.sound_stop_s)
    sound = _sound_columns(media, prosody, times)
    tables = []
    for number in range(max(1, len(media.faces.subjects))):
        data = {
            "time_s": times,
            "frame": [f if f >= 0 else None for f in frames.tolist()],
            "subject": np.full(len(times), number),
        }
        if media.faces.subjects:
            face = face_columns(media.faces, number) | optional_columns(media.faces, number, groups)
            data |= {name: at_rows(values, frames, np.nan) for name, values in face.items()}
        tables.append(_table(data | sound, kinds))
    return pl.concat(tables)


def without_voice_of_others(features: pl.DataFrame, speech: pl.Series) -> pl.DataFrame:
    """The features without the columns `VOICE` where `speech`, of the Timeline's rows, is another person's."""
    others = (speech == OTHER).fill_null(False)
    return features.with_columns(
        pl.when(~others).then(pl.col(column.name)).otherwise(None).alias(column.name) for column in VOICE
    )


def _table(data: Mapping[str, Any], kinds: Mapping[str, pl.DataType]) -> pl.DataFrame:
    columns = [
        pl.Series(name, data[name], strict=False).cast(pl.Float64).fill_nan(None).cast(kind)
        if name in data
        else pl.Series(name, [None] * len(data["time_s"]), dtype=kind)
        for name, kind in kinds.items()
    ]
    return pl.DataFrame(columns)


def face_columns(faces: VideoFaces, number: int) -> dict[str, np.ndarray]:
    """The columns of `FACE`, `GEOMETRY` and `CHANGE` of a subject, each `(frame,)` float64, NaN where unknown."""
    geometry = faces.geometry(number)
    column = {name: geometry[:, i] for i, name in enumerate(face_geometry.NAMES)}
    angles = openface_angles(column["head_pitch"], column["head_yaw"], column["head_roll"])
    opening = (column["lid_aperture_right"] + column["lid_aperture_left"]) / 2
    seen = np.isfinite(geometry).all(axis=1)
    out = dict(zip(("pose_Rx", "pose_Ry", "pose_Rz"), angles, strict=True))
    out["eye_openness"] = opening / max(np.percentile(opening[seen], USUAL_PERCENTILE), 1e-6) if seen.any() else opening
    read_at = faces.times if faces.read is None else faces.times[faces.read]
    seldom = clock.median_step(read_at) > LONGEST_STEP_S
    blinks = None if seldom else find_blinks(opening, faces.times)
    if blinks is None:
        blinks = np.full(len(opening), np.nan)
        out["AU45_c"] = out["blinks"] = blinks
    else:
        out["AU45_c"] = np.where(seen, blinks > 0, np.nan)
        out["blinks"] = np.maximum.accumulate(blinks).astype(float)
    out["mouth_width"] = column["lip_corner_out_right"] + column["lip_corner_out_left"]
    rest = face_geometry.resting_baseline(geometry[seen], faces.times[seen])
    for i, value, change in zip(EXPRESSIVE, GEOMETRY, CHANGE, strict=True):
        out[value.name], out[change.name] = geometry[:, i], geometry[:, i] - rest[i]
    return out


def optional_columns(faces: VideoFaces, number: int, groups: Sequence[str]) -> dict[str, np.ndarray]:
    """The columns of optional groups of a subject, each `(frame,)`, NaN where unknown. Points are in pixels of the
    pictures as they are stored, like boxes."""
    columns: dict[str, np.ndarray] = {}

    def add(group: str, values: np.ndarray) -> None:
        columns.update(zip((c.name for c in OPTIONAL[group]), values.T, strict=True))

    if "landmarks" in groups:
        points = faces.measures(number, SparseLandmarks.name).reshape(-1, POINTS, 2)
        add("landmarks", _as_stored(points, faces).transpose(0, 2, 1).reshape(-1, 2 * POINTS))
    if "blendshapes" in groups:
        add("blendshapes", faces.measures(number, DenseFace.name)[:, : len(BLENDSHAPES)])
    if "gaze" in groups:
        values = faces.measures(number, DenseFace.name)[:, -GAZE_DIM:]
        vectors, irises = values[:, :6], _as_stored(values[:, 6:].reshape(-1, 2, 2), faces)
        angles = gaze.angles(vectors.reshape(-1, 2, 3))
        add("gaze", np.concatenate([angles, vectors, irises.reshape(-1, 4)], axis=1))
    return columns


def _as_stored(points: np.ndarray, faces: VideoFaces) -> np.ndarray:
    """Points `(frame, n, 2)` of upright pictures in those that are stored upside down, where they are."""
    return points if faces.turned is None else np.array(faces.turned, float) - points


def openface_angles(pitch: np.ndarray, yaw: np.ndarray, roll: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Angles of the head about x (right), y (down) and z (away), whose rotation is Rx Ry Rz as in OpenFace, in radians.

    pitch, yaw, roll: radians, of the rotation Rz(roll) Ry(-yaw) Rx(pitch), as `face_geometry.pose` gives them.
    """
    (sp, sy, sr), (cp, cy, cr) = (
        tuple(map(np.sin, (pitch, -yaw, roll))),
        tuple(map(np.cos, (pitch, -yaw, roll))),
    )
    about_y = np.arcsin(np.clip(cr * sy * cp + sr * sp, -1.0, 1.0))
    about_x = np.arctan2(cr * sp - sr * sy * cp, cy * cp)
    about_z = np.arctan2(sr * cp - cr * sy * sp, cr * cy)
    return about_x, about_y, about_z


def _sound_columns(media: EncodedMedia, prosody: Stream | None, times: np.ndarray) -> dict[str, np.ndarray]:
    """The columns of `SOUND` and `VOICE` at the rows, `(row,)`; none without sound."""
    level = sound_level_at(media.level, times)
    if level is None:
        return {}
    level = np.where(times <= media.sound_stop_s, level, np.nan)
    out = {"level_db": level, "voice_activity": speech_at(media.speech, times).astype(float)}
    if prosody is None or not len(prosody.times):
        return out
    known = speech_at(prosody, times)
    values = prosody.values[clock.nearest(prosody.times, times)].astype(float)
    cell = {name: np.where(known, values[:, i], np.nan) for name, i in voice_prosody.COLUMN.items()}
    return out | {
        "f0_hz": np.where(cell["voicing"] >= VOICED_SHARE, REFERENCE_HZ * 2.0 ** cell["pitch"], np.nan),
        "voicing": cell["voicing"],
        "periodicity": cell["periodicity"],
        "energy_db": _BEL * cell["energy"],
        "alpha_ratio_db": _BEL * cell["alpha_ratio"],
        "hammarberg_db": _BEL * cell["hammarberg"],
        "centroid_hz": 1000 * cell["centroid"],
        "flux_db": _BEL * cell["flux"],
    }


def missing_notes(features: pl.DataFrame, info: MediaInfo, *, face: bool, voice: bool) -> list[str]:
    """Notes on columns that are empty throughout, where the recording would have them. face, voice: as in
    `Predictor.predict`."""
    notes = []
    if face and info.has_video and features["pose_Rx"].is_null().all():
        notes.append("the features of the face are empty: no face was read")
    elif face and info.kind == "video" and features["blinks"].is_null().all():
        notes.append("blinks are not counted: faces were read too seldom to see them (below 14 frames a second)")
    if voice and info.has_audio and features["level_db"].is_null().all():
        notes.append("the features of the voice are empty: the model reads no sound")
    return notes
