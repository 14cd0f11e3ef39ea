"""A part of a recording: which frames and samples it has."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.errors import MediaError
from mien.predict.section import Section
from mien.records import Frame


def decoded(n: int = 10) -> list[Frame]:
    return [Frame(i, i / 10, np.zeros((1, 1, 3), np.uint8)) for i in range(n)]


def test_a_section_has_the_frames_from_its_start_and_before_its_stop() -> None:
    section = Section(0.3, 0.6)
    assert [f.index for f in section.frames(decoded(), "a.mp4")] == [3, 4, 5]
    assert section.skipped == 3


def test_nothing_after_the_stop_is_decoded() -> None:
    frames = iter(decoded())
    list(Section(0.0, 0.2).frames(frames, "a.mp4"))
    assert next(frames).index == 3


def test_a_section_after_the_last_frame_is_an_error() -> None:
    with pytest.raises(MediaError, match=r"a\.mp4 has no frame at 5 s or later") as caught:
        list(Section(5.0).frames(decoded(), "a.mp4"))
    assert "--start" in caught.value.remedy


@pytest.mark.parametrize(("start", "stop"), [(1.0, 1.0), (2.0, 1.0), (-1.0, None)])
def test_an_empty_section_is_refused(start: float, stop: float | None) -> None:
    with pytest.raises(ValueError, match="is empty"):
        Section(start, stop)


@settings(max_examples=50)
@given(first=st.integers(0, 4000), length=st.integers(1, 4000), block=st.integers(1, 900))
def test_blocks_are_cut_to_the_sample(first: int, length: int, block: int) -> None:
    sound = np.arange(3000, dtype=np.float32)
    blocks = [(k / 16_000, sound[k : k + block]) for k in range(0, len(sound), block)]
    parts = list(Section(first / 16_000, (first + length) / 16_000).blocks(blocks))
    got = np.concatenate([samples for _, samples in parts]) if parts else np.zeros(0)
    assert got.tolist() == sound[first : first + length].tolist()
    for start_s, samples in parts:
        assert round(start_s * 16_000) == samples[0]
