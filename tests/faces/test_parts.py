"""The parts of face analysis: crops, detection, mesh, alignment, TFLite backends."""

from __future__ import annotations

import math
import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data, transform

from mien import hub
from mien.faces import align
from mien.faces.crops import Square, extract_crop, square_around_box
from mien.faces.detector import (
    FULL_RANGE,
    UNKNOWN_EYES,
    BlazeFace,
    Detection,
    anchors,
    frame_square,
    iou,
    merge_detections,
    tiles,
)
from mien.faces.mesh import ENLARGE, FaceMesh, MeshPrediction
from mien.faces.tflite import TfliteNetwork, _without_banner, default_backend

#: Irises of scikit-image's astronaut, measured by eye in an enlargement.
RIGHT_IRIS, LEFT_IRIS = (203.2, 100.2), (246.3, 103.2)

lengths = st.floats(1, 500)
places = st.floats(-300, 300)
angles = st.floats(-math.pi, math.pi)


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    return data.astronaut()


@pytest.fixture(scope="module")
def blazeface() -> BlazeFace:
    return BlazeFace(hub.fetch("blazeface"))


@pytest.fixture(scope="module")
def facemesh() -> FaceMesh:
    return FaceMesh(hub.fetch("facemesh"))


@pytest.fixture(scope="module")
def reading(astronaut: np.ndarray, blazeface: BlazeFace, facemesh: FaceMesh) -> MeshPrediction:
    first = facemesh(astronaut, blazeface(astronaut)[0].square(ENLARGE))
    return facemesh(astronaut, first.square)


# Crops


@given(x=places, y=places, side=lengths, angle=angles, size=st.integers(1, 300))
def test_the_matrix_of_a_square_maps_its_centre_and_keeps_lengths(x, y, side, angle, size) -> None:
    matrix = Square(x, y, side, angle).matrix(size)
    assert matrix @ [size / 2, size / 2, 1] == pytest.approx([x, y], abs=1e-6)
    edge = matrix @ [size, 0, 1] - matrix @ [0, 0, 1]
    assert np.linalg.norm(edge) == pytest.approx(side)
    assert math.remainder(math.atan2(edge[1], edge[0]) - angle, 2 * math.pi) == pytest.approx(0, abs=1e-6)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_crop_at_full_size_is_the_image_and_black_beyond() -> None:
    image = noise(20, 30)
    whole = extract_crop(image, Square(14.5, 9.5, 40).matrix(40), 40)  # 5 left and right of it, 10 above and below
    assert np.array_equal(whole[10:30, 5:35], image)
    whole[10:30, 5:35] = 0
    assert not whole.any()


def test_a_crop_rotated_by_90_degrees_is_the_rotated_image() -> None:
    image = noise(32, 32)
    turned = extract_crop(image, Square(15.5, 15.5, 32, math.pi / 2).matrix(32), 32)
    assert np.abs(turned.astype(int) - np.rot90(image)).max() <= 1


@pytest.mark.parametrize("factor", [2, 3, 7])
def test_downscaling_is_the_mean_over_blocks(factor: int) -> None:
    image = noise(16 * factor, 16 * factor)
    half = 8 * factor - 0.5
    shrunk = extract_crop(image, Square(half, half, 16 * factor).matrix(16), 16)
    blocks = image.reshape(16, factor, 16, factor, 3).mean(axis=(1, 3))
    assert np.abs(shrunk - blocks).max() <= 1


@given(x=places, y=places, side=st.floats(1, 3000), angle=angles)
def test_any_square_can_be_cropped(x, y, side, angle) -> None:
    picture = extract_crop(np.full((48, 64, 3), 200, np.uint8), Square(x, y, side, angle).matrix(24), 24)
    assert picture.shape == (24, 24, 3)
    assert picture.max(initial=0) <= 200


def test_downscaling_does_not_shift_the_crop() -> None:
    """The centre of mass of a dot lies where the matrix maps it, for every factor."""
    image = np.zeros((400, 600, 3), np.uint8)
    cv2.circle(image, (300, 220), 30, (255, 255, 255), -1)
    for side in (100, 190, 250, 390):
        matrix = Square(310.0, 213.0, side, 0.3).matrix(64)
        small_one = extract_crop(image, matrix, 64)[..., 0].astype(float)
        y, x = (np.indices((64, 64)) * small_one).sum(axis=(1, 2)) / small_one.sum() + 0.5
        assert matrix @ [x, y, 1] == pytest.approx([300, 220], abs=0.02 * side)


# Detection


