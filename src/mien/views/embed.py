"""The recording as it goes into a report: small, and in a form that every browser plays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Embedded:
    """A file made for the page. offset_s: what to add to the player's clock to get mien's seconds.
    pictures_s: where the pictures end, on the player's clock (sound may go on)."""

    path: Path
    mime: str
    offset_s: float = 0.0
    pictures_s: float = 1e9

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)


def embedded(media: Path, folder: Path) -> Embedded:
    import os
    import shutil
    out=folder/f".{media.stem}.{os.getpid()}.part.mp4"
    shutil.copy(media,out)
    return Embedded(out,"video/mp4")
