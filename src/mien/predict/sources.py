"""What prediction reads: a file, bytes, a file object, an address, or pictures and sound in memory.

`open_source` chooses. Bytes, file objects and downloads are kept in a temporary file that only the user can read, and
that is removed when the prediction ends.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from mien.errors import ConfigError, MediaError, MienError, OutputError
from mien.media import audio as media_audio
from mien.media import video as media_video
from mien.media.probe import MediaInfo, probe
from mien.predict.download import download_to, is_address, shown
from mien.predict.in_memory import MemoryRecording, is_picture
from mien.printable import printable
from mien.records import Frame
from mien.scratch import create_private, scratch_folder

_NOTHING = "Nothing was predicted."


class Source(Protocol):
    """A recording as prediction reads it.

    Attributes:
        info: its properties. media: its path for the Timeline, "" if it is not in a file that stays.
    """

    @property
    def info(self) -> MediaInfo: ...  # noqa: D102

    @property
    def media(self) -> str: ...  # noqa: D102

    def frames(self, *, max_side: int | None, notes: list[str]) -> Iterator[Frame]:
        """Frames as of `mien.media.video.frames`."""

    def sample(self, count: int, *, max_side: int | None) -> Iterator[np.ndarray]:
        """Up to `count` pictures spread over the recording."""

    def blocks(
        self, *, seconds: float, track: int | None, channel: int | None, notes: list[str]
    ) -> Iterator[tuple[float, np.ndarray]]:
        """Sound as of `mien.media.audio.blocks`."""


@dataclass(frozen=True)
class FileSource:
    """A file; a `Source`."""

    info: MediaInfo
    media: str

    def frames(self, *, max_side: int | None, notes: list[str]) -> Iterator[Frame]:
        """See `Source`."""
        return media_video.frames(self.info.path, max_side=max_side, notes=notes)

    def sample(self, count: int, *, max_side: int | None) -> Iterator[np.ndarray]:
        """See `Source`."""
        return media_video.sample_pictures(self.info.path, count, max_side=max_side)

    def blocks(
        self, *, seconds: float, track: int | None, channel: int | None, notes: list[str]
    ) -> Iterator[tuple[float, np.ndarray]]:
        """See `Source`."""
        return media_audio.blocks(self.info.path, seconds=seconds, track=track, channel=channel, notes=notes)


@contextmanager
def open_source(
    recording: Any,
    *,
    frames: Any = None,
    times: Any = None,
    fps: float | None = None,
    audio: Any = None,
    download: bool = False,
    video: bool = True,
    sound: bool = True,
    audio_track: int | None = None,
) -> Iterator[Source]:
    """Open a recording; the arguments are those of `Predictor.predict`.

    Args:
        video, sound: whether the prediction needs them, as in `mien.media.probe.probe`.

    Raises:
        ConfigError: the arguments exclude each other, or an address was given without `download`.
        MediaError: the recording cannot be read. OutputError: the temporary file cannot be written.
    """
    in_memory = {"frames": frames, "times": times, "fps": fps, "audio": audio}
    given = [name for name, value in in_memory.items() if value is not None]
    if recording is None or is_picture(recording):
        yield _from_memory(recording, in_memory, given, audio_track)
        return
    if given:
        raise ConfigError(
            f"a recording was given, and {' and '.join(given)} too",
            follows=_NOTHING,
            remedy="Give a recording, or frames= and audio= without one. The sound of a file is in the file.",
        )
    if isinstance(recording, os.PathLike) or (isinstance(recording, str) and not is_address(recording)):
        path = Path(recording)
        info = probe(path, video=video, audio=sound, audio_track=audio_track)
        yield FileSource(info, str(path))
        return
    name = _name_of(recording)
    with _temporary_file(recording, name, download) as path, _named(path, name):
        yield FileSource(probe(path, video=video, audio=sound, audio_track=audio_track), "")


def _from_memory(recording: Any, in_memory: dict[str, Any], given: list[str], audio_track: int | None) -> Source:
    if recording is not None:
        if given:
            raise ConfigError(
                f"a picture was given, and {' and '.join(given)} too",
                follows=_NOTHING,
                remedy="Give several pictures as frames=, with times= or fps=.",
            )
        if getattr(recording, "ndim", 3) == 4:
            raise ConfigError(
                f"an array of the shape {tuple(recording.shape)} was given as the recording, without times",
                follows=_NOTHING,
                remedy="Give it as frames=, with times= or fps=.",
            )
        return MemoryRecording([recording])
    if in_memory["frames"] is None and (others := [name for name in given if name != "audio"]):
        raise ConfigError(
            f"{' and '.join(others)} was given without frames",
            follows=_NOTHING,
            remedy="Give the pictures as frames=, or audio= alone.",
        )
    if in_memory["frames"] is None and in_memory["audio"] is None:
        raise ConfigError(
            "there is nothing to predict",
            follows=_NOTHING,
            remedy="Give a file, a picture, frames=, or audio=.",
        )
    if audio_track is not None:
        raise ConfigError(
            f"audio_track is {audio_track}, and the sound is in memory, where there is one",
            follows=_NOTHING,
            remedy="Omit audio_track.",
        )
    return MemoryRecording(**in_memory)


def _name_of(recording: Any) -> str:
    """Name of a recording without a path, in notes and errors."""
    if isinstance(recording, str):
        return shown(recording)
    if isinstance(recording, bytes | bytearray | memoryview):
        return "<bytes>"
    if hasattr(recording, "read"):
        return "<file object>"
    raise ConfigError(
        f"a recording of the type {type(recording).__name__} cannot be read",
        follows=_NOTHING,
        remedy="Give a path, bytes, a binary file object, a picture, or several pictures as frames=.",
    )


@contextmanager
def _temporary_file(recording: Any, name: str, download: bool) -> Iterator[Path]:
    """A copy of the recording in a file, removed at the end. Files that killed processes left are removed first."""
    if isinstance(recording, str) and not download:
        raise ConfigError(
            f"{name} is an address, and mien downloads nothing that it was not told to download",
            follows=_NOTHING,
            remedy="Add download=True: the recording is kept in a temporary file, and removed after the prediction.",
        )
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(scratch_folder(Path(tempfile.gettempdir()) / "mien-recording"))
            os.chmod(folder, 0o700)
            path = folder / "recording"
            create_private(path, path)
            with path.open("wb") as file:
                if isinstance(recording, str):
                    download_to(file, recording)
                elif hasattr(recording, "read"):
                    _copy(recording, file)
                else:
                    file.write(recording)
        except OSError as error:
            raise OutputError(
                f"{name} cannot be copied into a temporary file: {error}",
                follows=_NOTHING,
                remedy="Set TMPDIR to a folder that can be written and has enough space.",
            ) from error
        yield path


def _copy(source: Any, file: IO[bytes]) -> None:
    try:
        shutil.copyfileobj(source, file)
    except TypeError:  # it gave text
        raise ConfigError(
            "the file object gives text, and a recording is binary",
            follows=_NOTHING,
            remedy='Open the file with open(path, "rb").',
        ) from None


@contextmanager
def _named(path: Path, name: str) -> Iterator[None]:
    """Errors name the recording, not its temporary file."""
    try:
        yield
    except MienError as error:
        if str(path) not in str(error):
            raise
        parts = [part.replace(str(path), name) for part in (error.what, error.follows, error.remedy)]
        raise type(error)(parts[0], follows=parts[1], remedy=parts[2]) from error


def check_modalities(info: MediaInfo, face: bool, voice: bool) -> None:
    """Raise MediaError if the recording has none of the modalities in use."""
    if not ((face and info.has_video) or (voice and info.has_audio)):
        content, option = ("sound", "--no-voice") if info.has_audio else ("pictures", "--no-face")
        raise MediaError(
            f"{printable(info.path)} has {content} only, which {option} excludes",
            follows="Nothing was predicted.",
            remedy=f"Omit {option}.",
        )
