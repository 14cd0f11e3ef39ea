"""The face tracker on real talking faces and on frames composed of them: detection, tracking, re-identification."""

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
from mien.faces.reidentification import (
    POSITION_MEMORY_S,
    PROBATION_S,
    SAME_SUBJECT_DISTANCE,
    Reidentifier,
    Subject,
    describe_appearance,
)
from mien.faces.tracker import FaceTracker
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
    """UltraFace is installed."""
    mirrors = [os.environ.get("MIEN_HUB", ""), str(shared / "hub")]
    monkeypatch.setenv("MIEN_HUB", os.pathsep.join(m for m in mirrors if m))


@pytest.fixture
def no_second_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_face_detectors.hub, "available", lambda name: False)


def track(images: Iterable[np.ndarray], rate: float = 25, **options) -> list[list[Face]]:
    tracker = FaceTracker(**options)
    return [tracker(Frame(i, i / rate, np.ascontiguousarray(image))) for i, image in enumerate(images)]


def subjects(seen: Sequence[Sequence[Face]]) -> list[tuple[int, ...]]:
    """Subjects of each frame, without repetitions."""
    changes: list[tuple[int, ...]] = []
    for faces in seen:
        if not changes or changes[-1] != tuple(f.subject for f in faces):
            changes.append(tuple(f.subject for f in faces))
    return changes


def middle(face: Face) -> float:
    return float(face.box[0] + face.box[2]) / 2


# One person


@pytest.mark.parametrize("name", TALKERS)
def test_a_talking_face_is_one_subject_in_every_frame(name: str, talker) -> None:
    images = talker(name)
    seen = track(images)
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


def test_landmarks_jitter_by_less_than_half_a_percent(talker) -> None:
    """Second differences over time, as the deviation of equivalent white noise: under half a per cent of the distance
    between the eyes, with the movements of talking."""
    for name in TALKERS[:2]:
        mesh = np.stack([faces[0].mesh[:, :2] for faces in track(talker(name))])
        eyes = np.linalg.norm(mesh[:, 33] - mesh[:, 263], axis=1).mean()
        assert np.sqrt((np.diff(mesh, 2, axis=0) ** 2).mean() / 6) / eyes < 0.005


def test_a_smile_does_not_change_the_subject(shared) -> None:
    seen = track(decoded(shared / "clips" / "single_face.mp4"))
    assert subjects(seen) == [(0,)]
    width = [np.linalg.norm(f.mesh[61, :2] - f.mesh[291, :2]) for (f,) in seen]
    assert max(width) > 1.2 * width[0]  # the recording contains a smile


def test_a_cartoon_has_no_face(shared, second_detector) -> None:
    assert not any(track(decoded(shared / "clips" / "no_face.mp4")))


@pytest.mark.parametrize("name", ["chelsea", "coffee", "rocket", "brick", "gravel", "grass", "hubble_deep_field"])
def test_images_without_people_have_no_face(name: str, second_detector) -> None:
    image = getattr(data, name)()
    image = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
    assert not any(track([image[..., :3]] * 3))


def test_a_still_image_gives_its_face_in_the_first_frame() -> None:
    ((face,),) = track([data.astronaut()])
    assert face.subject == 0
    assert face.box == pytest.approx([172, 69, 272, 177], abs=6)


def test_tracking_is_deterministic(talker) -> None:
    one, other = (track(talker("swiz3n")[:10]) for _ in range(2))
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
def test_degenerate_frames_have_no_face(image: np.ndarray, second_detector) -> None:
    assert not any(track([image] * 4))


