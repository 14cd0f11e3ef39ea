"""Open and decode media files, with an error that names the cause for each kind of damage.

All decoding in mien goes through `open_container` and `decode_frames`: they define which containers are read, and they
decode past damaged packets.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import stat
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Literal, overload

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Discard, Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from mien.errors import MediaError
from mien.media.limits import MAX_FRAME_PIXELS
from mien.printable import printable

LOGGER = logging.getLogger("mien")
Kind = Literal["video", "audio"]

#: Demuxers that may open a file. Playlists (hls, concat, dash, ...) are excluded for security: a playlist is text that
#: names other files, so a file from a stranger could make mien read any file of the user.
CONTAINERS = (
    "mov,mp4,matroska,webm,avi,mpeg,mpegts,mpegvideo,h264,hevc,av1,obu,ivf,m4v,mjpeg,flv,asf,rm,mxf,nut,dv,wtv,"
    "gif,apng,wav,w64,aiff,au,caf,mp3,aac,ac3,eac3,flac,ogg,ape,wv,tta,amr,voc,gsm,truehd,dts"
)
#: Containers that store their duration, or whose duration FFmpeg measures from the last packets. In others FFmpeg
#: estimates it from the bit rate, so a shorter decode proves nothing.
CONTAINERS_WITH_DURATION = frozenset({"mov", "mpeg", "mpegts", "matroska", "avi", "flv", "asf", "wav", "flac"})
#: A stream that ends this many seconds before its header says is reported as cut. Our choice: above any rounding.
SHORT_S = 0.5
_REENCODE = "Re-encode it, for example: ffmpeg -i INPUT -c:v libx264 -c:a aac OUTPUT.mp4"
_COPY_AGAIN = "Copy or download it again and compare its size with the original's."


def add_note(notes: list[str] | None, text: str) -> None:
    """Log a warning to the `mien` logger and append it to `notes` where a list is given."""
    LOGGER.warning(text)
    if notes is not None:
        notes.append(text)


def add_cut_note(notes: list[str] | None, path: Path, kind: Kind, stop_s: float, header_stop_s: float | None) -> bool:
    """Add a note where a stream ends more than `SHORT_S` before the end in its header; return whether it does."""
    if header_stop_s is None or stop_s >= header_stop_s - SHORT_S:
        return False
    add_note(
        notes,
        f"{printable(path)}: the {kind} ends at {stop_s:.2f} s although the header promises {header_stop_s:.2f} s: "
        "the file is cut or damaged. What decodes is used.",
    )
    return True


def add_damage_note(notes: list[str] | None, path: Path, kind: Kind, faults: list[str]) -> None:
    """Add a note on the decoding errors of one stream, if there are any."""
    if faults:
        add_note(notes, f"{printable(path)}: {len(faults)} damaged places in the {kind} were skipped ({faults[0]}).")


def check_file(path: Path) -> Path:
    """The absolute path of a readable, non-empty file.

    Raises:
        MediaError: the file is missing, a folder, not a regular file, empty, or not readable.
    """
    path = Path(path)
    name = printable(path)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise MediaError(
                f"{name} is a folder, not a media file.",
                follows="Nothing was read from it.",
                remedy="Name one of the files in it.",
            )
        if not stat.S_ISREG(status.st_mode):
            raise MediaError(
                f"{name} is a device or a pipe, not a file.",
                follows="Nothing was read from it.",
                remedy="Save it to a file first.",
            )
        if status.st_size == 0:
            raise MediaError(f"{name} is empty (0 bytes).", follows="Nothing was read from it.", remedy=_COPY_AGAIN)
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise _missing(path) from None
    except PermissionError:
        raise MediaError(
            f"{name} cannot be read: permission denied.",
            follows="Nothing was read from it.",
            remedy=f"Give yourself the right to read it: chmod u+r '{name}', or ask its owner.",
        ) from None
    except OSError as error:
        raise MediaError(
            f"{name} cannot be read: {error.strerror}.",
            follows="Nothing was read from it.",
            remedy="Check the name and the disk.",
        ) from None
    return Path(os.path.abspath(path))


def _missing(path: Path) -> MediaError:
    """MediaError for a path where no file is: an address, a link whose target is missing, or a wrong name."""
    if match := re.match(r"(https?|rtsps?|rtmp|ftp|srt|udp):[/\\]", str(path)):
        return MediaError(
            f"{printable(path.name.partition('?')[0])} is an address ({match[1]}:), not a file.",
            follows="Nothing was downloaded and nothing was read.",
            remedy="Download the recording and give its file, or predict a stream with mien live ADDRESS. In Python: "
            "predict(ADDRESS, download=True).",
        )
    if path.is_symlink():
        return MediaError(
            f"{printable(path)} is a link to {printable(path.readlink())}, which does not exist.",
            follows="Nothing was read.",
            remedy="Name the file itself, or repair the link.",
        )
    return MediaError(f"{printable(path)} does not exist.", follows="Nothing was read.", remedy=_suggest_path(path))


def _suggest_path(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"Check the path: the folder {printable(folder)} does not exist either."
    names = difflib.get_close_matches(path.name, (p.name for p in folder.iterdir()), n=1, cutoff=0.75)
    return f"Did you mean {printable(folder / names[0])}?" if names else "Check the name."


@contextmanager
def open_container(path: Path) -> Iterator[InputContainer]:
    """Open a file for demuxing and close it at the end of the block.

    Raises:
        MediaError: as `check_file`; or the file is not media, or its header is broken.
    """
    absolute = check_file(path)
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    try:
        # metadata_errors: old tags are often Latin-1, and an unread title must not stop a prediction.
        container = av.open(str(absolute), options=options, metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        raise _unreadable_error(path, error) from None
    try:
        for stream in container.streams.video:
            if stream.codec_context is not None:  # later frames may be larger; decoders pad
                stream.codec_context.options = {"max_pixels": str(MAX_FRAME_PIXELS + MAX_FRAME_PIXELS // 8)}
        yield container
    finally:
        container.close()


def _unreadable_error(path: Path, error: Exception) -> MediaError:
    with path.open("rb") as file:
        head = file.read(4096)
    name, size = printable(path), path.stat().st_size
    if _is_text(head):
        return MediaError(
            f"{name} holds text, not video or audio.",
            follows="Nothing was read from it.",
            remedy="Name the media file itself, not a playlist or a saved web page.",
        )
    if head[4:8] in (b"ftyp", b"wide", b"mdat", b"free", b"skip") and b"moov" not in _top_level_boxes(path):
        return MediaError(
            f"{name} is an MP4 without its index (no moov box in {size:,} bytes): "
            "the recording or the copy stopped before it was complete.",
            follows="Without the index no frame in it can be found.",
            remedy=f"{_COPY_AGAIN} If the recording never completed, a repair tool (untrunc) can rebuild the index.",
        )
    reason = getattr(error, "strerror", None) or str(error)
    return MediaError(
        f"{name} is not a media file that mien can read, or its header is broken ({reason}; {size:,} bytes).",
        follows="Nothing was read from it.",
        remedy=f"{_COPY_AGAIN} If it plays elsewhere: {_REENCODE[0].lower()}{_REENCODE[1:]}",
    )


def _is_text(head: bytes) -> bool:
    try:
        # The last three bytes may be the start of a character that the 4096-byte head cuts.
        text = head[: len(head) - 3 if len(head) > 3 else None].decode("utf-8")
    except UnicodeDecodeError:
        return False
    return all(c.isprintable() or c.isspace() for c in text)


def _top_level_boxes(path: Path) -> set[bytes]:
    """Names of an MP4's top-level boxes (64 at most), up to the first one of impossible length."""
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


