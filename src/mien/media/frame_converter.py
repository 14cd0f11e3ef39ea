"""Decoded frames as upright RGB pictures of one size, with square pixels and standard dynamic range."""

from __future__ import annotations

import threading
from collections.abc import Callable
from fractions import Fraction
from functools import partial

import av
import cv2
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from mien.media.orientation import Orientation
from mien.media.tone_map import tone_map, transfer_of

#: Sample aspect ratios beyond these are taken for damage: the widest in use is 64:33 of MPEG-2.
_EXTREME_ASPECT = 4
#: Frames after which another sample aspect ratio counts for frames of the same size: decoders delay at most 16.
_SETTLED = 16


class FrameConverter:
    """Convert decoded frames of one video to upright RGB of one size.

    Frames of another size or shape of pixel than the first are fitted into its picture with their aspect ratio, in the
    middle of a black one.

    Args:
        orientation: how stored frames become upright.
        max_side: pixels; larger pictures are scaled down to it.

    Attributes:
        fitted: frames that were fitted, because they have another shape than the first.
        transfers: names of the HDR transfer functions met.
    """

    def __init__(self, orientation: Orientation, max_side: int | None) -> None:
        self.orientation = orientation
        self.max_side = max_side
        self.fitted = 0
        self.transfers: set[str] = set()
        self._output_size: tuple[int, int] | None = None
        self._first_size: tuple[int, int] | None = None
        self._reformatter, self._lock = VideoReformatter(), threading.Lock()

    def __call__(self, frame: av.VideoFrame, aspect: Fraction | None = None) -> np.ndarray:
        """`(height, width, 3)` uint8 RGB, contiguous, a copy. aspect: width of a stored pixel over its height."""
        return self.later(frame, aspect)()

    def later(self, frame: av.VideoFrame, aspect: Fraction | None = None) -> Callable[[], np.ndarray]:
        """A function that converts the frame, as a call of this object does. It may be called in another thread, and
        counts in `fitted` and `transfers` whether it is called or not."""
        size = square_pixel_size(frame.width, frame.height, aspect)
        if self._output_size is None:
            self._first_size, self._output_size = size, fitted_size(*size, self.max_side)
        if (transfer := transfer_of(frame)) is not None:
            self.transfers.add(transfer.name)
        if size == self._first_size:
            return partial(self._convert, frame, self._output_size, None)
        self.fitted += 1
        return partial(self._convert, frame, _inside(size, self._output_size), self._output_size)

    def _convert(self, frame: av.VideoFrame, size: tuple[int, int], within: tuple[int, int] | None) -> np.ndarray:
        """The frame as RGB of `size` (width, height), in the middle of a picture of the size `within` where given."""
        scaled = self._scaled(frame, size)
        return self.orientation.apply(scaled if within is None else letterbox(scaled, within))

    def _scaled(self, frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
        """The frame as RGB of `size` (width, height)."""
        transfer = transfer_of(frame)
        shrinks = size[0] < frame.width or size[1] < frame.height
        # threads=1: by default PyAV starts a thread per core for each frame, which takes longer than the conversion
        # itself (1 ms against 0.18 ms at 640×360). AREA: scaling during conversion takes a quarter of the time of
        # converting first and then cv2.resize (1080p to 720p).
        with self._lock:
            converted = self._reformatter.reformat(
                frame,
                width=size[0],
                height=size[1],
                format="rgb24" if transfer is None else "rgb48le",
                interpolation=Interpolation.AREA if shrinks else Interpolation.BILINEAR,
                threads=1,
            )
        pixels = converted.to_ndarray()
        return pixels if transfer is None else tone_map(pixels, transfer)


class AspectTracker:
    """Sample aspect ratio of each frame of a video, which may change on the way, as in broadcasts.

    Decoders state the aspect ratio of the packet read last, a few frames before that packet's frame comes out. A new
    one therefore counts at once for frames of a new size, and else after `_SETTLED` frames.

    Args:
        stream: the video, before its first frame is decoded. The ratio of its container overrides that of its codec,
            as in players.
    """

    def __init__(self, stream: VideoStream) -> None:
        self._stream = stream
        self._first = stream.codec_context.sample_aspect_ratio
        self._known: dict[tuple[int, int], Fraction | None] = {}
        self._changed = 0

    def __call__(self, frame: av.VideoFrame) -> Fraction | None:
        """The ratio of the next frame: width of a stored pixel over its height, None where it is unknown."""
        size, now = (frame.width, frame.height), self._stream.codec_context.sample_aspect_ratio
        if not self._known or now == self._first:
            now = sample_aspect(self._stream)
        known = self._known.setdefault(size, now)
        self._changed = self._changed + 1 if now != known else 0
        if self._changed > _SETTLED:
            self._known[size], self._changed = now, 0
        return self._known[size]


def sample_aspect(stream: VideoStream) -> Fraction | None:
    """Sample aspect ratio of a stream by its container, else by its codec."""
    return stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio


def stored_bytes(frame: av.VideoFrame) -> int:
    """Memory of a decoded frame, which holds its planes with the padding of their rows."""
    return sum(plane.buffer_size for plane in frame.planes)


def square_pixel_size(width: int, height: int, aspect: Fraction | None) -> tuple[int, int]:
    """(width, height) of a stored picture shown with square pixels. The shorter direction is enlarged, so that no
    detail is lost."""
    if not aspect or aspect == 1 or not Fraction(1, _EXTREME_ASPECT) <= aspect <= _EXTREME_ASPECT:
        return width, height
    return (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))


def fitted_size(width: int, height: int, max_side: int | None) -> tuple[int, int]:
    """(width, height) scaled down to `max_side` pixels, where it is given and smaller."""
    if max_side is None or max(width, height) <= max_side:
        return width, height
    return _inside((width, height), (max_side, max_side))


def letterbox(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image in the middle of a black one of `size` (width, height), which it fits in."""
    height, width = image.shape[:2]
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return cv2.copyMakeBorder(
        image, top, size[1] - height - top, left, size[0] - width - left, cv2.BORDER_CONSTANT, value=(0, 0, 0)
    )


def _inside(size: tuple[int, int], bounds: tuple[int, int]) -> tuple[int, int]:
    """The largest (width, height) of the aspect ratio of `size` within `bounds`."""
    scale = min(bounds[0] / size[0], bounds[1] / size[1])
    return max(1, min(bounds[0], round(size[0] * scale))), max(1, min(bounds[1], round(size[1] * scale)))
