"""Read a live source: decoded frames and sound with times, and a new connection when the source goes away."""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from mien.errors import MediaError
from mien.live.sources import Address
from mien.media.audio import SAMPLE_RATE, blocks
from mien.media.container import presentation_time, select_audio, select_video
from mien.media.frame_converter import FrameConverter, sample_aspect
from mien.media.orientation import orientation_of
from mien.media.samples import planes_of
from mien.media.video import frames, probe

#: Seconds to wait for a connection, and for data of one that stands.
OPEN_TIMEOUT_S, READ_TIMEOUT_S = 10.0, 5.0
#: Seconds before the first new connection, and the longest; each failure doubles them.
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 10.0
#: Times of a source may differ from the computer's clock by this much, as where a server first sends what it has kept.
#: Further ahead, reading waits; further behind, or after a longer jump, the clock counts again.
MOST_DRIFT_S = 3.0
#: Pictures and sound of a source begin within so many seconds of each other.
SPREAD_S = 0.5
#: Formats without times of their own: FFmpeg counts frames at 25 a second, whatever the camera does.
_UNTIMED = frozenset(("mpjpeg", "mjpeg", "image2pipe"))
#: A recording that ends this close to its stated end is complete, and not broken off.
_END_S = 1.0
#: Length of a block of sound from a file: that of a sound card.
FILE_BLOCK_S = 0.05


@dataclass(frozen=True, slots=True)
class Picture:
    """A frame. image: `(height, width, 3)` uint8 RGB, upright, square pixels."""

    time_s: float
    image: np.ndarray


@dataclass(frozen=True, slots=True)
class Sound:
    """A block of sound. samples: `(n, channels)` float32. time_s: of the first sample."""

    time_s: float
    samples: np.ndarray
    rate: int


class Ended(Exception):
    """The source is complete: a recording was read to its end."""


