"""The pass over the frames asks for the images of the frames whose faces are read, and for no others."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import numpy as np
import pytest

from mien.encode.video_pass import read_faces
from mien.records import Face, Frame

RATE = 60


class Places:
    """A tracker that reads the image. Its one face moves by `step` pixels a frame after half a second."""

    passed_over = 0

    def __init__(self, step: float) -> None:
        self.seconds = {"detect": 0.0, "mesh": 0.0}
        self._step = step

    def __call__(self, frame: Frame) -> list[Face]:
        x = 100.0 + self._step * max(0, frame.index - RATE // 2)
        assert frame.image.shape == (120, 160, 3)
        return [Face(0, np.array([x, 10, x + 80, 110.0]), np.zeros((468, 3), np.float32), 1.0)]


@pytest.mark.parametrize("decode_ahead", [True, False])
@pytest.mark.parametrize(("step", "rate_hz"), [(0.0, 15.0), (20.0, 15.0), (0.0, None)])
def test_the_images_that_are_made_are_those_that_are_read(
    step: float, rate_hz: float | None, decode_ahead: bool
) -> None:
    made: dict[int, str] = {}

    def make(index: int) -> np.ndarray:
        made[index] = threading.current_thread().name
        return np.zeros((120, 160, 3), np.uint8)

    decoded = (Frame(i, i / RATE, partial(make, i), held_bytes=1) for i in range(RATE))
    tracker: Any = Places(step)
    faces = read_faces(
        decoded, tracker=tracker, encoders={}, width=None, seconds={}, on_time=lambda time_s: None, rate_hz=rate_hz,
        decode_ahead=decode_ahead,
    )  # fmt: skip
    read = list(range(RATE)) if faces.read is None else faces.read.tolist()
    assert sorted(made) == read
    ahead = {index for index, thread in made.items() if thread == "mien-ahead"}
    on_the_grid = set(range(0, RATE, 1 if rate_hz is None else 4))
    assert ahead == (on_the_grid if decode_ahead else set()), "the thread that decodes also converts"
    assert (len(read) > RATE / 4 + 1) == (step > 0 or rate_hz is None)


def test_without_faces_no_image_is_made() -> None:
    def never() -> np.ndarray:
        raise AssertionError("an image was made")

    decoded = (Frame(i, i / RATE, never) for i in range(10))
    faces = read_faces(
        decoded, tracker=None, encoders={}, width=None, seconds={}, on_time=lambda time_s: None, decode_ahead=True
    )
    assert len(faces.times) == 10
