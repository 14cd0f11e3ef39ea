"""Probe a media file: streams, size, orientation, and the origin of its time.

Time 0.0 of a recording is the earliest presentation timestamp of its video and audio. It is taken from the first frames
that decode, because headers state wrong starts, lengths and frame counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from mien.errors import MediaError
from mien.media import image
from mien.media.audio_tracks import WITHOUT_TIMES, choose_track, untold_delay
from mien.media.container import (
    CONTAINERS_WITH_DURATION,
    check_file,
    lacks_presentation_times,
    open_container,
    presentation_time,
    select_video,
    undecodable_error,
)
from mien.media.frame_converter import sample_aspect, square_pixel_size
from mien.media.limits import (
    MAX_FRAME_PIXELS,
    MAX_SAMPLE_RATE,
    MAX_SIDE,
    MIN_SAMPLE_RATE,
    is_sample_rate,
    longest_sound_s,
    longest_span_s,
    usable_frame_rate,
)
from mien.media.orientation import Orientation, orientation_of
from mien.media.timestamps import LEAP_S
from mien.printable import printable

#: Packets of a stream that `probe` tries to decode before it falls back to the header's start time.
_PACKETS = 300
#: Major brands of HEIC and AVIF pictures, the entry of a picture that joins others, and the bytes in which it stands.
_PICTURE_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"mif1", b"avif"))
_GRID_ITEM = re.compile(rb"infe.{8}grid", re.DOTALL)
_TILE_HEAD = 1 << 16
#: Containers whose timestamps count samples.
_TIMED_BY_SAMPLES = frozenset({"flac", "wav", "w64", "aiff", "au", "tta", "wv"})


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """Properties of a media file. Seconds count from the recording's time 0.0.

    kind: `image` is one still image, also a video of one frame without sound; `audio` has no video stream (a cover
        picture does not count, nor the only frame of a video with sound).
    width, height: of an upright frame in square pixels, as `frames` gives it; 0 without video.
    orientation: how stored frames become upright; `frames` applies it.
    duration_s: length of the recording according to the header, None if it states none. Do not rely on it.
    origin: the raw presentation timestamp in seconds that is time 0.0, exact.
    audio_index: index of the sound's stream in the container, None without sound. audio_origin: as `origin`, for the
        sound; they differ where the clocks of both have nothing in common, or for a codec's delay. audio_skip: samples
        of that delay at the start of the decoded sound. audio_channels: number of channels.
    average_rate: frames a second according to the header: information only, never used for timing.
    video_start_s, audio_start_s: start of each stream; None where there is none.
    video_stop_s, audio_stop_s: end of each stream according to the header; None where it is only an estimate.
    video_codec, audio_codec: FFmpeg's names, "" where there is none. container: the demuxer's first name, `image` for
        files that OpenCV decodes.
    notes: what a user should know about the choice of streams.
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
    audio_index: int | None = None
    audio_origin: Fraction = Fraction(0)
    audio_skip: int = 0
    audio_channels: int = 0
    average_rate: Fraction | None = None
    video_start_s: float | None = None
    audio_start_s: float | None = None
    video_stop_s: float | None = None
    audio_stop_s: float | None = None
    video_codec: str = ""
    audio_codec: str = ""
    pixel_format: str = ""
    container: str = ""
    notes: tuple[str, ...] = ()

    @property
    def origin_s(self) -> float:
        """`origin` as a float."""
        return float(self.origin)

    @property
    def rotation(self) -> int:
        """Counter-clockwise degrees by which stored frames are turned to become upright: 0, 90, 180 or 270."""
        return self.orientation.rotation


def probe(path: Path, *, video: bool = True, audio: bool = True, audio_track: int | None = None) -> MediaInfo:
    """Read the properties of a media file.

    Args:
        video, audio: whether the caller needs the stream. A codec without a decoder is an error in a needed stream; a
            stream that is not needed then counts as absent.
        audio_track: number of the sound track, from 1; None: the default one, or another one that has more speech.

    Raises:
        MediaError: the file is missing, empty, a folder, not media, too large, has a broken header or a codec without a
            decoder, has neither video nor audio, or no such sound track.
    """
    path = Path(path)
    if image.is_still(check_file(path)):
        width, height = image.read_size(path)
        return MediaInfo(path, "image", width, height, has_video=True, video_start_s=0.0, container="image")
    if image.is_animated_webp(path):
        return _describe_animation(path)
    _check_tiles(path)
    with open_container(path) as container:
        video_stream = select_video(container)
        audio_stream, note = choose_track(path, container, audio_track)
        if video_stream is None and audio_stream is None:
            raise MediaError(
                f"{printable(path)} contains neither video nor audio.",
                follows="Nothing was read from it.",
                remedy="Name the video or audio file itself.",
            )
        video_undecodable = video_stream is not None and video_stream.codec_context is None
        audio_undecodable = audio_stream is not None and audio_stream.codec_context is None
        if video_undecodable and (video or audio_undecodable or audio_stream is None):
            raise undecodable_error(path, "video")
        if audio_undecodable and (audio or video_stream is None):
            raise undecodable_error(path, "audio")
        if audio_stream is not None and not audio_undecodable:
            rate = _sample_rate(container, audio_stream)
            if not is_sample_rate(rate) and (audio or video_stream is None):
                raise _sample_rate_error(path, rate, video_stream is not None)
            audio_undecodable = not is_sample_rate(rate)
        return _describe(
            path,
            container,
            None if video_undecodable else video_stream,
            None if audio_undecodable else audio_stream,
            [note] if note else [],
        )


