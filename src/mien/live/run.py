"""A live prediction from its sources to its outputs."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from mien.live.predictor import LiveStream, Row
from mien.live.reader import Picture, Sound, end_s

#: Rows over which the delay is measured.
_RECENT = 200


@dataclass(slots=True)
class LiveFacts:
    """Facts of a live prediction so far.

    rows, frames: numbers. dropped: frames dropped, by the prediction and before it. latest_s: time up to which pictures
    or sound arrived. delays: seconds between a moment and its rows, of the last rows.
    """

    rows: int = 0
    frames: int = 0
    dropped: int = 0
    latest_s: float = 0.0
    delays: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))

    @property
    def delay_s(self) -> float | None:
        """Median delay of the last rows in seconds; None before the first."""
        return statistics.median(self.delays) if self.delays else None


def run(
    stream: LiveStream,
    pieces: Iterable[Picture | Sound | None],
    *,
    clock: Callable[[], float] | None,
    on_rows: Callable[[Sequence[Row], Sequence[float]], None],
    on_update: Callable[[LiveFacts], None] = lambda facts: None,
    should_stop: Callable[[], bool] = lambda: False,
    dropped_before: Callable[[], int] = lambda: 0,
) -> LiveFacts:
    """Predict pieces until they end or `should_stop`, and finish the stream in any case.

    Args:
        pieces: pictures and sound in the order in which they come; None: nothing came for a moment.
        clock: seconds, on the clock of the pieces' times; None: the time of the latest piece.
        on_rows: gets the rows that became final, and the age of each in seconds on the clock.
        on_update: called after each piece. dropped_before: frames dropped before they came here.

    Raises what `pieces` raises, after the last rows were passed on.
    """
    facts = LiveFacts()

    def pass_on(rows: Sequence[Row]) -> None:
        facts.frames, facts.dropped = stream.frames + dropped_before(), stream.dropped + dropped_before()
        if rows:
            now = clock() if clock is not None else facts.latest_s
            ages = [now - row["time_s"] for row in rows]
            facts.rows += len(rows)
            facts.delays.extend(ages)
            on_rows(rows, ages)
        on_update(facts)

    try:
        for piece in pieces:
            if should_stop():
                break
            if piece is None:
                pass_on([])
                continue
            facts.latest_s = max(facts.latest_s, end_s(piece))
            if isinstance(piece, Picture):
                pass_on(stream.frame(piece.image, piece.time_s))
            else:
                pass_on(stream.sound(piece.samples, piece.rate, piece.time_s))
    finally:
        pass_on(stream.finish())
    return facts
