"""Read still images and animated WebP with OpenCV.

OpenCV applies all eight EXIF orientations; PyAV reports a rotation angle only.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from mien.errors import MediaError
from mien.media.container import check_file, printable

#: Larger images are refused before decoding: 16384×8192 pixels, four 8K frames, 400 MB as RGB. Our choice.
MAX_PIXELS = 1 << 27
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*")
#: Bytes in which the mark of an animation stands.
_HEAD = 4096
#: JPEG markers with the image size: all start-of-frame markers, which excludes DHT (C4), JPG (C8) and DAC (CC).
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


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


def read_animation(path: Path) -> tuple[np.ndarray, Iterator[np.ndarray]]:
    """Read an animated WebP: `(frame,)` times in seconds, and the frames, `(height, width, 3)` uint8 RGB each.

    OpenCV decodes all frames at once, so memory grows with their number.

    Raises:
        MediaError: the file is damaged, or has more than `MAX_PIXELS` pixels in all frames together.
    """
    data = check_file(path).read_bytes()
    width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    count = data.count(b"ANMF")
    if width * height * count > MAX_PIXELS:
        raise MediaError(
            f"{printable(path)} has about {count} frames of {width}×{height} pixels; mien reads animations of up to "
            f"{MAX_PIXELS:,} pixels in all.",
            follows="It was not decoded.",
            remedy="Convert it to a video first.",
        )
    try:
        is_read, animation = cv2.imdecodeanimation(np.frombuffer(data, np.uint8)[None])
    except cv2.error:
        is_read = False
    if not is_read:
        raise _damaged_error(path, len(data))
    starts_s = np.cumsum([0, *animation.durations[:-1]]) / 1000
    return starts_s, (np.ascontiguousarray(frame[..., 2::-1]) for frame in animation.frames)


def read(path: Path) -> np.ndarray:
    """Read an image, upright: `(height, width, 3)` uint8 RGB.

    Raises:
        MediaError: the file is damaged or has more than `MAX_PIXELS` pixels.
    """
    data = check_file(path).read_bytes()
    width, height = _size(data)
    if width * height > MAX_PIXELS:
        raise MediaError(
            f"{printable(path)} is {width}×{height} pixels; mien reads images of up to {MAX_PIXELS:,}.",
            follows="It was not decoded.",
            remedy="Scale it down first.",
        )
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        image = None
    if image is None:
        raise _unsupported_error(path, data) or _damaged_error(path, len(data))
    return image


def _unsupported_error(path: Path, data: bytes) -> MediaError | None:
    """The error for an intact image whose samples have a type that OpenCV does not convert to 8 bits."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        image = None
    if image is None:
        return None
    kind = "floating-point numbers" if image.dtype.kind == "f" else "integers"
    return MediaError(
        f"{printable(path)} stores its pixels as {kind} of {8 * image.dtype.itemsize} bits; mien reads pictures of "
        "8 or 16 bits.",
        follows="Nothing was read from it.",
        remedy="Save it as PNG or JPEG with another program, which also decides how bright it is shown.",
    )


def _damaged_error(path: Path, size: int) -> MediaError:
    return MediaError(
        f"{printable(path)} does not decode ({size:,} bytes): the image is damaged or truncated.",
        follows="Nothing was read from it.",
        remedy="Copy or download it again, or save it as PNG with another program.",
    )


def _size(data: bytes) -> tuple[int, int]:
    """(width, height) from the header of a PNG or JPEG; (0, 0) for other formats, whose size OpenCV limits itself."""
    if data.startswith(_SIGNATURES[1]):
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    position = 2
    while data.startswith(_SIGNATURES[0]) and position + 9 <= len(data) and data[position] == 0xFF:
        if data[position + 1] in _START_OF_FRAME:
            height, width = data[position + 5 : position + 7], data[position + 7 : position + 9]
            return int.from_bytes(width, "big"), int.from_bytes(height, "big")
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return 0, 0
