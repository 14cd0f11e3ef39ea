"""Pictures at given times are those that decoding from the start gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mien.media import video
from mien.media.video import frames, pictures_at, write_video


def moving(path: Path, seconds: float, rate: int = 10) -> list[tuple[float, np.ndarray]]:
    """A video whose brightness says which picture it is; its times and pictures as `frames` gives them."""
    pictures = [np.full((32, 48, 3), 20 + i % 200, np.uint8) for i in range(int(seconds * rate))]
    write_video(path, pictures, times=[i / rate for i in range(len(pictures))])
    return [(frame.time_s, frame.image) for frame in frames(path)]


@pytest.mark.parametrize("chosen", [[0, 1, 2], [3, 70, 71, 139], [139]])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_they_are_those_of_decoding_from_the_start(tmp_path: Path, suffix: str, chosen: list[int]) -> None:
    expected = moving(tmp_path / f"clip{suffix}", 14.0)
    found = list(pictures_at(tmp_path / f"clip{suffix}", [expected[i][0] for i in chosen]))
    for i, picture in zip(chosen, found, strict=True):
        np.testing.assert_array_equal(picture, expected[i][1])


def test_a_far_time_is_searched_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = moving(tmp_path / "clip.mp4", 60.0)
    seen = []
    read = video.presentation_time
    monkeypatch.setattr(video, "presentation_time", lambda frame: seen.append(frame) or read(frame))
    (picture,) = pictures_at(tmp_path / "clip.mp4", [expected[-2][0]])
    np.testing.assert_array_equal(picture, expected[-2][1])
    assert len(seen) < len(expected) / 2


def test_a_still_is_its_picture_and_a_sound_has_none(tmp_path: Path) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "a.png"), np.full((8, 8, 3), 77, np.uint8))
    write_video(tmp_path / "s.mp4", [], times=[], audio=np.zeros(16_000, np.float32))
    (picture,) = pictures_at(tmp_path / "a.png", [0.0])
    assert picture is not None
    assert (picture == 77).all()
    assert list(pictures_at(tmp_path / "s.mp4", [0.0, 0.5])) == [None, None]


def test_beyond_the_end_there_is_none(tmp_path: Path) -> None:
    moving(tmp_path / "clip.mp4", 1.0)
    assert list(pictures_at(tmp_path / "clip.mp4", [5.0])) == [None]
