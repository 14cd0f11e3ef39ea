"""The starter's face encoder: a 468-point mesh becomes named, pose-free geometry. No network, no download.

A mesh is laid on a symmetric neutral face by the similarity (rotation, scale, shift) that best fits its rigid
landmarks; what is then read in the neutral face's axes is expression and identity, not pose. Units: interocular
distances of the neutral face (centre of one eye to centre of the other, about 63 mm on an adult). Sides are the
subject's own: landmark 33 is the outer corner of the right eye and lies left in an unmirrored picture.

`canonical_face.npz` beside this file holds the neutral face and the population's resting geometry; both are
written by `python -m experiments.build_canonical_face` (the face-mesh network's answer to a uniform grey picture, made
symmetric: nobody's face).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from mien.clock import median_step
from mien.errors import ConfigError
from mien.records import FACE, Stream

NAME = "face-geometry"
VERSION = "1"
LANDMARKS = 468
DATA = Path(__file__).with_name("canonical_face.npz")

#: Landmarks no expression moves much, with their weight in the fit: bridge and ridge of the nose, eye corners,
#: temples and the sides of the head before the ears, forehead (weakly: hair and raised brows disturb it).
RIGID: dict[int, float] = {
    **dict.fromkeys((168, 6, 197, 195), 2.0),
    **dict.fromkeys((33, 263), 1.5),
    **dict.fromkeys((5, 4, 133, 362, 127, 356, 162, 389, 234, 454), 1.0),
    **dict.fromkeys((10, 109, 338, 151), 0.5),
}

EYE_CENTRE_RIGHT, EYE_CENTRE_LEFT = (33, 133), (263, 362)
NOSE_BASE = (2,)
X, Y, Z = 0, 1, 2  # to the picture's right, down, away from the camera


@dataclass(frozen=True, slots=True)
class GeometryFeature:
    """One measure: mean of `plus` minus mean of `minus` along `axis` (0 right, 1 down, 2 away), times `sign`.

    kind `distance` is that; `asymmetry` is the absolute difference of the features named in `of`; `pose` is an
    angle of the head in radians. `landmarks` lists every mesh point the value depends on beside the rigid ones.
    """

    name: str
    what: str
    axis: int = Y
    plus: tuple[int, ...] = ()
    minus: tuple[int, ...] = ()
    sign: float = 1.0
    kind: str = "distance"
    of: tuple[str, str] = ("", "")

    @property
    def landmarks(self) -> tuple[int, ...]:
        if self.kind == "asymmetry":
            return tuple(sorted({i for f in FEATURES if f.name in self.of for i in f.landmarks}))
        return tuple(sorted({*self.plus, *self.minus}))


@lru_cache(maxsize=1)
def canonical() -> dict[str, np.ndarray]:
    """The shipped arrays: `vertices` (468, 3) interocular units, origin between the eyes; `mirror` (468,) the
    landmark on the other side; `resting_mean`, `resting_spread` (features,) of the population at rest."""
    with np.load(DATA, allow_pickle=False) as data:
        return {key: data[key] for key in data.files}


@lru_cache(maxsize=1)
def mirror() -> np.ndarray:
    return np.asarray(canonical()["mirror"], dtype=int)


def _both(
    name: str, what: str, axis: int, plus: tuple[int, ...], minus: tuple[int, ...], sign: float = 1.0
) -> tuple[GeometryFeature, GeometryFeature]:
    """The right feature as written and its mirror image; x of the mirror image changes sign."""
    other = mirror()
    flip = -sign if axis == X else sign
    return (
        GeometryFeature(f"{name}_right", f"{what}, right side", axis, plus, minus, sign),
        GeometryFeature(
            f"{name}_left",
            f"{what}, left side",
            axis,
            tuple(int(other[i]) for i in plus),
            tuple(int(other[i]) for i in minus),
            flip,
        ),
    )


def _asymmetry(name: str, what: str, of: str) -> GeometryFeature:
    return GeometryFeature(name, what, kind="asymmetry", of=(f"{of}_right", f"{of}_left"))


def _features() -> tuple[GeometryFeature, ...]:
    eye, upper_lid, lower_lid = EYE_CENTRE_RIGHT, (160, 159, 158), (144, 145, 153)
    lips_middle = (0, 13, 14, 17)
    inner_upper, inner_lower = (82, 13, 312), (87, 14, 317)
    outer_upper, outer_lower = (37, 0, 267), (84, 17, 314)
    return (
        *_both("lid_aperture", "opening between the lids (AU 5, 7, 43)", Y, lower_lid, upper_lid),
        *_both("upper_lid_height", "upper lid above the eye's corners (AU 5, 43)", Y, eye, upper_lid),
        *_both("lower_lid_height", "lower lid above the eye's corners (AU 6, 7)", Y, eye, lower_lid),
        *_both("brow_inner_height", "inner brow above the eye's inner corner (AU 1, 4)", Y, (133,), (107, 55)),
        *_both("brow_middle_height", "middle of the brow above the eye (AU 1, 2, 4)", Y, eye, (105, 52, 66, 65)),
        *_both("brow_outer_height", "outer brow above the outer corner (AU 2)", Y, (33,), (46, 53, 63, 70)),
        *_both("lip_corner_curve", "lip corner above the middle of the lips (AU 12, 15)", Y, lips_middle, (61,)),
        *_both("lip_corner_height", "lip corner below the nose, negated (AU 12, 15, jaw)", Y, NOSE_BASE, (61,)),
        *_both("lip_corner_out", "lip corner's distance from the midline (AU 12, 18, 20)", X, (61,), (), -1.0),
        *_both("lip_corner_back", "lip corner behind the nose's base (AU 12, 14, 20)", Z, (61,), NOSE_BASE),
        *_both("nose_wing_height", "nostril wing below the eye, negated (AU 9, 10)", Y, eye, (64, 98, 48)),
        *_both("nose_wing_out", "nostril wing's distance from the midline (AU 38, 12)", X, (64, 48), (), -1.0),
        *_both("cheek_height", "cheek below the eye, negated (AU 6, 12)", Y, eye, (50, 101, 205, 118)),
        *_both("cheek_depth", "depth of the cheek (AU 6, 34)", Z, (205, 50, 36), ()),
        *_both("fold_out", "nasolabial fold's distance from the midline (AU 10, 11, 12)", X, (205, 206, 207), (), -1.0),
        *_both(
            "upper_lip_side_height", "side of the upper lip below the nose, negated (AU 9, 10)", Y, NOSE_BASE, (39, 40)
        ),
        *_both(
            "lower_lip_side_height",
            "side of the lower lip below the nose, negated (AU 16, 20)",
            Y,
            NOSE_BASE,
            (181, 91),
        ),
        GeometryFeature("brow_distance", "between the inner brows (AU 4)", X, (336, 285), (107, 55)),
        GeometryFeature("mouth_opening", "between the inner lips (AU 25, 26, 27)", Y, inner_lower, inner_upper),
        GeometryFeature("upper_lip_length", "nose's base to the upper lip (AU 9, 10, 24)", Y, outer_upper, NOSE_BASE),
        GeometryFeature("lower_lip_drop", "nose's base to the lower lip's edge (AU 16, 26)", Y, outer_lower, NOSE_BASE),
        GeometryFeature("upper_lip_thickness", "red of the upper lip (AU 23, 24, 28)", Y, inner_upper, outer_upper),
        GeometryFeature("lower_lip_thickness", "red of the lower lip (AU 23, 24, 28)", Y, outer_lower, inner_lower),
        GeometryFeature("lip_protrusion", "lips before the nose's base and the chin (AU 18, 22)", Z, (2, 200), (0, 17)),
        GeometryFeature("jaw_drop", "eye line to the chin (AU 26, 27)", Y, (152,), (33, 133, 263, 362)),
        GeometryFeature("chin_raise", "lower lip to the chin's boss, negated (AU 17)", Y, outer_lower, (200, 199)),
        GeometryFeature("chin_length", "lower lip to the chin's tip", Y, (152,), outer_lower),
        GeometryFeature("mouth_sideways", "middle of the lips to the subject's left", X, lips_middle, ()),
        GeometryFeature("jaw_sideways", "chin to the subject's left (AU 30)", X, (152,), ()),
        _asymmetry(
            "lip_corner_asymmetry",
            "difference of the lip corners' curves (AU 12 or 14 on one side)",
            "lip_corner_curve",
        ),
        GeometryFeature("head_pitch", "nod: positive when the face looks down", kind="pose"),
        GeometryFeature("head_yaw", "turn: positive when the nose points to the subject's left", kind="pose"),
        GeometryFeature("head_roll", "tilt: positive when the head leans clockwise in the picture", kind="pose"),
    )


FEATURES: tuple[GeometryFeature, ...] = _features()
NAMES: tuple[str, ...] = tuple(f.name for f in FEATURES)
DIM = 2 * len(FEATURES)

#: Baseline: how far (in the population's resting spreads, root mean square over the measures below) a frame may be
#: from the calmest frame before its weight falls by e; and how many seconds of frames the population counts for.
#: Our choice: both from the synthetic corpus's held-out identities.
CALM_SCALE = 0.25
PRIOR_SECONDS = 0.5

_MOVED_BY_EXPRESSION = np.array([f.kind != "pose" for f in FEATURES])


@lru_cache(maxsize=1)
def _measure() -> np.ndarray:
    """`(468 * 3, features)`: all distances as one linear map of the aligned mesh."""
    weights = np.zeros((LANDMARKS, 3, len(FEATURES)))
    for k, feature in enumerate(FEATURES):
        for group, sign in ((feature.plus, feature.sign), (feature.minus, -feature.sign)):
            for landmark in group:
                weights[landmark, feature.axis, k] += sign / len(group)
    return weights.reshape(LANDMARKS * 3, -1)


def align(meshes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lay meshes on the neutral face by the weighted least-squares similarity of the rigid landmarks.

    Closed form (Umeyama, IEEE TPAMI 13(4), 1991), all frames at once.

    Args:
        meshes: `(time, 468, 3)` any unit; x right, y down, z away, one scale for all three.

    Returns:
        `(time, 468, 3)` in interocular units, and `(time, 3, 3)` the head's rotation: neutral face to picture.
    """
    index, weight = np.array(list(RIGID)), np.array(list(RIGID.values()))
    weight = weight / weight.sum()
    target = canonical()["vertices"].astype(float)[index]
    target_mean = weight @ target
    meshes = np.asarray(meshes, dtype=float)
    source_mean = np.einsum("tni,n->ti", meshes[:, index], weight)[:, None]
    source = meshes[:, index] - source_mean
    covariance = np.einsum("tni,nj,n->tij", source, target - target_mean, weight)
    u, spread, vt = np.linalg.svd(covariance)
    # a mesh squeezed flat would be fitted best by a mirror image; a head is never one
    handed = np.ones_like(spread)
    handed[:, 2] = np.sign(np.linalg.det(u @ vt))
    rotation = np.einsum("tki,tk,tjk->tij", vt, handed, u)
    with np.errstate(invalid="ignore"):  # all landmarks in one point: NaN, which is no face
        scale = (spread * handed).sum(1) / np.einsum("tni,n->t", source**2, weight)
    turn = (rotation * scale[:, None, None]).transpose(0, 2, 1)
    aligned = np.matmul(meshes - source_mean, turn) + target_mean
    return aligned, rotation.transpose(0, 2, 1)


