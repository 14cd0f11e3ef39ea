"""Decode video frames with their presentation times, streamed.

Times come from presentation timestamps only, never from a header's frame rate, frame count or length.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from mien.errors import MediaError
from mien.media import image
from mien.media.container import (
    add_cut_note,
    add_damage_note,
    add_note,
    decode_frames,
    open_container,
    presentation_time,
    printable,
    select_video,
)
from mien.media.mp4_writer import write_video
from mien.media.probe import MediaInfo, probe
from mien.media.timestamps import TimestampRepair
from mien.records import Frame

__all__ = ["MediaInfo", "frames", "probe", "write_video"]

#: Up to this many pixels a frame, one decoding thread is used: it decodes faster than any analysis runs (measured on
#: one core, with conversion: 2,000 frames a second at 640×360, 260 at 1920×1080), and each further thread costs half
#: as much again in synchronisation.
_ONE_THREAD_PIXELS = 1920 * 1088


def frames(
    path: Path, *, max_side: int | None = None, threads: int | None = None, notes: list[str] | None = None
) -> Iterator[Frame]:
    """Decode every intact frame in presentation order, one at a time.

    Args:
        path: video, still image (one frame at 0.0), or audio file (no frames).
        max_side: pixels; larger frames are scaled down to it during conversion, with their aspect ratio.
        threads: decoding threads; None means 1 up to 1920×1080, 2 above (each thread keeps its own reference frames).
        notes: collects warnings for the user: a cut file, damaged packets, repaired timestamps.

    Yields:
        `Frame`s: upright `(height, width, 3)` uint8 RGB, full range; `time_s` strictly increasing, seconds from the
        recording's origin. Frames whose size changes within the video are scaled to the first frame's size. BT.601,
        BT.709 and BT.2020 matrices and both ranges are applied as tagged; untagged means BT.601 limited range, as in
        FFmpeg and OpenCV.

    Raises:
        MediaError: at the call, as `probe`; during iteration, if no frame decodes.
    """
    info = probe(path, audio=False)
    if info.kind == "image":
        return iter([Frame(0, 0.0, _scale_down(image.read(info.path), max_side))])
    if not info.has_video:
        return iter(())
    return _decode(info, max_side, threads, notes)


def _decode(info: MediaInfo, max_side: int | None, threads: int | None, notes: list[str] | None) -> Iterator[Frame]:
    faults: list[str] = []
    repair = TimestampRepair(1 / info.average_rate if info.average_rate else Fraction(1, 25))
    convert = FrameConverter(info, max_side)
    count, last_s = 0, 0.0
    with open_container(info.path) as container:
        stream = select_video(container)
        assert stream is not None, "probe has found it"
        _set_threads(stream, info, threads)
        for count, frame in enumerate(decode_frames(container, stream, faults.append), start=1):
            raw = presentation_time(frame)
            last_s = repair(None if raw is None else raw - info.origin)
            yield Frame(count - 1, last_s, convert(frame))
    name = printable(info.path)
    if not count:
        raise MediaError(
            f"{name}: no frame decodes" + (f" ({faults[0]})." if faults else "."),
            follows="The video cannot be used.",
            remedy="Copy or download it again, or predict from the voice alone (--no-face).",
        )
    if not add_cut_note(notes, info.path, "video", last_s + float(repair.step), info.video_stop_s):
        add_damage_note(notes, info.path, "video", faults)
    if repair.faults:
        add_note(notes, f"{name}: the video's {repair.summary()}")
    if convert.resized:
        add_note(notes, f"{name}: {convert.resized} frames of another size were scaled to the first frame's size.")


def _set_threads(stream: VideoStream, info: MediaInfo, threads: int | None) -> None:
    if threads is None:
        threads = 1 if info.width * info.height <= _ONE_THREAD_PIXELS else min(2, os.cpu_count() or 1)
    stream.thread_type = "NONE" if threads == 1 else "AUTO"
    stream.codec_context.thread_count = threads


class FrameConverter:
    """Convert decoded frames to upright RGB of one size; `resized` counts input frames of another size."""

    def __init__(self, info: MediaInfo, max_side: int | None) -> None:
        self.orientation = info.orientation
        self.max_side = max_side
        self.resized = 0
        self._output_size: tuple[int, int] | None = None
        self._input_size: tuple[int, int] | None = None
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """`(height, width, 3)` uint8 RGB, contiguous, a copy."""
        input_size = (frame.width, frame.height)
        if self._output_size is None:
            self._input_size, self._output_size = input_size, _fitted_size(*input_size, self.max_side)
        self.resized += input_size != self._input_size
        # threads=1: by default PyAV starts a thread per core for each frame, which takes longer than the conversion
        # itself (1 ms against 0.18 ms at 640×360). AREA: scaling during conversion takes a quarter of the time of
        # converting first and then cv2.resize (1080p to 720p).
        converted = self._reformatter.reformat(
            frame,
            width=self._output_size[0],
            height=self._output_size[1],
            format="rgb24",
            interpolation=Interpolation.BILINEAR if input_size == self._output_size else Interpolation.AREA,
            threads=1,
        )
        return self.orientation.apply(converted.to_ndarray())


def _fitted_size(width: int, height: int, max_side: int | None) -> tuple[int, int]:
    if max_side is None or max(width, height) <= max_side:
        return width, height
    scale = max_side / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _scale_down(image: np.ndarray, max_side: int | None) -> np.ndarray:
    height, width = image.shape[:2]
    size = _fitted_size(width, height, max_side)
    return image if size == (width, height) else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
