"""Optional columns of the table of features: gaze by closed forms, landmarks, and the networks on rendered faces."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_checkpoint import save_tiny
from typer.testing import CliRunner

import mien
from mien import hub
from mien.cli.main import app
from mien.encode import gaze
from mien.encode.face_measures import CORRESPONDENCE, POINTS, DenseFace, SparseLandmarks
from mien.encode.subject_features import VideoFaces
from mien.encode.subject_track import SubjectTrack
from mien.encoders.face_geometry import load_canonical_face, mirrored_landmarks
from mien.errors import ArtefactError
from mien.faces.face_landmarker import ARTEFACT, BLENDSHAPE_LANDMARKS, BLENDSHAPES, FaceLandmarker
from mien.faces.mesh import MeshPrediction
from mien.faces.tflite import TfliteNetwork
from mien.faces.tracker import FaceTracker
from mien.media.video import write_video
from mien.memory import GrowingArray
from mien.predict.feature_columns import COLUMNS, GAZE, LANDMARKS, OPTIONAL, columns_of, requested, schema
from mien.predict.features import optional_columns
from mien.records import Frame
from mien.synthetic.action_units import unit_indices, unit_names
from mien.synthetic.eyes import Eyes, simulate_eyes
from mien.synthetic.mesh_tracks import identity_of, rotation_matrices
from mien.synthetic.puppet import Placement, PuppetRenderer
from mien.synthetic.render import Scene
from mien.synthetic.scenario import draw_scenario

DOCS = Path(__file__).parents[2] / "docs"
#: Real material beside the project.
SHARED = Path(__file__).resolve().parents[3] / "shared"
SCENARIO = replace(draw_scenario("test", 2, seconds=1.0, seed=50, impairments=False), rate=Fraction(10))
faces = pytest.mark.skipif(
    not (hub.available("blazeface") and hub.available("facemesh")),
    reason="the face networks are not here: mien hub pull blazeface facemesh",
)
landmarker = pytest.mark.usefixtures("landmarker_network")


@pytest.fixture(scope="module")
def landmarker_network() -> Iterator[None]:
    """The optional network, of the hub or beside the project."""
    mirrors = [os.environ.get("MIEN_HUB", ""), str(SHARED / "hub")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIEN_HUB", os.pathsep.join(filter(None, mirrors)))
        if not all(hub.available(name) for name in ("blazeface", "facemesh", ARTEFACT)):
            pytest.skip(f"networks are not here: mien hub pull blazeface facemesh {ARTEFACT}")
        yield


# Gaze


def looking(vectors: np.ndarray, pose: np.ndarray, scale: float = 40.0) -> np.ndarray:
    """`(n, 478, 3)` landmarks of neutral faces with these head poses, whose irises are those of eyeballs of 12 mm that
    look along `vectors` `(n, 3)`."""
    rest = load_canonical_face()["vertices"].astype(float)
    meshes = np.tile(np.concatenate([rest, np.zeros((10, 3))]), (len(pose), 1, 1))
    turn = rotation_matrices(pose)
    meshes = np.einsum("tij,tnj->tni", turn, meshes)
    for eye, (corners, first) in enumerate((((33, 133), 468), ((263, 362), 473))):
        place = np.array(gaze.CENTRE_MM) * ((-1, 1)[eye], 1, 1)
        ball = meshes[:, list(corners)].mean(axis=1) + np.einsum("tij,j->ti", turn, place) / 63
        middle = ball + np.sqrt(12**2 - 5.85**2) / 63 * vectors
        meshes[:, first : first + 5] = middle[:, None]
        for point, step in zip(range(first + 1, first + 5), ((1, 0), (0, -1), (-1, 0), (0, 1)), strict=True):
            meshes[:, point, :2] += 5.85 / 63 * np.array(step)
    return scale * meshes + (300, 200, 0)


small = st.floats(-0.35, 0.35)


@given(st.tuples(small, small), st.tuples(small, small, small), st.floats(5, 400))
def test_gaze_of_an_eyeball_is_found_whatever_the_head_does(
    angle: tuple[float, float], pose: tuple[float, float, float], scale: float
) -> None:
    x, y = np.tan(angle[0]), np.tan(angle[1])
    vector = np.array([[x, y, -1]]) / np.sqrt(x * x + y * y + 1)
    vectors, irises = gaze.measure(looking(vector, np.array([pose]), scale))
    np.testing.assert_allclose(vectors[0], np.repeat(vector, 2, axis=0), atol=1e-6)
    np.testing.assert_allclose(gaze.angles(vectors)[0], angle, atol=1e-6)
    assert irises[0, 0, 0] < irises[0, 1, 0]


def test_gaze_angles_are_those_of_the_mean_of_both_eyes_as_in_openface() -> None:
    eyes = np.array([[[0.1, 0.2, -0.97], [0.3, 0.0, -0.95]]])
    mean = eyes.mean(axis=1)[0]
    np.testing.assert_allclose(gaze.angles(eyes)[0], [np.arctan2(mean[0], -mean[2]), np.arctan2(mean[1], -mean[2])])
    eyes[0, 1] = np.nan  # one eye is closed
    np.testing.assert_allclose(gaze.angles(eyes)[0], [np.arctan2(0.1, 0.97), np.arctan2(0.2, 0.97)])
    assert np.isnan(gaze.angles(np.full((2, 2, 3), np.nan))).all()


def test_closed_eyes_turned_heads_and_missing_faces_have_no_gaze() -> None:
    ahead = np.array([[0.0, 0.0, -1.0]])
    landmarks = looking(np.repeat(ahead, 3, axis=0), np.array([[0, 0, 0], [0, 0.9, 0], [0, 0, 0]], float))
    landmarks[0, [159, 145]] = landmarks[0, [159, 145]].mean(axis=0)  # the right eye is closed
    landmarks[2] = np.nan
    vectors, irises = gaze.measure(landmarks)
    assert np.isnan(vectors[0, 0]).all()
    assert np.isnan(irises[0, 0]).all()
    np.testing.assert_allclose(vectors[0, 1], ahead[0], atol=1e-6)
    assert np.isnan(vectors[1:]).all()
    assert np.isnan(irises[1:]).all()


# Landmarks


def test_the_68_points_are_symmetric_and_in_their_places() -> None:
    mirror = mirrored_landmarks()
    swap = {**{i: 16 - i for i in range(17)}, **{i: 43 - i for i in range(17, 27)}, **{i: i for i in range(27, 31)},
            **{i: 66 - i for i in range(31, 36)}, **dict(zip(range(36, 42), (45, 44, 43, 42, 47, 46), strict=True)),
            **{i: 102 - i for i in range(48, 55)}, **{i: 114 - i for i in range(55, 60)},
            **{i: 124 - i for i in range(60, 65)}, **{i: 132 - i for i in range(65, 68)}}  # fmt: skip
    for point, other in swap.items():
        assert sorted(CORRESPONDENCE[other]) == sorted(int(mirror[i]) for i in CORRESPONDENCE[point]), point
    face = load_canonical_face()["vertices"]
    points = SparseLandmarks().read(np.zeros((9, 9, 3), np.uint8), 10 * face, 2.0)
    assert points.shape == (POINTS, 2)
    np.testing.assert_allclose(points[36], 20 * face[33, :2], rtol=1e-5)  # in pixels of the original picture
    x, y = points.T
    assert (np.diff(x[[0, 36, 39, 27, 42, 45, 16]]) > 0).all()  # the person's right is left in the picture
    assert (np.diff(y[[19, 37, 41, 30, 33, 51, 62, 66, 57, 8]]) > 0).all()  # from brow to chin
    assert (np.diff(x[[48, 49, 50, 51, 52, 53, 54]]) > 0).all()
    assert (np.diff(x[[55, 56, 57, 58, 59]]) < 0).all()


def seen(values: dict[str, np.ndarray], frames: int) -> VideoFaces:
    """One person, read in every second frame."""
    track = SubjectTrack(0)
    read = np.arange(0, frames, 2)
    track.rows.extend(read)
    for name, rows in values.items():
        track.features[name] = GrowingArray(rows.shape[1])
        track.features[name].extend(rows)
    return VideoFaces(np.arange(frames) / 25, [track], read=read)


def test_columns_are_in_the_order_of_their_values_and_pixels_are_those_of_the_stored_picture() -> None:
    points = np.random.default_rng(0).uniform(0, 100, (3, POINTS, 2))
    vectors = np.tile([0.6, 0.0, -0.8, 0.0, 0.6, -0.8, 11, 12, 13, 14], (3, 1))
    scores = np.tile(np.arange(52) / 52, (3, 1))
    video = seen(
        {SparseLandmarks.name: points.reshape(3, -1), DenseFace.name: np.concatenate([scores, vectors], axis=1)}, 5
    )
    groups = tuple(OPTIONAL)
    columns = optional_columns(video, 0, groups)
    assert set(columns) == {c.name for c in columns_of(groups)} - {c.name for c in COLUMNS}
    np.testing.assert_allclose(columns["y_5"][::2], points[:, 5, 1], rtol=1e-6)
    np.testing.assert_allclose(columns["y_5"][1], points[:2, 5, 1].mean(), rtol=1e-6)  # between two readings
    np.testing.assert_allclose(columns["jawOpen"], 25 / 52, rtol=1e-6)
    assert [columns[c.name][0] for c in GAZE[2:]] == pytest.approx(vectors[0].tolist())
    assert columns["gaze_angle_x"][0] == pytest.approx(np.arctan2(0.3, 0.8))
    video.turned = (640, 360)
    turned = optional_columns(video, 0, groups)
    np.testing.assert_allclose(turned["y_5"][::2], 360 - points[:, 5, 1], rtol=1e-6)
    assert (turned["iris_left_x"][0], turned["iris_left_y"][0]) == pytest.approx((640 - 13, 360 - 14))
    assert set(optional_columns(video, 0, ("landmarks",))) == {c.name for c in LANDMARKS}


def test_the_argument_features_names_the_groups() -> None:
    assert requested(False) is None
    assert requested(()) is None
    assert requested(True) == ()
    assert requested("gaze") == ("gaze",)
    assert requested(["landmarks", "gaze"]) == ("gaze", "landmarks")
    assert list(schema(("gaze",)))[-len(GAZE) :] == [c.name for c in GAZE]
    assert list(schema(("gaze",)))[: -len(GAZE)] == list(schema())
    with pytest.raises(ValueError, match=r"no features named 'blendshape'\. Did you mean 'blendshapes'\?"):
        requested(("gaze", "blendshape"))


# The networks


def test_names_and_landmarks_of_the_blendshapes_are_those_of_the_published_graph() -> None:
    assert len(BLENDSHAPE_LANDMARKS) == len(set(BLENDSHAPE_LANDMARKS)) == 146
    assert list(BLENDSHAPE_LANDMARKS) == sorted(BLENDSHAPE_LANDMARKS)
    assert len(BLENDSHAPES) == len(set(BLENDSHAPES)) == 52
    # indices of eyeBlinkLeft, jawOpen, mouthPucker, mouthSmileRight, noseSneerRight in face_blendshapes_graph.cc
    assert [BLENDSHAPES.index(n) for n in ("eyeBlinkLeft", "jawOpen", "mouthPucker", "mouthSmileRight")] == [
        9,
        25,
        38,
        45,
    ]
    assert BLENDSHAPES[-1] == "noseSneerRight"


def drawn(strengths: dict[str, float], gaze_deg: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """A picture `(360, 640, 3)` of a rendered face with these action units, which looks there."""
    identity = identity_of(SCENARIO.identity_seed, SCENARIO.sex)
    actions = np.zeros((1, len(unit_names())))
    for unit, strength in strengths.items():
        actions[:, unit_indices(unit) if unit not in unit_names() else [unit_names().index(unit)]] = strength
    eyes = Eyes(np.radians([gaze_deg]), np.tile([1.3, -1.7, 6.0], (2, 1)), np.array([70.0, 48, 32]))
    zeros = np.zeros((1, 3))
    person = PuppetRenderer(identity, actions, zeros, zeros[:, :2], Placement(0.75, (0.0, -40.0)), (640, 360), eyes)
    canvas = np.full((360, 640, 3), 120, np.uint8)
    person.draw_body(canvas)
    person.draw_head(canvas, 0)
    return canvas


def read(network: FaceLandmarker, picture: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
    """Landmarks `(478, 3)` and scores of the face in a picture."""
    (face,) = FaceTracker(max_faces=1, small_faces=False)(Frame(0, 0.0, picture))
    landmarks = network.landmarks(picture, face.mesh)
    return landmarks, dict(zip(BLENDSHAPES, network.blendshapes(landmarks).tolist(), strict=True))


@landmarker
def test_blendshapes_follow_rendered_movements_on_the_person_s_side() -> None:
    network = FaceLandmarker()
    rest, smile = read(network, drawn({}))[1], read(network, drawn({"12": 1.2, "6": 0.8}))[1]
    wink, jaw = read(network, drawn({"43_left": 1.3}))[1], read(network, drawn({"26": 1.0, "25": 1.0}))[1]
    for side in ("Left", "Right"):
        assert smile[f"mouthSmile{side}"] > rest[f"mouthSmile{side}"] + 0.3
    assert jaw["jawOpen"] > rest["jawOpen"] + 0.2
    assert wink["eyeBlinkLeft"] - rest["eyeBlinkLeft"] > 2 * abs(wink["eyeBlinkRight"] - rest["eyeBlinkRight"])


@landmarker
def test_gaze_follows_rendered_eyes_sideways() -> None:
    network = FaceLandmarker()
    found = []
    for degrees in (-20, 0, 20):
        landmarks, scores = read(network, drawn({}, (degrees, 0)))
        found.append(np.degrees(gaze.angles(gaze.measure(landmarks[None])[0]))[0, 0])
        if degrees > 0:  # to the right of the picture is the person's left
            assert min(scores["eyeLookOutLeft"], scores["eyeLookInRight"]) > 0.3
            assert max(scores["eyeLookInLeft"], scores["eyeLookOutRight"]) < 0.1
    assert found[2] - found[1] > 10
    assert found[1] - found[0] > 10
    assert abs(found[1]) < 8


@landmarker
def test_a_freed_network_serves_only_the_same_member_of_a_bundle() -> None:
    path, points = hub.fetch(ARTEFACT), np.zeros((146, 2), np.float32)
    landmarks = TfliteNetwork(path, member="face_landmarks_detector.tflite", outputs=("Identity", "Identity_1"))
    freed = landmarks._run
    assert [len(output) for output in landmarks(np.zeros((256, 256, 3), np.float32))] == [1434, 1]
    del landmarks
    scores = TfliteNetwork(path, member="face_blendshapes.tflite")
    assert scores._run is not freed
    assert [len(output) for output in scores(points)] == [52]
    turned = TfliteNetwork(path, member="face_landmarks_detector.tflite", outputs=("Identity_1", "Identity"))
    assert [len(output) for output in turned(np.zeros((256, 256, 3), np.float32))] == [1, 1434]


@landmarker
@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_scores_do_not_depend_on_place_and_size(scale: float) -> None:
    network = FaceLandmarker()
    landmarks, scores = read(network, drawn({"12": 0.5}))
    moved = network.blendshapes(scale * landmarks + (40, 20, 0))
    np.testing.assert_allclose(moved, list(scores.values()), atol=1e-3)


@landmarker
def test_opencv_and_litert_agree_and_a_picture_without_a_face_has_no_landmarks() -> None:
    picture = drawn({"12": 0.5})
    (face,) = FaceTracker(max_faces=1, small_faces=False)(Frame(0, 0.0, picture))
    pytest.importorskip("ai_edge_litert")
    one, two = FaceLandmarker(backend="litert"), FaceLandmarker(backend="cv2")
    landmarks = one.landmarks(picture, face.mesh)
    np.testing.assert_allclose(landmarks, two.landmarks(picture, face.mesh), atol=0.01)
    np.testing.assert_allclose(one.blendshapes(landmarks), two.blendshapes(landmarks), atol=1e-3)
    # the same surface as the mesh of 468 points
    width = np.linalg.norm(face.mesh[33, :2] - face.mesh[263, :2])
    assert np.linalg.norm(landmarks[:468, :2] - face.mesh[:, :2], axis=1).mean() < 0.05 * width
    assert MeshPrediction.from_mesh(landmarks[:468], 0.0).square.side > width
    nothing = np.full_like(picture, 90)
    assert np.isnan(one.landmarks(nothing, face.mesh)).all()
    measure = DenseFace(blendshapes=True, gaze=True)
    values = measure.measure(np.stack([landmarks, np.full_like(landmarks, np.nan)]))
    assert np.isfinite(values[0]).all()
    assert np.isnan(values[1]).all()


# Rendered eyes


def test_eyes_look_around_and_only_where_they_are_asked_for() -> None:
    times = SCENARIO.times()
    eyes = simulate_eyes(SCENARIO, times)
    assert eyes.gaze.shape == (len(times), 2)
    np.testing.assert_allclose(np.linalg.norm(eyes.vectors(), axis=1), 1)
    np.testing.assert_allclose(np.arctan2(eyes.vectors()[:, :2], -eyes.vectors()[:, 2:]), eyes.gaze, atol=1e-12)
    assert np.abs(simulate_eyes(SCENARIO, np.arange(600) / 10).gaze[:, 0]).max() > np.radians(15)


@faces
def test_the_default_picture_has_the_eyes_of_the_photograph() -> None:
    (plain,), (again,) = (list(islice(Scene(SCENARIO).frames(), 1)) for _ in range(2))
    (moving,) = islice(Scene(SCENARIO, moving_eyes=True).frames(), 1)
    assert np.array_equal(plain, again)
    changed = np.argwhere((plain != moving).any(axis=2))
    assert len(changed) > 50
    (face,) = FaceTracker(max_faces=1, small_faces=False)(Frame(0, 0.0, plain))
    low, high = face.mesh[:, 1].min(), face.mesh[:, 1].max()
    assert (changed[:, 0] > low).all()
    assert (changed[:, 0] < low + 0.6 * (high - low)).all()  # the eyes and their lids, nothing below


# The command


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("media") / "clip.mp4"
    write_video(path, Scene(SCENARIO, moving_eyes=True).frames(), rate=SCENARIO.rate)
    return path


@landmarker
def test_predict_writes_the_columns_and_the_same_timeline(clip: Path, tmp_path: Path) -> None:
    run = save_tiny(tmp_path / "tiny")
    words = [
        "predict",
        str(clip),
        "--model",
        str(run),
        "--device",
        "cpu",
        "--no-voice",
        "--format",
        "parquet",
        "--json",
    ]
    for name, options in (("plain", ["--features"]), ("more", ["--gaze", "--blendshapes", "--landmarks"])):
        result = CliRunner().invoke(app, [*words, *options, "--out", str(tmp_path / name)])
        assert result.exit_code == 0, result.output
    plain, more = (pl.read_parquet(tmp_path / name / "clip" / "features.parquet") for name in ("plain", "more"))
    assert more.columns == list(schema(tuple(OPTIONAL)))
    assert more.select(plain.columns).equals(plain)
    timelines = [(tmp_path / name / "clip" / "timeline.parquet") for name in ("plain", "more")]
    assert pl.read_parquet(timelines[0]).equals(pl.read_parquet(timelines[1]))
    assert more.select(c.name for c in LANDMARKS).null_count().sum_horizontal().item() == 0
    box = pl.read_parquet(timelines[0]).select("x1", "y1", "x2", "y2").to_numpy()
    assert (more["x_30"].to_numpy() > box[:, 0]).all()
    assert (more["y_30"].to_numpy() < box[:, 3]).all()
    assert more["gaze_angle_x"].is_not_null().any()
    assert (more["iris_right_x"].drop_nulls() < more["iris_left_x"].drop_nulls().mean()).all()
    scores = more.select(c.name for c in OPTIONAL["blendshapes"]).to_numpy()
    assert scores.min() >= 0
    assert scores.max() <= 1


@faces
def test_the_bundle_is_fetched_only_when_it_is_asked_for(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = mien.load(save_tiny(tmp_path / "tiny"), device="cpu")
    known = {name: hub.fetch(name) for name in ("blazeface", "facemesh")}
    for name, path in known.items():
        (tmp_path / "hub").mkdir(exist_ok=True)
        (tmp_path / "hub" / hub.ARTEFACTS[name].file).symlink_to(path)
    monkeypatch.setenv("MIEN_HUB", str(tmp_path / "hub"))
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MIEN_OFFLINE", "1")
    features = predictor.predict(clip, voice=False, features="landmarks").features
    assert features is not None
    assert features["x_8"].null_count() == 0
    with pytest.raises(ArtefactError, match=r"mien hub pull face-landmarker.*without --gaze"):
        predictor.predict(clip, voice=False, features=("gaze",))


@landmarker
@pytest.mark.skipif(not hub.available("silero-vad"), reason="networks are not here: mien hub pull")
def test_a_real_smile_and_a_real_blink_move_their_scores(shared: Path) -> None:
    table = mien.load("starter", max_faces=1).predict(
        shared / "clips" / "single_face.mp4", voice=False, features=("gaze", "blendshapes")
    ).features  # fmt: skip
    assert table is not None
    smile, blink = (table.select(f"{name}Left", f"{name}Right").to_numpy() for name in ("mouthSmile", "eyeBlink"))
    assert smile[:15].max() < 0.05  # neutral, then a smile
    assert smile[30:60].min() > 0.5
    closed = table["AU45_c"].to_numpy() > 0
    assert blink[closed].max() > 0.5
    assert blink[~closed].mean() < 0.2
    shut = blink.mean(axis=1) > 0.5
    assert table["gaze_angle_x"].is_null().to_numpy()[shut].all()
    assert table["gaze_angle_x"].is_not_null().to_numpy()[~closed].mean() > 0.95
    assert abs(np.degrees(table["gaze_angle_x"].mean())) < 12
    assert abs(np.degrees(table["gaze_angle_y"].mean())) < 8


def test_the_page_states_every_optional_column_with_its_unit_and_definition() -> None:
    page = (DOCS / "FEATURES.md").read_text(encoding="utf-8").split("## Names in other programs")[0]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|", page, re.MULTILINE)
    stated = {name: (unit, definition) for name, unit, definition in rows}
    for column in (*OPTIONAL["gaze"], *OPTIONAL["blendshapes"]):
        assert stated.get(column.name) == (column.unit, column.definition), column.name
    assert "`x_0` to `x_67`, `y_0` to `y_67` | px |" in page
    for name in OPTIONAL:
        assert f"`--{name}`" in page
