"""Quality of a face: each measure falls where it should, and a clear face is not marked."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mien
from mien import hub
from mien.encode import face_quality
from mien.encoders.face_geometry import load_canonical_face
from mien.records import Face

needs_networks = pytest.mark.skipif(
    not all(hub.available(name) for name in hub.NEEDED),
    reason=f"networks are not here: mien hub pull {' '.join(hub.NEEDED)}",
)
CLEAR = {
    "face_score": 0.9999, "visible": 1.0, "sharpness": 0.4, "height": 100.0, "yaw": 0.0, "pitch": 0.0, "roll": 0.0,
}  # fmt: skip
#: Landmarks around what a mask covers: jaw, and the bridge of the nose.
MASK = (234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288, 361, 323, 454, 6)


def quality(**changed: float) -> float:
    return float(face_quality.quality({k: np.array([v]) for k, v in {**CLEAR, **changed}.items()})[0])


def test_a_clear_face_has_quality_one_and_each_measure_alone_lowers_it() -> None:
    assert quality() == 1
    for name, value in {
        "face_score": 0.9, "visible": 0.5, "sharpness": 0.04, "height": 16.0,
        "yaw": -60.0, "pitch": 50.0, "roll": 180.0,
    }.items():  # fmt: skip
        assert quality(**{name: value}) == pytest.approx(0.0, abs=0.04), name
    assert quality(yaw=50) == quality(yaw=-50) == pytest.approx(0.5)
    assert np.isnan(quality(yaw=np.nan))
    assert quality(face_score=1.0) == 1


@given(st.floats(0, 180), st.floats(0, 180))
def test_quality_never_rises_with_the_angle(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    for axis in ("yaw", "pitch", "roll"):
        assert quality(**{axis: high}) <= quality(**{axis: low})


def face_at(x: float, y: float, width: float) -> Face:
    mesh = load_canonical_face()["vertices"] * width / 2.2 + [x, y, 0]
    return Face(0, np.zeros(4), mesh.astype(np.float32), 0.99)


def test_the_visible_share_is_that_inside_the_picture() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3)).astype(np.uint8)  # edges everywhere
    inside, half = (dict(zip(face_quality.NAMES, face_quality.measure(noise, face_at(x, 80, 80)), strict=True))
                    for x in (100, 0))  # fmt: skip
    assert inside["visible"] == pytest.approx(1)
    assert 0.35 < half["visible"] < 0.65
    assert inside["height"] == pytest.approx(np.ptp(face_at(100, 80, 80).mesh[:, 1]))


def test_blur_lowers_sharpness_and_contrast_does_not() -> None:
    squares = np.indices((200, 200)) // 20
    image = np.repeat((60 + 130 * (squares.sum(axis=0) % 2))[..., None], 3, axis=2).astype(np.uint8)
    dull = ((image.astype(int) - 128) // 2 + 128).astype(np.uint8)
    sharp, blurred, low = (
        float(face_quality.measure(picture, face_at(100, 90, 90))[2])
        for picture in (image, cv2.GaussianBlur(image, (0, 0), 6), dull)
    )
    assert blurred < 0.5 * sharp
    assert low == pytest.approx(sharp, rel=0.1)


def write(path: Path, image: np.ndarray) -> Path:
    cv2.imwrite(str(path), image[..., ::-1])
    return path


@needs_networks
def test_masks_and_tiny_faces_are_never_confident(tmp_path: Path) -> None:
    """A portrait, and the same with a mask of three colours and at 20 pixels: not found, or uncertain."""
    from skimage.data import astronaut

    from mien.faces.still_image import StillImageFaces
    from mien.records import Frame

    plain = astronaut()
    (found,) = StillImageFaces(max_faces=1)(Frame(0, 0.0, plain))
    outline = found.mesh[list(MASK), :2].round().astype(np.int32)
    pictures = {}
    for name, colour in {"blue": (130, 170, 210), "white": (225, 225, 220), "skin": (190, 150, 130)}.items():
        cover = np.zeros(plain.shape[:2], np.uint8)
        cv2.fillPoly(cover, [outline], 255)
        pictures[name] = np.where(cover[..., None] > 0, np.array(colour, np.uint8), plain)
    share = 20 / float(np.ptp(found.mesh[:, 1]))
    pictures["20 pixels"] = cv2.resize(plain, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
    starter = mien.load("starter")
    (clear,) = starter.predict(write(tmp_path / "plain.png", plain)).table.rows(named=True)
    assert clear["uncertain"] is False
    assert clear["quality"] == 1
    assert max(abs(clear[axis]) for axis in ("yaw", "pitch", "roll")) < 30
    for name, picture in pictures.items():
        path = write(tmp_path / "case.png", picture)
        timeline = starter.predict(path)
        assert all(u is None or u for u in timeline.table["uncertain"]), name
        if timeline.table["uncertain"].any():
            assert any("column uncertain" in note for note in timeline.notes)
        strict = starter.predict(path, min_quality=0.5).table
        assert strict["expression"].null_count() == len(strict), name
        assert strict["valence"].null_count() == len(strict), name


@needs_networks
def test_a_face_upside_down_beside_another_is_not_found_or_marked(tmp_path: Path) -> None:
    """Pictures that are upside down as a whole are turned (`mien.faces.upside_down`); these are not."""
    from skimage.data import astronaut

    plain = astronaut()
    both = write(tmp_path / "both.png", np.concatenate([plain, plain[::-1, ::-1]], axis=1))
    rows = mien.load("starter").predict(both).table
    upright = rows.filter(rows["x1"] < plain.shape[1])
    turned = rows.filter(rows["x1"] >= plain.shape[1])
    assert upright["uncertain"].to_list() == [False]
    assert all(turned["uncertain"])
    assert (turned["roll"].abs() > 150).all()
