"""Messages of live sessions: a header of 16 bytes, then JPEG or sound of one channel; see docs/SERVER.md."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

#: Kind, three zero bytes, samples per second (0 for a picture), time in seconds; little-endian.
HEADER = struct.Struct("<B3sId")
PICTURE, FLOAT_SOUND, INT_SOUND = 1, 2, 3
_SAMPLE_BYTES = {FLOAT_SOUND: 4, INT_SOUND: 2}
#: Range of samples per second, and the longest block of sound in seconds. Our choice.
RATES, LONGEST_BLOCK_S = (8000, 192_000), 5.0


@dataclass(frozen=True, slots=True)
class LiveMessage:
    """A picture or a block of sound. rate: samples per second, 0 for a picture. data: without the header."""

    kind: int
    rate: int
    time_s: float
    data: memoryview


def parse(message: bytes) -> LiveMessage:
    """Read a message. Raises ValueError, whose text says what is wrong with it."""
    if len(message) <= HEADER.size:
        raise ValueError(f"a message of {len(message)} bytes has no data after its header of {HEADER.size}")
    kind, zeros, rate, time_s = HEADER.unpack_from(message)
    data = memoryview(message)[HEADER.size :]
    if not math.isfinite(time_s) or abs(time_s) > 1e10:
        raise ValueError("the time is not a number of seconds")
    if zeros != bytes(3):
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
