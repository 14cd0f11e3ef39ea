"""Which frames' faces are read, and interpolation between readings."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.encode.face_rate import LEAST_HZ, FaceSchedule, automatic_rate, fill
from mien.encode.subject_features import VideoFaces
from mien.encode.subject_track import SubjectTrack
from mien.encoders.face_geometry import FaceGeometry
from mien.encoders.registry import create
from mien.records import Face


def face(x: float, subject: int = 0) -> Face:
    return Face(subject, np.array([x, 0, x + 80, 100.0]), np.zeros((468, 3), np.float32), 1.0)


@pytest.mark.parametrize(
    ("fps", "rate", "read"), [(30, 15, 30), (60, 15, 30), (25, 15, 30), (10, 15, 20), (30, 100, 60)]
)
def test_a_still_face_is_read_so_many_times_a_second(fps, rate, read) -> None:
    schedule, count = FaceSchedule(rate), 0
    for i in range(2 * fps):
        if schedule.is_due(i / fps):
            count += 1
            schedule.note([face(10)])
    assert count == read


def test_a_moving_face_is_read_in_every_frame_while_it_moves() -> None:
    schedule, read = FaceSchedule(15), []
    places = [0] * 10 + [20, 40, 60, 80, 100, 120] + [120] * 10
    for i, x in enumerate(places):
        if schedule.is_due(i / 60):
            read.append(i)
            schedule.note([face(x)])
    assert read == [0, 4, 8, 12, 13, 14, 15, 16, 20, 24]


def test_several_faces_are_read_more_often_while_they_are_in_view() -> None:
    schedule, read = FaceSchedule(10, 30), []
    for i in range(90):
        if schedule.is_due(i / 60):
            read.append(i)
            schedule.note([face(10), face(200, subject=1)] if 30 <= i < 60 else [face(10)])
    assert read == [*range(0, 31, 6), *range(32, 61, 2), *range(66, 90, 6)]


def test_without_a_rate_every_frame_is_read() -> None:
    schedule = FaceSchedule(None)
    assert all(schedule.is_due(0.0) for _ in range(5))


def test_the_automatic_rate_is_for_encoders_with_a_rate_of_their_own() -> None:
    def crops(rate_hz: float | None) -> Any:
        return SimpleNamespace(
            name="", modality="face", dim=1, rate_hz=rate_hz, receptive_field_s=0, licence="", provenance={},
            crop=None, batch_size=1, encode_crops=len,
        )  # fmt: skip

    voice = create("voice-prosody")
    assert automatic_rate([crops(12.0), voice]) == LEAST_HZ
    assert automatic_rate([crops(24.0)]) == 24
    assert [automatic_rate([crops(rate)]) for rate in (5.0, 6.0, 8.0, 7.5, 0.1)] == [15, 12, 16, 15, 12]
    assert automatic_rate([crops(5.0), crops(10.0)]) == 20, "a multiple of the highest"
    assert automatic_rate([crops(12.0), crops(None)]) is None
    assert automatic_rate([crops(12.0), FaceGeometry()]) is None
    assert automatic_rate([voice]) is None


@st.composite
def readings(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times of frames, frames that were read, and those of them with the face."""
    steps = draw(st.lists(st.floats(0.01, 0.3), min_size=1, max_size=30))
    times = np.cumsum(steps)
    read = np.array(sorted({0, *draw(st.lists(st.integers(0, len(times) - 1), max_size=15))}))
    seen = draw(st.lists(st.booleans(), min_size=len(read), max_size=len(read)))
    return times, read, read[np.array(seen)]


@given(readings())
def test_between_two_readings_values_are_interpolated_in_time(case) -> None:
    """A value that is linear in time is recovered in every frame up to the last reading, and held after it."""
    times, read, rows = case
    filled = fill(rows, read, times)
    values = filled.interpolate(3 * times[rows, None] + 1)
    last = rows[-1] if len(rows) else 0
    assert values[:, 0] == pytest.approx(3 * np.minimum(times[filled.frames], times[last]) + 1)
    assert (np.diff(filled.frames) > 0).all()
    for frame in range(len(times)):
        before, after = read[read <= frame][-1], read[read >= frame]
        known = before in rows and (not len(after) or after[0] in rows)
        assert (frame in filled.frames) == known


def test_without_skipped_frames_nothing_changes() -> None:
    rows = np.array([0, 2, 3])
    filled = fill(rows, None, np.arange(5.0))
    values = np.random.default_rng(0).random((3, 4))
    assert filled.frames.tolist() == [0, 2, 3]
    assert filled.interpolate(values) is values


@pytest.fixture
def faces() -> VideoFaces:
    """Frames 0 to 6, read in 0, 2, 4, 6; the face is seen in 0, 2 and 6, and moves by ten pixels a second."""
    subject = SubjectTrack(0)
    subject.rows.extend(np.array([0, 2, 6]))
    subject.boxes.extend(np.array([[0, 0, 50, 50], [20, 0, 70, 50], [60, 0, 110, 50]], np.float32))
    return VideoFaces(np.arange(7.0), [subject], read=np.array([0, 2, 4, 6]))


def test_the_track_holds_every_frame_between_readings_that_show_the_face(faces: VideoFaces) -> None:
    track = faces.track(0)
    assert track.valid.tolist() == [True, True, True, False, False, False, True]
    assert track.boxes[track.valid, 0].tolist() == [0, 10, 20, 60]
