"""The recording as it goes into a report: small, and in a form that every browser plays."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2

from mien.errors import OutputError
from mien.media.transcode import transcode
from mien.media.video import frames, probe

#: Pixels in height of what is put into a page: enough to see a face, and 60 s stay near 3 MB. Our choice.
VIDEO_HEIGHT, IMAGE_HEIGHT = 480, 1080
#: x264's quality and JPEG's: somewhat below what is kept, since the page is for looking, not for keeping.
_CRF, _JPEG = 28, 88


@dataclass(frozen=True, slots=True)
class Embedded:
    """A file made for the page; second t of its player is mien's second t."""

    path: Path
    mime: str


@contextmanager
def embedded(media: Path, folder: Path) -> Iterator[Embedded]:
    """Makes the file in `folder` for as long as the block lasts.

    Raises:
        MediaError: media cannot be read. OutputError: no room for it.
    """
    kind = probe(media).kind
    path = folder / f".{media.stem[:80]}.{os.getpid()}.page{'.jpg' if kind == 'image' else '.mp4'}"
    try:
        if kind == "image":
            _picture(media, path)
        else:
            transcode(media, path, max_height=VIDEO_HEIGHT, crf=_CRF)
        yield Embedded(path, {"image": "image/jpeg", "audio": "audio/mp4"}.get(kind, "video/mp4"))
    finally:
        path.unlink(missing_ok=True)


def _picture(media: Path, path: Path) -> None:
    image = next(frames(media)).image
    scale = min(1.0, IMAGE_HEIGHT / image.shape[0])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image
    done, data = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG])
    if not done:
        raise OutputError(f"{media} could not be made into a picture for the page", remedy="use --no-embed")
    path.write_bytes(data.tobytes())