def test_anchors_match_the_network() -> None:
    """896 centres: 16 × 16 cells twice, then 8 × 8 cells six times, row by row."""
    centres = anchors()
    assert centres.shape == (896, 2)
    assert centres[:4].tolist() == [[1 / 32, 1 / 32], [1 / 32, 1 / 32], [3 / 32, 1 / 32], [3 / 32, 1 / 32]]
    assert centres[512:518].tolist() == [[1 / 16, 1 / 16]] * 6
    assert centres[-1].tolist() == [15 / 16, 15 / 16]
    assert centres.mean(axis=0) == pytest.approx([0.5, 0.5])


def test_anchors_of_the_full_range_network() -> None:
    """48 × 48 cells, one anchor each, row by row."""
    centres = anchors(FULL_RANGE)
    assert centres.shape == (2304, 2)
    assert centres[:2].tolist() == [[1 / 96, 1 / 96], [3 / 96, 1 / 96]]
    assert centres[48].tolist() == [1 / 96, 3 / 96]
    assert centres[-1].tolist() == [95 / 96, 95 / 96]


boxes = st.tuples(places, places, lengths, lengths).map(lambda b: np.array([b[0], b[1], b[0] + b[2], b[1] + b[3]]))


@given(a=boxes, b=boxes)
def test_iou_is_symmetric_and_within_0_and_1(a: np.ndarray, b: np.ndarray) -> None:
    share = iou(a, b[None])[0]
    assert share == pytest.approx(iou(b, a[None])[0])
    assert 0 <= share <= 1 + 1e-9
    assert iou(a, a[None])[0] == pytest.approx(1)


def test_iou_in_closed_form() -> None:
    others = np.array([[5, 0, 15, 10], [10, 0, 20, 10], [0, 0, 5, 5], [3, 3, 3, 3]], float)
    assert iou(np.array([0, 0, 10, 10.0]), others) == pytest.approx([1 / 3, 0, 1 / 4, 0])
    assert iou(np.zeros(4), np.zeros((1, 4))) == pytest.approx([0])


def test_merging_blends_by_score_and_keeps_the_best_score() -> None:
    eyes = np.array([[2.0, 3], [8, 3]])
    found = [
        Detection(np.array([0, 0, 10, 10.0]), 0.6, eyes),
        Detection(np.array([1, 0, 11, 10.0]), 0.9, eyes + np.array([1, 0])),
        Detection(np.array([50, 50, 60, 60.0]), 0.7, UNKNOWN_EYES),
    ]
    first, second = merge_detections(found)
    assert first.box == pytest.approx([0.6, 0, 10.6, 10])  # .9 / (.9 + .6) of the way
    assert first.eyes == pytest.approx(eyes + np.array([0.6, 0]))
    assert (first.score, second.score) == (0.9, 0.7)
    assert np.isnan(second.eyes).all()


@given(found=st.lists(st.builds(Detection, boxes, st.floats(0.01, 1), st.just(UNKNOWN_EYES)), max_size=12))
def test_merged_boxes_stay_within_the_hull_of_all_boxes(found: list[Detection]) -> None:
    merged = merge_detections(found)
    assert len(merged) <= len(found)
    assert [m.score for m in merged] == sorted((m.score for m in merged), reverse=True)
    hull = [np.min([f.box for f in found], axis=0), np.max([f.box for f in found], axis=0)] if found else None
    for one in merged:
        assert (one.box >= hull[0] - 1e-6).all()
        assert (one.box <= hull[1] + 1e-6).all()


@given(width=st.integers(1, 2000), height=st.integers(1, 2000))
def test_tiles_lie_within_the_frame_and_cover_it(width: int, height: int) -> None:
    squares = tiles(np.broadcast_to(np.uint8(0), (height, width, 3)))
    if max(width, height) < 1.2 * min(width, height):
        assert squares == []
        return
    seen = np.zeros(max(width, height), bool)
    for square in squares:
        assert square.side == min(width, height)
        start = (square.x if width > height else square.y) - (square.side - 1) / 2
        assert -1e-6 <= start <= len(seen) - square.side + 1e-6
        seen[math.floor(start + 1e-6) : math.ceil(start + square.side - 1e-6)] = True
    assert seen.all()


def test_blazeface_finds_the_astronauts_eyes(astronaut, blazeface) -> None:
    (found,) = blazeface(astronaut)
    assert found.eyes[0] == pytest.approx(RIGHT_IRIS, abs=5)
    assert found.eyes[1] == pytest.approx(LEFT_IRIS, abs=5)
    assert found.score > 0.8
    x1, y1, x2, y2 = found.box
    assert x1 < RIGHT_IRIS[0] < LEFT_IRIS[0] < x2
    assert y1 < RIGHT_IRIS[1] < 142 < y2  # 142: the mouth
    assert 80 < x2 - x1 < 120


