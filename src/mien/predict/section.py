"""A part of a recording: the pictures and the sound between two times."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mien.errors import MediaError
from mien.media.audio import SAMPLE_RATE
from mien.media.video import MediaInfo
from mien.printable import printable
from mien.records import Frame

if TYPE_CHECKING:
    import polars as pl


@dataclass(slots=True)
class Section:
    """Pictures and sound of a recording from start_s on and before stop_s, in seconds; times stay those of the whole.

    What is before start_s is decoded and dropped, because frame numbers are counted; nothing after stop_s is decoded.
    skipped: frames dropped before the first one, known once it is read.
    """

    start_s: float = 0.0
    stop_s: float | None = None
    skipped: int = 0

    def __post_init__(self) -> None:
        stop = math.inf if self.stop_s is None else self.stop_s
        if not 0 <= self.start_s < stop:
            raise ValueError(f"the section from {self.start_s} s to {stop} s is empty")

    @property
    def is_all(self) -> bool:
        """Whether the section is the whole recording."""
        return self.start_s == 0 and self.stop_s is None

    def frames(self, frames: Iterable[Frame], recording: str) -> Iterator[Frame]:
        """The frames of the section. recording: its name, for the error.

        Raises MediaError if there are none, although the recording has some.
        """
        self.skipped = 0
        found = False
        for frame in frames:
            if frame.time_s < self.start_s:
                self.skipped += 1
            elif self.stop_s is not None and frame.time_s >= self.stop_s:
                break
            else:
                found = True
                yield frame
        if not found and self.skipped:
            raise MediaError(
                f"{printable(recording)} has no frame at {self.start_s:g} s or later",
                follows="Nothing was predicted.",
                remedy="Choose --start and --end inside the recording.",
            )

    def blocks(self, blocks: Iterable[tuple[float, np.ndarray]]) -> Iterator[tuple[float, np.ndarray]]:
        """The blocks `(start_s, samples)` of the section, the first and the last cut to it."""
        for start_s, samples in blocks:
            if self.stop_s is not None and start_s >= self.stop_s:
                break
            first = max(0, math.ceil((self.start_s - start_s) * SAMPLE_RATE - 1e-6))
            last = len(samples)
            if self.stop_s is not None:
                last = min(last, math.ceil((self.stop_s - start_s) * SAMPLE_RATE - 1e-6))
            if first < last:
                yield start_s + first / SAMPLE_RATE, samples[first:last]

    def rows(self, table: pl.DataFrame, info: MediaInfo) -> pl.DataFrame:
        """The rows of the section, with the frame numbers of the whole recording.

        Raises MediaError if there are none, as in a sound that ends before the section starts.
        """
        import polars as pl

        if self.is_all or info.kind == "image":
            return table
        rows = table.with_columns(pl.col("frame") + self.skipped).filter(pl.col("time_s") >= self.start_s)
        if rows.is_empty():
            raise MediaError(
                f"{printable(info.path)} has nothing from {self.start_s:g} s on",
                follows="Nothing was predicted.",
                remedy="Choose --start and --end inside the recording.",
            )
        return rows
