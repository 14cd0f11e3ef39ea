"""Face encoder of the starter: pose-free geometric features of a 468-point face mesh. It has no weights.

A similarity transform (rotation, scale, shift) aligns the rigid landmarks of a mesh with a symmetric neutral face. The
features are then measured in the axes of the neutral face, so they depend on expression and identity, not on pose.
Units are interocular distances of the neutral face (centre of one eye to centre of the other, about 63 mm on an adult).
Left and right are the subject's: landmark 33 is the outer corner of the right eye and lies left in an unmirrored
picture.

`canonical_face.npz` beside this file holds the neutral face and the population's features at rest; both are written by
`python -m experiments.build_canonical_face`. The neutral face is the output of the face-mesh network for a uniform grey
picture, made symmetric, so it is nobody's face.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from mien.clock import median_step
from mien.records import FACE, Stream

NAME = "face-geometry"
VERSION = "1"
LANDMARKS = 468
DATA = Path(__file__).with_name("canonical_face.npz")

#: Landmarks that expressions hardly move, with their weight in the alignment: bridge and ridge of the nose, corners of
#: the eyes, temples and sides of the head, forehead (low weight, because hair and raised brows disturb it).
RIGID: dict[int, float] = {
    **dict.fromkeys((168, 6, 197, 195), 2.0),
    **dict.fromkeys((33, 263), 1.5),
    **dict.fromkeys((5, 4, 133, 362, 127, 356, 162, 389, 234, 454), 1.0),
    **dict.fromkeys((10, 109, 338, 151), 0.5),
}

EYE_CENTRE_RIGHT, EYE_CENTRE_LEFT = (33, 133), (263, 362)
NOSE_BASE = (2,)
X, Y, Z = 0, 1, 2  # right in the picture, down, away from the camera


@dataclass(frozen=True, slots=True)
class GeometryFeature:
    """One geometric feature.

    name, description: column name, and what it measures.
    kind: `distance`: mean of the landmarks `plus` minus mean of `minus` along `axis` (0 right, 1 down, 2 away), times
        `sign`; `asymmetry`: absolute difference of the two features `sides`; `pose`: an angle of the head in radians.
    """

    name: str
    description: str
    axis: int = Y
    plus: tuple[int, ...] = ()
    minus: tuple[int, ...] = ()
    sign: float = 1.0
    kind: str = "distance"
    sides: tuple[str, str] = ("", "")

    @property
    def landmarks(self) -> tuple[int, ...]:
        """Mesh points that the value depends on, beside the rigid ones."""
        if self.kind == "asymmetry":
            return tuple(sorted({i for f in FEATURES if f.name in self.sides for i in f.landmarks}))
        return tuple(sorted({*self.plus, *self.minus}))


@lru_cache(maxsize=1)
def load_canonical_face() -> dict[str, np.ndarray]:
    """Load the arrays of `canonical_face.npz`.

    Returns:
        `vertices` `(468, 3)`: the neutral face in interocular distances, origin between the eyes; `mirror` `(468,)`:
        the landmark on the other side; `resting_mean`, `resting_spread` `(features,)`: mean and spread of the
        population's features at rest.
    """
    with np.load(DATA, allow_pickle=False) as data:
        return {key: data[key] for key in data.files}


@lru_cache(maxsize=1)
def mirrored_landmarks() -> np.ndarray:
    """For each landmark its counterpart on the other side: `(468,)` int."""
    return np.asarray(load_canonical_face()["mirror"], dtype=int)


def _both_sides(
    name: str, description: str, axis: int, plus: tuple[int, ...], minus: tuple[int, ...], sign: float = 1.0
) -> tuple[GeometryFeature, GeometryFeature]:
    """The feature of the right side and its mirror image. A distance along x changes sign in the mirror image."""
    mirror = mirrored_landmarks()
    mirrored_sign = -sign if axis == X else sign
    return (
        GeometryFeature(f"{name}_right", f"{description}, right side", axis, plus, minus, sign),
        GeometryFeature(
            f"{name}_left",
            f"{description}, left side",
            axis,
            tuple(int(mirror[i]) for i in plus),
            tuple(int(mirror[i]) for i in minus),
            mirrored_sign,
        ),
    )


def _asymmetry(name: str, description: str, feature: str) -> GeometryFeature:
    return GeometryFeature(name, description, kind="asymmetry", sides=(f"{feature}_right", f"{feature}_left"))


def _features() -> tuple[GeometryFeature, ...]:
    eye, upper_lid, lower_lid = EYE_CENTRE_RIGHT, (160, 159, 158), (144, 145, 153)
    lips_middle = (0, 13, 14, 17)
    inner_upper, inner_lower = (82, 13, 312), (87, 14, 317)
    outer_upper, outer_lower = (37, 0, 267), (84, 17, 314)
    return (
        *_both_sides("lid_aperture", "opening between the lids (AU 5, 7, 43)", Y, lower_lid, upper_lid),
        *_both_sides("upper_lid_height", "upper lid above the eye's corners (AU 5, 43)", Y, eye, upper_lid),
        *_both_sides("lower_lid_height", "lower lid above the eye's corners (AU 6, 7)", Y, eye, lower_lid),
        *_both_sides("brow_inner_height", "inner brow above the eye's inner corner (AU 1, 4)", Y, (133,), (107, 55)),
        *_both_sides("brow_middle_height", "middle of the brow above the eye (AU 1, 2, 4)", Y, eye, (105, 52, 66, 65)),
        *_both_sides("brow_outer_height", "outer brow above the outer corner (AU 2)", Y, (33,), (46, 53, 63, 70)),
        *_both_sides("lip_corner_curve", "lip corner above the middle of the lips (AU 12, 15)", Y, lips_middle, (61,)),
        *_both_sides("lip_corner_height", "lip corner below the nose, negated (AU 12, 15, jaw)", Y, NOSE_BASE, (61,)),
        *_both_sides("lip_corner_out", "lip corner's distance from the midline (AU 12, 18, 20)", X, (61,), (), -1.0),
        *_both_sides("lip_corner_back", "lip corner behind the nose's base (AU 12, 14, 20)", Z, (61,), NOSE_BASE),
        *_both_sides("nose_wing_height", "nostril wing below the eye, negated (AU 9, 10)", Y, eye, (64, 98, 48)),
        *_both_sides("nose_wing_out", "nostril wing's distance from the midline (AU 38, 12)", X, (64, 48), (), -1.0),
        *_both_sides("cheek_height", "cheek below the eye, negated (AU 6, 12)", Y, eye, (50, 101, 205, 118)),
        *_both_sides("cheek_depth", "depth of the cheek (AU 6, 34)", Z, (205, 50, 36), ()),
        *_both_sides(
            "fold_out", "nasolabial fold's distance from the midline (AU 10, 11, 12)", X, (205, 206, 207), (), -1.0
        ),
        *_both_sides(
            "upper_lip_side_height", "side of the upper lip below the nose, negated (AU 9, 10)", Y, NOSE_BASE, (39, 40)
        ),
        *_both_sides(
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

#: Constants of `resting_baseline`: the distance from the calmest frame (root mean square in the population's resting
#: deviations) at which the weight of a frame falls by e, and the weight of the population in seconds of calm frames.
#: Our choice, from the held-out identities of the synthetic corpus.
CALM_SCALE = 0.25
PRIOR_SECONDS = 0.5

_IS_EXPRESSION = np.array([f.kind != "pose" for f in FEATURES])


@lru_cache(maxsize=1)
def _distance_matrix() -> np.ndarray:
    """All distances as one linear map of the aligned mesh, `(468 * 3, features)`."""
    weights = np.zeros((LANDMARKS, 3, len(FEATURES)))
    for k, feature in enumerate(FEATURES):
        for group, sign in ((feature.plus, feature.sign), (feature.minus, -feature.sign)):
            for landmark in group:
                weights[landmark, feature.axis, k] += sign / len(group)
    return weights.reshape(LANDMARKS * 3, -1)


def align(meshes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Align meshes with the neutral face by the weighted least-squares similarity transform of the rigid landmarks.

    Closed form of Umeyama (IEEE TPAMI 13(4), 1991), for all frames at once.

    Args:
        meshes: `(time, 468, 3)` in any unit; x right, y down, z away, in the same scale.

    Returns:
        Aligned meshes `(time, 468, 3)` in interocular distances, and rotations of the head `(time, 3, 3)` from the
        neutral face to the picture.
    """
    index, weight = np.array(list(RIGID)), np.array(list(RIGID.values()))
    weight = weight / weight.sum()
    target = load_canonical_face()["vertices"].astype(float)[index]
    target_mean = weight @ target
    meshes = np.asarray(meshes, dtype=float)
    source_mean = np.einsum("tni,n->ti", meshes[:, index], weight)[:, None]
    source = meshes[:, index] - source_mean
    covariance = np.einsum("tni,nj,n->tij", source, target - target_mean, weight)
    u, spread, vt = np.linalg.svd(covariance)
    # The best fit of a flattened mesh may be a mirror image, which a head never is.
    orientation = np.ones_like(spread)
    orientation[:, 2] = np.sign(np.linalg.det(u @ vt))
    rotation = np.einsum("tki,tk,tjk->tij", vt, orientation, u)
    with np.errstate(invalid="ignore"):  # all landmarks in one point give NaN, which counts as no face
        scale = (spread * orientation).sum(1) / np.einsum("tni,n->t", source**2, weight)
    turn = (rotation * scale[:, None, None]).transpose(0, 2, 1)
    aligned = np.matmul(meshes - source_mean, turn) + target_mean
    return aligned, rotation.transpose(0, 2, 1)


