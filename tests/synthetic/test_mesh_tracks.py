"""Simulated face tracks: the planted expression is in the geometry, and a planted fault takes the face away."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mien.encoders import face_geometry
from mien.labels import EXPRESSIONS, NEUTRAL
from mien.records import FACE, VOICE
from mien.synthetic import scenario as plans
from mien.synthetic.action_units import index, names
from mien.synthetic.expression_prototypes import recipes
from mien.synthetic.identities import average
from mien.synthetic.mesh_tracks import cast, shape, surrogate_opening, track, wander
from mien.synthetic.recordings import face_stream, noisy, record, spread_out, troupe
from mien.synthetic.scenario import Impairment, Scenario, Segment, draw


@pytest.mark.parametrize(
    ("unit", "moved", "still"),
    [
        # landmark: (to the picture's right, down), -1, 0 (whichever) or 1
        ("12", {61: (-1, -1), 291: (1, -1)}, (10, 152, 33, 263, 107, 336)),
        ("4", {107: (1, 1), 336: (-1, 1), 55: (1, 1), 285: (-1, 1)}, (152, 61, 291, 33, 263)),
        ("26", {14: (0, 1), 17: (0, 1), 152: (0, 1)}, (10, 33, 263, 107, 336, 168)),
    ],
    ids=["12 corners up and out", "4 brows down and together", "26 jaw down"],
)
def test_a_planted_unit_moves_its_landmarks_and_leaves_the_others(
    unit: str, moved: dict[int, tuple[int, int]], still: tuple[int, ...]
) -> None:
    actions = np.zeros((1, len(names())))
    actions[0, index(unit)] = 1.0
    change = shape(average(), actions)[0] - shape(average(), 0 * actions)[0]
    for landmark, ways in moved.items():
        for axis, way in enumerate(ways):
            assert way == 0 or way * change[landmark, axis] > 0.01, f"{landmark}: {change[landmark]}"
    assert np.abs(change[list(still)]).max() < 0.005
    if unit == "26":
        assert change[14, 1] - change[13, 1] > 0.1, "the mouth opens"


def acting(recipe: str, person: int = 1, faults: tuple[Impairment, ...] = ()) -> Scenario:
    """Rest for 3 s, the recipe for 3 s, in silence."""
    segments = (
        Segment(0.0, 3.0, NEUTRAL, "rest", 0.0, 0.2, 0.2),
        Segment(3.0, 6.0, recipes()[recipe].expression, recipe, 1.0, 0.3, 0.3),
    )
    sex = "female" if person % 2 else "male"
    return Scenario("p", 10 + person, "test", "s", person, sex, 6.0, plans.RATES[0][0], segments, (), faults)


def changes(expression: str, people: int = 3) -> dict[str, float]:
    """Mean change of each feature from rest to apex, over the class's recipes and several people."""
    out = []
    scripts = [n for n, r in recipes().items() if EXPRESSIONS[r.expression] == expression]
    for name in scripts:
        for person in range(people):
            seen = track(acting(name, person))
            values = face_geometry.geometry(seen.meshes)
            rest, apex = (seen.times > 0.5) & (seen.times < 2.8), (seen.times > 3.6) & (seen.times < 5.8)
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
def test_expressions_move_the_face_as_facs_says(expression: str, moves: dict[str, int]) -> None:
    seen = changes(expression)
    for name, way in moves.items():
        assert way * seen[name] > 0.01, f"{expression} changes {name} by {seen[name]:.3f}"


def test_the_same_plan_is_the_same_track_and_another_person_another() -> None:
    first, again = track(acting("open smile")), track(acting("open smile"))
    assert np.array_equal(first.meshes, again.meshes, equal_nan=True)
    rest = [cast(person, "female").rest for person in (1, 2)]
    assert np.abs(rest[0] - rest[1]).max() > 0.02


def test_a_track_has_the_frames_and_the_size_of_its_picture() -> None:
    plan = replace(acting("open smile"), rate=plans.Fraction(30000, 1001))
    seen = track(plan, size=(640, 360))
    assert seen.meshes.shape == (180, 468, 3)
    np.testing.assert_allclose(seen.times, np.arange(180) * 1001 / 30000)
    assert ((seen.meshes[..., 0] > -100) & (seen.meshes[..., 0] < 740)).all()
    assert np.abs(seen.pose[:, 1]).max() < 0.62, "yaw within 35 degrees"


