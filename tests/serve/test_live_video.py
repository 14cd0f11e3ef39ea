"""Chunks of video in live sessions: pictures come back; damage and loss are answered by a request for a key frame."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import cv2
import numpy as np
import pytest
from video_chunks import ENCODERS, chunk, encoded

from mien.serve.live_messages import parse
from mien.serve.live_session import MAX_WAITING, _Session
from mien.serve.live_video import ChunkError, Pictures


def grey(count: int, size: tuple[int, int] = (48, 64)) -> list[np.ndarray]:
    return [np.full((*size, 3), 20 * n, np.uint8) for n in range(count)]


@pytest.mark.parametrize("codec", ENCODERS)
def test_each_chunk_gives_its_picture_at_once(codec: str) -> None:
    pictures, seen = Pictures(), []
    for number, (data, is_key) in enumerate(encoded(grey(8), codec)):
        assert is_key == (number == 0)
        seen.append(pictures.decode(parse(chunk(data, 100 + number / 30, is_key=is_key, codec=codec))))
    assert [len(found) for found in seen] == [1] * 8
    for number, [(time_s, image)] in enumerate(seen):
        assert abs(time_s - 100 - number / 30) < 1e-6
        assert image.shape == (48, 64, 3)
        assert abs(float(image.mean()) - 20 * number) < 4


def test_a_damaged_chunk_is_said_once_and_the_next_key_frame_is_read() -> None:
    chunks, pictures = encoded(grey(4)), Pictures()
    messages = [parse(chunk(data, n, is_key=key)) for n, (data, key) in enumerate(chunks)]
    with pytest.raises(ChunkError, match="no key frame"):
        pictures.decode(messages[1])
    assert pictures.decode(messages[2]) == []
    assert len(pictures.decode(messages[0])) == 1
    with pytest.raises(ChunkError, match="damaged"):
        pictures.decode(parse(chunk(b"damaged", 1.5, is_key=True)))
    assert pictures.decode(messages[2]) == []
    assert [len(pictures.decode(m)) for m in (messages[0], messages[1])] == [1, 1]
    jpeg = cv2.imencode(".jpg", grey(1)[0])[1].tobytes()
    assert len(pictures.decode(parse(struct.pack("<BxxxId", 1, 0, 9.0) + jpeg))) == 1  # both may take turns


def test_pictures_beyond_the_limit_are_not_decoded() -> None:
    [(data, is_key)] = encoded(grey(1, (2000, 2000)), "h264")
    with pytest.raises(ChunkError, match="more than 3686400 pixels"):
        Pictures().decode(parse(chunk(data, 0, is_key=is_key, codec="h264")))


@pytest.mark.parametrize(
    "head", [(4, 0, 1, 0, 0), (4, 9, 1, 0, 0), (4, 1, 2, 0, 0), (4, 1, 1, 1, 0), (4, 1, 1, 0, 30)],
    ids=["no codec", "unknown codec", "odd mark", "byte that is not zero", "rate"],
)  # fmt: skip
def test_wrong_heads_are_refused(head: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="a chunk of video has no known codec"):
        parse(struct.pack("<BBBBId", *head, 0.0) + b"data")


def test_chunks_after_one_that_was_left_out_wait_for_a_key_frame() -> None:
    sent: list[dict[str, Any]] = []

    class Socket:
        async def send_json(self, message: dict[str, Any]) -> None:
            sent.append(message)

    session = _Session(Socket(), 1 << 30)  # type: ignore[arg-type]
    key, other = (parse(chunk(b"data", 0, is_key=is_key)) for is_key in (True, False))
    jpeg = parse(struct.pack("<BxxxId", 1, 0, 9.0) + b"\xff\xd8")

    def takes(*messages: Any) -> list[bool]:
        return [asyncio.run(session._takes(message)) for message in messages]

    assert takes(key, other, jpeg) == [True, True, True]
    session._waiting = MAX_WAITING
    assert takes(jpeg) == [False]
    session._waiting = 0
    assert takes(other) == [True]  # a JPEG that is left out breaks no chain
    session._waiting = MAX_WAITING
    assert takes(other) == [False]
    session._waiting = 0
    assert takes(other, other, jpeg, other) == [False, False, True, False]
    assert [message["type"] for message in sent] == ["key_frame"]
    assert takes(key, other) == [True, True]
    assert len(sent) == 1
