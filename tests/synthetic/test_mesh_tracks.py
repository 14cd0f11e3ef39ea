"""Simulated face tracks: the geometry contains the expression, and face impairments remove the face."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from mien.encoders import face_geometry
from mien.labels import EXPRESSIONS, NEUTRAL
from mien.records import FACE, VOICE
from mien.synthetic.action_units import unit_indices, unit_names
from mien.synthetic.expression_prototypes import prototypes
from mien.synthetic.identities import mean_face
from mien.synthetic.mesh_tracks import deform_face, identity_of, simulate_mouth_opening, simulate_track, smooth_noise
from mien.synthetic.recordings import add_noise, encode_face, map_in_processes, simulate_recording, simulate_recordings
from mien.synthetic.scenario import FRAME_RATES, Impairment, Scenario, Segment, draw_scenario


@pytest.mark.parametrize(
    ("unit", "moved", "fixed"),
    [
        # landmark: (to the picture's right, down), -1, 0 (either way) or 1
        ("12", {61: (-1, -1), 291: (1, -1)}, (10, 152, 33, 263, 107, 336)),
        ("4", {107: (1, 1), 336: (-1, 1), 55: (1, 1), 285: (-1, 1)}, (152, 61, 291, 33, 263)),
        ("26", {14: (0, 1), 17: (0, 1), 152: (0, 1)}, (10, 33, 263, 107, 336, 168)),
    ],
    ids=["12 corners up and out", "4 brows down and together", "26 jaw down"],
)
def test_an_action_unit_moves_its_landmarks_and_no_others(
    unit: str, moved: dict[int, tuple[int, int]], fixed: tuple[int, ...]
) -> None:
    actions = np.zeros((1, len(unit_names())))
    actions[0, unit_indices(unit)] = 1.0
    change = deform_face(mean_face(), actions)[0] - deform_face(mean_face(), 0 * actions)[0]
    for landmark, directions in moved.items():
        for axis, direction in enumerate(directions):
            assert direction == 0 or direction * change[landmark, axis] > 0.01, f"{landmark}: {change[landmark]}"
    assert np.abs(change[list(fixed)]).max() < 0.005
    if unit == "26":
        assert change[14, 1] - change[13, 1] > 0.1, "the mouth opens"


def scenario_of(prototype: str, person: int = 1, impairments: tuple[Impairment, ...] = ()) -> Scenario:
    """Rest for 3 s, then the prototype for 3 s, in silence."""
    segments = (
        Segment(0.0, 3.0, NEUTRAL, "rest", 0.0, 0.2, 0.2),
        Segment(3.0, 6.0, prototypes()[prototype].expression, prototype, 1.0, 0.3, 0.3),
    )
    sex = "female" if person % 2 else "male"
    return Scenario("p", 10 + person, "test", "s", person, sex, 6.0, FRAME_RATES[0][0], segments, (), impairments)


def changes(expression: str, people: int = 3) -> dict[str, float]:
    """Mean change of each feature from rest to apex, over the prototypes of a class and several people."""
    out = []
    for name in (n for n, p in prototypes().items() if EXPRESSIONS[p.expression] == expression):
        for person in range(people):
            track = simulate_track(scenario_of(name, person))
            values = face_geometry.compute_features(track.meshes)
            rest, apex = (track.times > 0.5) & (track.times < 2.8), (track.times > 3.6) & (track.times < 5.8)
            out.append(np.nanmean(values[apex], axis=0) - np.nanmean(values[rest], axis=0))
    return dict(zip(face_geometry.NAMES, np.mean(out, axis=0), strict=True))


@pytest.mark.parametrize(
    ("expression", "moves"),
    [
        ("Happiness", {"lip_corner_curve_left": 1, "lip_corner_out_right": 1}),
        ("Sadness", {"lip_corner_curve_left": -1, "brow_inner_height_left": 1}),
        ("Surprise", {"brow_outer_height_right": 1, "lid_aperture_left": 1}),
        ("Anger", {"brow_inner_height_left": -1, "brow_distance": -1}),
        ("Disgust", {"nose_wing_height_left": 1}),
        ("Fear", {"brow_inner_height_right": 1, "lid_aperture_right": 1}),
    ],
)
def test_expressions_change_the_features_that_facs_describes(expression: str, moves: dict[str, int]) -> None:
    change = changes(expression)
    for name, direction in moves.items():
        assert direction * change[name] > 0.01, f"{expression} changes {name} by {change[name]:.3f}"


def test_the_same_scenario_gives_the_same_track_and_people_differ() -> None:
    first, again = simulate_track(scenario_of("open smile")), simulate_track(scenario_of("open smile"))
    assert np.array_equal(first.meshes, again.meshes, equal_nan=True)
    rest = [identity_of(person, "female").rest for person in (1, 2)]
    assert np.abs(rest[0] - rest[1]).max() > 0.02


def test_a_track_has_the_frame_rate_of_its_scenario_and_lies_in_the_picture() -> None:
    scenario = replace(scenario_of("open smile"), rate=Fraction(30000, 1001))
    track = simulate_track(scenario, size=(640, 360))
    assert track.meshes.shape == (180, 468, 3)
    np.testing.assert_allclose(track.times, np.arange(180) * 1001 / 30000)
    assert ((track.meshes[..., 0] > -100) & (track.meshes[..., 0] < 740)).all()
    assert np.abs(track.pose[:, 1]).max() < 0.62, "yaw within 35 degrees"


@pytest.mark.parametrize("kind", ["absent", "dark"])
def test_a_face_impairment_removes_the_face_in_its_interval_only(kind: str) -> None:
    track = simulate_track(scenario_of("open smile", impairments=(Impairment(kind, 2.0, 4.0, 0.03),)))
    inside = (track.times >= 2.0) & (track.times < 4.0)
    assert np.array_equal(track.valid, ~inside)
    assert np.isnan(track.meshes[inside]).all()
    assert np.isfinite(track.meshes[~inside]).all()
    stream = encode_face(scenario_of("open smile", impairments=(Impairment(kind, 2.0, 4.0, 0.03),)))
    assert np.array_equal(stream.valid, ~inside)


def test_a_hand_hides_the_face_most_of_the_time() -> None:
    lost = []
    for person in range(8):
        track = simulate_track(scenario_of("open smile", person, (Impairment("occluded", 1.0, 5.0, 0.4),)))
        inside = (track.times >= 1.0) & (track.times < 5.0)
        assert track.valid[~inside].all()
        lost.append(1 - track.valid[inside].mean())
    assert 0.4 < np.mean(lost) < 0.9


def test_lips_and_lids_do_not_pass_through_each_other() -> None:
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 2, (50, len(unit_names())))
    values = face_geometry.compute_features(deform_face(mean_face(), actions))
    for name in ("mouth_opening", "lid_aperture_left", "lid_aperture_right"):
        assert values[:, face_geometry.NAMES.index(name)].min() > -0.02, name


def test_the_mouth_moves_only_during_speech() -> None:
    scenario = replace(scenario_of("rest"), speech=((1.0, 4.0),), segments=scenario_of("rest").segments[:1])
    opening = simulate_mouth_opening(scenario, scenario.times())
    assert opening.min() >= 0
    assert opening.max() <= 1
    assert (opening[scenario.times() < 1.0] == 0).all()
    assert (opening[(scenario.times() > 1.0) & (scenario.times() < 4.0)] > 0.05).mean() > 0.6


def test_smooth_noise_has_unit_variance_and_a_short_correlation() -> None:
    times = np.arange(0, 2000, 0.05)
    curve = smooth_noise(np.random.default_rng(0), times, 1, 1.0)[:, 0]
    assert curve.std() == pytest.approx(1.0, abs=0.1)
    assert abs(np.corrcoef(curve[:-100], curve[100:])[0, 1]) < 0.1, "uncorrelated after 5 s"
    assert np.corrcoef(curve[:-1], curve[1:])[0, 1] > 0.95


def test_recordings_do_not_depend_on_workers_nor_on_the_first_number() -> None:
    from_zero = simulate_recordings("val", 3, seconds=3.0, seed=5, voice=False)
    from_one = simulate_recordings("val", 2, first=1, seconds=3.0, seed=5, voice=False)
    for a, b in zip(from_zero[1:], from_one, strict=True):
        assert a.clip.id == b.clip.id
        assert np.array_equal(a.streams[FACE].values, b.streams[FACE].values)
    assert map_in_processes(pow, [(2, 3), (3, 2)], workers=2) == [8, 9]
    assert map_in_processes(pow, [(2, 3)], workers=1) == [8]


def test_a_recording_holds_both_streams_and_labels_at_the_frames() -> None:
    scenario = draw_scenario("test", 0, seconds=4.0, seed=1)
    recording = simulate_recording(scenario)
    assert set(recording.streams) == {FACE, VOICE}
    assert recording.clip.labels is not None
    np.testing.assert_allclose(recording.clip.labels.times, scenario.times())
    assert recording.streams[FACE].dim == face_geometry.DIM
    assert set(simulate_recording(scenario, voice=False).streams) == {FACE}


def test_added_noise_replaces_earlier_noise_and_covers_the_recording() -> None:
    scenario = add_noise(add_noise(draw_scenario("test", 2, seconds=4.0, seed=1), 10.0), 0.0)
    noises = [f for f in scenario.impairments if f.kind == "noise"]
    assert [(f.start_s, f.stop_s, f.amount) for f in noises] == [(0.0, 4.0, 0.0)]
