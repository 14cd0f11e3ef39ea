"""Face geometry: invariance to pose and scale, response to action units, baseline, and missing frames."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from mien.encoders import face_geometry
from mien.synthetic.action_units import unit_indices, unit_names
from mien.synthetic.identities import mean_face
from mien.synthetic.mesh_tracks import deform_face, rotation_matrices

HALF = len(face_geometry.FEATURES)
NOT_POSE = [f.kind != "pose" for f in face_geometry.FEATURES]


def mesh_with_units(**units: float) -> np.ndarray:
    """`(468, 3)` the average face with action units at given strengths, `_12=1.0` for unit 12 on both sides."""
    actions = np.zeros((1, len(unit_names())))
    for name, strength in units.items():
        actions[0, unit_indices(name.strip("_"))] = strength
    return deform_face(mean_face(), actions)[0].astype(np.float64)


def feature(mesh: np.ndarray, name: str) -> float:
    return float(face_geometry.compute_features(mesh[None])[0, face_geometry.NAMES.index(name)])


def test_every_feature_has_a_unique_name_and_a_description() -> None:
    assert len(set(face_geometry.NAMES)) == len(face_geometry.NAMES) == HALF
    assert face_geometry.DIM == 2 * HALF
    assert face_geometry.compute_features(mean_face()[None]).shape == (1, HALF)
    assert all(0 <= i < face_geometry.LANDMARKS for f in face_geometry.FEATURES for i in f.landmarks)
    assert all(f.description for f in face_geometry.FEATURES)


@settings(max_examples=40)
@given(
    turn=st.tuples(*[st.floats(-0.6, 0.6)] * 3),
    scale=st.floats(0.05, 500),
    shift=st.tuples(*[st.floats(-2000, 2000)] * 3),
    smile=st.floats(0, 1),
)
def test_similarity_transforms_change_only_the_pose(
    turn: tuple[float, float, float], scale: float, shift: tuple[float, float, float], smile: float
) -> None:
    """Exactly, but for rounding: a similarity is fitted, and a turned mesh is a similar one."""
    mesh = mesh_with_units(_12=smile)
    moved = scale * mesh @ rotation_matrices(np.array([turn]))[0].T + np.array(shift)
    here, there = face_geometry.compute_features(np.stack([mesh, moved]))
    np.testing.assert_allclose(there[NOT_POSE], here[NOT_POSE], atol=2e-4)
    own = face_geometry.align(mesh[None])[1][0]
    expected = face_geometry.pose((rotation_matrices(np.array([turn]))[0] @ own)[None])[0]
    np.testing.assert_allclose(there[-3:], expected, atol=2e-3)


@settings(max_examples=40)
@given(turn=st.tuples(*[st.floats(-0.35, 0.35)] * 3), distance=st.floats(7, 20), smile=st.floats(0, 1))
def test_perspective_of_a_rotated_head_changes_features_within_the_bound(
    turn: tuple[float, float, float], distance: float, smile: float
) -> None:
    """A camera enlarges what is near, which no similarity undoes: a point at depth z by d / (d + z). One that is
    `reach` from between the eyes comes nearer by at most reach sin(angle), the eyes, which are the unit and half of it
    away, by sin(angle) / 2. So it moves by at most reach (reach + 1/2) sin(angle) d / (d + z)^2, z the nearest depth of
    either mesh. At arm's length (10) and 20 degrees that is .1 at the chin, and far less where the mouth's corners
    are."""

    def seen(mesh: np.ndarray) -> np.ndarray:
        depth = distance / (distance + mesh[:, 2:])
        return face_geometry.compute_features(np.concatenate([mesh[:, :2] * depth, mesh[:, 2:]], axis=1)[None])[0]

    mesh = mesh_with_units(_12=smile)
    matrix = rotation_matrices(np.array([turn]))[0]
    change = np.abs(seen(mesh @ matrix.T) - seen(mesh))[NOT_POSE]
    reach, angle = np.linalg.norm(mesh, axis=1).max(), Rotation.from_matrix(matrix).magnitude()
    nearest = distance + min(mesh[:, 2].min(), (mesh @ matrix.T)[:, 2].min())
    assert change.max() <= reach * (reach + 0.5) * np.sin(angle) * distance / nearest**2 + 1e-4


def test_alignment_equals_numerical_least_squares() -> None:
    """Golden values: the seven numbers of the similarity by least squares from nothing, and two features by hand."""
    rng = np.random.default_rng(3)
    mesh = 60 * mesh_with_units(_1=0.7, _26=0.8) @ rotation_matrices(np.array([[0.2, -0.3, 0.1]]))[0].T + (320, 200, 0)
    mesh += rng.normal(0, 0.5, mesh.shape)
    rigid, weight = list(face_geometry.RIGID), np.sqrt(list(face_geometry.RIGID.values()))[:, None]
    target = face_geometry.load_canonical_face()["vertices"].astype(float)[rigid]

    def laid(p: np.ndarray, points: np.ndarray) -> np.ndarray:
        return np.exp(p[0]) * Rotation.from_rotvec(p[1:4]).apply(points - (320, 200, 0)) + p[4:]

    found = least_squares(lambda p: (weight * (laid(p, mesh[rigid]) - target)).ravel(), np.r_[-4.0, np.zeros(6)])
    x, y, _ = laid(found.x, mesh).T
    assert feature(mesh, "jaw_drop") == pytest.approx(y[152] - (y[33] + y[133] + y[263] + y[362]) / 4, abs=1e-4)
    inner = y[face_geometry.mirrored_landmarks()[133]] - y[face_geometry.mirrored_landmarks()[[107, 55]]].mean()
    assert feature(mesh, "brow_inner_height_left") == pytest.approx(inner, abs=1e-4)
    assert feature(mesh, "brow_distance") == pytest.approx(x[[336, 285]].mean() - x[[107, 55]].mean(), abs=1e-4)


def test_signs_of_the_pose() -> None:
    mesh, level = mean_face(), face_geometry.compute_features(mean_face()[None])[0, -3:]
    for axis, name in enumerate(("head_pitch", "head_yaw", "head_roll")):
        turned = mesh @ rotation_matrices(np.eye(3)[axis][None] * 0.3)[0].T
        change = face_geometry.compute_features(turned[None])[0, -3:] - level
        assert change[axis] == pytest.approx(0.3, abs=0.02), name
        assert np.abs(np.delete(change, axis)).max() < 0.05, name


@pytest.mark.parametrize(
    ("unit", "name", "way"),
    [
        ("1", "brow_inner_height_left", 1),
        ("2", "brow_outer_height_right", 1),
        ("4", "brow_inner_height_right", -1),
        ("4", "brow_distance", -1),
        ("5", "lid_aperture_left", 1),
        ("6", "cheek_height_left", 1),
        ("7", "lid_aperture_right", -1),
        ("9", "nose_wing_height_left", 1),
        ("10", "upper_lip_side_height_right", 1),
        ("12", "lip_corner_curve_left", 1),
        ("12", "lip_corner_out_right", 1),
        ("15", "lip_corner_curve_right", -1),
        ("17", "chin_raise", 1),
        ("18", "lip_corner_out_left", -1),
        ("20", "lip_corner_out_left", 1),
        ("25", "mouth_opening", 1),
        ("26", "jaw_drop", 1),
        ("43", "lid_aperture_left", -1),
    ],
)
def test_action_units_change_their_features(unit: str, name: str, way: int) -> None:
    change = feature(mesh_with_units(**{f"_{unit}": 1.0}), name) - feature(mesh_with_units(), name)
    assert way * change > 0.005, f"unit {unit} changes {name} by {change:.4f}"


def test_one_raised_lip_corner_is_an_asymmetry() -> None:
    mesh = mesh_with_units()
    left = unit_indices("12")[0]
    actions = np.zeros((1, len(unit_names())))
    actions[0, left] = 1.0
    crooked = deform_face(mean_face(), actions)[0]
    assert feature(crooked, "lip_corner_asymmetry") > feature(mesh, "lip_corner_asymmetry") + 0.03
    assert feature(mesh_with_units(_12=1.0), "lip_corner_asymmetry") == pytest.approx(
        feature(mesh, "lip_corner_asymmetry"), abs=0.02
    )


def test_features_equal_their_definition() -> None:
    """The mouth's opening on a mesh that needs no alignment: mean y of the lower inner lip minus the upper's."""
    neutral = face_geometry.load_canonical_face()["vertices"].astype(float)
    mesh = neutral.copy()
    mesh[[87, 14, 317], 1] += 0.1  # none of the rigid landmarks
    expected = neutral[[87, 14, 317], 1].mean() + 0.1 - neutral[[82, 13, 312], 1].mean()
    assert feature(mesh, "mouth_opening") == pytest.approx(expected, abs=1e-5)
    assert feature(mesh, "lip_corner_out_left") == pytest.approx(neutral[291, 0], abs=1e-5)


def recording(seconds: float = 6.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    times = np.arange(0, seconds, 1 / 25)
    actions = np.zeros((len(times), len(unit_names())))
    actions[:, unit_indices("12")] = np.clip(np.sin(times), 0, 1)[:, None]
    meshes = deform_face(mean_face(), actions) * 80 + 200
    return meshes + rng.normal(0, 0.1, meshes.shape), times


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from([np.nan, np.inf, 1e9, 0.0]))
def test_values_of_invalid_frames_change_no_valid_one(seed: int, garbage: float) -> None:
    meshes, times = recording()
    valid = np.random.default_rng(seed).random(len(times)) < 0.6
    spoilt = np.where(valid[:, None, None], meshes, garbage)
    clean, other = face_geometry.encode(meshes, times, valid), face_geometry.encode(spoilt, times, valid)
    assert np.array_equal(clean.valid, valid)
    assert np.array_equal(other.valid, valid)
    assert np.array_equal(clean.values, other.values)
    assert (other.values[~valid] == 0).all()
    assert np.isfinite(other.values).all()


def test_frames_without_a_finite_mesh_are_invalid() -> None:
    meshes, times = recording()
    meshes[10:20] = np.nan
    stream = face_geometry.encode(meshes, times)
    assert np.array_equal(np.flatnonzero(~stream.valid), np.arange(10, 20))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_recordings_of_zero_to_two_frames(count: int) -> None:
    meshes, times = recording()
    stream = face_geometry.encode(meshes[:count], times[:count])
    assert stream.values.shape == (count, face_geometry.DIM)
    assert stream.valid.all()
    assert np.isfinite(stream.values).all()
    nothing = face_geometry.encode(meshes[:count], times[:count], np.zeros(count, bool))
    assert not nothing.valid.any()
    assert (nothing.values == 0).all()


def test_encode_takes_meshes_or_their_features() -> None:
    meshes, times = recording()
    assert np.array_equal(
        face_geometry.encode(meshes, times).values,
        face_geometry.encode(face_geometry.compute_features(meshes), times).values,
    )


def test_second_half_is_first_half_minus_baseline() -> None:
    stream = face_geometry.encode(*recording())
    own = stream.values[:, :HALF] - stream.values[:, HALF:]
    np.testing.assert_allclose(own, np.broadcast_to(own[0], own.shape), atol=1e-5)


def test_baseline_is_the_calm_face_not_the_most_frequent() -> None:
    """A subject who laughs most of the time."""
    times = np.arange(0, 10, 1 / 25)
    calm, laugh = (
        face_geometry.compute_features(mesh_with_units(**units)[None])[0]
        for units in ({}, {"_12": 1.0, "_6": 0.8, "_25": 0.6})
    )
    laughing = np.where((times < 7.5)[:, None], laugh, calm)
    curve = face_geometry.NAMES.index("lip_corner_curve_left")
    own = face_geometry.resting_baseline(laughing, times)[curve]
    assert abs(own - calm[curve]) < 0.25 * abs(laugh[curve] - calm[curve])
    assert np.array_equal(
        face_geometry.resting_baseline(laughing[:0], times[:0]),
        face_geometry.load_canonical_face()["resting_mean"].astype(float),
    )


def test_a_mesh_with_another_number_of_landmarks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \(time, 468, 3\); got \(2, 478, 3\)"):
        face_geometry.compute_features(np.zeros((2, 478, 3)))