def pose(rotation: np.ndarray) -> np.ndarray:
    """Pitch, yaw and roll in radians, `(time, 3)`, of head rotations Rz(roll) Ry(-yaw) Rx(pitch), `(time, 3, 3)`."""
    pitch = np.arctan2(rotation[:, 2, 1], rotation[:, 2, 2])
    yaw = np.arcsin(np.clip(rotation[:, 2, 0], -1.0, 1.0))
    roll = np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0])
    return np.stack([pitch, yaw, roll], axis=1)


def compute_features(meshes: np.ndarray) -> np.ndarray:
    """Compute the features of each mesh, in the order of `FEATURES`.

    Shifting, rotating or scaling a mesh changes the pose features only.

    Args:
        meshes: `(time, 468, 3)` in pixels or any unit, z in the unit of x. Rows with a non-finite number are frames
            without a face.

    Returns:
        `(time, features)` float32: interocular distances, radians for the pose; NaN where there is no face.

    Raises:
        ValueError: the shape is not `(time, 468, 3)`.
    """
    meshes = np.asarray(meshes)
    if meshes.ndim != 3 or meshes.shape[1:] != (LANDMARKS, 3):
        raise ValueError(f"meshes must be (time, {LANDMARKS}, 3); got {meshes.shape}")
    is_face = np.isfinite(meshes).all(axis=(1, 2))
    features = np.full((len(meshes), len(FEATURES)), np.nan, dtype=np.float32)
    if not is_face.any():
        return features
    aligned, rotation = align(meshes[is_face])
    values = aligned.reshape(len(aligned), -1) @ _distance_matrix()
    for k, feature in enumerate(FEATURES):
        if feature.kind == "asymmetry":
            values[:, k] = np.abs(values[:, NAMES.index(feature.sides[0])] - values[:, NAMES.index(feature.sides[1])])
    values[:, -3:] = pose(rotation)
    features[is_face] = values
    return features


