"""Chunks of video as `VideoEncoder` of a browser makes them, encoded by PyAV for tests."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from fractions import Fraction

import av
import numpy as np

#: Codec -> its number in a message, PyAV's encoder, and options for chunks without delay.
ENCODERS = {
    "vp8": (1, "libvpx", {"deadline": "realtime", "lag-in-frames": "0", "cpu-used": "8"}),
    "vp9": (2, "libvpx-vp9", {"deadline": "realtime", "lag-in-frames": "0", "cpu-used": "8"}),
    "h264": (3, "libx264", {"tune": "zerolatency", "preset": "ultrafast"}),
}


def encoded(images: Iterable[np.ndarray], codec: str = "vp8") -> list[tuple[bytes, bool]]:
    """Chunks of pictures, each with whether it is a key frame. images: `(height, width, 3)` uint8 RGB."""
    _, name, options = ENCODERS[codec]
    encoder, chunks = None, []
    for number, image in enumerate(images):
        if encoder is None:
            encoder = av.CodecContext.create(name, "w")
            encoder.height, encoder.width = image.shape[:2]
            encoder.pix_fmt, encoder.time_base, encoder.options = "yuv420p", Fraction(1, 30), options
        frame = av.VideoFrame.from_ndarray(image, "rgb24")
        frame.pts = number
        chunks += [(bytes(packet), packet.is_keyframe) for packet in encoder.encode(frame)]
    return chunks


def chunk(data: bytes, time_s: float, *, is_key: bool, codec: str = "vp8") -> bytes:
    """The message of a chunk."""
    return struct.pack("<BBBxId", 4, ENCODERS[codec][0], is_key, 0, time_s) + data