def pose(rotation: np.ndarray) -> np.ndarray:
    """`(time, 3)` pitch, yaw, roll in radians of `(time, 3, 3)` head rotations Rz(roll) Ry(-yaw) Rx(pitch)."""
    pitch = np.arctan2(rotation[:, 2, 1], rotation[:, 2, 2])
    yaw = np.arcsin(np.clip(rotation[:, 2, 0], -1.0, 1.0))
    roll = np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0])
    return np.stack([pitch, yaw, roll], axis=1)


def geometry(meshes: np.ndarray) -> np.ndarray:
    """The features of each mesh, in the order of `FEATURES`.

    Args:
        meshes: `(time, 468, 3)` in pixels or any unit, z in the unit of x. Rows with a non-finite number are
            frames without a face.

    Returns:
        `(time, features)` float32: interocular distances, radians for the pose; NaN where there is no face.
        Shifting, turning or scaling a mesh changes no feature but the pose.
    """
    meshes = np.asarray(meshes)
    if meshes.ndim != 3 or meshes.shape[1:] != (LANDMARKS, 3):
        raise ValueError(f"meshes must be (time, {LANDMARKS}, 3); got {meshes.shape}")
    seen = np.isfinite(meshes).all(axis=(1, 2))
    out = np.full((len(meshes), len(FEATURES)), np.nan, dtype=np.float32)
    if not seen.any():
        return out
    aligned, rotation = align(meshes[seen])
    values = aligned.reshape(len(aligned), -1) @ _measure()
    for k, feature in enumerate(FEATURES):
        if feature.kind == "asymmetry":
            values[:, k] = np.abs(values[:, NAMES.index(feature.of[0])] - values[:, NAMES.index(feature.of[1])])
    values[:, -3:] = pose(rotation)
    out[seen] = values
    return out


