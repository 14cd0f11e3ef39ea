"""Pictures with their presentation times, streamed.

Times come from presentation timestamps only: no header's frame rate, frame count or length is believed.
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
from mien.media.container import decoded, note, opened, shown, video_of
from mien.media.mp4_writer import write_video
from mien.media.probe import MediaInfo, probe
from mien.media.timestamps import Repair
from mien.records import Frame

__all__ = ["MediaInfo", "frames", "probe", "write_video"]

#: Up to this many pixels one thread decodes well ahead of any analysis (measured on one core, with
#: conversion: 2,000 frames a second at 640×360, 260 at 1920×1080), and each further one costs half as much
#: again in hand-overs.
_ONE_THREAD = 1920 * 1088
#: A picture that ends this much before its header says is called cut. Our choice: above any rounding.
_SHORT_S = 0.5


def frames(
    path: Path, *, max_side: int | None = None, threads: int | None = None, notes: list[str] | None = None
) -> Iterator[Frame]:
    """Every picture that decodes, in presentation order, one at a time.

    Args:
        path: video, still image (one frame at 0.0), or sound alone (no frame).
        max_side: pixels; larger pictures are scaled down to it while they are converted, keeping their shape.
        threads: decoding threads; None means 1 up to 1920×1080, 2 above (each holds its reference pictures).
        notes: collects what a user should know: a cut file, damaged packets, repaired timestamps.

    Yields:
        `Frame`s: upright `(height, width, 3)` uint8 RGB, full range; `time_s` strictly increasing, seconds
        from the recording's origin. Pixels of pictures that change size on the way are scaled to the first
        one's size. BT.601, BT.709 and BT.2020 matrices and both ranges are honoured as tagged; untagged
        means BT.601 limited, as in FFmpeg and OpenCV.

    Raises:
        MediaError: at the call, as `probe`; while iterating, when not one picture decodes.
    """
    info = probe(path, audio=False)
    if info.kind == "image":
        return iter([Frame(0, 0.0, _shrunk(image.read(info.path), max_side))])
    if not info.has_video:
        return iter(())
    return _decode(info, max_side, threads, notes)


def _decode(info: MediaInfo, max_side: int | None, threads: int | None, notes: list[str] | None) -> Iterator[Frame]:
    faults: list[str] = []
    repair = Repair(1 / info.average_rate if info.average_rate else Fraction(1, 25))
    convert = Converter(info, max_side)
    index, last = 0, 0.0
    with opened(info.path) as container:
        stream = video_of(container)
        assert stream is not None, "probe has seen it"
        _set_threads(stream, info, threads)
        for index, frame in enumerate(decoded(container, stream, faults.append), start=1):
            last = repair(None if frame.pts is None else frame.pts * frame.time_base - info.origin)
            yield Frame(index - 1, last, convert(frame))
    name = shown(info.path)
    if not index:
        raise MediaError(
            f"{name}: not one picture decodes" + (f" ({faults[0]})." if faults else "."),
            follows="Its picture cannot be used.",
            remedy="Copy or download it again, or predict from the voice alone (--no-face).",
        )
    _tell(info, last + float(repair.step), faults, notes)
    if repair.faults:
        note(notes, f"{name}: the picture's {repair.summary()}")
    if convert.resized:
        note(notes, f"{name}: {convert.resized} pictures of another size were scaled to the first one's.")


def _tell(info: MediaInfo, stop_s: float, faults: list[str], notes: list[str] | None) -> None:
    """Say where the picture ended and what was lost."""
    name, promised = shown(info.path), info.video_stop_s
    if promised is not None and stop_s < promised - _SHORT_S:
        note(
            notes,
            f"{name}: the picture ends at {stop_s:.2f} s although the header promises {promised:.2f} s: "
            "the file is cut or damaged. What decodes is used.",
        )
    elif faults:
        note(notes, f"{name}: {len(faults)} damaged places in the picture were passed over ({faults[0]}).")


def _set_threads(stream: VideoStream, info: MediaInfo, threads: int | None) -> None:
    pixels = info.width * info.height
    if threads is None:
        threads = 1 if pixels <= _ONE_THREAD else min(2, os.cpu_count() or 1)
    stream.thread_type = "NONE" if threads == 1 else "AUTO"
    stream.codec_context.thread_count = threads


class Converter:
    """From a decoder's picture to upright RGB of one size; `resized` counts pictures that came in another."""

    def __init__(self, info: MediaInfo, max_side: int | None) -> None:
        self.orientation = info.orientation
        self.max_side = max_side
        self.resized = 0
        self._size: tuple[int, int] | None = None
        self._stored: tuple[int, int] | None = None
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """`(height, width, 3)` uint8 RGB, contiguous and the caller's own."""
        stored = (frame.width, frame.height)
        if self._size is None:
            self._stored, self._size = stored, _fitted(*stored, self.max_side)
        self.resized += stored != self._stored
        # threads=1: by default PyAV starts a thread per core for each picture, which costs more than the
        # conversion itself (1 ms against 0.18 at 640×360). AREA: scaling inside the conversion takes a quarter
        # of the time of converting first and cv2.resize after (1080p to 720p).
        picture = self._reformatter.reformat(
            frame,
            width=self._size[0],
            height=self._size[1],
            format="rgb24",
            interpolation=Interpolation.BILINEAR if stored == self._size else Interpolation.AREA,
            threads=1,
        )
        return self.orientation.apply(picture.to_ndarray())


def _fitted(width: int, height: int, max_side: int | None) -> tuple[int, int]:
    if max_side is None or max(width, height) <= max_side:
        return width, height
    scale = max_side / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _shrunk(image: np.ndarray, max_side: int | None) -> np.ndarray:
    height, width = image.shape[:2]
    size = _fitted(width, height, max_side)
    return image if size == (width, height) else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
