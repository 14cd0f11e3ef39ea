"""Writing MP4s that every browser plays, with exact times, beside their place and then renamed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer

from mien.atomic import commit
from mien.errors import OutputError
from mien.media.container import note, shown
from mien.media.mp4_streams import TICKS, PictureTrack, SoundTrack

#: Sound is handed to the muxer this far ahead of the picture, so that it never holds back much more than
#: this.
_AHEAD_S = 0.5


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
        frames: `(height, width, 3)` uint8 RGB, all of one size. An odd width or height repeats its last
            column or row, because 4:2:0 needs even ones; coordinates stay what they are. It is said so in
            `notes`.
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
        ValueError: neither or both of times and rate, times that do not increase, frames of another shape or
            number.
    """
    if times is not None and rate is None:
        timed: Iterable[tuple[float | Fraction, np.ndarray]] = zip(times, frames, strict=True)
        base = Fraction(1, TICKS)
    elif rate is not None and times is None:
        base = 1 / Fraction(rate).limit_denominator(100_000)
        timed = ((i * base, image) for i, image in enumerate(frames))
    else:
        raise ValueError("write_video needs times or rate, and not both")
    write(path, timed, base=base, audio=audio, audio_start_s=audio_start_s, crf=crf, preset=preset, notes=notes)


def write(
    path: Path,
    frames: Iterable[tuple[float | Fraction, np.ndarray]],
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
    sound = SoundTrack(audio, audio_start_s, notes)
    try:
        with _named_errors(path):
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "a folder of that name is in the way")
            part.touch()
            options = {"movflags": "faststart", "movie_timescale": str(TICKS)}
            output = av.open(os.path.abspath(part), "w", format="mp4", options=options)
        try:
            _fill(path, output, iter(frames), base, sound, {"crf": str(crf), "preset": preset}, notes)
        except BaseException:
            with suppress(Exception):  # closing fails for the same reason, and the first error tells more
                output.close()
            raise
        with _named_errors(path):
            output.close()
            commit(part, path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _fill(
    path: Path,
    output: OutputContainer,
    frames: Iterator[tuple[float | Fraction, np.ndarray]],
    base: Fraction,
    sound: SoundTrack,
    options: dict[str, str],
    notes: list[str] | None,
) -> None:
    first = next(frames, None)
    picture = None
    if first is not None:
        with _named_errors(path):
            picture = PictureTrack(output, first[1], base, options)
        if picture.padded:
            height, width = first[1].shape[:2]
            note(
                notes,
                f"{shown(path)}: {width}×{height} is odd and H.264 needs even sides; the last row or column "
                f"is repeated ({picture.width}×{picture.height}).",
            )
    sound.open(output)
    if picture is None and not sound:
        raise ValueError(f"{path}: neither a frame nor sound to write")
    if picture is not None and first is not None:
        for time, image in chain([first], frames):
            with _named_errors(path):
                output.mux(picture.encode(time, image))
            for packets in sound.until(float(time) + _AHEAD_S):
                with _named_errors(path):
                    output.mux(packets)
        with _named_errors(path):
            output.mux(picture.stream.encode(None))
    for packets in sound.until(float("inf")):
        with _named_errors(path):
            output.mux(packets)


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Errors of the disk and of the encoder as `OutputError`s that name the file."""
    try:
        yield
    except (OSError, av.FFmpegError) as error:
        number, reason = error.errno, error.strerror or str(error)
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            remedy = "Free some space, or write somewhere else."
        elif number in (errno.EACCES, errno.EPERM, errno.EROFS):
            remedy = "Choose a folder that you may write to."
        elif number in (errno.ENOENT, errno.ENOTDIR):
            remedy = f"Create the folder first: mkdir -p '{shown(path.parent)}'"
        else:
            remedy = "Choose another name or folder."
        raise OutputError(
            f"{shown(path)} cannot be written: {reason}.", follows="Nothing was left behind.", remedy=remedy
        ) from None
