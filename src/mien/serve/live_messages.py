"""Messages of live sessions: a header of 16 bytes, then a picture or sound of one channel; see docs/SERVER.md."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

#: Kind, three bytes (zero but for chunks of video), samples per second (0 for a picture), time in seconds;
#: little-endian.
HEADER = struct.Struct("<B3sId")
PICTURE, FLOAT_SOUND, INT_SOUND, CHUNK = 1, 2, 3, 4
#: Codecs of chunks by the number in the second byte; PyAV's names. H.264 is in Annex B form.
CODECS = {1: "vp8", 2: "vp9", 3: "h264"}
_SAMPLE_BYTES = {FLOAT_SOUND: 4, INT_SOUND: 2}
#: Range of samples per second, and the longest block of sound in seconds. Our choice.
RATES, LONGEST_BLOCK_S = (8000, 192_000), 5.0


@dataclass(frozen=True, slots=True)
class LiveMessage:
    """A picture or a block of sound.

    rate: samples per second, 0 for a picture. data: without the header. codec, is_key: of a chunk of video.
    """

    kind: int
    rate: int
    time_s: float
    data: memoryview
    codec: str = ""
    is_key: bool = False

    @property
    def is_picture(self) -> bool:
        """Whether this is JPEG or a chunk of video."""
        return self.kind in (PICTURE, CHUNK)


def parse(message: bytes) -> LiveMessage:
    """Read a message. Raises ValueError, whose text says what is wrong with it."""
    if len(message) <= HEADER.size:
        raise ValueError(f"a message of {len(message)} bytes has no data after its header of {HEADER.size}")
    kind, marks, rate, time_s = HEADER.unpack_from(message)
    data = memoryview(message)[HEADER.size :]
    if not math.isfinite(time_s) or abs(time_s) > 1e10:
        raise ValueError("the time is not a number of seconds")
    if kind == CHUNK:
        if marks[0] not in CODECS or marks[1] > 1 or marks[2] or rate:
            raise ValueError(
                "a chunk of video has no known codec, its mark of a key frame is not 0 or 1, or it has a number of "
                "samples per second"
            )
        return LiveMessage(kind, 0, time_s, data, CODECS[marks[0]], bool(marks[1]))
    if marks != bytes(3):
        raise ValueError("the bytes 1 to 3 are not zero")
    if kind == PICTURE:
        if bytes(data[:2]) != b"\xff\xd8" or rate:
            raise ValueError("a picture is not JPEG, or has a number of samples per second")
    elif kind in _SAMPLE_BYTES:
        if not RATES[0] <= rate <= RATES[1]:
            raise ValueError(f"sound has {rate} samples per second, and {RATES[0]} to {RATES[1]} can be read")
        if len(data) % _SAMPLE_BYTES[kind] or len(data) > LONGEST_BLOCK_S * rate * _SAMPLE_BYTES[kind]:
            raise ValueError(f"sound ends within a sample, or is longer than {LONGEST_BLOCK_S:g} s")
    else:
        raise ValueError(f"there is no kind {kind}")
    return LiveMessage(kind, rate, time_s, data)
