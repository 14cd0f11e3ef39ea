"""Transcode media to an MP4 that browsers play, with unchanged times."""

from __future__ import annotations

from pathlib import Path

import av

from mien.media.container import open_container, select_audio
from mien.media.mp4_writer import storable, write_frames
from mien.media.probe import probe
from mien.media.video import frames

#: Pixel formats that every current browser decodes in an MP4, and the largest side of H.264 level 5.2.
_PIXEL_FORMATS, _MAX_SIDE = ("yuv420p", "yuvj420p"), 4096
#: Largest invisible difference between the player's zero (the file's) and the recording's origin, in seconds.
_SAME_ZERO_S = 0.002
_CODEC_STREAMS = (av.VideoStream, av.AudioStream)


def transcode(
    path_in: Path,
    path_out: Path,
    *,
    max_height: int | None = 720,
    crf: int = 26,
    audio_track: int | None = None,
    notes: list[str] | None = None,
    private: bool = False,
) -> None:
    """Write `path_in` as an H.264/AAC MP4, streamed: all frames upright at their own times, with the audio.

    Second t of the output is second t of the recording, also where video or audio begins late, so that a page can
    synchronise a timeline with the player. A still image becomes a video of one frame, an audio file an MP4 without
    video; a stream whose codec has no decoder is omitted. Of frames closer than 1/90000 s the first is kept.

    Args:
        max_height: pixels; taller upright frames are scaled down to it, with their aspect ratio.
        crf: x264's constant rate factor, as `write_video`.
        audio_track: number of the sound track, from 1; None: the one that `probe` chooses.
        notes: collects warnings for the user.
        private: only the user may read the file, see `mien.atomic.atomic_path`.

    Raises:
        MediaError: as `frames`.
        OutputError: as `write_video`.
    """
    info = probe(path_in, video=False, audio=False)
    max_side = None
    if max_height is not None and info.height > max_height:
        max_side = max(1, round(max(info.width, info.height) * max_height / info.height))
    decoded = frames(path_in, max_side=max_side, notes=notes) if info.has_video else iter(())
    timed = storable((frame.time_s, frame.image) for frame in decoded)
    sound = path_in if info.has_audio else None
    write_frames(path_out, timed, audio=sound, audio_track=audio_track, crf=crf, notes=notes, private=private)


def is_browser_playable(path: Path) -> bool:
    """Whether browsers play the file unchanged and at the recording's times.

    That is an MP4 with H.264 (8-bit 4:2:0, up to 4096 a side) or no video, with AAC or no audio, and with the
    recording's time 0.0 at the file's zero. A codec without a decoder gives False.

    Raises:
        MediaError: as `probe`.
    """
    info = probe(path, video=False, audio=False)
    if info.container != "mov" or abs(info.origin_s) > _SAME_ZERO_S:
        return False
    with open_container(path) as container:
        brand = container.metadata.get("major_brand", "")
        default = select_audio(container)
        plays_used_sound = default is None or info.audio_index in (None, default.index)
        decodable = all(s.codec_context is not None for s in container.streams if isinstance(s, _CODEC_STREAMS))
    if not decodable or not plays_used_sound or brand.strip() == "qt":
        return False
    fits = max(info.width, info.height) <= _MAX_SIDE and info.pixel_format in _PIXEL_FORMATS
    playable_video = not info.has_video or (info.video_codec == "h264" and fits)
    return playable_video and info.audio_codec in ("aac", "")
