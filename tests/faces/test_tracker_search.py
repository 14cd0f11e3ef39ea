"""The order of detections in the face tracker, with stubs for the networks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from mien.faces import tracker as module
from mien.faces.crops import Square, square_around_box
from mien.faces.detector import UNKNOWN_EYES, Detection
from mien.faces.mesh import MeshPrediction
from mien.faces.tracker import CONFIRM_FRAMES, FaceTracker
from mien.records import Face, Frame


class StubNetworks:
    """A tracker with stub networks, which record their calls. `found`: output of the detector. `logits`: presence
    logits of successive runs of the mesh network, then 20."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, logits: Iterable[float] = (), found: Sequence[Detection] = ()):
        self.found, self.logits = list(found), iter(logits)
        self.detections: list[Square | None] = []
        self.small: list[bool] = []
        self.coarse: list[bool] = []
        monkeypatch.setattr(module, "BlazeFace", lambda *_, **__: self.detect)
        monkeypatch.setattr(module, "FaceMesh", lambda *_, **__: self.mesh)
        self.covers_tiles = False
        monkeypatch.setattr(module, "SmallFaceDetector", lambda **_: SmallStub(self))
        self.tracker = FaceTracker()

    def detect(self, image: np.ndarray, square: Square | None = None) -> list[Detection]:
        self.detections.append(square)
        return self.found

    def mesh(self, image: np.ndarray, square: Square) -> MeshPrediction:
        mesh = np.zeros((468, 3), np.float32)
        side = square.side / 1.5 / 2
        mesh[:, :2] = [square.x, square.y]
        mesh[0, :2] -= side
        mesh[1, :2] += side
        box = np.array([square.x - side, square.y - side, square.x + side, square.y + side])
        return MeshPrediction(mesh, next(self.logits, 20.0), box, square_around_box(box, 1.5))

    def show(self, seconds: float, rate: float = 25) -> list[list[Face]]:
        image = np.zeros((360, 640, 3), np.uint8)
        return [self.tracker(Frame(i, i / rate, image)) for i in range(round(seconds * rate))]


class SmallStub:
    """Stub of SmallFaceDetector: finds no face and records its calls."""

    def __init__(self, stubs: StubNetworks) -> None:
        self.stubs = stubs

    def covers_tiles(self) -> bool:
        return self.stubs.covers_tiles

    def __call__(self, image: np.ndarray, *, all_views: bool, coarse: bool = False) -> list[Detection]:
        self.stubs.small.append(all_views)
        self.stubs.coarse.append(coarse)
        return []


THERE = Detection(np.array([100, 150, 150, 200.0]), 0.9, UNKNOWN_EYES)
HERE = Detection(np.array([300, 150, 360, 210.0]), 0.9, UNKNOWN_EYES)


def test_video_without_faces_runs_few_detections(monkeypatch) -> None:
    """Four seconds at 25 frames a second: the whole frame each time, two tiles and the second detector twice a
    second."""
    stubs = StubNetworks(monkeypatch)
    assert not any(stubs.show(4))
    assert stubs.detections.count(None) == 100
    assert len(stubs.detections) - 100 == 2 * 8
    assert stubs.small == [True] + [False] * 7


def test_a_tracked_face_reduces_detections(monkeypatch) -> None:
    stubs = StubNetworks(monkeypatch, found=[HERE])
    assert all(len(faces) == 1 for faces in stubs.show(4))
    assert stubs.detections.count(None) == 8
    assert len(stubs.detections) - 8 == 2 + 7  # both tiles in the first frame, then one in turn
    assert len(stubs.small) == 2


@pytest.mark.parametrize(
    ("height", "covers_tiles", "coarse", "tiles"),
    [(100.0, True, False, 2), (130.0, True, True, 0), (130.0, False, True, 2)],
)
def test_behind_a_large_face_a_first_frame_is_searched_coarsely(
    monkeypatch, height, covers_tiles, coarse, tiles
) -> None:
    """The frame is 360 pixels high; the later searches, in turn, are fine. Tiles are searched where the detector for
    small faces does not see as much."""
    face = Detection(np.array([300, 100, 300 + height, 100 + height]), 0.9, UNKNOWN_EYES)
    stubs = StubNetworks(monkeypatch, found=[face])
    stubs.covers_tiles = covers_tiles
    stubs.show(4)
    assert stubs.coarse == [coarse, False]
    assert len(stubs.detections) - stubs.detections.count(None) == tiles + 7


