"""Writing MP4s that every browser plays: H.264 and AAC, with exact times, beside their place and then renamed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

#: Ticks a second of free timestamps and of edit lists: MPEG's 90 kHz, so a time is at most 5.6 µs off.
TICKS = 90_000
#: Sample rates AAC knows. Others are resampled to 48 kHz.
_AAC_RATES = frozenset({8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000})
#: Frames between key frames: a report jumps about in the video, and a jump decodes from the key frame before it.
_KEY_FRAMES = 50
#: Sound is handed to the muxer this far ahead of the picture, so that it never holds back more than about as much.
_AHEAD_S = 0.5
_PIECE = 16_000


def write_video(
    path: Path,
    frames: Iterable[np.ndarray],
    *,
    times: Iterable[float] | None = None,
    rate: Fraction | float | None = None,
    audio: Path | np.ndarray | None = None,
    audio_start_s: float = 0.0,
    crf: int = 23,
    preset: str = "veryfast",
    notes: list[str] | None = None,
) -> None:
    """Write an MP4 (H.264 4:2:0, BT.709 limited range as tagged; AAC; index at the front), streaming.

    Args:
        path: where to; written beside it as `<name>.part` and renamed when it is complete.
        frames: `(height, width, 3)` uint8 RGB, all of one size. An odd width or height repeats its last column or row,
            because 4:2:0 needs even ones; coordinates stay what they are. It is said so in `notes`.
        times: seconds of each frame, strictly increasing, any spacing (kept to 1/90000 s); or
        rate: frames a second, exact as a Fraction (30000/1001): frame i is at i / rate. One of the two.
        audio: a media file, whose sound is kept at its own rate, in stereo at most, at its own place in time;
            or `(n,)` float samples at 16 kHz from `audio_start_s` on.
        crf: x264's constant rate factor: 18 is hard to tell from the original, 28 is coarse.
        preset: x264's speed.
        notes: collects what a user should know.

    Raises:
        OutputError: no permission, full disk, no such folder, a folder of that name. Nothing is left behind.
        MediaError: the audio file cannot be read.
        ValueError: neither or both of times and rate, times that do not increase, frames of another shape or number.
    """
    if (times is None) == (rate is None):
        raise ValueError("write_video needs times or rate, and not both")
    if rate is not None:
        step = 1 / Fraction(rate).limit_denominator(100_000)
        timed = ((i * step, image) for i, image in enumerate(frames))
        write(path, timed, base=step, audio=audio, audio_start_s=audio_start_s, crf=crf, preset=preset, notes=notes)
    else:
        pairs = zip(times, frames, strict=True)
        write(path, pairs, audio=audio, audio_start_s=audio_start_s, crf=crf, preset=preset, notes=notes)


def write(
    path: Path,
    frames: Iterable[tuple[float | Fraction, np.ndarray]] | None,
    *,
    base: Fraction = Fraction(1, TICKS),
    audio: Path | np.ndarray | None = None,
    audio_start_s: float = 0.0,
    crf: int = 23,
    preset: str = "veryfast",
    notes: list[str] | None = None,
) -> None:
    """As `write_video`, from (time, picture) pairs; base: seconds that one tick of the times lasts."""
    path = Path(path)
    part = path.with_name(path.name + ".part")
    sound = _Sound(audio, audio_start_s, notes)
    try:
        with _named_errors(path):
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "a folder of that name is in the way")
            output = av.open(
                str(os.path.abspath(part)),
                "w",
                format="mp4",
                options={"movflags": "faststart", "movie_timescale": str(TICKS)},
            )
        try:
            _fill(path, output, frames, base, sound, {"crf": str(crf), "preset": preset}, notes)
        except BaseException:
            with _quiet():
                output.close()
            raise
        with _named_errors(path):
            output.close()
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
