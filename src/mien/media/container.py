"""Opening media files, and errors that say what is wrong with one.

Everything in mien that decodes goes through `opened` and `decoded`: one place knows which containers are
read, how a damaged file shows, and that damage in the middle of a file is no reason to lose its rest.
"""

from __future__ import annotations

import difflib
import logging
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Discard, Disposition, Stream
from av.video.stream import VideoStream

from mien.errors import MediaError

LOGGER = logging.getLogger("mien")

#: Demuxers that may open a file. Playlists (hls, concat, dash, ...) are left out on purpose: they are text
#: that names other files, so a file from a stranger could make mien read what was never handed in.
CONTAINERS = (
    "mov,mp4,matroska,webm,avi,mpeg,mpegts,mpegvideo,h264,hevc,av1,obu,ivf,m4v,mjpeg,flv,asf,rm,mxf,nut,dv,wtv,"
    "gif,wav,w64,aiff,au,caf,mp3,aac,ac3,eac3,flac,ogg,ape,wv,tta,amr,voc,gsm,truehd,dts"
)
#: Containers whose length is written down or measured from their last packets. In others FFmpeg guesses it
#: from the bit rate, so a shorter decode proves nothing.
PROMISING = frozenset({"mov", "mpeg", "mpegts", "matroska", "avi", "flv", "asf", "wav", "flac"})
_ONE_OF_US = "Re-encode it, for example: ffmpeg -i INPUT -c:v libx264 -c:a aac OUTPUT.mp4"
_COPY_AGAIN = "Copy or download it again and compare its size with the original's."


def shown(path: Path | str) -> str:
    """A path as text that can always be printed: bytes of a name that are not UTF-8 appear as escapes."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def note(notes: list[str] | None, text: str) -> None:
    """Warn through the `mien` logger and, where a list is given, keep the text for summary and report."""
    LOGGER.warning(text)
    if notes is not None:
        notes.append(text)


def checked(path: Path) -> Path:
    """The absolute path of a readable, non-empty file.

    Raises:
        MediaError: it is missing, a folder, not a regular file, empty, or may not be read.
    """
    path = Path(path)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise MediaError(
                f"{shown(path)} is a folder, and one media file is needed here.",
                remedy="Name one of the files in it.",
            )
        if not stat.S_ISREG(status.st_mode):
            raise MediaError(f"{shown(path)} is a device or a pipe, not a file.", remedy="Save it to a file first.")
        if status.st_size == 0:
            raise MediaError(f"{shown(path)} is empty (0 bytes).", remedy=_COPY_AGAIN)
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise MediaError(f"{shown(path)} does not exist.", remedy=_near(path)) from None
    except PermissionError:
        raise MediaError(
            f"{shown(path)} may not be read by this user (permission denied).",
            remedy=f"Give yourself the right to read it: chmod u+r '{shown(path)}', or ask its owner.",
        ) from None
    except OSError as error:
        raise MediaError(
            f"{shown(path)} cannot be read: {error.strerror}.", remedy="Check the name and the disk."
        ) from None
    return Path(os.path.abspath(path))


def _near(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"The folder {shown(folder)} does not exist either: check the path."
    names = difflib.get_close_matches(path.name, (p.name for p in folder.iterdir()), n=1, cutoff=0.75)
    return f"Did you mean {shown(folder / names[0])}?" if names else "Check the name."


@contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    """A demuxer on the file, closed at the end.

    Raises:
        MediaError: see `checked`; or it is not media, or its header is broken.
    """
    absolute = checked(path)
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    try:
        # metadata_errors: old tags are often Latin-1, and a title nobody reads must not stop a prediction.
        container = av.open(str(absolute), options=options, metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        raise _unreadable(path, error) from None
    try:
        yield container
    finally:
        container.close()


def _unreadable(path: Path, error: Exception) -> MediaError:
    with path.open("rb") as file:
        head = file.read(4096)
    name, size = shown(path), path.stat().st_size
    if _is_text(head):
        return MediaError(
            f"{name} holds text, not video or sound, whatever its name says.",
            remedy="Name the media file itself; a playlist or a saved web page is not one.",
        )
    if head[4:8] in (b"ftyp", b"wide", b"mdat", b"free", b"skip") and b"moov" not in _boxes(path):
        return MediaError(
            f"{name} is an MP4 without its index (no moov box in {size:,} bytes): "
            "the recording or the copy stopped before it was finished.",
            follows="Without the index no picture in it can be found.",
            remedy=f"{_COPY_AGAIN} If it was never finished, a repair tool (untrunc) can rebuild the index.",
        )
    reason = getattr(error, "strerror", None) or str(error)
    return MediaError(
        f"{name} is not a media file that mien can read, or its header is broken ({reason}; {size:,} bytes).",
        remedy=f"{_COPY_AGAIN} If it plays elsewhere: {_ONE_OF_US[0].lower()}{_ONE_OF_US[1:]}",
    )


def _is_text(head: bytes) -> bool:
    try:
        text = head[: len(head) - 3 if len(head) > 3 else None].decode("utf-8")
    except UnicodeDecodeError:
        return False
    return all(c.isprintable() or c.isspace() for c in text)


def _boxes(path: Path) -> set[bytes]:
    """The names of an MP4's outermost boxes, as far as they can be followed."""
    names: set[bytes] = set()
    position, size = 0, path.stat().st_size
    with path.open("rb") as file:
        while position + 8 <= size and len(names) < 64:
            file.seek(position)
            header = file.read(16)
            length = int.from_bytes(header[:4], "big")
            if length == 1:
                length = int.from_bytes(header[8:16], "big")
            names.add(header[4:8])
            if length < 8:
                break
            position += length
    return names


