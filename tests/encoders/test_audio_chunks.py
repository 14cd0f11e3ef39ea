"""Chunks of long audio: coverage, context and memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.encoders.audio_chunks import FrameGrid, cut_chunks


@settings(max_examples=60)
@given(
    samples=st.integers(0, 40_000),
    length=st.integers(5, 30),
    context=st.integers(0, 2),
    sizes=st.lists(st.integers(1, 9_000), min_size=1, max_size=6),
)
def test_chunks_cover_every_frame_once(samples: int, length: int, context: int, sizes: list[int]) -> None:
    grid = FrameGrid(320, 400)
    sound = np.arange(samples, dtype=np.float32)
    cuts, rest = [], sound
    while len(rest):
        size = sizes[len(cuts) % len(sizes)]
        cuts.append(rest[:size])
        rest = rest[size:]
    total, expected = grid.frames(samples), 0
    for chunk in cut_chunks(cuts, grid, length, context):
        frames = grid.frames(len(chunk.samples))
        assert frames == min(length, total)
        np.testing.assert_array_equal(chunk.samples, sound[chunk.first * 320 :][: len(chunk.samples)])
        begin, stop = chunk.keep
        if chunk.first + stop == total:
            assert chunk.first * 320 + len(chunk.samples) == samples
        else:
            assert len(chunk.samples) == grid.samples(frames)
        assert chunk.first + begin == expected
        expected = chunk.first + stop
        assert begin >= context or chunk.first + begin == 0
        assert frames - stop >= context or expected == total
    assert expected == total


def test_at_most_two_chunks_are_in_memory() -> None:
    """Samples are taken from the source no earlier than a chunk needs them."""
    taken = 0

    def source() -> Iterator[np.ndarray]:
        nonlocal taken
        for _ in range(200):
            taken += 3_200
            yield np.zeros(3_200, np.float32)

    grid = FrameGrid(320, 400)
    for chunk in cut_chunks(source(), grid, length=50, context=5):
        assert taken <= (chunk.first + 50) * 320 + 400 + 3_200 + 320
    assert taken == 640_000
