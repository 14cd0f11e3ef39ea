"""What `mien live` shows: a view on a terminal, rows as JSON lines, or lines for a log."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mien.cli import console
from mien.views.words import count, format_time

if TYPE_CHECKING:
    from rich.live import Live

    from mien.live.predictor import Row
    from mien.live.run import LiveFacts
    from mien.views.live import LiveState

#: Times a second that the view is drawn.
VIEW_HZ = 8


class LinesDisplay:
    """Rows as lines of JSON on stdout, or only a line on stderr every `console.LINE_EVERY_S` seconds.

    Args:
        title: of the source. notice: lines that are printed at the start.
    """

    def __init__(self, title: str, notice: Sequence[str], *, as_json: bool) -> None:
        self._title, self._as_json = title, as_json
        self._start = self._last = time.monotonic()
        self._state = ""
        for line in notice:
            self._print(line)

    def add(self, rows: Sequence[Row]) -> None:
        """Take new rows."""
        if self._as_json and rows:
            print("\n".join(json.dumps(row) for row in rows), flush=True)

    def update(self, facts: LiveFacts) -> None:
        """Take the facts so far."""
        now = time.monotonic()
        if self._as_json or now - self._last < console.LINE_EVERY_S:
            return
        self._last = now
        delay = "no rows yet" if facts.delay_s is None else f"delay {facts.delay_s:.2f} s"
        self._print(f"{format_time(now - self._start)}, {delay}, {count(facts.rows, 'row')}, {facts.dropped:,} dropped")

    def set_state(self, text: str) -> None:
        """Take a text on the connection; "" when it stands again."""
        if text != self._state:
            self._state = text
            self._print(text.removeprefix(f"{self._title}: ") or "the source is back")

    def _print(self, text: str) -> None:
        print(f"{self._title}: {text}", file=sys.stderr, flush=True)


class TerminalDisplay:
    """The view of `mien.views.live`, drawn `VIEW_HZ` times a second."""

    def __init__(self, state: LiveState, screen: Live) -> None:
        self._view, self._screen = state, screen
        self._start, self._drawn = time.monotonic(), 0.0

    def add(self, rows: Sequence[Row]) -> None:
        """Take new rows."""
        self._view.add(rows)

    def update(self, facts: LiveFacts) -> None:
        """Take the facts so far, and draw if it is time."""
        now = time.monotonic()
        if now - self._drawn < 1 / VIEW_HZ:
            return
        self._drawn, view = now, self._view
        view.elapsed_s, view.delay_s = now - self._start, facts.delay_s
        view.frames, view.dropped = facts.frames, facts.dropped
        self._screen.refresh()

    def set_state(self, text: str) -> None:
        """Take a text on the connection; "" when it stands again. Called in the thread that reads."""
        self._view.state = text


@contextmanager
def display(
    title: str, classes: Sequence[str], notice: Sequence[str], *, as_json: bool
) -> Iterator[LinesDisplay | TerminalDisplay]:
    """Context manager of the display that suits stdout."""
    if as_json or not sys.stdout.isatty():
        yield LinesDisplay(title, notice, as_json=as_json)
        return
    from rich.live import Live

    from mien.views.live import LiveState

    state = LiveState(title, classes, notice)
    with Live(state, console=console.stdout(), auto_refresh=False, transient=True) as screen:
        yield TerminalDisplay(state, screen)
