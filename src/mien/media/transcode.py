"""Any media as an MP4 that a browser plays, on the same clock."""

from __future__ import annotations

from pathlib import Path

import av

from mien.media.container import opened
from mien.media.mp4_writer import write
from mien.media.probe import probe
from mien.media.video import frames

#: What every current browser decodes in an MP4, and the largest side of H.264 level 5.2.
_PIXELS, _MAX_SIDE = ("yuv420p", "yuvj420p"), 4096
#: A player's clock starts at the file's zero; within this of ours nobody sees a difference.
_SAME_ZERO_S = 0.002


def transcode(
    path_in: Path,
    path_out: Path,
    *,
    max_height: int | None = 720,
    crf: int = 26,
    notes: list[str] | None = None,
) -> None:
    """Write `path_in` as an H.264/AAC MP4, streamed: every frame at its own time, upright, the sound kept.

    Second t of the result is second t of the recording, also where picture or sound begins late, so that a
    page can tie a timeline to the player's clock. A still image becomes a video of one frame, sound alone an
    MP4 without a picture; a stream whose coding is unknown is left out.

    max_height: pixels; taller upright pictures are scaled down to it, keeping their shape.

    Raises:
        MediaError, OutputError: as `frames` and `write_video`.
    """
    info = probe(path_in, video=False, audio=False)
    side = None
    if max_height is not None and info.height > max_height:
        side = max(1, round(max(info.width, info.height) * max_height / info.height))
    pictures = frames(path_in, max_side=side, notes=notes) if info.has_video else iter(())
    timed = ((frame.time_s, frame.image) for frame in pictures)
    write(path_out, timed, audio=path_in if info.has_audio else None, crf=crf, notes=notes)


def is_browser_playable(path: Path) -> bool:
    """Whether browsers play the file as it is, on the recording's clock: MP4 with H.264 (8-bit 4:2:0, up to
    4096 a side) or no picture, AAC or no sound, and time 0.0 where the player has its zero.

    Raises:
        MediaError: as `probe`; a coding without a decoder here is not playable, and no error.
    """
    info = probe(path, video=False, audio=False)
    if info.container != "mov" or abs(info.origin_s) > _SAME_ZERO_S:
        return False
    with opened(path) as container:
        brand = container.metadata.get("major_brand", "")
        known = all(s.codec_context is not None for s in container.streams if isinstance(s, _TRACKS))
    if not known or brand.strip() == "qt":
        return False
    fits = max(info.width, info.height) <= _MAX_SIDE and info.pixel_format in _PIXELS
    picture = not info.has_video or (info.video_codec == "h264" and fits)
    return picture and info.audio_codec in ("aac", "")


_TRACKS = (av.VideoStream, av.AudioStream)