def baseline(values: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The subject's own face at rest, `(features,)`, from a whole recording of `(time, features)` geometry.

    A median would call a laugh the resting face of someone who laughs most of the time. So: frames are weighted
    by exp(-(d - min d) / CALM_SCALE), d being the frame's distance from the population's resting face in its
    spreads, and the population itself weighs as much as PRIOR_SECONDS of calm frames; a single picture is thus
    compared mostly with the population. Our choice.
    """
    data = canonical()
    mean, spread = data["resting_mean"].astype(float), data["resting_spread"].astype(float)
    if len(values) == 0:
        return mean
    away = (values[:, _MOVED_BY_EXPRESSION] - mean[_MOVED_BY_EXPRESSION]) / spread[_MOVED_BY_EXPRESSION]
    distance = np.sqrt(np.mean(away.astype(float) ** 2, axis=1))
    step = median_step(times)
    weight = np.exp(-(distance - distance.min()) / CALM_SCALE) * min(max(step, 0.0), PRIOR_SECONDS)
    return (PRIOR_SECONDS * mean + weight @ values) / (PRIOR_SECONDS + weight.sum())


def encode(
    meshes: np.ndarray,
    times: np.ndarray,
    valid: np.ndarray | None = None,
    provenance: Mapping[str, str] | None = None,
) -> Stream:
    """One subject's recording as a face stream: geometry, and geometry minus the subject's own baseline.

    Args:
        meshes: `(time, 468, 3)` meshes, or `(time, features)` what `geometry` made of them.
        times: `(time,)` seconds, increasing.
        valid: `(time,)` bool, a face was read; default: where the mesh is finite.

    Returns:
        A stream of dim `DIM`; invalid rows are zero.
    """
    meshes = np.asarray(meshes)
    values = geometry(meshes) if meshes.ndim == 3 else np.asarray(meshes, dtype=np.float32)
    seen = np.isfinite(values).all(axis=1)
    if valid is not None:
        seen &= np.asarray(valid, dtype=bool)
    times = np.asarray(times, dtype=float)
    own = baseline(values[seen], times[seen])
    out = np.zeros((len(values), DIM), dtype=np.float32)
    out[seen] = np.concatenate([values[seen], values[seen] - own], axis=1)
    return Stream(out, times, seen, {"encoder": NAME, "version": VERSION, **(provenance or {})})


class FaceGeometry:
    """`geometry` and `encode` as a `mien.encoders.protocol.MeshEncoder`. It has no weights to download."""

    name, modality, dim = NAME, FACE, DIM
    rate_hz: float | None = None
    receptive_field_s = 0.0
    licence = "MIT"
    provenance: Mapping[str, str] = {"encoder": NAME, "version": VERSION}

    def measure(self, meshes: np.ndarray) -> np.ndarray:
        """`(n, 468, 3)` meshes in pixels -> `(n, len(NAMES))` float32, see `geometry`."""
        return geometry(meshes)

    def encode_measures(self, measures: np.ndarray, times: np.ndarray, valid: np.ndarray) -> Stream:
        """Measures of one subject over a recording -> its stream, see `encode`."""
        return encode(measures, times, valid)


def create(source: str | None = None, *, device: str = "cpu") -> FaceGeometry:
    """The encoder as `mien.encoders.registry` makes it. Raises ConfigError if a source is given: it has none."""
    if source:
        raise ConfigError(f"{NAME} takes no source, got {source!r}", remedy=f"--encoder {NAME}")
    return FaceGeometry()
