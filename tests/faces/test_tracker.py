"""The face reader on real talking faces and on frames put together from them: found, followed, told apart."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage import data

from mien.errors import ArtefactError
from mien.faces import small_face_detectors
from mien.faces import tracker as module
from mien.faces.crops import Square, around_box
from mien.faces.detector import NO_EYES, Detection
from mien.faces.mesh import Reading
from mien.faces.reidentification import PLACE_MEMORY_S, SAME_LOOK, Reidentifier, look
from mien.faces.tracker import BELIEVED_AFTER, FaceTracker
from mien.records import Face, Frame

TALKERS = ("bbaf2n", "lbax4n", "lwbsza", "pwij3p", "swiz3n")


@cache
def decoded(path: Path) -> list[np.ndarray]:
    with av.open(path) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.fixture
def talker(shared: Path):
    return lambda name: decoded(shared / "clips" / f"{name}.mpg")


@pytest.fixture
def second_detector(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """UltraFace is here."""
    mirrors = [os.environ.get("MIEN_HUB", ""), str(shared / "hub")]
    monkeypatch.setenv("MIEN_HUB", os.pathsep.join(m for m in mirrors if m))


@pytest.fixture
def no_second_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_face_detectors.hub, "available", lambda name: False)


def read(images: Iterable[np.ndarray], rate: float = 25, **options) -> list[list[Face]]:
    reader = FaceTracker(**options)
    return [reader(Frame(i, i / rate, np.ascontiguousarray(image))) for i, image in enumerate(images)]


def subjects(seen: Sequence[Sequence[Face]]) -> list[tuple[int, ...]]:
    """Who is in each frame, repetitions left out."""
    told: list[tuple[int, ...]] = []
    for faces in seen:
        if not told or told[-1] != tuple(f.subject for f in faces):
            told.append(tuple(f.subject for f in faces))
    return told


def middle(face: Face) -> float:
    return float(face.box[0] + face.box[2]) / 2


# One person


@pytest.mark.parametrize("name", TALKERS)
def test_a_talking_face_is_one_subject_in_every_frame(name: str, talker) -> None:
    images = talker(name)
    seen = read(images)
    assert len(images) == 75
    assert sum(len(faces) == 1 for faces in seen) >= 0.95 * 75
    assert {f.subject for faces in seen for f in faces} == {0}
    for faces in seen:
        for face in faces:
            assert face.score > 0.95
            assert face.mesh.shape == (468, 3)
            assert face.box == pytest.approx([*face.mesh[:, :2].min(0), *face.mesh[:, :2].max(0)], abs=1e-3)
            right, left, chin = face.mesh[33, :2], face.mesh[263, :2], face.mesh[152, :2]
            assert right[0] < left[0]
            assert chin[1] > max(right[1], left[1])


def test_the_landmarks_hardly_tremble(talker) -> None:
    """Second differences over time, as the deviation of white noise they would stand for: under half a per
    cent of the distance between the eyes, the talking itself included."""
    for name in TALKERS[:2]:
        mesh = np.stack([faces[0].mesh[:, :2] for faces in read(talker(name))])
        eyes = np.linalg.norm(mesh[:, 33] - mesh[:, 263], axis=1).mean()
        assert np.sqrt((np.diff(mesh, 2, axis=0) ** 2).mean() / 6) / eyes < 0.005


def test_a_smile_is_still_the_same_man(shared) -> None:
    seen = read(decoded(shared / "clips" / "single_face.mp4"))
    assert subjects(seen) == [(0,)]
    width = [np.linalg.norm(f.mesh[61, :2] - f.mesh[291, :2]) for (f,) in seen]
    assert max(width) > 1.2 * width[0]  # he does smile


def test_a_cartoon_has_no_face(shared, second_detector) -> None:
    assert not any(read(decoded(shared / "clips" / "no_face.mp4")))


@pytest.mark.parametrize("name", ["chelsea", "coffee", "rocket", "brick", "gravel", "grass", "hubble_deep_field"])
def test_pictures_without_people(name: str, second_detector) -> None:
    image = getattr(data, name)()
    image = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
    assert not any(read([image[..., :3]] * 3))


def test_a_still_picture_is_answered_at_once() -> None:
    ((face,),) = read([data.astronaut()])
    assert face.subject == 0
    assert face.box == pytest.approx([172, 69, 272, 177], abs=6)


def test_same_frames_same_faces(talker) -> None:
    one, other = (read(talker("swiz3n")[:10]) for _ in range(2))
    assert all(np.array_equal(a.mesh, b.mesh) for (a,), (b,) in zip(one, other, strict=True))


# Hard frames


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((360, 640, 3), np.uint8),
        np.full((360, 640, 3), 255, np.uint8),
        np.random.default_rng(0).integers(0, 256, (360, 640, 3), dtype=np.uint8),
        np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8),
        np.zeros((1, 1, 3), np.uint8),
        np.zeros((3, 500, 3), np.uint8),
        np.zeros((500, 2, 3), np.uint8),
    ],
    ids=["black", "white", "noise", "16 x 16", "one pixel", "a line", "a column"],
)
def test_frames_with_nothing_in_them(image: np.ndarray, second_detector) -> None:
    assert not any(read([image] * 4))


def test_dark_and_grey_faces_are_read(talker) -> None:
    image = talker("bbaf2n")[0]
    grey = np.repeat(image.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    for changed in (image // 10, grey):
        ((face,),) = read([changed])
        assert face.score > 0.95


def test_frames_may_change_their_size(talker) -> None:
    images = talker("bbaf2n")[:10]
    half = [cv2.resize(image, None, fx=0.5, fy=0.5) for image in talker("bbaf2n")[10:20]]
    assert subjects(read([*images, *half])) == [(0,)]


def test_a_face_half_out_of_the_frame_has_its_box_inside(talker) -> None:
    image = np.zeros_like(talker("lbax4n")[0])
    image[:, :230] = talker("lbax4n")[0][:, 130:]
    ((face,),) = read([image])
    assert face.box[0] == 0
    assert face.mesh[:, 0].min() < -1


@pytest.mark.parametrize("degrees", [-90, -45, 45, 90])
def test_a_lying_head_is_read(degrees: int, talker) -> None:
    turn = cv2.getRotationMatrix2D((180, 180), -degrees, 1)
    ((face,),) = read([cv2.warpAffine(talker("lbax4n")[0], turn, (360, 360))])
    dx, dy = face.mesh[263, :2] - face.mesh[33, :2]
    assert np.degrees(np.arctan2(dy, dx)) == pytest.approx(degrees, abs=8)


def test_a_head_that_moves_fast_keeps_its_number(talker) -> None:
    images = []
    for i, image in enumerate(talker("swiz3n")[:40]):
        wide = np.full((288, 900, 3), 90, np.uint8)
        start = 20 + 25 * abs(i - 20)  # 25 pixels a frame, a third of the distance between the eyes
        wide[:, start : start + 360] = image
        images.append(wide)
    assert subjects(read(images)) == [(0,)]


# Several people, absence, cuts


def test_two_people_side_by_side(talker) -> None:
    seen = read(np.hstack(pair) for pair in zip(talker("bbaf2n"), talker("lwbsza"), strict=True))
    assert subjects(seen) == [(0, 1)]
    sides = [[middle(f) < 360 for f in faces] for faces in seen]
    assert all(side == sides[0] for side in sides)
    assert sorted(sides[0]) == [False, True]


def test_one_leaves_and_returns(talker) -> None:
    empty = np.full((288, 360, 3), 90, np.uint8)
    seen = read(
        np.hstack([a, empty if 20 <= i < 55 else b])
        for i, (a, b) in enumerate(zip(talker("lbax4n"), talker("pwij3p"), strict=True))
    )
    assert subjects(seen) in ([(0, 1), (0,), (0, 1)], [(0, 1), (1,), (0, 1)])
    stays = {f.subject for faces in seen[20:55] for f in faces}
    assert all(middle(f) < 360 for faces in seen for f in faces if f.subject in stays)
    assert all(len(faces) == 1 for faces in seen[20:55])
    assert all(len(faces) == 2 for faces in seen[55 + 13 :])  # found again within half a second


def test_alone_away_and_back(talker) -> None:
    empty = np.full((288, 360, 3), 90, np.uint8)
    seen = read(empty if 20 <= i < 55 else image for i, image in enumerate(talker("swiz3n")))
    assert [len(faces) for faces in seen] == [1] * 20 + [0] * 35 + [1] * 20
    assert {f.subject for faces in seen for f in faces} == {0}


def test_every_cut_is_seen_and_old_faces_known_again(talker) -> None:
    """Seven shots of five people, all in the same place before much the same background."""
    order = (*TALKERS, "bbaf2n", "lwbsza")
    seen = read(image for name in order for image in talker(name)[:12])
    shots = [seen[i : i + 12] for i in range(0, len(seen), 12)]
    assert [subjects(shot) for shot in shots] == [[(n,)] for n in (0, 1, 2, 3, 4, 0, 2)]


def test_two_people_change_sides_at_a_cut(talker) -> None:
    pairs = list(zip(talker("bbaf2n"), talker("swiz3n"), strict=True))[:30]
    seen = read(np.hstack(pair if i < 15 else pair[::-1]) for i, pair in enumerate(pairs))
    assert subjects(seen) == [(0, 1)]
    before, after = ({f.subject: middle(f) < 360 for f in faces} for faces in (seen[10], seen[25]))
    assert after == {who: not left for who, left in before.items()}


def test_two_people_cross(talker) -> None:
    """One walks past in front of the other: each keeps their number."""
    images, oval = [], np.zeros((288, 280), np.uint8)
    cv2.ellipse(oval, (115, 170), (75, 115), 0, 0, 360, 1, -1)
    for i, (front, back) in enumerate(zip(talker("bbaf2n"), talker("pwij3p"), strict=True)):
        image = np.full((288, 760, 3), 100, np.uint8)
        x = 400 - int(5.3 * i)
        image[:, x : x + 280] = back[:, 50:330]
        x = int(6.4 * i)
        image[:, x : x + 280][oval > 0] = front[:, 40:320][oval > 0]
        images.append(image)
    seen = read(images)
    assert {f.subject for faces in seen for f in faces} == {0, 1}
    first, last = ({f.subject: middle(f) for f in faces} for faces in (seen[2], seen[-2]))
    assert (first[0] < first[1]) != (last[0] < last[1])
    assert sum(len(faces) == 2 for faces in seen) > 50


def test_a_post_that_passes_changes_nobody(talker) -> None:
    images = [image.copy() for image in talker("bbaf2n")]
    for i, image in enumerate(images):
        image[:, max(0, 6 * i - 60) : max(0, 6 * i + 30)] = (40, 60, 50)
    seen = read(images)
    assert {f.subject for faces in seen for f in faces} == {0}
    assert len(seen[-1]) == 1


def test_no_more_than_asked_for_and_the_larger_first(talker) -> None:
    small_one = cv2.resize(talker("lwbsza")[0], None, fx=0.6, fy=0.6)
    image = np.full((288, 720, 3), 90, np.uint8)
    image[: len(small_one), : small_one.shape[1]] = small_one
    image[:, 360:] = talker("bbaf2n")[0]
    both = read([image] * 3)[-1]
    assert {f.subject: middle(f) > 360 for f in both} == {0: True, 1: False}
    for (face,) in read([image] * 20, max_faces=1):
        assert middle(face) > 360


# Small faces


def test_a_small_face_is_found_and_followed(second_detector) -> None:
    scale = 24 / 107  # her face is 107 pixels high
    tiny = cv2.resize(data.astronaut(), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    image = cv2.resize(data.coffee(), (640, 360))
    image[140 : 140 + len(tiny), 480 : 480 + tiny.shape[1]] = tiny
    seen = read([image] * 5)
    assert subjects(seen) == [(0,)]
    assert middle(seen[0][0]) == pytest.approx(480 + 222 * scale, abs=3)
    assert np.ptp(seen[0][0].box[1::2]) == pytest.approx(24, abs=4)
    assert not any(read([image] * 2, small_faces=False))


def test_without_a_second_detector_it_is_said_once(no_second_detector, caplog) -> None:
    small_face_detectors._say_once.cache_clear()
    with caplog.at_level(logging.INFO, logger="mien"):
        for _ in range(2):
            assert not any(read([np.zeros((360, 640, 3), np.uint8)] * 3))
    assert [r.message for r in caplog.records] == [
        "no detector for small faces is here: `mien hub pull ultraface` fetches one, 1.3 MB"
    ]


def test_without_the_networks_the_error_teaches(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("MIEN_HUB", "")
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path))
    monkeypatch.setenv("MIEN_OFFLINE", "1")
    with pytest.raises(ArtefactError, match=r"blazeface.*Apache-2\.0"):
        FaceTracker()


# The order of work, with stand-ins for the networks


class Stage:
    """A scene of faces without pictures: `found` is what the detector says, `logits` what the mesh network
    says of its successive squares; and a count of what was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, logits: Iterable[float] = (), found: Sequence[Detection] = ()):
        self.found, self.logits = list(found), iter(logits)
        self.detections: list[Square | None] = []
        self.small: list[bool] = []
        monkeypatch.setattr(module, "BlazeFace", lambda *_, **__: self.detect)
        monkeypatch.setattr(module, "FaceMesh", lambda *_, **__: self.mesh)
        monkeypatch.setattr(module, "SmallFaces", lambda **_: self.ask_small)
        self.reader = FaceTracker()

    def detect(self, image: np.ndarray, square: Square | None = None) -> list[Detection]:
        self.detections.append(square)
        return self.found

    def ask_small(self, image: np.ndarray, *, everything: bool) -> list[Detection]:
        self.small.append(everything)
        return []

    def mesh(self, image: np.ndarray, square: Square) -> Reading:
        mesh = np.zeros((468, 3), np.float32)
        side = square.side / 1.5 / 2
        mesh[:, :2] = [square.x, square.y]
        mesh[0, :2] -= side
        mesh[1, :2] += side
        box = np.array([square.x - side, square.y - side, square.x + side, square.y + side])
        return Reading(mesh, next(self.logits, 20.0), box, around_box(box, 1.5))

    def show(self, seconds: float, rate: float = 25) -> list[list[Face]]:
        image = np.zeros((360, 640, 3), np.uint8)
        return [self.reader(Frame(i, i / rate, image)) for i in range(round(seconds * rate))]


