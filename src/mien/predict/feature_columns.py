"""The columns of the table of features: their names, units and definitions, and the optional groups of them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mien.encode.face_measures import POINTS
from mien.encoders import face_geometry
from mien.faces import face_landmarker

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, slots=True)
class FeatureColumn:
    """One column: its name, unit and definition."""

    name: str
    unit: str
    definition: str


KEYS = ("time_s", "frame", "subject")
FACE: tuple[FeatureColumn, ...] = (
    FeatureColumn("pose_Rx", "rad", "head pitch, positive when the face looks down; rotation is Rx Ry Rz"),
    FeatureColumn("pose_Ry", "rad", "head yaw, positive when the nose points to the left of the picture"),
    FeatureColumn("pose_Rz", "rad", "head roll, positive when the head leans clockwise in the picture"),
    FeatureColumn("eye_openness", "ratio", "opening between the lids, both eyes, over the person's usual one"),
    FeatureColumn("AU45_c", "0 or 1", "the frame belongs to a blink"),
    FeatureColumn("blinks", "count", "blinks of the person that have begun up to this row"),
    FeatureColumn("mouth_width", "IOD", "from one lip corner to the other, sideways"),
)
#: Indices in `face_geometry.FEATURES` of the columns `GEOMETRY`.
EXPRESSIVE = tuple(i for i, f in enumerate(face_geometry.FEATURES) if f.kind != "pose")
GEOMETRY: tuple[FeatureColumn, ...] = tuple(
    FeatureColumn(face_geometry.FEATURES[i].name, "IOD", face_geometry.FEATURES[i].description) for i in EXPRESSIVE
)
CHANGE: tuple[FeatureColumn, ...] = tuple(
    FeatureColumn(f"{column.name}_change", "IOD", f"{column.name} minus that of the person's face at rest")
    for column in GEOMETRY
)
#: Columns of the sound of everyone, and of a voice: these are empty where the Timeline says that another person speaks.
SOUND: tuple[FeatureColumn, ...] = (
    FeatureColumn("level_db", "dBFS", "root-mean-square level of the sound in 100 ms; a full sine has -3"),
    FeatureColumn("voice_activity", "0 or 1", "somebody speaks (silero-vad); the timeline's column speech says who"),
)
VOICE: tuple[FeatureColumn, ...] = (
    FeatureColumn("f0_hz", "Hz", "fundamental frequency, 60 to 500; empty where less than half of the time is voiced"),
    FeatureColumn("voicing", "0 to 1", "share of the time that is voiced"),
    FeatureColumn("periodicity", "0 to 1", "correlation of a period with the next"),
    FeatureColumn("energy_db", "dB", "power relative to the speech within a second on either side"),
    FeatureColumn("alpha_ratio_db", "dB", "spectral tilt: 1-5 kHz over 50-1000 Hz"),
    FeatureColumn("hammarberg_db", "dB", "spectral tilt: strongest below 2 kHz over strongest in 2-5 kHz"),
    FeatureColumn("centroid_hz", "Hz", "centre of the spectrum"),
    FeatureColumn("flux_db", "dB", "root-mean-square change of the log-mel bands in 10 ms"),
)

GAZE: tuple[FeatureColumn, ...] = (
    FeatureColumn("gaze_angle_x", "rad", "gaze of both eyes, positive to the right of the picture; 0 is to the camera"),
    FeatureColumn("gaze_angle_y", "rad", "gaze of both eyes, positive downwards; 0 is to the camera"),
    *(
        FeatureColumn(f"gaze_{eye}_{axis}", "unit vector", f"gaze of the person's {side} eye: {what}")
        for eye, side in enumerate(("right", "left"))
        for axis, what in (("x", "to the right of the picture"), ("y", "down"), ("z", "away from the camera"))
    ),
    *(
        FeatureColumn(f"iris_{side}_{axis}", "px", f"centre of the person's {side} iris, from the picture's {border}")
        for side in ("right", "left")
        for axis, border in (("x", "left"), ("y", "top"))
    ),
)

#: What a blendshape is at 1; sides are the person's.
_MOVEMENTS = {
    "_neutral": "not a movement; MediaPipe says to ignore it",
    "browDown": "brow pulled down (AU 4)",
    "browInnerUp": "inner brows raised (AU 1)",
    "browOuterUp": "outer brow raised (AU 2)",
    "cheekPuff": "cheeks puffed out (AU 34)",
    "cheekSquint": "cheek raised (AU 6)",
    "eyeBlink": "lids closed (AU 43, 45)",
    "eyeLookDown": "eye looks down (AU 64)",
    "eyeLookIn": "eye looks towards the nose",
    "eyeLookOut": "eye looks away from the nose",
    "eyeLookUp": "eye looks up (AU 63)",
    "eyeSquint": "lids tightened (AU 7)",
    "eyeWide": "upper lid raised (AU 5)",
    "jawForward": "jaw pushed forward (AU 29)",
    "jaw": "jaw sideways (AU 30)",
    "jawOpen": "jaw dropped (AU 26, 27)",
    "mouthClose": "lips closed although the jaw is dropped",
    "mouthDimple": "lip corner drawn in and back (AU 14)",
    "mouthFrown": "lip corner pulled down (AU 15)",
    "mouthFunnel": "lips open and pushed forward (AU 22)",
    "mouth": "mouth sideways",
    "mouthLowerDown": "lower lip pulled down (AU 16)",
    "mouthPress": "lips pressed together (AU 24)",
    "mouthPucker": "lips closed and pushed forward (AU 18)",
    "mouthRollLower": "lower lip rolled in (AU 28)",
    "mouthRollUpper": "upper lip rolled in (AU 28)",
    "mouthShrugLower": "lower lip pushed up (AU 17)",
    "mouthShrugUpper": "upper lip pushed up by the lower one (AU 17)",
    "mouthSmile": "lip corner pulled up (AU 12)",
    "mouthStretch": "lip corner pulled sideways (AU 20)",
    "mouthUpperUp": "upper lip raised (AU 10)",
    "noseSneer": "nose wrinkled (AU 9)",
}


def _blendshape(name: str) -> FeatureColumn:
    for side in ("Left", "Right"):
        if name.endswith(side):
            return FeatureColumn(name, "0 to 1", f"{_MOVEMENTS[name.removesuffix(side)]}, {side.lower()}")
    return FeatureColumn(name, "0 to 1", _MOVEMENTS[name])


BLENDSHAPES: tuple[FeatureColumn, ...] = tuple(_blendshape(name) for name in face_landmarker.BLENDSHAPES)
LANDMARKS: tuple[FeatureColumn, ...] = tuple(
    FeatureColumn(f"{axis}_{point}", "px", f"point {point} of the 68-point scheme, from the picture's {border}")
    for axis, border in (("x", "left"), ("y", "top"))
    for point in range(POINTS)
)
#: Columns that are always there, and the groups that are there on request, in their order.
COLUMNS: tuple[FeatureColumn, ...] = (*FACE, *GEOMETRY, *CHANGE, *SOUND, *VOICE)
OPTIONAL: dict[str, tuple[FeatureColumn, ...]] = {"gaze": GAZE, "blendshapes": BLENDSHAPES, "landmarks": LANDMARKS}


def columns_of(groups: Sequence[str] = ()) -> tuple[FeatureColumn, ...]:
    """The columns of a table with these optional groups."""
    return (*COLUMNS, *(column for name, group in OPTIONAL.items() if name in groups for column in group))


def schema(groups: Sequence[str] = ()) -> dict[str, pl.DataType]:
    """Name and type of every column of a table with these optional groups."""
    import polars as pl  # not to ask which columns there are: it takes 50 MB

    return {
        "time_s": pl.Float64(),
        "frame": pl.Int64(),
        "subject": pl.Int64(),
        **{column.name: pl.Float32() for column in columns_of(groups)},
        "AU45_c": pl.Int8(),
        "blinks": pl.Int32(),
        "voice_activity": pl.Int8(),
    }


def requested(features: bool | str | Iterable[str]) -> tuple[str, ...] | None:
    """The optional groups that the argument `features` of a predictor names, in the order of `OPTIONAL`; None if no
    table of features is asked for.

    Raises:
        ValueError: there is no such group.
    """
    if isinstance(features, bool):
        return () if features else None
    names = [features] if isinstance(features, str) else list(features)
    for name in names:
        if name not in OPTIONAL:
            near = difflib.get_close_matches(str(name), OPTIONAL, n=1)
            raise ValueError(
                f"there are no features named {name!r}. "
                + (f"Did you mean {near[0]!r}? " if near else "")
                + f"Give True, or columns to add to the usual ones: {', '.join(OPTIONAL)}."
            )
    return tuple(name for name in OPTIONAL if name in names) if names else None