@pytest.mark.parametrize("kind", ["absent", "dark"])
def test_a_blinding_fault_takes_the_face_away_and_nothing_else(kind: str) -> None:
    seen = track(acting("open smile", faults=(Impairment(kind, 2.0, 4.0, 0.03),)))
    inside = (seen.times >= 2.0) & (seen.times < 4.0)
    assert np.array_equal(seen.valid, ~inside)
    assert np.isnan(seen.meshes[inside]).all()
    assert np.isfinite(seen.meshes[~inside]).all()
    stream = face_stream(acting("open smile", faults=(Impairment(kind, 2.0, 4.0, 0.03),)))
    assert np.array_equal(stream.valid, ~inside)


def test_a_hand_before_the_face_loses_it_most_of_the_time() -> None:
    lost = []
    for person in range(8):
        seen = track(acting("open smile", person, (Impairment("occluded", 1.0, 5.0, 0.4),)))
        inside = (seen.times >= 1.0) & (seen.times < 5.0)
        assert seen.valid[~inside].all()
        lost.append(1 - seen.valid[inside].mean())
    assert 0.4 < np.mean(lost) < 0.9


def test_lips_and_lids_do_not_pass_through_each_other() -> None:
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 2, (50, len(names())))
    values = face_geometry.geometry(shape(average(), actions))
    for name in ("mouth_opening", "lid_aperture_left", "lid_aperture_right"):
        assert values[:, face_geometry.NAMES.index(name)].min() > -0.02, name


def test_the_mouth_moves_while_there_is_speech_and_rests_else() -> None:
    plan = replace(acting("rest"), speech=((1.0, 4.0),), segments=acting("rest").segments[:1])
    opening = surrogate_opening(plan, plan.times())
    assert opening.min() >= 0
    assert opening.max() <= 1
    assert (opening[plan.times() < 1.0] == 0).all()
    assert (opening[(plan.times() > 1.0) & (plan.times() < 4.0)] > 0.05).mean() > 0.6


def test_wandering_has_unit_variance_and_forgets() -> None:
    times = np.arange(0, 2000, 0.05)
    curve = wander(np.random.default_rng(0), times, 1, 1.0)[:, 0]
    assert curve.std() == pytest.approx(1.0, abs=0.1)
    assert abs(np.corrcoef(curve[:-100], curve[100:])[0, 1]) < 0.1, "5 s later it is another curve"
    assert np.corrcoef(curve[:-1], curve[1:])[0, 1] > 0.95


def test_a_troupe_does_not_depend_on_how_many_work_nor_on_where_it_starts() -> None:
    alone = troupe("val", 3, seconds=3.0, seed=5, voice=False)
    later = troupe("val", 2, first=1, seconds=3.0, seed=5, voice=False)
    for a, b in zip(alone[1:], later, strict=True):
        assert a.clip.id == b.clip.id
        assert np.array_equal(a.streams[FACE].values, b.streams[FACE].values)
    assert spread_out(pow, [(2, 3), (3, 2)], workers=2) == [8, 9]
    assert spread_out(pow, [(2, 3)], workers=1) == [8]


def test_a_recording_holds_both_streams_and_labels_at_the_frames() -> None:
    plan = draw("test", 0, seconds=4.0, seed=1)
    made = record(plan)
    assert set(made.streams) == {FACE, VOICE}
    assert made.clip.labels is not None
    np.testing.assert_allclose(made.clip.labels.times, plan.times())
    assert made.streams[FACE].dim == face_geometry.DIM
    assert set(record(plan, voice=False).streams) == {FACE}


def test_noise_is_put_over_the_whole_recording_once() -> None:
    spoilt = noisy(noisy(draw("test", 2, seconds=4.0, seed=1), 10.0), 0.0)
    noises = [f for f in spoilt.faults if f.kind == "noise"]
    assert [(f.start_s, f.stop_s, f.amount) for f in noises] == [(0.0, 4.0, 0.0)]