HERE = Detection(np.array([300, 150, 360, 210.0]), 0.9, NO_EYES)


def test_empty_video_asks_little(monkeypatch) -> None:
    """Four seconds at 25 a second: the whole frame each time, two tiles and the second detector twice a
    second."""
    stage = Stage(monkeypatch)
    assert not any(stage.show(4))
    assert stage.detections.count(None) == 100
    assert len(stage.detections) - 100 == 2 * 8
    assert stage.small == [True] + [False] * 7


def test_a_followed_face_asks_less(monkeypatch) -> None:
    stage = Stage(monkeypatch, found=[HERE])
    assert all(len(faces) == 1 for faces in stage.show(4))
    assert stage.detections.count(None) == 8
    assert len(stage.detections) - 8 == 2 + 7  # both tiles in the first frame, then one in turn
    assert len(stage.small) == 2


def test_a_full_house_asks_nothing(monkeypatch) -> None:
    stage = Stage(monkeypatch, found=[HERE])
    stage.reader._max_faces = 1
    stage.show(4)
    assert stage.detections == [None]


ADMITTED = 3  # the mesh is read three times before a face is followed


@pytest.mark.parametrize(
    ("logits", "reported"),
    [
        ([5] * ADMITTED, [1, 1, 1, 1]),  # sure at once
        ([1] * 20, [0, 0, 1, 1]),  # stays for three frames
        ([1] * ADMITTED + [1, 5, 1], [0, 0, 1, 1]),
        ([1] * ADMITTED + [5, 1, 1], [0, 0, 1, 1]),  # becomes sure: somebody, but who?
        ([1] * ADMITTED + [1, -1] + [-9] * 20, [0, 0, 0, 0]),  # a flicker
        ([-3, 2, 6], [1, 1, 1, 1]),  # better from its own square
        ([-9] * 20, [0, 0, 0, 0]),
        ([-3, -1, -0.1] * 8, [0, 0, 0, 0]),
    ],
)
def test_when_a_face_is_believed(monkeypatch, logits, reported) -> None:
    assert [len(faces) for faces in Stage(monkeypatch, logits, [HERE]).show(4 / 25)] == reported