def test_dark_and_grey_faces_are_found(talker) -> None:
    image = talker("bbaf2n")[0]
    grey = np.repeat(image.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    for changed in (image // 10, grey):
        ((face,),) = track([changed])
        assert face.score > 0.95


def test_frames_may_change_their_size(talker) -> None:
    images = talker("bbaf2n")[:10]
    half = [cv2.resize(image, None, fx=0.5, fy=0.5) for image in talker("bbaf2n")[10:20]]
    assert subjects(track([*images, *half])) == [(0,)]


def test_the_box_of_a_face_beyond_the_border_is_clipped_to_the_frame(talker) -> None:
    image = np.zeros_like(talker("lbax4n")[0])
    image[:, :230] = talker("lbax4n")[0][:, 130:]
    ((face,),) = track([image])
    assert face.box[0] == 0
    assert face.mesh[:, 0].min() < -1


@pytest.mark.parametrize("degrees", [-90, -45, 45, 90])
def test_a_tilted_head_is_found(degrees: int, talker) -> None:
    turn = cv2.getRotationMatrix2D((180, 180), -degrees, 1)
    ((face,),) = track([cv2.warpAffine(talker("lbax4n")[0], turn, (360, 360))])
    dx, dy = face.mesh[263, :2] - face.mesh[33, :2]
    assert np.degrees(np.arctan2(dy, dx)) == pytest.approx(degrees, abs=8)


def test_a_fast_moving_head_keeps_its_subject(talker) -> None:
    images = []
    for i, image in enumerate(talker("swiz3n")[:40]):
        wide = np.full((288, 900, 3), 90, np.uint8)
        start = 20 + 25 * abs(i - 20)  # 25 pixels a frame, a third of the distance between the eyes
        wide[:, start : start + 360] = image
        images.append(wide)
    assert subjects(track(images)) == [(0,)]


# Several people, absence, cuts


def test_two_people_side_by_side_are_two_subjects(talker) -> None:
    seen = track(np.hstack(pair) for pair in zip(talker("bbaf2n"), talker("lwbsza"), strict=True))
    assert subjects(seen) == [(0, 1)]
    sides = [[middle(f) < 360 for f in faces] for faces in seen]
    assert all(side == sides[0] for side in sides)
    assert sorted(sides[0]) == [False, True]


def test_a_person_who_leaves_and_returns_keeps_the_subject(talker) -> None:
    empty = np.full((288, 360, 3), 90, np.uint8)
    seen = track(
        np.hstack([a, empty if 20 <= i < 55 else b])
        for i, (a, b) in enumerate(zip(talker("lbax4n"), talker("pwij3p"), strict=True))
    )
    assert subjects(seen) in ([(0, 1), (0,), (0, 1)], [(0, 1), (1,), (0, 1)])
    stays = {f.subject for faces in seen[20:55] for f in faces}
    assert all(middle(f) < 360 for faces in seen for f in faces if f.subject in stays)
    assert all(len(faces) == 1 for faces in seen[20:55])
    assert all(len(faces) == 2 for faces in seen[55 + 13 :])  # found again within half a second


def test_a_single_person_who_returns_keeps_the_subject(talker) -> None:
    empty = np.full((288, 360, 3), 90, np.uint8)
    seen = track(empty if 20 <= i < 55 else image for i, image in enumerate(talker("swiz3n")))
    assert [len(faces) for faces in seen] == [1] * 20 + [0] * 35 + [1] * 20
    assert {f.subject for faces in seen for f in faces} == {0}


def test_cuts_separate_people_and_known_people_are_reidentified(talker) -> None:
    """Seven shots of five people, all at the same position with a similar background."""
    order = (*TALKERS, "bbaf2n", "lwbsza")
    seen = track(image for name in order for image in talker(name)[:12])
    shots = [seen[i : i + 12] for i in range(0, len(seen), 12)]
    assert [subjects(shot) for shot in shots] == [[(n,)] for n in (0, 1, 2, 3, 4, 0, 2)]


def test_two_people_who_change_sides_at_a_cut_keep_their_subjects(talker) -> None:
    pairs = list(zip(talker("bbaf2n"), talker("swiz3n"), strict=True))[:30]
    seen = track(np.hstack(pair if i < 15 else pair[::-1]) for i, pair in enumerate(pairs))
    assert subjects(seen) == [(0, 1)]
    before, after = ({f.subject: middle(f) < 360 for f in faces} for faces in (seen[10], seen[25]))
    assert after == {subject: not left for subject, left in before.items()}


def test_two_people_who_cross_keep_their_subjects(talker) -> None:
    """One passes in front of the other."""
    images, oval = [], np.zeros((288, 280), np.uint8)
    cv2.ellipse(oval, (115, 170), (75, 115), 0, 0, 360, 1, -1)
    for i, (front, back) in enumerate(zip(talker("bbaf2n"), talker("pwij3p"), strict=True)):
        image = np.full((288, 760, 3), 100, np.uint8)
        x = 400 - int(5.3 * i)
        image[:, x : x + 280] = back[:, 50:330]
        x = int(6.4 * i)
        image[:, x : x + 280][oval > 0] = front[:, 40:320][oval > 0]
        images.append(image)
    seen = track(images)
    assert {f.subject for faces in seen for f in faces} == {0, 1}
    first, last = ({f.subject: middle(f) for f in faces} for faces in (seen[2], seen[-2]))
    assert (first[0] < first[1]) != (last[0] < last[1])
    assert sum(len(faces) == 2 for faces in seen) > 50


def test_a_passing_obstacle_does_not_change_the_subject(talker) -> None:
    images = [image.copy() for image in talker("bbaf2n")]
    for i, image in enumerate(images):
        image[:, max(0, 6 * i - 60) : max(0, 6 * i + 30)] = (40, 60, 50)
    seen = track(images)
    assert {f.subject for faces in seen for f in faces} == {0}
    assert len(seen[-1]) == 1


def test_max_faces_keeps_the_largest_faces(talker) -> None:
    small_one = cv2.resize(talker("lwbsza")[0], None, fx=0.6, fy=0.6)
    image = np.full((288, 720, 3), 90, np.uint8)
    image[: len(small_one), : small_one.shape[1]] = small_one
    image[:, 360:] = talker("bbaf2n")[0]
    both = track([image] * 3)[-1]
    assert {f.subject: middle(f) > 360 for f in both} == {0: True, 1: False}
    for (face,) in track([image] * 20, max_faces=1):
        assert middle(face) > 360


# Small faces


def test_a_small_face_is_found_and_tracked(second_detector) -> None:
    scale = 24 / 107  # her face is 107 pixels high
    tiny = cv2.resize(data.astronaut(), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    image = cv2.resize(data.coffee(), (640, 360))
    image[140 : 140 + len(tiny), 480 : 480 + tiny.shape[1]] = tiny
    seen = track([image] * 5)
    assert subjects(seen) == [(0,)]
    assert middle(seen[0][0]) == pytest.approx(480 + 222 * scale, abs=3)
    assert np.ptp(seen[0][0].box[1::2]) == pytest.approx(24, abs=4)
    assert not any(track([image] * 2, small_faces=False))


def test_a_missing_second_detector_is_logged_once(no_second_detector, caplog) -> None:
    small_face_detectors._log_missing_detector.cache_clear()
    with caplog.at_level(logging.INFO, logger="mien"):
        for _ in range(2):
            assert not any(track([np.zeros((360, 640, 3), np.uint8)] * 3))
    assert [r.message for r in caplog.records] == [
        "No detector for small faces is installed. `mien hub pull blazeface-full-range` downloads one (677 kB)."
    ]


def test_missing_networks_are_an_error_that_names_them(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("MIEN_HUB", "")
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path))
    monkeypatch.setenv("MIEN_OFFLINE", "1")
    with pytest.raises(ArtefactError, match=r"blazeface.*Apache-2\.0"):
        FaceTracker()


# Re-identification


def test_descriptors_are_close_for_one_person_and_far_apart_for_two(talker) -> None:
    descriptors = {}
    for name in TALKERS:
        images = talker(name)[::12]
        descriptors[name] = [
            describe_appearance(i, faces[0].mesh) for i, faces in zip(images, track(images), strict=True)
        ]
    for one in TALKERS:
        for other in TALKERS:
            apart = [np.linalg.norm(a - b) for a in descriptors[one] for b in descriptors[other]]
            if one == other:
                assert max(apart) < SAME_SUBJECT_DISTANCE - 0.15
            else:
                assert min(apart) > SAME_SUBJECT_DISTANCE + 0.15


def test_descriptors_tolerate_half_the_light_and_a_quarter_of_the_size(talker) -> None:
    image = talker("pwij3p")[0]
    ((face,),) = track([image])
    seen = describe_appearance(image, face.mesh)
    assert np.linalg.norm(describe_appearance(image // 2, face.mesh) - seen) < SAME_SUBJECT_DISTANCE
    smaller = cv2.resize(image, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    assert np.linalg.norm(describe_appearance(smaller, (face.mesh + 0.5) / 4 - 0.5) - seen) < 0.1


DESCRIPTORS = np.eye(192)
BOX = np.array([100, 100, 200, 200.0])


def identify(reidentifier: Reidentifier, person: int, box: np.ndarray, now: float, scene_s: float = 0) -> int:
    """The subject id of a settled track with the descriptor of `person`."""
    (subject,) = reidentifier.identify([DESCRIPTORS[person]], [box], now, (), scene_s, [True])
    subject.box, subject.last_seen_s = box, now
    return subject.id


def test_subjects_are_identified_by_appearance_at_any_position() -> None:
    reidentifier = Reidentifier()
    assert [identify(reidentifier, w, BOX, 10 * t) for t, w in enumerate((0, 1, 0))] == [0, 1, 0]
    assert identify(reidentifier, 0, BOX + 900, 60) == 0
    assert identify(reidentifier, 0, BOX, 60 + 121) == 2  # forgotten; the id is not reused


def test_an_unsettled_track_gets_no_new_subject() -> None:
    """A known subject is identified at once."""
    reidentifier = Reidentifier()
    identify(reidentifier, 0, BOX, 10)
    assert reidentifier.identify([DESCRIPTORS[1]], [BOX + 900], 11, (), 0, [False]) == [None]
    assert identify(reidentifier, 0, BOX + 900, 11.1) == 0
    assert reidentifier.identify([DESCRIPTORS[0]], [BOX], 12, (), 0, [False])[0].id == 0


def test_subjects_are_identified_by_position_shortly_and_within_a_scene() -> None:
    reidentifier = Reidentifier()
    assert identify(reidentifier, 0, BOX, 10) == 0
    assert identify(reidentifier, 1, BOX + 30, 10 + POSITION_MEMORY_S) == 0
    assert identify(reidentifier, 2, BOX + 300, 10 + POSITION_MEMORY_S) == 1
    assert identify(reidentifier, 3, BOX, 12.5, scene_s=12.4) == 2  # not across a cut
    assert identify(reidentifier, 4, BOX, 12.5 + POSITION_MEMORY_S + 0.1) == 3


@given(st.lists(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=4, unique_by=lambda p: p[0])))
def test_subjects_of_one_frame_are_distinct_and_counted_from_0(frames: list[list[tuple[int, int]]]) -> None:
    """For any faces at any positions."""
    reidentifier, known = Reidentifier(), set()
    for now, frame in enumerate(frames):
        boxes = [BOX + 60 * x for _, x in frame]
        named = reidentifier.identify(
            [DESCRIPTORS[w] for w, _ in frame], boxes, float(now), (), 0.0, [True] * len(frame)
        )
        for subject, box in zip(named, boxes, strict=True):
            subject.box, subject.last_seen_s = box, float(now)
        assert len({s.id for s in named}) == len(frame)
        known |= {s.id for s in named}
    assert known == set(range(len(known)))


def known_subjects(reidentifier: Reidentifier, count: int) -> list[Subject]:
    """Subjects with the first `count` descriptors, all seen since 10 seconds."""
    found = reidentifier.identify(
        list(DESCRIPTORS[:count]), [BOX + 300 * i for i in range(count)], 10, (), 10, [True] * count
    )
    return [subject for subject in found if subject]


def test_two_exchanged_subjects_are_put_right() -> None:
    reidentifier = Reidentifier()
    first, second = known_subjects(reidentifier, 2)
    assert reidentifier.correct([second, first], DESCRIPTORS[:2], 30) == [first, second]
    assert reidentifier.correct([first, second], DESCRIPTORS[:2], 30) == [first, second]


def test_a_face_gets_the_number_of_the_absent_person_it_looks_like() -> None:
    """Not that of somebody who is present, and nobody's if it looks like neither."""
    reidentifier = Reidentifier()
    first, second = known_subjects(reidentifier, 2)
    assert reidentifier.correct([first], [DESCRIPTORS[1]], 30) == [second]
    assert reidentifier.correct([first], [DESCRIPTORS[1]], 30, present={second}) == [first]
    assert reidentifier.correct([first], [DESCRIPTORS[2]], 30) == [first]


@pytest.mark.parametrize(("after", "is_given_up"), [(1.0, True), (PROBATION_S + 0.1, False)])
def test_a_new_number_is_given_up_only_in_its_first_seconds(after: float, is_given_up: bool) -> None:
    """A face first seen half covered is as far from its first descriptor as from a known person's."""
    reidentifier = Reidentifier()
    (old,) = known_subjects(reidentifier, 1)
    covered = DESCRIPTORS[0] + 0.6 * DESCRIPTORS[1]
    (new,) = reidentifier.identify([covered], [BOX + 900], 20, (), 20, [True])
    assert (old.id, new.id) == (0, 1)
    whole = DESCRIPTORS[0] + 0.3 * DESCRIPTORS[1]
    assert reidentifier.correct([new], [whole], 20 + after) == [old if is_given_up else new]


def test_without_appearance_nobody_is_recognised_elsewhere() -> None:
    reidentifier = Reidentifier(appearance=False)
    assert identify(reidentifier, 0, BOX, 10) == 0
    assert identify(reidentifier, 0, BOX, 11) == 0  # at the same place
    assert identify(reidentifier, 0, BOX + 900, 11.5) == 1


def test_a_face_that_comes_out_slowly_from_behind_another_keeps_its_number(talker) -> None:
    """Half covered, it resembles nobody and is numbered anew; the number is corrected when all of it is seen."""
    walker, other = (talker(name) for name in TALKERS[:2])

    def frame(i: int) -> np.ndarray:
        canvas = np.zeros((288, 700, 3), np.uint8)
        x = min(6 * i, 190) if i < 60 else min(190 + 2 * (i - 60), 480)
        canvas[:, x : x + 200] = walker[i % 75][:, 80:280]
        canvas[:, 230:430] = other[i % 75][:, 80:280]
        return canvas

    def numbers(faces: Sequence[Face]) -> list[int]:
        """From left to right."""
        return [face.subject for face in sorted(faces, key=middle)]

    seen = track(frame(i) for i in range(210))
    assert numbers(seen[-1]) == numbers(seen[0])[::-1]


def test_a_part_of_a_face_is_not_another_face() -> None:
    """An eye taken for a face lies within the face; a small face that sticks out from behind a large one does not."""
    from mien.faces.tracker import _same_face

    face = np.array([[0.0, 0.0, 190.0, 224.0]])
    assert _same_face(np.array([6.0, 26.0, 88.0, 110.0]), face).all()
    assert not _same_face(np.array([130.0, 100.0, 210.0, 180.0]), face).any()
