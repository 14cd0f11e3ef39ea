"""What the command line says, and where: results on stdout; progress, notes and errors on stderr."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mien.errors import MienError

if TYPE_CHECKING:
    from rich.console import Console

#: Seconds between two lines of progress where there is no terminal to draw a bar on.
EVERY_S = 10.0


def out() -> Console:
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False, soft_wrap=not sys.stdout.isatty())


def err() -> Console:
    from rich.console import Console

    return Console(file=sys.stderr, highlight=False, soft_wrap=not sys.stderr.isatty())


def show(error: MienError) -> None:
    """An error without a traceback: what happened in red, what follows, what to do."""
    from rich.text import Text

    console = err()
    console.print(Text.assemble(("error  ", "bold red"), error.what))
    if error.follows:
        console.print(Text("       " + error.follows, style="dim"))
    if error.remedy:
        console.print(Text.assemble("       ", ("try  ", "bold green"), error.remedy))


def show_log() -> None:
    """Lets warnings of the package through to stderr, as notes."""

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            from rich.text import Text

            err().print(Text.assemble(("note  ", "yellow"), record.getMessage()))

    logger = logging.getLogger("mien")
    logger.handlers = [Notes(logging.INFO)]
    logger.propagate = False


def hide_log() -> None:
    """For commands that show the collected notes themselves."""
    logger = logging.getLogger("mien")
    logger.handlers = [logging.NullHandler()]
    logger.propagate = False


class ProgressDisplay:
    """One line of work. Call it with what is done and, where known, what there is (seconds of media, or frames)."""

    def __call__(self, done_s: float, total_s: float | None = None) -> None:
        raise NotImplementedError


class Lines(ProgressDisplay):
    """Plain lines, at most one every EVERY_S: for logs, pipes and continuous integration."""

    def __init__(self, title: str, unit: str = "s") -> None:
        self.title, self.unit, self.last = title, unit, time.monotonic()

    def __call__(self, done_s: float, total_s: float | None = None) -> None:
        if time.monotonic() - self.last >= EVERY_S:
            self.last = time.monotonic()
            of = f" of {total_s:.0f}" if total_s else ""
            print(f"{self.title}: {done_s:.0f}{of} {self.unit}", file=sys.stderr, flush=True)


@contextmanager
def progress(title: str, *, quiet: bool = False, unit: str = "s") -> Iterator[ProgressDisplay]:
    """A bar on a terminal, plain lines elsewhere, nothing if quiet."""
    if quiet:
        yield _Nothing()
    elif not sys.stderr.isatty():
        yield Lines(title, unit)
    else:
        with _bar(title, unit) as bar:
            yield bar


class _Nothing(ProgressDisplay):
    def __call__(self, done_s: float, total_s: float | None = None) -> None:
        return


@contextmanager
def _bar(title: str, unit: str) -> Iterator[ProgressDisplay]:
    from rich import progress as rich

    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.TextColumn("{task.fields[state]}"),
        rich.TimeElapsedColumn(),
    )
    with rich.Progress(*columns, console=err(), transient=True) as bars:
        task = bars.add_task(title, total=None, state="")

        class Bar(ProgressDisplay):
            def __call__(self, done_s: float, total_s: float | None = None) -> None:
                of = f" of {total_s:.0f}" if total_s else ""
                bars.update(task, completed=done_s, total=total_s, state=f"{done_s:.0f}{of} {unit}")

        yield Bar()
