"""Read still images with OpenCV, which applies all eight EXIF orientations; PyAV reports a rotation angle only."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from mien.errors import MediaError
from mien.media.container import check_file, printable

#: Larger images are refused before decoding: 16384×8192 pixels, four 8K frames, 400 MB as RGB. Our choice.
MAX_PIXELS = 1 << 27
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*")
#: JPEG markers with the image size: all start-of-frame markers, which excludes DHT (C4), JPG (C8) and DAC (CC).
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def is_still(path: Path) -> bool:
    """Whether the file has the signature of a JPEG, PNG, BMP, TIFF or WebP image. Motion JPEG counts as video."""
    if path.suffix.lower() in (".mjpeg", ".mjpg"):
        return False
    with path.open("rb") as file:
        head = file.read(16)
    return head.startswith(_SIGNATURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


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
        raise MediaError(
            f"{printable(path)} does not decode ({len(data):,} bytes): the image is damaged or truncated.",
            follows="Nothing was read from it.",
            remedy="Copy or download it again, or save it as PNG with another program.",
        )
    return image


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
