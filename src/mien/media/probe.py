"""What a media file holds, and where its time begins.

Time 0.0 of a recording is the earliest presentation timestamp of its picture and sound. It is taken from the
first frames that really decode: headers promise starts (and lengths, and frame counts) that are not there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream

from mien.errors import MediaError
from mien.media import image
from mien.media.container import (
    PROMISING,
    audio_of,
    checked,
    opened,
    shown,
    undecodable,
    video_of,
    without_presentation_times,
)
from mien.media.orientation import Orientation, orientation_of

#: How many packets of a stream `probe` tries until it believes the header's start instead.
_PACKETS = 300
#: Wider or taller pictures are refused: twice the side of 8K. Our choice; one such frame is 400 MB of RGB.
MAX_SIDE = 16384


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """What a file holds. Seconds count from the recording's time 0.0.

    kind: `image` is one still picture; `audio` has no moving picture (a cover picture is none).
    width, height: pixels of an upright frame, 0 without a picture. Pixels are taken as square.
    orientation: how stored frames become upright; `frames` has it applied.
    duration_s: what the header promises for the whole recording; None if it says nothing. Never rely on it.
    origin: the presentation timestamp in raw seconds that is time 0.0, exact.
    average_rate: frames a second, from the header: for information, never for timing.
    video_start_s, audio_start_s: when each begins; None where there is none.
    video_stop_s, audio_stop_s: the end the header promises; None where there is only a guess.
    video_codec, audio_codec: FFmpeg's names, "" where there is none. container: the demuxer's first name.
    """

    path: Path
    kind: Literal["video", "audio", "image"]
    width: int = 0
    height: int = 0
    orientation: Orientation = field(default_factory=Orientation)
    has_video: bool = False
    has_audio: bool = False
    duration_s: float | None = None
    origin: Fraction = Fraction(0)
    average_rate: Fraction | None = None
    video_start_s: float | None = None
    audio_start_s: float | None = None
    video_stop_s: float | None = None
    audio_stop_s: float | None = None
    video_codec: str = ""
    audio_codec: str = ""
    pixel_format: str = ""
    container: str = ""

    @property
    def origin_s(self) -> float:
        """`origin` as a float."""
        return float(self.origin)

    @property
    def rotation(self) -> int:
        """Counter-clockwise degrees by which the container asks to turn what is stored: 0, 90, 180 or 270."""
        return self.orientation.rotation


def probe(path: Path, *, video: bool = True, audio: bool = True) -> MediaInfo:
    """What the file holds.

    video, audio: whether the caller wants them. A coding without a decoder is an error in a stream that is
    wanted; one that is not wanted counts as absent.

    Raises:
        MediaError: missing, empty, a folder, not media, broken header, unreadable coding, too large, or
            nothing to see or hear in it.
    """
    path = Path(path)
    if image.is_still(checked(path)):
        height, width = image.read(path).shape[:2]
        return MediaInfo(path, "image", width, height, has_video=True, video_start_s=0.0, container="image")
    with opened(path) as container:
        picture, sound = video_of(container), audio_of(container)
        if picture is None and sound is None:
            raise MediaError(
                f"{shown(path)} holds neither a picture nor sound.",
                remedy="Name the video or sound file itself.",
            )
        blind = picture is not None and picture.codec_context is None
        deaf = sound is not None and sound.codec_context is None
        if blind and (video or deaf or sound is None):
            raise undecodable(path, "video")
        if deaf and (audio or picture is None):
            raise undecodable(path, "audio")
        return _describe(path, container, None if blind else picture, None if deaf else sound)


def _describe(path: Path, container: InputContainer, video: VideoStream | None, audio: AudioStream | None) -> MediaInfo:
    if video is not None and max(video.width, video.height) > MAX_SIDE:
        raise MediaError(
            f"{shown(path)}: its frames are {video.width}×{video.height} pixels; mien reads up to {MAX_SIDE} a side.",
            remedy="Scale it down first, for example: ffmpeg -i INPUT -vf scale=1920:-2 OUTPUT.mp4",
        )
    both = (video, audio)
    first = _first_frames(container, [s for s in both if s is not None])
    starts = [_start(s, first) for s in both]
    origin = min((t for t in starts if t is not None), default=Fraction(0))
    start_s = [float((t or origin) - origin) if s else None for s, t in zip(both, starts, strict=True)]
    name = container.format.name.split(",")[0]
    stop_s = [_stop(s, origin) if s is not None and name in PROMISING else None for s in both]
    orientation, width, height = Orientation(), 0, 0
    if video is not None:
        picture = first.get(video.index)
        width, height = (video.width, video.height) if picture is None else (picture.width, picture.height)
        if picture is not None:
            orientation = orientation_of(picture)
    if orientation.transposed:
        width, height = height, width
    return MediaInfo(
        path=path,
        kind="video" if video is not None else "audio",
        width=width,
        height=height,
        orientation=orientation,
        has_video=video is not None,
        has_audio=audio is not None,
        duration_s=container.duration / 1e6 if container.duration else None,
        origin=origin,
        average_rate=video.average_rate if video is not None else None,
        video_start_s=start_s[0],
        audio_start_s=start_s[1],
        video_stop_s=stop_s[0],
        audio_stop_s=stop_s[1],
        video_codec=video.codec.canonical_name if video is not None else "",
        audio_codec=audio.codec.canonical_name if audio is not None else "",
        pixel_format=video.pix_fmt or "" if video is not None else "",
        container=name,
    )


def _first_frames(container: InputContainer, streams: list[VideoStream | AudioStream]) -> dict[int, Any]:
    """The first frame of each stream that decodes, by stream index."""
    found: dict[int, Any] = {}
    tried = dict.fromkeys((s.index for s in streams), 0)
    earliest: dict[int, int | None] = {}
    for stream in streams:
        # One thread: frame threads would first fill up with as many frames as there are threads.
        stream.codec_context.thread_type = "NONE"
    try:
        for packet in container.demux(streams):
            index = packet.stream.index
            tried[index] += 1
            earliest.setdefault(index, packet.dts)
            if index not in found and tried[index] <= _PACKETS:
                try:
                    frames: list[Any] = list(packet.decode())
                except av.FFmpegError:
                    continue
                if frames:
                    found[index] = frames[0]
                    if without_presentation_times(container, packet.stream):
                        frames[0].pts = earliest[index]
            if len(found) == len(streams) or max(tried.values()) > 2 * _PACKETS:
                break
    except (av.FFmpegError, OSError):
        pass  # a cut file: whoever reads the frames will say where it ends
    return found


def _start(stream: VideoStream | AudioStream | None, first: dict[int, Any]) -> Fraction | None:
    if stream is None or stream.time_base is None:
        return None
    frame = first.get(stream.index)
    if frame is not None and frame.pts is not None:
        return frame.pts * (frame.time_base or stream.time_base)
    return None if stream.start_time is None else stream.start_time * stream.time_base


def _stop(stream: VideoStream | AudioStream, origin: Fraction) -> float | None:
    """The end the header promises, seconds from time 0."""
    if stream.duration and stream.time_base:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base - origin)
    # Matroska keeps it as a tag, hh:mm:ss.fraction from the container's own zero.
    parts = stream.metadata.get("DURATION", "").split(":")
    try:
        hours, minutes, seconds = (float(part) for part in parts)
    except ValueError:
        return None
    return hours * 3600 + minutes * 60 + seconds - float(origin)