def test_detections_in_a_square_are_in_pixels_of_the_frame(astronaut, blazeface) -> None:
    (whole,), (part,) = blazeface(astronaut), blazeface(astronaut, Square(230, 130, 240))
    assert part.eyes == pytest.approx(whole.eyes, abs=6)
    assert iou(whole.box, part.box[None])[0] > 0.7
    assert blazeface(astronaut, Square(420, 420, 160)) == []


def test_both_backends_give_the_same_detection(astronaut, blazeface) -> None:
    (one,) = blazeface(astronaut)
    (other,) = BlazeFace(hub.fetch("blazeface"), backend="cv2")(astronaut)
    assert other.box == pytest.approx(one.box, abs=0.05)
    assert other.eyes == pytest.approx(one.eyes, abs=0.05)
    assert other.score == pytest.approx(one.score, abs=1e-3)


# Mesh


def test_the_mesh_lies_on_the_astronauts_eyes(reading: MeshPrediction) -> None:
    right, left = align.five_points(reading.mesh)[:2]
    assert right == pytest.approx(RIGHT_IRIS, abs=2.5)
    assert left == pytest.approx(LEFT_IRIS, abs=2.5)
    assert reading.mesh.shape == (468, 3)


def test_both_backends_give_the_same_mesh(astronaut, reading, facemesh) -> None:
    """OpenCV's own loader and kernels are an independent computation."""
    one = facemesh(astronaut, reading.square)
    other = FaceMesh(hub.fetch("facemesh"), backend="cv2")(astronaut, reading.square)
    assert np.abs(one.mesh - other.mesh).max() < 0.02
    assert one.logit == pytest.approx(other.logit, abs=0.02)


def test_presence_separates_faces_from_other_objects(astronaut, reading, facemesh) -> None:
    assert reading.logit > 20
    assert reading.score > 0.999
    for x, y in ((420, 120), (100, 400), (300, 400)):  # flag, shuttle, suit
        assert facemesh(astronaut, Square(x, y, 150)).score < 0.5
    assert facemesh(np.zeros_like(astronaut), reading.square).score < 0.5


def test_score_is_the_logistic_of_the_logit(reading: MeshPrediction) -> None:
    from dataclasses import replace

    scores = [replace(reading, logit=v).score for v in (-1e4, -2.0, 0.0, 2.0, 1e4)]
    assert scores == pytest.approx([0, 1 / (1 + math.e**2), 0.5, 1 / (1 + math.e**-2), 1])


def test_the_next_square_levels_the_eyes_and_is_half_larger_than_the_box(reading: MeshPrediction) -> None:
    x1, y1, x2, y2 = reading.box
    square = reading.square
    assert square.side == pytest.approx(1.5 * max(x2 - x1, y2 - y1))
    assert (square.x, square.y) == pytest.approx(((x1 + x2) / 2, (y1 + y2) / 2))
    dx, dy = reading.mesh[263, :2] - reading.mesh[33, :2]
    assert math.tan(square.angle) == pytest.approx(dy / dx, rel=1e-4)


def test_the_mesh_follows_shift_scale_and_rotation_of_the_image(astronaut, reading, facemesh) -> None:
    across = np.linalg.norm(reading.mesh[263, :2] - reading.mesh[33, :2])

    def differs(matrix: np.ndarray, scale: float) -> float:
        warped = cv2.warpAffine(astronaut, matrix, (900, 900), flags=cv2.INTER_CUBIC)
        x, y = matrix @ [reading.square.x, reading.square.y, 1]
        turn = math.atan2(matrix[1, 0], matrix[0, 0])
        square = Square(x, y, reading.square.side * scale, reading.square.angle + turn)
        mesh = facemesh(warped, square).mesh
        expected = facemesh(astronaut, reading.square).mesh
        flat = expected[:, :2] @ matrix[:, :2].T + matrix[:, 2]
        return float(np.abs(mesh - np.column_stack([flat, expected[:, 2] * scale])).max() / scale / across)

    assert differs(np.array([[1, 0, 37.0], [0, 1, 101]]), 1) < 1e-4
    assert differs(np.array([[2, 0, 0.0], [0, 2, 0]]), 2) < 0.04  # also the third coordinate
    turned = np.array([[math.cos(0.5), -math.sin(0.5), 250], [math.sin(0.5), math.cos(0.5), 0]])
    assert differs(turned, 1) < 0.04


# Alignment

similarities = st.tuples(st.floats(0.1, 8), angles, places, places)


@given(similarities)
def test_similarity_transform_recovers_a_known_transform(parameters: tuple[float, float, float, float]) -> None:
    scale, angle, x, y = parameters
    linear = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    found = align.similarity_transform(align.TEMPLATE, align.TEMPLATE @ linear.T + [x, y])
    assert found == pytest.approx(np.column_stack([linear, [x, y]]), abs=1e-6)


