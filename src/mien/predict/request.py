"""What `Predictor.predict` is asked for, beside the recording."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from inspect import signature
from typing import TYPE_CHECKING, Any

from mien.predict.protocol import Predictor, ProgressCallback, RowsCallback
from mien.predict.section import Section

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def predict_arguments(options: DataclassInstance) -> dict[str, Any]:
    """The fields of a record of options that `Predictor.predict` takes, by name. Its other fields are left out."""
    known = signature(Predictor.predict).parameters
    return {f.name: getattr(options, f.name) for f in fields(options) if f.name in known}


@dataclass(frozen=True, slots=True)
class Request:
    """The arguments of `mien.predict.protocol.Predictor.predict`, checked.

    section: the part of the recording. groups: optional columns of the table of features, None for no table.

    Raises ValueError for values out of range.
    """

    section: Section = field(default_factory=Section)
    face: bool = True
    voice: bool = True
    audio_track: int | None = None
    split_channels: bool = False
    min_quality: float = 0.0
    face_rate_hz: float | None = None
    groups: tuple[str, ...] | None = None
    progress: ProgressCallback | None = None
    on_rows: RowsCallback | None = None

    def __post_init__(self) -> None:
        if not (self.face or self.voice):
            raise ValueError("face=False and voice=False leave nothing to predict from")
        if not 0 <= self.min_quality <= 1:
            raise ValueError(f"min_quality must be in [0, 1], got {self.min_quality}")
        if self.face_rate_hz is not None and not self.face_rate_hz > 0:
            raise ValueError(f"face_rate_hz must be positive, got {self.face_rate_hz}")

    @property
    def track(self) -> int | None:
        """The audio track to read; None without the voice."""
        return self.audio_track if self.voice else None