class Connection:
    """One connection to a device, an address or a file. Use it as a context manager.

    Args:
        address: what is opened. want_pictures, want_sound: what is read of it.
        clock: seconds that pass, the time of pictures and sound. The first one is set to it; the others follow by the
            source's own times, or by the clock where it has none.
        not_before_s: end of an earlier connection; times are later.

    Raises:
        MediaError: it cannot be opened, or has nothing that is wanted.
    """

    def __init__(
        self,
        address: Address,
        title: str,
        *,
        want_pictures: bool = True,
        want_sound: bool = True,
        clock: Callable[[], float] = time.monotonic,
        not_before_s: float = -math.inf,
    ) -> None:
        self.title, self._clock, self._not_before_s = title, clock, not_before_s
        self._container = _open(address, title)
        video = select_video(self._container) if want_pictures else None
        audio = select_audio(self._container) if want_sound else None
        self._streams = [stream for stream in (video, audio) if stream is not None]
        #: Whether there are pictures and sound.
        self.has_pictures, self.has_sound = video is not None, audio is not None
        if not self._streams:
            self.close()
            what = "pictures" if want_pictures and not want_sound else "sound" if not want_pictures else "media"
            raise MediaError(
                f"{title}: there is no {what} in it", follows="Nothing was read.", remedy="Name another source."
            )
        self._converter: FrameConverter | None = None
        self._video, self._audio = video, audio
        duration = self._container.duration
        #: Seconds of a recording, None for a live stream.
        self.duration_s = duration / 1e6 if duration and duration > 0 else None
        self._origin: Fraction | None = None
        self._shift_s = 0.0
        #: Time of the end of what was read.
        self.last_s = not_before_s

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the device or the connection."""
        self._container.close()

    @property
    def is_recording(self) -> bool:
        """Whether it has an end, as a file, also one on a server."""
        return self.duration_s is not None

    def pieces(self) -> Iterator[Picture | Sound]:
        """Decode pictures and sound in the order of the container.

        Raises:
            Ended: a recording was read to its end. MediaError: the source broke off, or gave no data in time.
        """
        reason = ""
        try:
            for packet in self._container.demux(self._streams):
                try:
                    decoded: Any = packet.decode()
                except av.FFmpegError:
                    continue  # a damaged packet, as after lost ones
                for frame in decoded:
                    yield self._piece(frame)
        except (av.FFmpegError, OSError) as error:
            is_silence = isinstance(error, av.error.ExitError)  # the timeout of PyAV
            why = f"no data for {READ_TIMEOUT_S:g} s" if is_silence else getattr(error, "strerror", None) or error
            reason = f" ({why})"
            for stream in self._streams:  # what the decoders still hold
                with suppress(av.FFmpegError):
                    for frame in stream.decode(None):
                        yield self._piece(frame)
        if self.duration_s is not None and self.last_s - self._shift_s >= self.duration_s - _END_S:
            raise Ended  # a server may hang up, which is an error to FFmpeg, behind the last byte
        raise MediaError(f"{self.title}: the source broke off{reason}")

    def _piece(self, frame: VideoFrame | AudioFrame) -> Picture | Sound:
        time_s = self._time(frame)
        if isinstance(frame, AudioFrame):
            sound = Sound(time_s, np.ascontiguousarray(planes_of(frame).T), frame.sample_rate)
            self.last_s = max(self.last_s, end_s(sound))
            return sound
        self.last_s = max(self.last_s, time_s + 0.001)
        assert isinstance(self._video, VideoStream)
        if self._converter is None:
            self._converter = FrameConverter(orientation_of(frame), None)
        return Picture(time_s, self._converter(frame, sample_aspect(self._video)))

    def _time(self, frame: VideoFrame | AudioFrame) -> float:
        """Time of a frame on the clock."""
        stream = self._audio if isinstance(frame, AudioFrame) else self._video
        raw = presentation_time(frame, stream.time_base if stream is not None else None)
        now = self._clock()
        if raw is None or self._container.format.name in _UNTIMED:
            return now
        if self._origin is None:
            self._origin, self._shift_s = raw, max(now, self._not_before_s + SPREAD_S)
        time_s = float(raw - self._origin) + self._shift_s
        has_jumped = math.isfinite(self.last_s) and abs(time_s - self.last_s) > MOST_DRIFT_S
        if not self.is_recording and (has_jumped or time_s < now - MOST_DRIFT_S):
            self._origin, self._shift_s = raw, max(now, self.last_s)
            time_s = self._shift_s
        return time_s


def _open(address: Address, title: str) -> InputContainer:
    try:
        return av.open(
            address.name,
            format=address.format,
            options=dict(address.options),
            timeout=(OPEN_TIMEOUT_S, READ_TIMEOUT_S),
            metadata_errors="replace",
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MediaError(
            f"{title} cannot be opened ({reason})",
            follows="No pictures and no sound were read.",
            remedy="Check the address and the network, and whether the address delivers video or sound."
            if "://" in address.name
            else "Check the name and the cable, and that no other program uses it; `mien live --devices` lists the "
            "cameras and microphones of this computer.",
        ) from None


class Reader:
    """Pictures and sound of a device or network stream, with a new connection when it goes away.

    Args:
        address: what is read; title: its name for people. want_pictures, want_sound: what of it.
        retry_s: seconds to try again after a source went away; None: without end. The first connection is tried once.
        on_state: called with a short text on the connection; "" when it stands.
        should_stop: asked between pieces; ends the reading.
        clock, sleep: for tests.
    """

    def __init__(
        self,
        address: Address,
        title: str,
        *,
        want_pictures: bool = True,
        want_sound: bool = True,
        retry_s: float | None = None,
        on_state: Callable[[str], None] = lambda text: None,
        should_stop: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._address, self._title, self._wants = address, title, (want_pictures, want_sound)
        self._retry_s, self._on_state, self._should_stop = retry_s, on_state, should_stop
        self._clock, self._sleep = clock, sleep
        #: Number of new connections so far.
        self.reconnections = 0

    def __iter__(self) -> Iterator[Picture | Sound]:
        """Read until the source ends, or `should_stop`.

        Raises:
            MediaError: the first connection failed, or the source stayed away for `retry_s`.
        """
        connection: Connection | None = self._connect()
        wait_s, away_s, has_data, last_s = FIRST_WAIT_S, self._clock(), False, -math.inf
        while True:
            try:
                connection = connection or self._connect(last_s)
                with connection:
                    for piece in self._paced(connection):
                        if self._should_stop():
                            return
                        if not has_data:
                            self._on_state("")
                            wait_s, has_data = FIRST_WAIT_S, True
                        yield piece
                        away_s, last_s = self._clock(), connection.last_s
            except Ended:
                return
            except MediaError as error:
                connection = None
                if self._retry_s is not None and self._clock() - away_s >= self._retry_s:
                    raise MediaError(
                        f"{error.what}, and did not come back in {self._retry_s:g} s",
                        follows="The session ended; its rows up to then are complete.",
                        remedy="Check the camera or the network, or give a longer --retry.",
                    ) from None
                self._on_state(f"{error.what}; trying again")
                if not self._pause(wait_s):
                    return
                wait_s, has_data = min(2 * wait_s, LONGEST_WAIT_S), False
                self.reconnections += 1

    def _connect(self, not_before_s: float = -math.inf) -> Connection:
        pictures, sound = self._wants
        return Connection(
            self._address,
            self._title,
            want_pictures=pictures,
            want_sound=sound,
            clock=self._clock,
            not_before_s=not_before_s,
        )

    def _paced(self, connection: Connection) -> Iterator[Picture | Sound]:
        """Pieces of a recording when their time has come; those of a live stream at most `MOST_DRIFT_S` before that."""
        ahead_s = 0.0 if connection.is_recording else MOST_DRIFT_S
        return paced(
            connection.pieces(), lambda: self._clock() + ahead_s, should_stop=self._should_stop, sleep=self._sleep
        )

    def _pause(self, seconds: float) -> bool:
        """Wait; False if the reading should stop."""
        until = self._clock() + seconds
        while self._clock() < until:
            if self._should_stop():
                return False
            self._sleep(min(0.1, seconds))
        return not self._should_stop()


def read_file(path: Path, *, want_pictures: bool = True, want_sound: bool = True) -> Iterator[Picture | Sound]:
    """Pictures and sound of a file in the order of their times, as `mien predict` reads them: as fast as they decode.

    Raises:
        MediaError: the file cannot be read, or has neither.
    """
    info = probe(path, video=want_pictures, audio=want_sound)
    if not (want_pictures and info.has_video) and not (want_sound and info.has_audio):
        lacks = "pictures" if not want_sound else "sound" if not want_pictures else "pictures and no sound"
        raise MediaError(
            f"{info.path} has no {lacks}",
            follows="Nothing was predicted.",
            remedy="Name another file" + ("." if want_pictures and want_sound else ", or use both face and voice."),
        )
    pictures = (Picture(frame.time_s, frame.image) for frame in frames(path)) if want_pictures else iter(())
    sound = (
        (Sound(time_s, samples[:, None], SAMPLE_RATE) for time_s, samples in blocks(path, seconds=FILE_BLOCK_S))
        if want_sound
        else iter(())
    )
    return heapq.merge(pictures, sound, key=end_s)


def end_s(piece: Picture | Sound) -> float:
    """Time at which a device would hand a piece over: a block of sound at its end."""
    return piece.time_s if isinstance(piece, Picture) else piece.time_s + len(piece.samples) / piece.rate


def paced(
    pieces: Iterable[Picture | Sound],
    clock: Callable[[], float],
    *,
    should_stop: Callable[[], bool] = lambda: False,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Picture | Sound]:
    """Pieces of a recording when their time has come on the clock."""
    for piece in pieces:
        while (wait_s := end_s(piece) - clock()) > 0:
            if should_stop():
                return
            sleep(min(wait_s, 0.05))
        yield piece