@settings(deadline=None)  # the first call loads scikit-image's transforms
@given(st.lists(st.tuples(places, places), min_size=5, max_size=5, unique=True))
def test_similarity_transform_is_the_least_squares_solution(points: list[tuple[float, float]]) -> None:
    """Compared with scikit-image's estimate (Umeyama); no reflection for any points."""
    target = np.array(points)
    found = align.similarity_transform(align.TEMPLATE, target)
    assert np.linalg.det(found[:, :2]) >= 0

    def error(matrix: np.ndarray) -> float:
        return float(((align.TEMPLATE @ matrix[:, :2].T + matrix[:, 2] - target) ** 2).sum())

    other = transform.SimilarityTransform.from_estimate(align.TEMPLATE, target)
    if other:
        assert error(found) <= error(other.params[:2]) * (1 + 1e-6) + 1e-6


def test_similarity_transform_of_coinciding_points_is_a_shift() -> None:
    assert align.similarity_transform(np.ones((5, 2)), np.full((5, 2), 4.0)) == pytest.approx(
        np.array([[1, 0, 3], [0, 1, 3.0]])
    )


@pytest.mark.parametrize(
    ("size", "margin", "down"), [(112, 0.0, 0.0), (224, 0.0, 0.0), (112, 0.5, 0.0), (96, -0.25, 0.16), (112, 0.0, -0.1)]
)
def test_align_puts_the_five_points_on_the_template(size: int, margin: float, down: float) -> None:
    """Dots drawn in a rotated, larger frame move to the template's positions."""
    turn = 3 * np.array([[math.cos(0.4), -math.sin(0.4)], [math.sin(0.4), math.cos(0.4)]])
    points = align.TEMPLATE @ turn.T + [200, 60]
    mesh = np.zeros((468, 3), np.float32)
    for landmarks, point in zip(align._POINTS, points, strict=True):
        mesh[list(landmarks), :2] = point
    middle = np.array([56, 56 + down * 112])
    places = ((align.TEMPLATE + 0.5 - middle) / (1 + margin) + 56) * size / 112 - 0.5
    for landmark, place in enumerate(places):
        image = np.zeros((600, 700, 3), np.uint8)
        cv2.circle(image, points[landmark].round().astype(int).tolist(), 9, (255, 255, 255), -1)
        dot = align.align(image, mesh, size, margin, down)[..., 0].astype(float)
        y, x = (np.indices(dot.shape) * dot).sum(axis=(1, 2)) / dot.sum()
        assert (x, y) == pytest.approx(place, abs=0.7)


def test_align_is_black_beyond_the_frame(astronaut, reading) -> None:
    cropped = np.maximum(astronaut[90:], 1)
    mesh = reading.mesh - [0, 90, 0]
    aligned = align.align(cropped, mesh)
    assert aligned.shape == (112, 112, 3)
    assert aligned.dtype == np.uint8
    assert not aligned[:25].any()
    assert aligned[60:].any(axis=-1).all()


# The networks' runtime


def test_only_litert_banner_is_removed_from_standard_error() -> None:
    code = (
        "import os, sys\nfrom mien import hub\nfrom mien.faces.tflite import TfliteNetwork, _without_banner\n"
        "TfliteNetwork(hub.fetch('facemesh'))\n"
        "with _without_banner():\n    os.write(2, b'during\\n')\n"
        "sys.stderr.write('later\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0
    assert done.stderr.splitlines() == ["during", "later"]


def test_a_network_that_nothing_uses_any_more_serves_the_next_one_of_its_file() -> None:
    path = hub.fetch("facemesh")
    first, second = TfliteNetwork(path), TfliteNetwork(path)
    assert first._run is not second._run  # both in use: two threads never share one
    freed = first._run
    del first
    assert TfliteNetwork(path, threads=2)._run is not freed
    assert TfliteNetwork(path)._run is freed


def test_exceptions_pass_through_the_banner_filter() -> None:
    with pytest.raises(ValueError, match="damaged"), _without_banner():
        raise ValueError("damaged")


def test_opencv_is_used_without_litert(monkeypatch, astronaut) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    assert default_backend() == "cv2"
    assert len(BlazeFace(hub.fetch("blazeface"))(astronaut)) == 1


def test_square_around_box() -> None:
    assert square_around_box(np.array([10, 20, 30, 60.0]), 1.5, 0.2) == Square(20, 40, 60, 0.2)


def test_the_square_of_a_detection_levels_known_eyes() -> None:
    assert Detection(np.array([0, 0, 10, 10.0]), 1, UNKNOWN_EYES).square(2).angle == 0
    tilted = Detection(np.array([0, 0, 10, 10.0]), 1, np.array([[2, 2.0], [8, 8]]))
    assert tilted.square(2).angle == pytest.approx(math.pi / 4)
    assert frame_square(np.zeros((36, 64, 3))) == Square(31.5, 17.5, 64)
