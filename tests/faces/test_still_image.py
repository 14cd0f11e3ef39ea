"""Faces in single images: those that fill the image, several, none; and each call is an image of its own."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from mien import hub
from mien.faces.still_image import StillImageFaces
from mien.faces.tracker import FaceTracker
from mien.media.video import frames
from mien.records import Face, Frame

pytestmark = pytest.mark.skipif(
    not (hub.available("blazeface") and hub.available("facemesh")),
    reason="the face networks are not here: mien hub pull blazeface facemesh",
)


def frame(image: np.ndarray) -> Frame:
    return Frame(0, 0.0, np.ascontiguousarray(image))


@pytest.fixture(scope="module")
def picture(shared: Path) -> np.ndarray:
    """The first frame of a real clip with one face."""
    return next(iter(frames(shared / "clips" / "single_face.mp4"))).image


@pytest.fixture(scope="module")
def face(picture: np.ndarray) -> Face:
    (found,) = FaceTracker()(frame(picture))
    return found


def test_a_face_that_fills_the_image_is_found_in_its_own_pixels(picture: np.ndarray, face: Face) -> None:
    x1, y1, x2, y2 = face.box.round().astype(int)
    scale = 48 / max(x2 - x1, y2 - y1)
    tight = cv2.resize(picture[y1:y2, x1:x2], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    (found,) = StillImageFaces()(frame(tight))
    expected = (face.mesh[:, :2] - [x1, y1]) * scale
    error = np.linalg.norm(found.mesh[:, :2] - expected, axis=1)
    assert np.median(error) < 2.5, "the mesh lies on the face of the tight image, in its pixels"
    assert (found.box >= 0).all()
    assert found.box[2] <= tight.shape[1]
    assert found.box[3] <= tight.shape[0]


def test_more_real_faces_are_found_than_by_the_tracker_alone(shared: Path) -> None:
    folder = shared / "ferplus" / "FER2013Valid"
    if not folder.is_dir():
        pytest.skip("the shared FER+ faces are absent")
    images = [cv2.imread(str(path))[..., ::-1] for path in sorted(folder.glob("*.png"))[:60]]
    finder = StillImageFaces(max_faces=1)
    found = [bool(finder(frame(image))) for image in images]
    alone = [bool(FaceTracker(max_faces=1)(frame(image))) for image in images]
    assert sum(found) > sum(alone)
    assert np.mean(found) > 0.95
    assert all(b or not a for a, b in zip(alone, found, strict=True)), "none is lost"


def test_every_call_is_an_image_of_its_own(picture: np.ndarray) -> None:
    finder = StillImageFaces()
    (first,) = finder(frame(picture))
    assert finder(frame(np.zeros_like(picture))) == []
    (again,) = finder(frame(picture))
    assert again.subject == first.subject == 0
    np.testing.assert_array_equal(again.mesh, first.mesh)


def test_an_image_without_a_face_stays_without(picture: np.ndarray) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert StillImageFaces()(frame(noise)) == []