def test_while_max_faces_are_tracked_detection_only_counts_the_others(monkeypatch) -> None:
    stubs = StubNetworks(monkeypatch, found=[HERE, THERE])
    stubs.tracker._max_faces = 1
    assert all(len(faces) == 1 for faces in stubs.show(4))
    assert stubs.tracker.passed_over == 1
    assert stubs.detections.count(None) == 3  # to start the track; to count in the first frame and after two seconds
    assert len(stubs.detections) - 3 == 2
    assert stubs.small == [True, False]


def test_nobody_is_passed_over_below_the_limit_or_uncounted(monkeypatch) -> None:
    stubs = StubNetworks(monkeypatch, found=[HERE, THERE])
    assert all(len(faces) == 2 for faces in stubs.show(1))
    assert stubs.tracker.passed_over == 0
    stubs.tracker = FaceTracker(max_faces=1, count_others=False)
    stubs.detections.clear()
    stubs.show(4)
    assert stubs.tracker.passed_over == 0
    assert stubs.detections == [None]


def test_without_a_limit_every_face_is_tracked(monkeypatch) -> None:
    many = [
        Detection(HERE.box + np.array([x, y, x, y]), 0.9, UNKNOWN_EYES)
        for x in (-250, -100, 100, 250)
        for y in (-80, 80)
    ]
    stubs = StubNetworks(monkeypatch, found=many)
    stubs.tracker = FaceTracker(max_faces=None)
    assert len(stubs.show(0.04)[0]) == 8


MESHES_TO_START = 3  # runs of the mesh network before a track starts


@pytest.mark.parametrize(
    ("logits", "reported"),
    [
        ([5] * MESHES_TO_START, [1, 1, 1, 1]),  # confirmed at once
        ([1] * 20, [0, 0, 1, 1]),  # confirmed after three frames
        ([1] * MESHES_TO_START + [1, 5, 1], [0, 0, 1, 1]),
        ([1] * MESHES_TO_START + [5, 1, 1], [0, 0, 1, 1]),  # confirmed later, but not yet identified
        ([1] * MESHES_TO_START + [1, -1] + [-9] * 20, [0, 0, 0, 0]),  # lost before it is confirmed
        ([-3, 2, 6], [1, 1, 1, 1]),  # present in its own square
        ([-9] * 20, [0, 0, 0, 0]),
        ([-3, -1, -0.1] * 8, [0, 0, 0, 0]),
    ],
)
def test_when_a_face_is_confirmed(monkeypatch, logits, reported) -> None:
    assert [len(faces) for faces in StubNetworks(monkeypatch, logits, [HERE]).show(4 / 25)] == reported


def test_a_new_face_within_a_scene_gets_a_subject_after_confirmation(monkeypatch) -> None:
    stubs = StubNetworks(monkeypatch)
    stubs.show(4 / 25)  # no face yet
    stubs.found = [HERE]
    image = np.zeros((360, 640, 3), np.uint8)
    seen = [len(stubs.tracker(Frame(i, i / 25, image))) for i in range(4, 12)]
    assert seen == [0] * (CONFIRM_FRAMES - 1) + [1] * (9 - CONFIRM_FRAMES)


def test_a_lost_subject_is_searched_near_its_position_and_everywhere_in_turn(monkeypatch) -> None:
    """Both views in the frame of the loss, then one a frame; after PLACE_MEMORY_S, only the
    whole frame."""
    stubs = StubNetworks(monkeypatch, [20.0] * 5 + [-9.0] * 500, [HERE])
    stubs.show(3 / 25)
    stubs.found = []
    searched = []
    for i in range(3, 100):
        stubs.detections.clear()
        stubs.tracker(Frame(i, i / 25, np.zeros((360, 640, 3), np.uint8)))
        searched.append((None in stubs.detections, Square(330, 180, 180) in stubs.detections))
    assert searched[0] == (True, True)
    one_each = [pair for pair in searched[1:40] if pair != (True, True)]  # both when a search is due
    assert len(one_each) > 30
    assert one_each.count((True, False)) - one_each.count((False, True)) in range(-3, 4)
    assert set(searched[60:]) == {(True, False)}


def test_a_lost_face_is_searched_at_once_near_its_position(monkeypatch) -> None:
    stubs = StubNetworks(monkeypatch, [20.0] * 5 + [-9.0], [HERE])
    seen = stubs.show(4 / 25)
    assert [len(faces) for faces in seen] == [1] * 4
    assert Square(330, 180, 180) in stubs.detections  # three times its box
