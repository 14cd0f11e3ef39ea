"""Subjects of split sound channels, and the notes of a Timeline on channels, rows without a picture, and quality."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mien.encode.encode_media import EncodedMedia
from mien.errors import MediaError
from mien.media.video import MediaInfo

if TYPE_CHECKING:
    import polars as pl


def numbers_of_channels(info: MediaInfo, face: bool) -> list[int | None]:
    """Numbers of the channels of a sound, each of which is a subject.

    Raises MediaError for a recording whose pictures are in use: it is unknown whose channel is whose face.
    """
    if face and info.has_video:
        raise MediaError(
            f"{info.path} has pictures, and split channels are for sound alone: which face speaks on which channel is "
            "not known",
            follows="Nothing was predicted.",
            remedy="Add --no-face, or omit --audio-channels split.",
        )
    return list(range(info.audio_channels))


def channel_notes(sources: list[EncodedMedia]) -> list[str]:
    """Notes on the channels that are subjects."""
    if len(sources) == 1:
        return ["the sound has one channel, so there is nothing to split"]
    silent = [str(k) for k, source in enumerate(sources) if not has_speech(source)]
    notes = [f"each of the {len(sources)} channels of the sound is a subject"]
    if 0 < len(silent) < len(sources):
        notes.append(f"no speech was detected for subject {', '.join(silent)}")
    return notes


def has_speech(media: EncodedMedia) -> bool:
    """Whether somebody speaks anywhere in the recording."""
    return media.speech is not None and bool(media.speech.valid.any())


def joined(tables: list[pl.DataFrame]) -> pl.DataFrame:
    """Tables of one subject each as one table; the k-th is subject k."""
    import polars as pl

    if len(tables) == 1:
        return tables[0]
    return pl.concat([table.with_columns(subject=pl.lit(k, pl.Int64)) for k, table in enumerate(tables)])


def beyond_notes(table: pl.DataFrame, media: EncodedMedia) -> list[str]:
    """A note on rows of a video that have no picture."""
    import polars as pl

    rows = table.filter(pl.col("frame").is_null() & (pl.col("subject") == table["subject"][0]))
    if not len(media.faces.times) or rows.is_empty():
        return []
    seconds = f"{media.faces.times[0]:.1f} to {media.faces.times[-1]:.1f} s"
    rest = "they rest on the voice alone" if len(media.faces.subjects) < 2 else "whose voice it is cannot be seen"
    return [
        f"there are pictures from {seconds} and speech beyond them: {len(rows)} rows, ten per second, have no picture; "
        f"{rest}"
    ]


def quality_notes(table: pl.DataFrame, min_quality: float) -> list[str]:
    """Notes on faces that can hardly be read: how many rows are uncertain, and how many faces were not read."""
    notes = []
    faces = int(table["quality"].is_not_null().sum())
    if uncertain := int(table["uncertain"].fill_null(False).sum()):
        notes.append(
            f"{uncertain} of {len(table)} rows rest on a face that can hardly be read (column uncertain): turned away, "
            "covered, upside down, blurred or very small; --min-quality 0.5 leaves them out"
        )
    if unread := int((table["quality"] < min_quality).fill_null(False).sum()):
        notes.append(f"{unread} of {faces} faces were not read, because their quality is below {min_quality:g}")
    return notes