def _describe(
    path: Path, container: InputContainer, video: VideoStream | None, audio: AudioStream | None, notes: list[str]
) -> MediaInfo:
    if video is not None:
        _check_frame_size(path, video.width, video.height)
        if video.average_rate is not None and usable_frame_rate(video.average_rate) is None:
            notes.append(f"its header declares {float(video.average_rate):.3g} frames a second, which was ignored")
    first, packets, pictures = _first_frames(container, [s for s in (video, audio) if s is not None])
    if video is not None and audio is not None and pictures == 1:
        video = None
        notes.append("its only picture counts as cover art; rows follow the sound")
    name = container.format.name.split(",")[0]
    sound = _start(audio, first)
    skip, rate = 0, audio.rate if audio is not None else 1
    if audio is not None:
        skip = untold_delay(name, audio, packets.get(audio.index))
    if sound is not None and name not in WITHOUT_TIMES:
        sound += Fraction(skip, rate)
    starts = [_start(video, first), sound]
    origin = audio_origin = min((t for t in starts if t is not None), default=Fraction(0))
    if starts[0] is not None and sound is not None and abs(starts[0] - sound) > LEAP_S:
        apart = f"{float(abs(starts[0] - sound)):.0f} s"
        notes.append(f"the clocks of its pictures and its sound differ by {apart}; both were taken to start together")
        origin, audio_origin = starts[0], sound
    elif name in WITHOUT_TIMES:
        audio_origin = origin + Fraction(skip, rate)
    origins = (origin, audio_origin)
    both = (video, audio)
    start_s = [float((t or o) - o) if s else None for s, t, o in zip(both, starts, origins, strict=True)]
    stop_s = [
        _plausible(path, _stop(s, o)) if s is not None and name in CONTAINERS_WITH_DURATION else None
        for s, o in zip(both, origins, strict=True)
    ]
    orientation, width, height = Orientation(), 0, 0
    if video is not None:
        frame = first.get(video.index)
        width, height = video.width, video.height
        if isinstance(frame, VideoFrame):
            width, height, orientation = frame.width, frame.height, orientation_of(frame)
        width, height = square_pixel_size(width, height, sample_aspect(video))
    if orientation.transposed:
        width, height = height, width
    return MediaInfo(
        path=path,
        kind="audio" if video is None else "image" if pictures == 1 and not container.streams.audio else "video",
        width=width,
        height=height,
        orientation=orientation,
        has_video=video is not None,
        has_audio=audio is not None,
        duration_s=_plausible(path, _duration(container, origin, audio_origin, stop_s)),
        origin=origin,
        audio_index=audio.index if audio is not None else None,
        audio_origin=audio_origin,
        audio_skip=skip,
        audio_channels=audio.channels if audio is not None else 0,
        average_rate=video.average_rate if video is not None else None,
        video_start_s=start_s[0],
        audio_start_s=start_s[1],
        video_stop_s=stop_s[0],
        audio_stop_s=stop_s[1],
        video_codec=video.codec.canonical_name if video is not None else "",
        audio_codec=audio.codec.canonical_name if audio is not None else "",
        pixel_format=video.pix_fmt or "" if video is not None else "",
        container=name,
        notes=tuple(notes),
    )


def _sample_rate(container: InputContainer, stream: AudioStream) -> int:
    """Hz by the header; in FLAC and WAV the decoder may have found another rate, but times follow the header's."""
    if container.format.name in _TIMED_BY_SAMPLES and stream.time_base:
        return round(1 / stream.time_base)
    return stream.rate


def _sample_rate_error(path: Path, rate: int, has_video: bool) -> MediaError:
    alone = ", or predict from the face alone (--no-voice)" if has_video else ""
    return MediaError(
        f"{printable(path)}: its sound has a sample rate of {rate} Hz; mien reads {MIN_SAMPLE_RATE:,} to "
        f"{MAX_SAMPLE_RATE:,} Hz.",
        follows="The sound cannot be used.",
        remedy=f"Export it again at its true rate, for example: ffmpeg -i INPUT -ar 16000 OUTPUT.wav{alone}.",
    )


