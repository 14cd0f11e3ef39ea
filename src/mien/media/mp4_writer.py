"""Write MP4s that every browser plays, with exact times, atomically."""

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

from mien.atomic import FULL, NO_PERMISSION, commit
from mien.errors import OutputError
from mien.media.container import add_note
from mien.media.mp4_streams import TICKS, AudioTrack, VideoTrack
from mien.printable import printable
from mien.scratch import create_private, temporary_path

#: Seconds by which audio is passed to the muxer ahead of the video, which bounds how much the muxer buffers.
_AHEAD_S = 0.5

TimedFrame = tuple[float | Fraction, np.ndarray]


def write_video(
    path: Path,
    frames: Iterable[np.ndarray],
    *,
    times: Iterable[float] | None = None,
    rate: Fraction | float | None = None,
    audio: Path | np.ndarray | None = None,
    audio_start_s: float = 0.0,
    audio_track: int | None = None,
    crf: int = 23,
    preset: str = "veryfast",
    notes: list[str] | None = None,
    private: bool = False,
) -> None:
    """Write an MP4 (H.264 4:2:0, tagged BT.709 limited range; AAC; index at the front), streamed and atomic.

    Args:
        frames: `(height, width, 3)` uint8 RGB, all of one size. 4:2:0 needs even sides: an odd width or height repeats
            its last column or row, with a note; coordinates do not change.
        times: seconds of each frame, strictly increasing, any spacing (stored to 1/90000 s); or
        rate: frames a second, exact as a Fraction (30000/1001): frame i is at i / rate. Give one of the two.
        audio: a media file, whose audio keeps its sample rate, its start time and up to two channels; or `(n,)` float
            samples at 16 kHz that begin at `audio_start_s` seconds.
        audio_track: number of the media file's sound track, from 1; None: the one that `probe` chooses.
        crf: x264's constant rate factor: 18 is hardly distinguishable from the original, 28 is coarse.
        preset: x264's speed.
        notes: collects warnings for the user.
        private: only the user may read the file, see `mien.atomic.atomic_path`.

    Raises:
        OutputError: no permission, full disk, no such folder, or a folder of that name. Nothing is left behind.
        MediaError: the audio file cannot be read.
        ValueError: neither or both of times and rate; times do not increase; frames differ in shape or do not match
            times in number.
    """
    if times is not None and rate is None:
        timed: Iterable[TimedFrame] = zip(times, frames, strict=True)
        base = Fraction(1, TICKS)
    elif rate is not None and times is None:
        base = 1 / Fraction(rate).limit_denominator(100_000)
        timed = ((i * base, image) for i, image in enumerate(frames))
    else:
        raise ValueError("write_video needs times or rate, and not both")
    write_frames(
        path, timed, base=base, audio=audio, audio_start_s=audio_start_s, audio_track=audio_track, crf=crf,
        preset=preset, notes=notes, private=private,
    )  # fmt: skip


def write_frames(
    path: Path,
    frames: Iterable[TimedFrame],
    *,
    base: Fraction = Fraction(1, TICKS),
    audio: Path | np.ndarray | None = None,
    audio_start_s: float = 0.0,
    audio_track: int | None = None,
    crf: int = 23,
    preset: str = "veryfast",
    notes: list[str] | None = None,
    private: bool = False,
) -> None:
    """As `write_video`, from (time in seconds, image) pairs; `base` is the seconds of one tick of the times."""
    path = Path(path)
    temporary = temporary_path(path)
    sound = AudioTrack(audio, audio_start_s, notes, audio_track)
    try:
        with _output_errors(path):
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "a folder has this name")
            if private:
                create_private(temporary, path)
            else:
                temporary.touch()
            options = {"movflags": "faststart", "movie_timescale": str(TICKS)}
            output = av.open(os.path.abspath(temporary), "w", format="mp4", options=options)
        try:
            _encode(path, output, iter(frames), base, sound, {"crf": str(crf), "preset": preset}, notes)
        except BaseException:
            with suppress(Exception):  # Closing fails for the same reason, and the first error is more precise.
                output.close()
            raise
        with _output_errors(path):
            output.close()
            commit(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def storable(frames: Iterable[tuple[float, np.ndarray]]) -> Iterator[tuple[float, np.ndarray]]:
    """The frames `(time in seconds, image)` that an MP4 of `TICKS` can hold: one that is nearer to the last than a tick
    is left out."""
    last_tick = -1
    for time_s, image in frames:
        tick = round(time_s * TICKS)
        if tick > last_tick:
            last_tick = tick
            yield time_s, image


def _encode(
    path: Path,
    output: OutputContainer,
    frames: Iterator[TimedFrame],
    base: Fraction,
    audio: AudioTrack,
    options: dict[str, str],
    notes: list[str] | None,
) -> None:
    """Encode and interleave both tracks. Errors of the inputs pass unchanged; only errors of the output are wrapped."""

    def mux_audio(until_s: float) -> None:
        for packets in audio.packets_until(until_s):
            with _output_errors(path):
                output.mux(packets)

    first = next(frames, None)
    video = None
    if first is not None:
        height, width = first[1].shape[:2]
        with _output_errors(path):
            video = VideoTrack(output, first[1], base, options)
        if video.padded:
            add_note(
                notes,
                f"{printable(path)}: {width}×{height} is odd and H.264 needs even sides; the last row or column "
                f"is repeated ({video.width}×{video.height}).",
            )
    audio.open(output)
    if video is None and not audio:
        raise ValueError(f"{path}: neither frames nor audio to write")
    if video is not None and first is not None:
        for time, image in chain([first], frames):
            with _output_errors(path):
                output.mux(video.encode(time, image))
            mux_audio(float(time) + _AHEAD_S)
        with _output_errors(path):
            output.mux(video.stream.encode(None))
    mux_audio(float("inf"))


@contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    """Turn errors of the disk and of the encoder into `OutputError`s that name the file."""
    try:
        yield
    except (OSError, av.FFmpegError) as error:
        number, reason = error.errno, error.strerror or str(error)
        if number in FULL:
            remedy = "Free some space, or choose another folder."
        elif number in NO_PERMISSION:
            remedy = "Choose a folder that you may write to."
        elif number in (errno.ENOENT, errno.ENOTDIR):
            remedy = f"Create the folder first: mkdir -p '{printable(path.parent)}'"
        else:
            remedy = "Choose another name or folder."
        raise OutputError(
            f"{printable(path)} could not be written: {reason}.", follows="No partial file was left.", remedy=remedy
        ) from None
