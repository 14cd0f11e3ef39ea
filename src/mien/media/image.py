"""Read still images and animated WebP with OpenCV.

OpenCV applies all eight EXIF orientations; PyAV reports a rotation angle only.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from mien.errors import MediaError
from mien.media.container import check_file
from mien.media.image_header import HeaderError, ImageHeader, has_cut_chunk, read_header
from mien.media.limits import MAX_ANIMATION_PIXELS, MAX_PICTURE_BYTES, MAX_PICTURE_PIXELS, MAX_SIDE
from mien.printable import printable

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*")
#: Bytes in which the mark of an animation stands.
_HEAD = 4096
#: Pixels of an animation that are decoded at once.
_CHUNK_PIXELS = 1 << 24


def is_still(path: Path) -> bool:
    """Whether the file has the signature of a JPEG, PNG, BMP, TIFF or WebP image.

    Motion JPEG, animated PNG and animated WebP count as video.
    """
    if path.suffix.lower() in (".mjpeg", ".mjpg"):
        return False
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head.startswith(_SIGNATURES[1]) and b"acTL" in head[: head.find(b"IDAT")]:
        return False
    return head.startswith(_SIGNATURES) or (_is_webp(head) and not _is_animated(head))


def is_animated_webp(path: Path) -> bool:
    """Whether the file is an animated WebP, which FFmpeg does not read."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    return _is_webp(head) and _is_animated(head)


def _is_webp(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def _is_animated(head: bytes) -> bool:
    """Whether the extended header of a WebP has the flag of animations."""
    return head[12:16] == b"VP8X" and len(head) > 20 and bool(head[20] & 2)


def read_animation(path: Path, count: int | None = None) -> Iterator[tuple[float, np.ndarray]]:
    """Read an animated WebP: time in seconds and `(height, width, 3)` uint8 RGB of each frame.

    Some frames at a time are decoded, the first ones at the call.

    Args:
        count: frames to read; None for all.

    Raises:
        MediaError: at the call; the file is damaged, or larger than `limits` allows, in one frame or in all together.
    """
    data = _read_bytes(path)
    width, height = _checked_header(path, data).shown_size
    frames = data.count(b"ANMF")
    if width * height * frames > MAX_ANIMATION_PIXELS:
        raise MediaError(
            f"{printable(path)} has about {frames} frames of {width}×{height} pixels; mien reads animations of up to "
            f"{MAX_ANIMATION_PIXELS:,} pixels in all.",
            follows="It was not decoded.",
            remedy="Convert it to a video first.",
        )
    at_once = min(count or frames or 1, max(1, _CHUNK_PIXELS // (width * height)))
    first = _decode_animation(data, 0, at_once)
    if first is None:
        raise _damaged_error(path, len(data))
    return _animation_frames(data, first, at_once, count)


def _animation_frames(
    data: bytes, chunk: cv2.Animation | None, at_once: int, count: int | None
) -> Iterator[tuple[float, np.ndarray]]:
    number, time_s = 0, 0.0
    while chunk is not None and len(chunk.frames):
        for frame, milliseconds in zip(chunk.frames, chunk.durations, strict=True):
            if number == count:
                return
            yield time_s, np.ascontiguousarray(frame[..., 2::-1])
            number, time_s = number + 1, time_s + max(1, int(milliseconds)) / 1000
        if len(chunk.frames) < at_once:
            return
        chunk = _decode_animation(data, number, at_once)


def _decode_animation(data: bytes, start: int, count: int) -> cv2.Animation | None:
    try:
        is_read, animation = cv2.imdecodeanimation(np.frombuffer(data, np.uint8)[None], start, count)
    except cv2.error:
        return None
    return animation if is_read else None


def read_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image, upright, by its header; the pixels are not decoded.

    Raises:
        MediaError: the header is damaged, or states a size or a type of pixels that mien does not read.
    """
    data = _read_bytes(path)
    header = _checked_header(path, data)
    if header.is_float or header.bits > 16:
        raise _type_error(path, header.is_float, header.bits)
    return header.shown_size


def read(path: Path) -> np.ndarray:
    """Read an image, upright: `(height, width, 3)` uint8 RGB.

    Raises:
        MediaError: as `read_size`, or the file is damaged.
    """
    data = _read_bytes(path)
    _checked_header(path, data)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        image = None
    if image is None:
        raise _unsupported_error(path, data) or _damaged_error(path, len(data))
    return image


def _read_bytes(path: Path) -> bytes:
    size = check_file(path).stat().st_size
    if size > MAX_PICTURE_BYTES:
        raise MediaError(
            f"{printable(path)} has {size:,} bytes; mien reads pictures of up to {MAX_PICTURE_BYTES:,}.",
            follows="It was not read.",
            remedy="Save it as JPEG or PNG with another program.",
        )
    return path.read_bytes()


def _checked_header(path: Path, data: bytes) -> ImageHeader:
    """The header of a picture. Raises MediaError if it is damaged, or states more pixels than mien reads."""
    try:
        header = read_header(data)
    except HeaderError:
        raise _damaged_error(path, len(data)) from None
    if has_cut_chunk(data):
        raise _damaged_error(path, len(data))
    width, height = header.shown_size
    if width * height > MAX_PICTURE_PIXELS or max(width, height) > MAX_SIDE:
        raise MediaError(
            f"{printable(path)} is {width}×{height} pixels; mien reads images of up to {MAX_PICTURE_PIXELS:,} pixels "
            f"and {MAX_SIDE:,} a side.",
            follows="It was not decoded.",
            remedy="Scale it down first.",
        )
    return header


def _unsupported_error(path: Path, data: bytes) -> MediaError | None:
    """The error for an intact image whose samples have a type that OpenCV does not convert to 8 bits."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        image = None
    if image is None:
        return None
    return _type_error(path, image.dtype.kind == "f", 8 * image.dtype.itemsize)


def _type_error(path: Path, is_float: bool, bits: int) -> MediaError:
    kind = "floating-point numbers" if is_float else "integers"
    return MediaError(
        f"{printable(path)} stores its pixels as {kind} of {bits} bits; mien reads pictures of 8 or 16 bits.",
        follows="Nothing was read from it.",
        remedy="Save it as PNG or JPEG with another program, which also decides how bright it is shown.",
    )


def _damaged_error(path: Path, size: int) -> MediaError:
    return MediaError(
        f"{printable(path)} does not decode ({size:,} bytes): the image is damaged or truncated.",
        follows="Nothing was read from it.",
        remedy="Copy or download it again, or save it as PNG with another program.",
    )
