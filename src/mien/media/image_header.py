"""Size and kind of a still picture from its header, before anything is decoded: JPEG, PNG, BMP, TIFF, WebP."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

#: JPEG markers with the size: all start-of-frame markers, which excludes DHT (C4), JPG (C8) and DAC (CC).
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
#: JPEG markers without a length.
_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xD9)))
#: TIFF tags, and bytes of a value by its type.
_WIDTH, _HEIGHT, _BITS, _ORIENTATION, _SAMPLE_FORMAT, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 258, 274, 339, 322, 323
_TIFF_TYPES = {1: "B", 3: "H", 4: "I"}
_PNG = b"\x89PNG\r\n\x1a\n"
#: Orientations of EXIF in which rows of the picture are columns of the file.
_TRANSPOSED = frozenset((5, 6, 7, 8))


class HeaderError(ValueError):
    """A header states no size: it is damaged or cut."""


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What a picture's header states.

    width, height: in pixels, as stored. transposed: EXIF or TIFF say that rows are shown as columns. is_float: samples
    are floating-point numbers. bits: of a sample.
    """

    width: int
    height: int
    transposed: bool = False
    is_float: bool = False
    bits: int = 8

    @property
    def shown_size(self) -> tuple[int, int]:
        """(width, height) upright."""
        return (self.height, self.width) if self.transposed else (self.width, self.height)


def read_header(data: bytes) -> ImageHeader:
    """The header of a picture.

    Args:
        data: the file, or enough of its start.

    Raises:
        HeaderError: the format is none of the five, or the header is damaged or cut.
    """
    for signature, read in _READERS:
        if data.startswith(signature):
            try:
                header = read(data)
            except (struct.error, IndexError):
                raise HeaderError("the header is cut") from None
            if header.width < 1 or header.height < 1:
                raise HeaderError(f"the header states a size of {header.width}×{header.height} pixels")
            return header
    raise HeaderError("not a picture of a known format")


def has_cut_chunk(data: bytes) -> bool:
    """Whether a whole PNG file states a chunk beyond its end: decoders allocate the length that a chunk states."""
    if not data.startswith(_PNG):
        return False
    at = len(_PNG)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            return True
        if kind == b"IEND":
            break
        at += 12 + length
    return False


def _read_png(data: bytes) -> ImageHeader:
    width, height, bits = struct.unpack_from(">IIB", data, 16)
    transposed, position = False, 8
    while position + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        if name == b"eXIf":
            transposed = _exif_transposes(data[position + 8 : position + 8 + length])
        position += 12 + length
    return ImageHeader(width, height, transposed, bits=bits)


def _read_jpeg(data: bytes) -> ImageHeader:
    position, transposed = 2, False
    while True:
        if data[position] != 0xFF:
            raise HeaderError("the header is damaged")
        marker = data[position + 1]
        if marker == 0xFF:  # fill bytes
            position += 1
            continue
        if marker in _WITHOUT_LENGTH:
            position += 2
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        if marker in _START_OF_FRAME:
            bits, height, width = struct.unpack_from(">BHH", data, position + 4)
            return ImageHeader(width, height, transposed, bits=bits)
        if marker == 0xDA or length < 2:
            raise HeaderError("the header is damaged")
        if marker == 0xE1 and data[position + 4 : position + 10] == b"Exif\0\0":
            transposed = transposed or _exif_transposes(data[position + 10 : position + 2 + length])
        position += 2 + length


def _read_bmp(data: bytes) -> ImageHeader:
    (size,) = struct.unpack_from("<I", data, 14)
    if size == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    return ImageHeader(width, abs(height))  # a negative height: rows from the top


def _read_webp(data: bytes) -> ImageHeader:
    kind, start = data[12:16], 20
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
        return ImageHeader(width, height, _webp_transposes(data))
    if kind == b"VP8L" and data[start] == 0x2F:
        (packed,) = struct.unpack_from("<I", data, start + 1)
        return ImageHeader(1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF))
    if kind == b"VP8 " and data[start + 3 : start + 6] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, start + 6)
        return ImageHeader(width & 0x3FFF, height & 0x3FFF)
    raise HeaderError("the header is damaged")


def _webp_transposes(data: bytes) -> bool:
    position = 12
    while position + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, position)
        if name == b"EXIF":
            exif = data[position + 8 : position + 8 + length]
            return _exif_transposes(exif.removeprefix(b"Exif\0\0"))
        position += 8 + length + length % 2
    return False


def _read_tiff(data: bytes) -> ImageHeader:
    tags = _tiff_tags(data)
    width, height = tags.get(_WIDTH, 0), tags.get(_HEIGHT, 0)
    # A tile is allocated whole, and may be declared larger than the picture.
    return ImageHeader(
        max(width, tags.get(_TILE_WIDTH, 0)) if width else 0,
        max(height, tags.get(_TILE_HEIGHT, 0)) if height else 0,
        tags.get(_ORIENTATION, 1) in _TRANSPOSED,
        tags.get(_SAMPLE_FORMAT, 1) == 3,
        tags.get(_BITS, 1),
    )


def _exif_transposes(exif: bytes) -> bool:
    try:
        return _tiff_tags(exif).get(_ORIENTATION, 1) in _TRANSPOSED
    except (struct.error, HeaderError):
        return False


def _tiff_tags(data: bytes) -> dict[int, int]:
    """First value of each whole-numbered tag in the first directory of a TIFF or of EXIF."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        raise HeaderError("the header is damaged")
    magic, position = struct.unpack_from(order + "HI", data, 2)
    if magic != 42:
        raise HeaderError("the header is damaged")
    (count,) = struct.unpack_from(order + "H", data, position)
    tags: dict[int, int] = {}
    for entry in range(position + 2, position + 2 + 12 * count, 12):
        tag, kind, values, place = struct.unpack_from(order + "HHII", data, entry)
        letter = _TIFF_TYPES.get(kind)
        if letter is not None and values:
            is_inline = values * struct.calcsize(letter) <= 4
            (tags[tag],) = struct.unpack_from(order + letter, data, entry + 8 if is_inline else place)
    return tags


_READERS: tuple[tuple[bytes, Callable[[bytes], ImageHeader]], ...] = (
    (_PNG, _read_png),
    (b"\xff\xd8\xff", _read_jpeg),
    (b"BM", _read_bmp),
    (b"RIFF", _read_webp),
    (b"II*\0", _read_tiff),
    (b"MM\0*", _read_tiff),
)
