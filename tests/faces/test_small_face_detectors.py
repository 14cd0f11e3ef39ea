"""Detectors for small faces: BlazeFace full-range, UltraFace, YuNet, and the choice and views of SmallFaceDetector."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage import data

from mien import hub
from mien.faces import small_face_detectors
from mien.faces.detector import (
    UNKNOWN_EYES,
    BlazeFace,
    Detection,
)


@pytest.fixture(scope="module")
def blazeface() -> BlazeFace:
    return BlazeFace(hub.fetch("blazeface"))


def small_face(height: int) -> tuple[np.ndarray, np.ndarray]:
    """The astronaut on a cup of coffee, 640 × 360, her face `height` pixels high; and its centre."""
    scale = height / 107
    tiny = cv2.resize(data.astronaut(), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    image = cv2.resize(data.coffee(), (640, 360))
    image[140 : 140 + len(tiny), 480 : 480 + tiny.shape[1]] = tiny
    return image, np.array([480 + 222 * scale, 140 + 115 * scale])


@pytest.mark.parametrize("height", [20, 24, 32])
def test_ultraface_finds_small_faces_that_blazeface_misses(height, shared, blazeface, monkeypatch) -> None:
    monkeypatch.setenv("MIEN_HUB", os.pathsep.join([os.environ.get("MIEN_HUB", ""), str(shared / "hub")]))
    image, centre = small_face(height)
    assert blazeface(image) == []
    found = small_face_detectors.UltraFace(hub.fetch("ultraface"))(image)
    nearest = min(found, key=lambda f: np.linalg.norm(f.box.reshape(2, 2).mean(axis=0) - centre))
    assert nearest.box.reshape(2, 2).mean(axis=0) == pytest.approx(centre, abs=height / 3)
    assert 0.6 * height < np.ptp(nearest.box[1::2]) < 1.6 * height


@pytest.fixture
def full_range() -> small_face_detectors.FullRange:
    if not hub.available("blazeface-full-range"):
        pytest.skip("network is not here: mien hub pull blazeface-full-range")
    return small_face_detectors.FullRange(hub.fetch("blazeface-full-range"))


@pytest.mark.parametrize("height", [24, 32])
def test_full_range_locates_small_faces_and_their_eyes(height, full_range, blazeface) -> None:
    image, centre = small_face(height)
    found = [d for view in full_range.views(image) for d in full_range.detect(image, view)]
    nearest = min(found, key=lambda f: np.linalg.norm(f.box.reshape(2, 2).mean(axis=0) - centre))
    assert nearest.box.reshape(2, 2).mean(axis=0) == pytest.approx(centre, abs=height / 3)
    assert 0.6 * height < np.ptp(nearest.box[1::2]) < 1.6 * height
    (large,) = blazeface(data.astronaut())
    eyes = (large.eyes - [222, 115]) * (height / 107) + centre
    assert nearest.eyes == pytest.approx(eyes, abs=0.2 * height)  # the eyes are 0.4 of the height apart


def test_full_range_is_preferred_where_litert_reads_it(monkeypatch) -> None:
    made = {name: (lambda *_, name=name, **__: name) for name in ("FullRange", "UltraFace")}
    for name, create in made.items():
        monkeypatch.setattr(small_face_detectors, name, create)
    monkeypatch.setattr(hub, "available", lambda name: True)
    monkeypatch.setattr(hub, "fetch", lambda name: Path(name))
    assert small_face_detectors.SmallFaceDetector()._load_detector() == "FullRange"
    monkeypatch.setattr(small_face_detectors, "default_backend", lambda: "cv2")
    fallback = small_face_detectors.SmallFaceDetector()._load_detector()
    assert isinstance(fallback, small_face_detectors.InQuarters)


@given(width=st.integers(40, 2000), height=st.integers(40, 2000))
def test_a_grid_covers_the_frame_with_overlap(width: int, height: int) -> None:
    squares = small_face_detectors.grid(np.zeros((height, width, 3), np.uint8), 288)
    side = squares[0].side
    assert side == min(288, width, height)
    for centres, length in (({s.x for s in squares}, width), ({s.y for s in squares}, height)):
        starts = sorted(c - (side - 1) / 2 for c in centres)
        assert starts[0] == pytest.approx(0)
        assert starts[-1] + side == pytest.approx(length)
        assert all(b - a <= 0.85 * side + 1e-6 for a, b in pairwise(starts))


def test_views_are_searched_in_turn(monkeypatch) -> None:
    """Each of the 40 squares of a 1920 × 1080 frame within `CYCLE` calls."""
    seen = []

    class StubDetector:
        views = staticmethod(lambda image, coarse: small_face_detectors.grid(image, 288))

        def detect(self, image: np.ndarray, view: object) -> list[Detection]:
            seen.append(view)
            return []

    detector = small_face_detectors.SmallFaceDetector()
    monkeypatch.setattr(detector, "_load_detector", StubDetector)
    frame = np.zeros((1080, 1920, 3), np.uint8)
    for _ in range(detector.CYCLE):
        detector(frame, all_views=False)
    assert len(set(seen)) == 40
    assert len(seen) == 42


def test_yunet_gets_bgr_and_gives_pixels_of_the_frame(monkeypatch) -> None:
    """With a stub for OpenCV's detector, whose file is not always installed."""
    inputs: list[np.ndarray] = []

    class StubDetector:
        def setInputSize(self, size: tuple[int, int]) -> None:
            assert size == (640, 360)

        def detect(self, image: np.ndarray):
            inputs.append(image)
            row = [100, 50, 40, 60, 110, 70, 130, 71, 120, 85, 112, 100, 128, 100, 0.9]
            return 1, np.array([row], np.float32)

    monkeypatch.setattr(cv2.FaceDetectorYN, "create", lambda *_: StubDetector())
    frame = np.zeros((720, 1280, 3), np.uint8)
    frame[..., 0] = 255  # red
    (found,) = small_face_detectors.YuNet(Path("face.onnx"))(frame)
    assert found.box == pytest.approx([200, 100, 280, 220])
    assert found.eyes.ravel() == pytest.approx([220, 140, 260, 142])
    assert found.score == pytest.approx(0.9)
    assert inputs[0][0, 0].tolist() == [0, 0, 255]


def test_large_frames_are_also_searched_in_quarters(monkeypatch) -> None:
    seen: list[tuple[int, int]] = []

    class StubDetector:
        def __call__(self, image: np.ndarray) -> list[Detection]:
            seen.append(image.shape[:2])
            spot = np.argwhere(image[..., 0])
            if len(spot) == 0:
                return []
            y, x = spot[0]
            return [Detection(np.array([x, y, x + 30.0, y + 40.0]), 0.8, UNKNOWN_EYES)]

    detector = small_face_detectors.SmallFaceDetector()
    monkeypatch.setattr(detector, "_load_detector", lambda: small_face_detectors.InQuarters(StubDetector()))
    frame = np.zeros((1080, 1920, 3), np.uint8)
    frame[1000, 1700] = 255
    (found,) = detector(frame, all_views=True)
    assert found.box == pytest.approx([1700, 1000, 1730, 1040])
    assert len(seen) == 5
    seen.clear()
    for _ in range(5):
        detector(frame, all_views=False)
    assert sorted(seen) == sorted([(1080, 1920)] + [(648, 1152)] * 4)