def video_of(container: InputContainer) -> VideoStream | None:
    """The picture to use: the default one, else the first; never a cover picture."""
    covers = Disposition.attached_pic | Disposition.timed_thumbnails
    return min((s for s in container.streams.video if not s.disposition & covers), key=_rank, default=None)


def audio_of(container: InputContainer) -> AudioStream | None:
    """The sound to use: the default one, else the first."""
    return min(container.streams.audio, key=_rank, default=None)


def _rank(stream: VideoStream | AudioStream) -> tuple[bool, int]:
    return not stream.disposition & Disposition.default, stream.index


def undecodable(path: Path, kind: str) -> MediaError:
    """The error of a stream that no decoder knows. kind: `video` or `audio`."""
    seen, heard = ("picture", "voice", "--no-face"), ("sound", "face", "--no-voice")
    thing, rest, option = seen if kind == "video" else heard
    return MediaError(
        f"{shown(path)}: its {thing} is in a coding that has no decoder here (PyAV {av.__version__}).",
        follows=f"The {thing} cannot be used.",
        remedy=f"{_ONE_OF_US}, or predict from the {rest} alone ({option}).",
    )


def without_presentation_times(container: InputContainer, stream: Stream) -> bool:
    """Whether the container keeps its pictures in decoding order and only that, as AVI does. FFmpeg then
    guesses, wrongly where B-frames change the order. But every decoder hands pictures out in the order they
    are shown, so the k-th picture takes the time of the k-th packet."""
    return container.format.name == "avi" and stream.type == "video"


def decoded(
    container: InputContainer, stream: VideoStream | AudioStream, fault: Callable[[str], None]
) -> Iterator[Any]:
    """Every frame of one stream that decodes (`av.VideoFrame` or `av.AudioFrame`), in presentation order,
    past damaged packets. fault: told in words when something did not decode or reading ended early."""
    for other in container.streams:
        if other is not stream:
            # The demuxer then skips their bytes instead of handing them over to be thrown away.
            other.discard = Discard.all
    waiting: deque[int | None] = deque()
    unstamped = without_presentation_times(container, stream)
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except (av.FFmpegError, OSError) as error:
            fault(f"reading stopped: {getattr(error, 'strerror', None) or error}")
            with suppress(av.FFmpegError):
                yield from stream.decode(None)
            return
        if unstamped and packet.size:
            waiting.append(packet.dts)
        try:
            frames: list[Any] = list(packet.decode())
        except av.FFmpegError as error:
            fault(f"a packet did not decode: {error.strerror}")
            if unstamped and packet.size:
                waiting.pop()
            continue
        for frame in frames:
            if unstamped:
                frame.pts = waiting.popleft() if waiting else None
            yield frame
