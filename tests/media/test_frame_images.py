"""Images of decoded frames are converted when they are asked for, and then are the same."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from mien.media.frame_converter import FrameConverter
from mien.media.video import frames
from mien.records import Frame
from tests.media.makers import make_video, read_stamp


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the stamps of the frames that were converted, in order."""
    numbers: list[int] = []
    convert = FrameConverter._convert

    def counting(*arguments) -> np.ndarray:  # type: ignore[no-untyped-def]
        image = convert(*arguments)
        numbers.append(read_stamp(image))
        return image

    monkeypatch.setattr(FrameConverter, "_convert", counting)
    return numbers


def test_only_the_images_that_are_asked_for_are_converted_and_each_once(tmp_path: Path, converted: list[int]) -> None:
    seen = list(frames(make_video(tmp_path / "v.mp4", count=12)))
    assert [frame.index for frame in seen] == list(range(12))
    assert converted == []
    for number in (7, 2, 7, 2):
        assert read_stamp(seen[number].image) == number
    assert converted == [7, 2]


def test_an_image_does_not_depend_on_when_and_where_it_is_converted(tmp_path: Path) -> None:
    noise = lambda i: np.random.default_rng(i).integers(0, 255, (48, 64, 3), np.uint8)  # noqa: E731
    path = make_video(tmp_path / "v.mp4", picture=noise, count=16, rotation=90)
    at_once = [frame.image for frame in frames(path, max_side=50)]
    later = list(frames(path, max_side=50))
    threads = [threading.Thread(target=lambda part: [f.image for f in part], args=(later[i::2],)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(a, b.image) for a, b in zip(at_once, later, strict=True))


def test_frames_of_another_size_are_noted_although_no_image_is_asked_for(tmp_path: Path) -> None:
    parts = [
        make_video(tmp_path / f"{w}.ts", count=10, rate=25, size=(w, h)).read_bytes() for w, h in ((64, 48), (96, 96))
    ]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(parts))
    notes: list[str] = []
    assert len(list(frames(path, notes=notes))) == 20
    assert any("10 frames of another size" in text for text in notes)


def test_a_frame_holds_its_stored_planes_and_then_its_image_alone(tmp_path: Path) -> None:
    frame = next(iter(frames(make_video(tmp_path / "v.mp4", count=2, size=(640, 360)))))
    planes = 640 * 360 * 3 // 2
    assert planes <= frame.held_bytes < 1.2 * planes
    assert frame.image.nbytes == frame.held_bytes == 640 * 360 * 3


def test_a_changed_image_is_made_once_when_it_is_asked_for() -> None:
    calls: list[str] = []

    def make() -> np.ndarray:
        calls.append("make")
        return np.zeros((2, 2, 3), np.uint8)

    def change(image: np.ndarray) -> np.ndarray:
        calls.append("change")
        return image + 1

    frame = Frame(3, 0.5, make, held_bytes=6).with_image(change)
    assert (frame.index, frame.time_s, frame.held_bytes, calls) == (3, 0.5, 6, [])
    assert (frame.image == 1).all()
    assert frame.image is frame.image
    assert calls == ["make", "change"]