def select_video(container: InputContainer) -> VideoStream | None:
    """The video stream to use: the default one, else the first. Cover pictures are excluded."""
    covers = Disposition.attached_pic | Disposition.timed_thumbnails
    return min((s for s in container.streams.video if not s.disposition & covers), key=_rank, default=None)


def select_audio(container: InputContainer) -> AudioStream | None:
    """The audio stream to use: the default one, else the first."""
    return min(container.streams.audio, key=_rank, default=None)


def _rank(stream: VideoStream | AudioStream) -> tuple[bool, int]:
    return not stream.disposition & Disposition.default, stream.index


def undecodable_error(path: Path, kind: Kind) -> MediaError:
    """The error for a stream whose codec has no decoder."""
    rest, option = ("voice", "--no-face") if kind == "video" else ("face", "--no-voice")
    return MediaError(
        f"{printable(path)}: its {kind} codec has no decoder in this installation (PyAV {av.__version__}).",
        follows=f"The {kind} cannot be used.",
        remedy=f"{_REENCODE}, or predict from the {rest} alone ({option}).",
    )


def lacks_presentation_times(container: InputContainer, stream: Stream) -> bool:
    """Whether the container stores frames in decoding order without presentation timestamps, as AVI does.

    FFmpeg then guesses the timestamps, wrongly where B-frames reorder the stream. Decoders output frames in
    presentation order, so the k-th frame takes the time of the k-th packet.
    """
    return container.format.name == "avi" and stream.type == "video"


def presentation_time(frame: VideoFrame | AudioFrame, default_base: Fraction | None = None) -> Fraction | None:
    """The frame's presentation timestamp in raw seconds, exact; None where it has none.

    Args:
        default_base: seconds of one tick where the frame states none.
    """
    base = frame.time_base or default_base
    return None if frame.pts is None or base is None else frame.pts * base


@overload
def decode_frames(
    container: InputContainer, stream: VideoStream, on_fault: Callable[[str], None]
) -> Iterator[VideoFrame]: ...
@overload
def decode_frames(
    container: InputContainer, stream: AudioStream, on_fault: Callable[[str], None]
) -> Iterator[AudioFrame]: ...
def decode_frames(
    container: InputContainer, stream: VideoStream | AudioStream, on_fault: Callable[[str], None]
) -> Iterator[VideoFrame] | Iterator[AudioFrame]:
    """Decode every intact frame of one stream in presentation order; skip damaged packets.

    Args:
        on_fault: called with a description of every packet that does not decode, and when reading ends early.
    """
    for other in container.streams:
        if other is not stream:
            # The demuxer then skips their bytes instead of reading and dropping them.
            other.discard = Discard.all
    pending_times: deque[int | None] = deque()
    use_packet_times = lacks_presentation_times(container, stream)
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except (av.FFmpegError, OSError) as error:
            on_fault(f"reading stopped: {getattr(error, 'strerror', None) or error}")
            with suppress(av.FFmpegError):
                yield from stream.decode(None)
            return
        if use_packet_times and packet.size:
            pending_times.append(packet.dts)
        try:
            frames = stream.decode(packet)
        except av.FFmpegError as error:
            on_fault(f"a packet did not decode: {error.strerror}")
            if use_packet_times and packet.size:
                pending_times.pop()
            continue
        for frame in frames:
            if use_packet_times:
                frame.pts = pending_times.popleft() if pending_times else None
            yield frame
