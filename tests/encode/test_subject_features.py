"""Encoders of crops with a rate: which frames they read, and the stream that follows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from mien import clock
from mien.encode import face_quality
from mien.encode.subject_features import SubjectCollector, VideoFaces
from mien.encoders.protocol import Crop
from mien.records import Face, Frame


class Brightness:
    """Mean of each crop; counts the crops."""

    name, modality, dim = "brightness", "face", 1
    receptive_field_s, licence, batch_size = 0.0, "MIT", 4
    provenance: Mapping[str, str] = {"network": "brightness"}
    crop = Crop(8)

    def __init__(self, rate_hz: float | None) -> None:
        self.rate_hz, self.count = rate_hz, 0

    def encode_crops(self, crops: np.ndarray) -> np.ndarray:
        self.count += len(crops)
        return crops.mean(axis=(1, 2, 3), keepdims=False, dtype=np.float32)[:, None]


def mesh() -> np.ndarray:
    points = np.zeros((468, 3), np.float32)
    points[:, :2] = np.random.default_rng(0).uniform(10, 54, (468, 2))
    return points


def read(encoder: Brightness, seen: np.ndarray, fps: float = 25.0) -> VideoFaces:
    """Frames of rising brightness, with a face of subject 0 where `seen`."""
    collector = SubjectCollector({"face": encoder}, geometry=False)
    times = np.arange(len(seen)) / fps
    points = mesh()
    for row, (time_s, present) in enumerate(zip(times, seen, strict=True)):
        if present:
            frame = Frame(row, float(time_s), np.full((64, 64, 3), row, np.uint8))
            collector.add(row, frame, Face(0, np.array([0.0, 0.0, 64.0, 64.0]), points, 1.0), 1.0)
    collector.flush()
    return VideoFaces(times, [collector.subject(0)], {"face": encoder})


@pytest.mark.parametrize("fps", [25.0, 30000 / 1001, 60.0])
def test_one_face_in_each_period_and_the_last_one_are_encoded(fps: float) -> None:
    encoder = Brightness(10.0)
    frames = round(2 * fps)
    stream = read(encoder, np.ones(frames, bool), fps).stream(0)
    assert encoder.count == len(stream.times) == 21
    assert stream.valid.all()
    assert (np.floor(np.round(stream.times[:20] * 10, 9)) == np.arange(20)).all()
    assert stream.times[-1] == (frames - 1) / fps
    assert stream.values[-1, 0] == frames - 1


def test_tokens_are_those_of_every_frame_but_for_the_mean() -> None:
    seen = np.ones(75, bool)
    seen[10:31] = False  # gone for most of a second
    sparse = read(Brightness(10.0), seen).stream(0)
    dense = read(Brightness(None), seen).stream(0)
    assert len(dense.times) == 75
    times = clock.token_times(0, 3, 10.0)
    few, few_valid = clock.resample(sparse, times, 10.0)
    all_values, all_valid = clock.resample(dense, times, 10.0)
    np.testing.assert_array_equal(few_valid, all_valid)
    assert 0 < (~few_valid).sum() < 10
    assert np.abs(few - all_values)[few_valid].max() <= 1.5, "at most a frame and a half apart"


def test_a_face_that_is_gone_at_the_start_of_a_period_is_still_read_in_it() -> None:
    seen = np.zeros(25, bool)
    seen[[4, 11, 12]] = True
    encoder = Brightness(10.0)
    stream = read(encoder, seen).stream(0)
    assert stream.times[stream.valid].tolist() == [4 / 25, 11 / 25, 12 / 25]
    assert encoder.count == 3, "two periods, and the last face"


def test_quality_is_measured_ten_times_a_second_and_scored_in_every_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[float] = []

    def measure(image: np.ndarray, face: Face) -> np.ndarray:
        measured.append(face.score)
        return np.array([face.score, 1.0, float(image[0, 0, 0]), 50.0], np.float32)

    monkeypatch.setattr(face_quality, "measure", measure)
    collector = SubjectCollector({}, geometry=True)
    times, points = np.arange(50) / 25, mesh()
    for row, time_s in enumerate(times):
        if not 20 <= row < 30:
            frame = Frame(row, float(time_s), np.full((64, 64, 3), row, np.uint8))
            collector.add(row, frame, Face(0, np.array([0.0, 0.0, 64.0, 64.0]), points, row / 100), 1.0)
    collector.flush()
    quality = VideoFaces(times, [collector.subject(0)]).quality(0)
    assert 12 <= len(measured) <= 18
    assert np.isnan(quality["face_score"][20:30]).all()
    assert np.isnan(quality["quality"][20:30]).all()
    assert quality["face_score"][[0, 7, 49]].tolist() == pytest.approx([0, 0.07, 0.49])
    held = np.arange(50) - quality["sharpness"]
    assert np.nanmin(held) == 0
    assert np.nanmax(held) <= 2, "measures are held for less than a tenth of a second"
