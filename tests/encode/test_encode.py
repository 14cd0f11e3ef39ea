"""Parts of the encoding passes: segments, decoded sound for several encoders, and subject selection."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.encode.audio_spool import AudioSpool
from mien.encode.segments import Segmenter
from mien.encode.subject_selection import SubjectSelector
from mien.encoders.protocol import Segments
from mien.errors import MediaError
from mien.records import Face, Frame


@settings(max_examples=50)
@given(
    steps=st.lists(st.floats(0.01, 0.7), min_size=1, max_size=60),
    length=st.floats(0.5, 4),
    hop=st.floats(0.25, 1),
    pictures=st.integers(1, 16),
)
def test_segments_cover_the_recording(steps: list[float], length: float, hop: float, pictures: int) -> None:
    times = np.cumsum([0.0, *steps])
    segmenter = Segmenter(Segments(length, hop * length, 4.0, pictures, 8))
    segments: list[tuple[float, list[np.ndarray]]] = []
    for i, time_s in enumerate(times):
        segments += segmenter.push(Frame(i, time_s, np.full((1, 1, 3), i, np.uint8)))
    segments += segmenter.end()
    centres = [centre for centre, _ in segments]
    assert segments
    assert all(b > a for a, b in pairwise(centres))
    for centre, images in segments:
        assert 1 <= len(images) <= pictures
        image_times = [times[int(image[0, 0, 0])] for image in images]
        assert all(abs(t - centre) <= length / 2 + 1e-6 for t in image_times)
        assert image_times == sorted(set(image_times))
    if pictures == 16:  # nothing is thinned out: every sampled frame is in a segment
        sampled = {int(image[0, 0, 0]) for _, images in segments for image in images}
        expected = [i for i, t in enumerate(times) if i == 0 or int(t * 4 + 1e-6) > int(times[i - 1] * 4 + 1e-6)]
        if hop * 4 * length <= 16 and length * 4 <= 15:
            assert sampled == set(expected)


def test_every_iteration_of_a_spool_gives_all_blocks_and_the_error_of_the_source() -> None:
    def source() -> Iterator[tuple[float, np.ndarray]]:
        for i in range(3):
            yield float(i), np.full(4, i, np.float32)
        raise MediaError("cut")

    with AudioSpool(source(), keep=True) as sound:
        first = iter(sound)
        next(first)
        second = iter(sound)
        played = [(start_s, samples.tolist()) for start_s, samples in islice(second, 3)]
        assert played == [(float(i), [i] * 4) for i in range(3)]
        with pytest.raises(MediaError):
            next(second)
        assert next(first)[0] == 1.0
        with pytest.raises(MediaError):
            list(sound)


def test_a_passer_by_does_not_replace_the_subject() -> None:
    def face(subject: int, x: float, size: float) -> Face:
        return Face(subject, np.array([x, 0, x + size, size]), np.zeros((468, 3)), 1.0)

    selector = SubjectSelector()
    for _ in range(10):
        assert selector([face(0, 10, 20)], 100)[""].subject == 0
    assert selector([face(0, 10, 20), face(1, 50, 40)], 100)[""].subject == 0  # larger, but visible for one frame
    assert selector([face(1, 50, 40)], 100)[""].subject == 1
    assert selector([], 100) == {}
