"""What a prediction tells while it runs: how far it is, and provisional rows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from mien.encode.encode_media import MediaPart
from mien.encode.video_pass import MIN_VISIBLE_S
from mien.inference import StreamModel, all_settings
from mien.predict.request import Request

if TYPE_CHECKING:
    import polars as pl

    from mien.predict.protocol import ProgressCallback

#: Shortest time in seconds between two calls of a progress callback, and between two computations of provisional rows.
PROGRESS_EVERY_S, ROWS_EVERY_S = 0.1, 1.0
#: Largest share of the processor time of this process that is spent on provisional rows. Our choice.
ROWS_SHARE = 0.05


def throttle(progress: ProgressCallback | None, total_s: float | None) -> Callable[[float], None]:
    """A function that takes the position in the recording, in seconds, and calls `progress` a few times a second."""
    last = -1.0

    def on_time(time_s: float) -> None:
        nonlocal last
        if progress is not None and time.monotonic() - last > PROGRESS_EVERY_S:
            last = time.monotonic()
            progress(time_s, total_s)

    return on_time


class PartialRows:
    """Provisional rows of a video while it is encoded: an `OnPart` of `encode_media`.

    Each row is given once, in the order of times. The network sees the last window that ends with the latest frame.

    Args:
        model: returns the model, None while it is being loaded.
        request: what is asked for; its `on_rows` gets the rows.
    """

    def __init__(self, model: Callable[[], StreamModel | None], request: Request) -> None:
        self._model, self._request = model, request
        # The next rows are due at this time of the clock and at this processor time of the process. A busy computer
        # makes a computation longer, but not dearer: measured by the clock it would be made too rarely.
        self._next_s, self._next_cpu_s = time.monotonic() + ROWS_EVERY_S, 0.0
        self._given_s = -math.inf  # time of the latest row that was given

    def __call__(self, time_s: float, part_from: Callable[[float], MediaPart]) -> None:
        """Give the rows that are due. time_s: of the latest frame. part_from: see `OnPart`."""
        if time.monotonic() < self._next_s or time.process_time() < self._next_cpu_s:
            return
        if (model := self._model()) is None:
            return
        import polars  # noqa: F401 - 50 MB, so not earlier; not counted below, because the result needs it too

        start_s = time.thread_time()
        context_s = max(settings.window_s for settings in all_settings(model))
        # Longer than the window where more was read since the last rows.
        part = part_from(math.floor(max(0.0, min(time_s, self._given_s + context_s / 2) - context_s)))
        # Someone counts after MIN_VISIBLE_S in view: rows wait for that.
        stop_s = min(part.stop_s, time_s - MIN_VISIBLE_S)
        if len(part.media.faces.times) and stop_s > self._given_s:
            rows = self._rows(model, part, stop_s)
            if len(rows) and self._request.on_rows is not None:
                self._given_s = float(rows["time_s"].to_numpy().max())
                self._request.on_rows(rows)
        self._next_s = time.monotonic() + ROWS_EVERY_S
        self._next_cpu_s = time.process_time() + (time.thread_time() - start_s) / ROWS_SHARE

    def _rows(self, model: StreamModel, part: MediaPart, stop_s: float) -> pl.DataFrame:
        """The rows after the last ones and before `stop_s`, with times, frames and subjects of the recording."""
        import polars as pl

        from mien.predict.rows import timeline_rows

        table = timeline_rows(model, part.media, min_quality=self._request.min_quality)
        numbers = dict(enumerate(part.numbers or [0]))
        table = table.with_columns(
            pl.col("time_s") + part.start_s,
            pl.col("frame") + part.first_frame + self._request.section.skipped,
            pl.col("subject").replace_strict(numbers, return_dtype=table.schema["subject"]),
        )
        return table.filter((pl.col("time_s") > self._given_s + 1e-9) & (pl.col("time_s") < stop_s)).sort(
            "time_s", "subject"
        )
