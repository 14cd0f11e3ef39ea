"""Pictures of a live session: JPEG, or chunks of video, as `VideoEncoder` of browsers (WebCodecs) makes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mien.serve.live_messages import CHUNK, LiveMessage

if TYPE_CHECKING:
    from av.video.codeccontext import VideoCodecContext

#: Most pixels of a picture.
MAX_PIXELS = 1920 * 1920
#: Units of the times of chunks within a decoder: microseconds, as in WebCodecs.
_PER_S = 1_000_000


class ChunkError(ValueError):
    """A chunk that cannot be decoded; the next key frame can."""


class Pictures:
    """Decode the pictures of one session. Chunks follow each other: after one that is damaged or left out, nothing is
    decoded until a key frame."""

    def __init__(self) -> None:
        self._context: VideoCodecContext | None = None
        self._codec, self._needs_key, self._is_asked = "", True, False

    def decode(self, message: LiveMessage) -> list[tuple[float, np.ndarray]]:
        """Times in seconds and `(height, width, 3)` uint8 RGB of the pictures that a message completes: one, or none
        while a key frame is awaited.

        Raises ChunkError where a key frame has to be sent, once: a chunk is damaged or too large, or the first one is
        no key frame. ValueError for JPEG that is damaged or too large, or a codec that PyAV lacks here.
        """
        if message.kind != CHUNK:
            return [(message.time_s, _jpeg(message))]
        if message.codec != self._codec:
            self._context, self._codec, self._needs_key = None, message.codec, True
        if self._needs_key and not message.is_key:
            if self._is_asked:
                return []
            self._is_asked = True
            raise ChunkError(f"the first chunk of {message.codec} is no key frame")
        if self._context is None:
            self._context = _create_decoder(message.codec)
        found = self._decode_chunk(self._context, message)
        self._needs_key = self._is_asked = False
        return found

    def _decode_chunk(self, context: VideoCodecContext, message: LiveMessage) -> list[tuple[float, np.ndarray]]:
        import av

        packet = av.Packet(bytes(message.data))
        packet.pts = packet.dts = round(message.time_s * _PER_S)
        try:
            frames = context.decode(packet)
            damaged = any(frame.is_corrupt for frame in frames)
        except (av.FFmpegError, ValueError, MemoryError):
            damaged = True
        if damaged:
            self._context, self._needs_key, self._is_asked = None, True, True
            raise ChunkError(f"a chunk of {message.codec} is damaged, or has more than {MAX_PIXELS} pixels")
        return [((frame.pts or 0) / _PER_S, frame.to_ndarray(format="rgb24")) for frame in frames]


def _create_decoder(codec: str) -> VideoCodecContext:
    import av
    from av.video.codeccontext import VideoCodecContext

    try:
        context = av.CodecContext.create(codec, "r")
    except (av.FFmpegError, ValueError):
        raise ValueError(f"this server's PyAV cannot decode {codec}; send JPEG") from None
    assert isinstance(context, VideoCodecContext)
    context.thread_count = 1  # threads would hold back pictures
    context.flags |= av.codec.context.Flags.low_delay
    context.options = {"max_pixels": str(MAX_PIXELS), "err_detect": "explode"}
    return context


def _jpeg(message: LiveMessage) -> np.ndarray:
    import cv2

    try:
        image = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:  # more pixels than OPENCV_IO_MAX_IMAGE_PIXELS
        image = None
    if image is None:
        raise ValueError(f"a picture is damaged, or has more than {MAX_PIXELS} pixels")
    rgb: np.ndarray = np.asarray(image)
    return rgb