def _check_frame_size(path: Path, width: int, height: int) -> None:
    if width * height > MAX_FRAME_PIXELS or max(width, height) > MAX_SIDE:
        raise MediaError(
            f"{printable(path)}: frames have {width}×{height} pixels; mien reads videos of up to {MAX_FRAME_PIXELS:,} "
            f"pixels a frame (8192×4352) and {MAX_SIDE:,} a side.",
            follows="Nothing was read from it.",
            remedy="Scale it down first, for example: ffmpeg -i INPUT -vf scale=1920:-2 OUTPUT.mp4",
        )


def _describe_animation(path: Path) -> MediaInfo:
    """Properties of an animated WebP."""
    pictures = [picture for _, picture in image.read_animation(path, 2)]
    height, width = pictures[0].shape[:2]
    kind: Literal["video", "image"] = "video" if len(pictures) > 1 else "image"
    return MediaInfo(path, kind, width, height, has_video=True, video_start_s=0.0, container="image")


def _check_tiles(path: Path) -> None:
    """Raise MediaError for a HEIC or AVIF picture made of tiles: FFmpeg opens each tile as a picture of its own."""
    with path.open("rb") as file:
        head = file.read(_TILE_HEAD)
    if head[4:8] == b"ftyp" and head[8:12] in _PICTURE_BRANDS and _GRID_ITEM.search(head):
        raise MediaError(
            f"{printable(path)} is a HEIC or AVIF picture made of tiles, which this installation cannot join.",
            follows="Nothing was read from it.",
            remedy="Save it as JPEG or PNG with another program, or set the phone's camera to JPEG.",
        )


_FirstFrames = dict[int, VideoFrame | AudioFrame]


def _first_frames(
    container: InputContainer, streams: list[VideoStream | AudioStream]
) -> tuple[_FirstFrames, dict[int, Packet[Any]], int]:
    """The first frame of each stream that decodes and its first packet, by stream index, and the number of packets of
    pictures met (1: there is one picture)."""
    videos = [s.index for s in streams if s.type == "video"]
    frames_by_index: _FirstFrames = {}
    by_index = {s.index: s for s in streams}
    packet_counts = dict.fromkeys(by_index, 0)
    first_packets: dict[int, Packet[Any]] = {}
    for stream in streams:
        # One thread: frame threads buffer as many frames as there are threads before the first comes out.
        stream.codec_context.thread_type = "NONE"
    try:
        for packet in container.demux(streams):
            index = packet.stream_index
            if index not in by_index:  # FFmpeg finds some streams of a damaged FLV file only while it reads
                continue
            packet_counts[index] += packet.size > 0
            first_packets.setdefault(index, packet)
            if index not in frames_by_index and packet_counts[index] <= _PACKETS:
                try:
                    frames = by_index[index].decode(packet)
                except av.FFmpegError:
                    continue
                if frames:
                    frames_by_index[index] = frames[0]
                    if lacks_presentation_times(container, by_index[index]):
                        frames[0].pts = first_packets[index].dts
            is_known = len(frames_by_index) == len(streams) and all(packet_counts[i] > 1 for i in videos)
            if is_known or max(packet_counts.values()) > 2 * _PACKETS:
                break
    except (av.FFmpegError, OSError):
        pass  # A cut file: the function that decodes the frames reports where it ends.
    return frames_by_index, first_packets, sum(packet_counts[i] for i in videos)


def _start(stream: VideoStream | AudioStream | None, first: _FirstFrames) -> Fraction | None:
    if stream is None or stream.time_base is None:
        return None
    frame = first.get(stream.index)
    time = None if frame is None else presentation_time(frame, stream.time_base)
    if time is not None:
        return time
    return None if stream.start_time is None else stream.start_time * stream.time_base


def _duration(
    container: InputContainer, origin: Fraction, audio_origin: Fraction, stop_s: list[float | None]
) -> float | None:
    """Length according to the header; that of the longer stream where the clocks of both have nothing in common."""
    if abs(origin - audio_origin) > LEAP_S:
        return max((stop for stop in stop_s if stop is not None), default=None)
    return container.duration / 1e6 if container.duration else None


def _plausible(path: Path, seconds: float | None) -> float | None:
    """A length by the header; None for one that no file of this size has."""
    if seconds is None or not 0 <= seconds <= longest_span_s(path) + longest_sound_s(path):
        return None
    return seconds


def _stop(stream: VideoStream | AudioStream, origin: Fraction) -> float | None:
    """End of the stream according to the header, in seconds from time 0."""
    if stream.duration and stream.time_base:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base - origin)
    # Matroska stores it as a tag, hh:mm:ss.fraction from the container's own zero.
    parts = stream.metadata.get("DURATION", "").split(":")
    try:
        hours, minutes, seconds = (float(part) for part in parts)
    except ValueError:
        return None
    return hours * 3600 + minutes * 60 + seconds - float(origin)
