"""Downscaled copies of recordings for embedding in a report, in formats that every browser plays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2

from mien.errors import OutputError
from mien.media.transcode import transcode
from mien.media.video import frames, probe
from mien.scratch import create_private, temporary_path

#: Largest height in pixels: enough to see a face, and 60 s stay near 3 MB. Our choice.
VIDEO_HEIGHT, IMAGE_HEIGHT = 480, 1080
#: Quality of x264 and of JPEG, below that of files to keep. Our choice.
_CRF, _JPEG = 28, 88


@dataclass(frozen=True, slots=True)
class EmbeddedMedia:
    """Downscaled copy of a recording; its player time equals the time of the timeline."""

    path: Path
    mime: str


@contextmanager
def embed_media(media: Path, folder: Path) -> Iterator[EmbeddedMedia]:
    """Context manager that writes a downscaled copy of `media` into `folder`, for the user alone, and deletes it on
    exit. If the process is killed, the next one that writes into the folder deletes it (`mien.scratch`).

    Raises:
        MediaError: media cannot be read. OutputError: the copy cannot be written.
    """
    kind = probe(media).kind
    path = temporary_path(folder / f"{media.stem}{'.jpg' if kind == 'image' else '.mp4'}")
    try:
        if kind == "image":
            _write_image(media, path)
        else:
            transcode(media, path, max_height=VIDEO_HEIGHT, crf=_CRF, private=True)
        yield EmbeddedMedia(path, {"image": "image/jpeg", "audio": "audio/mp4"}.get(kind, "video/mp4"))
    finally:
        path.unlink(missing_ok=True)


def _write_image(media: Path, path: Path) -> None:
    image = next(frames(media)).image
    scale = min(1.0, IMAGE_HEIGHT / image.shape[0])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image
    is_encoded, data = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG])
    if not is_encoded:
        raise OutputError(f"{media} could not be encoded as JPEG", follows="No report was written.")
    create_private(path, path)
    path.write_bytes(data.tobytes())