def test_a_stranger_in_a_running_scene_waits_for_a_number(monkeypatch) -> None:
    stage = Stage(monkeypatch)
    stage.show(4 / 25)  # nobody yet
    stage.found = [HERE]
    image = np.zeros((360, 640, 3), np.uint8)
    seen = [len(stage.reader(Frame(i, i / 25, image))) for i in range(4, 12)]
    assert seen == [0] * (BELIEVED_AFTER - 1) + [1] * (9 - BELIEVED_AFTER)


def test_someone_who_was_here_is_looked_for_there_and_everywhere_in_turn(monkeypatch) -> None:
    """After a face is lost: both views in the frame of the loss, then one a frame; after PLACE_MEMORY_S, only the
    whole frame."""
    stage = Stage(monkeypatch, [20.0] * 5 + [-9.0] * 500, [HERE])
    stage.show(3 / 25)
    stage.found = []
    asked = []
    for i in range(3, 100):
        stage.detections.clear()
        stage.reader(Frame(i, i / 25, np.zeros((360, 640, 3), np.uint8)))
        asked.append((None in stage.detections, Square(330, 180, 180) in stage.detections))
    assert asked[0] == (True, True)
    one_each = [pair for pair in asked[1:40] if pair != (True, True)]  # both when a search is due
    assert len(one_each) > 30
    assert one_each.count((True, False)) - one_each.count((False, True)) in range(-3, 4)
    assert set(asked[60:]) == {(True, False)}


