"""Decode video frames with their presentation times, streamed.

Times come from presentation timestamps only, never from a header's frame rate, frame count or length.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
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
    select_video,
)
from mien.media.frame_converter import AspectTracker, FrameConverter, fitted_size, stored_bytes
from mien.media.limits import longest_span_s, usable_frame_rate
from mien.media.mp4_writer import write_video
from mien.media.probe import MediaInfo, probe
from mien.media.timestamps import TimestampRepair
from mien.printable import printable
from mien.records import Frame

__all__ = ["MediaInfo", "frames", "probe", "scale_down", "write_video"]

#: Up to this many pixels a frame, one decoding thread is used: it decodes faster than any analysis runs (measured on
#: one core, with conversion: 2,000 frames a second at 640×360, 260 at 1920×1080), and each further thread costs half
#: as much again in synchronisation.
_ONE_THREAD_PIXELS = 1920 * 1088
#: A picture this many seconds after the last one is reached by decoding, a later one by a search. Our choice: about the
#: usual distance of key frames.
SEARCH_S = 5.0


def frames(
    path: Path, *, max_side: int | None = None, threads: int | None = None, notes: list[str] | None = None
) -> Iterator[Frame]:
    """Decode every intact frame in presentation order, one at a time. Its image is converted when it is asked for.

    Args:
        path: video, animated PNG, WebP or GIF, still image (one frame at 0.0), or audio file (no frames).
        max_side: pixels; larger frames are scaled down to it during conversion, with their aspect ratio.
        threads: decoding threads; None means 1 up to 1920×1080, 2 above (each thread keeps its own reference frames).
        notes: collects warnings for the user: a cut file, damaged packets, repaired timestamps.

    Yields:
        `Frame`s: upright `(height, width, 3)` uint8 RGB, full range; `time_s` strictly increasing, seconds from the
        recording's origin. Pixels are square: a sample aspect ratio is applied. Frames whose size changes within the
        video are fitted into the first frame's size with their aspect ratio. BT.601, BT.709 and BT.2020 matrices and
        both ranges are applied as tagged; untagged means BT.601 limited range, as in FFmpeg and OpenCV. HDR (PQ, HLG)
        is tone-mapped.

    Raises:
        MediaError: at the call, as `probe`; during iteration, if no frame decodes.
    """
    info = probe(path, audio=False)
    if info.container == "image":
        return _read_pictures(info, max_side)
    if not info.has_video:
        return iter(())
    return _decode(info, max_side, threads, notes)


def sample_pictures(path: Path, count: int, *, max_side: int | None = None) -> Iterator[np.ndarray]:
    """Decode up to `count` pictures spread over a recording: key frames, as `frames` gives them.

    Each is decoded when it is asked for. A file that cannot be searched gives fewer, or the same picture again.

    Raises:
        MediaError: at the call, as `probe`.
    """
    info = probe(path, audio=False)
    if info.container == "image":
        return iter([next(iter(frames(path, max_side=max_side))).image])
    return _sample(info, count, max_side) if info.has_video else iter(())


def _sample(info: MediaInfo, count: int, max_side: int | None) -> Iterator[np.ndarray]:
    convert = FrameConverter(info.orientation, max_side)
    length_s = info.video_stop_s or info.duration_s or 0.0
    with open_container(info.path) as container:
        stream = select_video(container)
        assert stream is not None, "probe has found it"
        _set_threads(stream, info, 1)
        aspect = AspectTracker(stream)
        for number in range(count if length_s > 0 and info.kind == "video" else 1):
            with suppress(av.FFmpegError):
                if number:
                    container.seek(round((float(info.origin) + length_s * number / count) * 1e6))
                frame = next(container.decode(stream), None)
                if frame is not None:
                    yield convert(frame, aspect(frame))


def pictures_at(path: Path, times_s: Sequence[float]) -> Iterator[np.ndarray | None]:
    """The picture shown at each time, as `frames` gives it; None where none is found.

    The file is searched by time, not decoded from its start. Where its timestamps are damaged, a picture can be another
    one than `frames` gives at that time.

    Args:
        times_s: increasing, as `Frame.time_s`.

    Raises:
        MediaError: at the call, as `probe`.
    """
    info = probe(path, audio=False)
    if info.container == "image":
        return _nearest(list(_read_pictures(info, None)), times_s)
    return _search(info, times_s) if info.has_video else iter([None] * len(times_s))


def _nearest(pictures: list[Frame], times_s: Sequence[float]) -> Iterator[np.ndarray]:
    return (min(pictures, key=lambda frame: abs(frame.time_s - time_s)).image for time_s in times_s)


def _search(info: MediaInfo, times_s: Sequence[float]) -> Iterator[np.ndarray | None]:
    convert = FrameConverter(info.orientation, None)
    with open_container(info.path) as container:
        stream = select_video(container)
        assert stream is not None, "probe has found it"
        aspect = AspectTracker(stream)
        _set_threads(stream, info, None)
        decoded = container.decode(stream)
        now_s = 0.0
        for time_s in times_s:
            if not now_s <= time_s <= now_s + SEARCH_S:
                with suppress(av.FFmpegError):
                    container.seek(max(0, int((float(info.origin) + time_s - 0.01) * av.time_base)))
                    decoded = container.decode(stream)
            found = None
            with suppress(av.FFmpegError):
                for frame in decoded:
                    raw = presentation_time(frame)
                    now_s = now_s if raw is None else float(raw - info.origin)
                    if raw is not None and now_s >= time_s - 1e-3:
                        found = frame
                        break
            yield None if found is None else convert(found, aspect(found))


def _read_pictures(info: MediaInfo, max_side: int | None) -> Iterator[Frame]:
    """The frames of a file that OpenCV decodes."""
    if not image.is_animated_webp(info.path):
        return iter([Frame(0, 0.0, scale_down(image.read(info.path), max_side))])
    timed = enumerate(image.read_animation(info.path))
    return (Frame(number, time_s, scale_down(picture, max_side)) for number, (time_s, picture) in timed)


def _decode(info: MediaInfo, max_side: int | None, threads: int | None, notes: list[str] | None) -> Iterator[Frame]:
    faults: list[str] = []
    rate = usable_frame_rate(info.average_rate)
    repair = TimestampRepair(1 / rate if rate else Fraction(1, 25), longest_span_s(info.path))
    convert = FrameConverter(info.orientation, max_side)
    count, last_s = 0, 0.0
    with open_container(info.path) as container:
        stream = select_video(container)
        assert stream is not None, "probe has found it"
        aspect = AspectTracker(stream)
        _set_threads(stream, info, threads)
        for count, frame in enumerate(decode_frames(container, stream, faults.append), start=1):
            raw = presentation_time(frame)
            last_s = repair(None if raw is None else raw - info.origin)
            yield Frame(count - 1, last_s, convert.later(frame, aspect(frame)), stored_bytes(frame))
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
    if pauses := repair.pause_summary():
        add_note(notes, f"{name}: the {pauses}")
    if convert.fitted:
        add_note(
            notes,
            f"{name}: {convert.fitted} frames of another size were fitted into the first frame's, with their aspect "
            "ratio.",
        )
    if convert.transfers:
        add_note(
            notes,
            f"{name}: HDR pictures ({', '.join(sorted(convert.transfers))}) were tone-mapped to standard range.",
        )


def _set_threads(stream: VideoStream, info: MediaInfo, threads: int | None) -> None:
    if threads is None:
        threads = 1 if info.width * info.height <= _ONE_THREAD_PIXELS else min(2, os.cpu_count() or 1)
    stream.thread_type = "NONE" if threads == 1 else "AUTO"
    stream.codec_context.thread_count = threads


def scale_down(image: np.ndarray, max_side: int | None) -> np.ndarray:
    """A picture `(h, w, 3)` whose longer side is at most `max_side` pixels, with its aspect ratio."""
    height, width = image.shape[:2]
    size = fitted_size(width, height, max_side)
    return image if size == (width, height) else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