def resting_baseline(values: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Estimate the features of a subject's face at rest from a whole recording.

    Weighted mean of the frames and of the population's resting face. The weight of a frame is exp(-(d - min d) /
    CALM_SCALE), where d is its distance from the population's resting face; the population weighs as much as
    PRIOR_SECONDS of calm frames, so a single picture is compared mostly with the population. Our choice, because a
    median would take the laughing face of a subject who laughs most of the time for the resting one.

    Args:
        values: `(time, features)` of `compute_features`, all finite; time may be 0.
        times: `(time,)` seconds, increasing.

    Returns:
        `(features,)` float64.
    """
    face = load_canonical_face()
    mean, spread = face["resting_mean"].astype(float), face["resting_spread"].astype(float)
    if len(values) == 0:
        return mean
    deviation = (values[:, _IS_EXPRESSION] - mean[_IS_EXPRESSION]) / spread[_IS_EXPRESSION]
    distance = np.sqrt(np.mean(deviation.astype(float) ** 2, axis=1))
    step = median_step(times)
    weight = np.exp(-(distance - distance.min()) / CALM_SCALE) * min(max(step, 0.0), PRIOR_SECONDS)
    baseline: np.ndarray = (PRIOR_SECONDS * mean + weight @ values) / (PRIOR_SECONDS + weight.sum())
    return baseline


def encode(
    meshes: np.ndarray,
    times: np.ndarray,
    valid: np.ndarray | None = None,
    provenance: Mapping[str, str] | None = None,
) -> Stream:
    """Encode one subject's recording: features, and features minus the subject's resting baseline.

    Args:
        meshes: `(time, 468, 3)` meshes, or `(time, features)` from `compute_features`.
        times: `(time,)` seconds, increasing.
        valid: `(time,)` bool, a face was detected; None takes the finite meshes.
        provenance: further keys of the stream's provenance.

    Returns:
        A stream of dim `DIM`. Invalid rows are zero.
    """
    meshes = np.asarray(meshes)
    values = compute_features(meshes) if meshes.ndim == 3 else np.asarray(meshes, dtype=np.float32)
    is_valid = np.isfinite(values).all(axis=1)
    if valid is not None:
        is_valid &= np.asarray(valid, dtype=bool)
    times = np.asarray(times, dtype=float)
    baseline = resting_baseline(values[is_valid], times[is_valid])
    encoded = np.zeros((len(values), DIM), dtype=np.float32)
    encoded[is_valid] = np.concatenate([values[is_valid], values[is_valid] - baseline], axis=1)
    return Stream(encoded, times, is_valid, {"encoder": NAME, "version": VERSION, **(provenance or {})})


class FaceGeometry:
    """`MeshEncoder` of geometric face features."""

    name, modality, dim = NAME, FACE, DIM
    rate_hz: float | None = None
    receptive_field_s = 0.0
    licence = "MIT"
    provenance: Mapping[str, str] = {"encoder": NAME, "version": VERSION}

    def measure(self, meshes: np.ndarray) -> np.ndarray:
        """Features of meshes: `(n, 468, 3)` pixels -> `(n, len(FEATURES))` float32; see `compute_features`."""
        return compute_features(meshes)

    def encode_measures(self, measures: np.ndarray, times: np.ndarray, valid: np.ndarray) -> Stream:
        """Encode the features of one subject over a recording; see `encode`."""
        return encode(measures, times, valid)