def test_a_lost_face_is_looked_for_at_once_where_it_was(monkeypatch) -> None:
    stage = Stage(monkeypatch, [20.0] * 5 + [-9.0], [HERE])
    seen = stage.show(4 / 25)
    assert [len(faces) for faces in seen] == [1] * 4
    assert Square(330, 180, 180) in stage.detections  # three times its box


# Who is who


def test_looks_of_one_are_close_and_of_two_are_far(talker) -> None:
    looks = {}
    for name in TALKERS:
        images = talker(name)[::12]
        looks[name] = [look(i, faces[0].mesh) for i, faces in zip(images, read(images), strict=True)]
    for one in TALKERS:
        for other in TALKERS:
            apart = [np.linalg.norm(a - b) for a in looks[one] for b in looks[other]]
            assert max(apart) < SAME_LOOK - 0.15 if one == other else min(apart) > SAME_LOOK + 0.15


def test_half_the_light_or_a_quarter_of_the_size_is_the_same_look(talker) -> None:
    image = talker("pwij3p")[0]
    ((face,),) = read([image])
    seen = look(image, face.mesh)
    assert np.linalg.norm(look(image // 2, face.mesh) - seen) < SAME_LOOK
    smaller = cv2.resize(image, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    assert np.linalg.norm(look(smaller, (face.mesh + 0.5) / 4 - 0.5) - seen) < 0.1


A_LOOK = np.eye(192)
BOX = np.array([100, 100, 200, 200.0])


def know(people: Reidentifier, which: int, box: np.ndarray, now: float, scene_s: float = 0, present=()) -> int:
    (subject,) = people.recognise([A_LOOK[which]], [box], now, present, scene_s, [True])
    subject.box, subject.seen_s = box, now
    return subject.id


def test_known_by_look_wherever_they_are() -> None:
    people = Reidentifier()
    assert [know(people, w, BOX, 10 * t) for t, w in enumerate((0, 1, 0))] == [0, 1, 0]
    assert know(people, 0, BOX + 900, 60) == 0
    assert know(people, 0, BOX, 60 + 121) == 2  # forgotten; the number is not used again


def test_half_a_face_at_the_edge_is_nobody_yet() -> None:
    people = Reidentifier()
    know(people, 0, BOX, 10)
    assert people.recognise([A_LOOK[1]], [BOX + 900], 11, (), 0, [False]) == [None]
    assert know(people, 0, BOX + 900, 11.1) == 0
    assert people.recognise([A_LOOK[0]], [BOX], 12, (), 0, [False])[0].id == 0  # who is known need not settle


def test_known_by_place_for_a_moment_and_in_the_same_scene() -> None:
    people = Reidentifier()
    assert know(people, 0, BOX, 10) == 0
    assert know(people, 1, BOX + 30, 10 + PLACE_MEMORY_S) == 0
    assert know(people, 2, BOX + 300, 10 + PLACE_MEMORY_S) == 1
    assert know(people, 3, BOX, 12.5, scene_s=12.4) == 2  # after a cut a place means nothing
    assert know(people, 4, BOX, 12.5 + PLACE_MEMORY_S + 0.1) == 3


@given(st.lists(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=4, unique_by=lambda p: p[0])))
def test_nobody_is_two_people_at_once(frames: list[list[tuple[int, int]]]) -> None:
    """Whatever is seen where: one number each in a frame, counted up from 0."""
    people, known = Reidentifier(), set()
    for now, frame in enumerate(frames):
        boxes = [BOX + 60 * x for _, x in frame]
        named = people.recognise([A_LOOK[w] for w, _ in frame], boxes, float(now), (), 0.0, [True] * len(frame))
        for subject, box in zip(named, boxes, strict=True):
            subject.box, subject.seen_s = box, float(now)
        assert len({s.id for s in named}) == len(frame)
        known |= {s.id for s in named}
    assert known == set(range(len(known)))
