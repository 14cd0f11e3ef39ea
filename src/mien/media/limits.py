"""Limits of what a media file may ask for: size of pictures, sample rates, and time against the size of the file.

A header, or a few bytes of timestamps, can declare years of sound or gigapixels. All limits are compared before memory
or time is spent. docs/SECURITY.md lists the numbers. They are our choice; the comments name the largest real cases.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

#: Pixels of a still picture: phones of 108 megapixels are below, 330 MB as RGB.
MAX_PICTURE_PIXELS = 110_000_000
#: Bytes of a still picture, which is read whole: 110 megapixels of 16 bits, uncompressed, are 660 MB.
MAX_PICTURE_BYTES = 1 << 30
#: Pixels of all frames of an animated WebP together: 20 s of 640×480 at 20 Hz. It is decoded in parts.
MAX_ANIMATION_PIXELS = 1 << 27
#: Pixels of a video frame: 8K by the standard of cinemas, and room for padding. A decoder keeps several frames.
MAX_FRAME_PIXELS = 8192 * 4352
#: Side of a picture or frame in pixels.
MAX_SIDE = 32_768
#: Hz of a sound: telephones have 8,000, the fastest recorders 768,000.
MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 2_000, 768_000
#: Frames per second that a header may declare; another rate is ignored.
MIN_FRAME_RATE, MAX_FRAME_RATE = Fraction(1, 3600), 10_000
#: Seconds from which a gap in the sound is a hole: time passes, but no silence is stored or encoded.
HOLE_S = 30.0
#: Seconds from which the time between two pictures is told in a note.
PAUSE_S = 60.0
#: Seconds of sound for each byte of the file, and those that every file may have. Digital silence as FLAC has 0.04 s
#: for each byte, the slowest speech codecs 0.01.
SOUND_S, SOUND_S_PER_BYTE = 120.0, 0.05
#: Seconds from the first to the last timestamp for each byte of the file, and those that every file may have. A picture
#: of 20 kB each minute has 0.003 s for each byte.
SPAN_S, SPAN_S_PER_BYTE = 4 * 3600.0, 0.01


def longest_sound_s(path: Path) -> float:
    """Seconds of sound that a file may decode to, silence filled into short gaps included."""
    return SOUND_S + SOUND_S_PER_BYTE * path.stat().st_size


def longest_span_s(path: Path) -> float:
    """Seconds that may pass from the first to the last timestamp of a file; later gaps are closed."""
    return SPAN_S + SPAN_S_PER_BYTE * path.stat().st_size


def is_sample_rate(rate: int | None) -> bool:
    """Whether a sample rate in Hz is one of a recording."""
    return rate is not None and MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE


def usable_frame_rate(rate: Fraction | None) -> Fraction | None:
    """The frame rate of a header; None where it states none, or one that no recording has."""
    return rate if rate is not None and MIN_FRAME_RATE <= rate <= MAX_FRAME_RATE else None
