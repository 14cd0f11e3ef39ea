"""Terminal output: results on stdout; progress, notes and errors on stderr."""

from __future__ import annotations

import io
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

from mien.errors import MienError
from mien.printable import printable, printable_lines

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

#: Shortest time in seconds between two lines of progress where stderr is not a terminal.
LINE_EVERY_S = 10.0
#: Called as `update(text, done, total)`.
StatusCallback = Callable[[str, float, float | None], None]


class ProgressDisplay(Protocol):
    """Shows how much of a task is done, in the unit of the display; total None: unknown."""

    def __call__(self, done: float, total: float | None = None) -> None:
        """Show the progress."""


def stdout() -> Console:
    """A rich console on stdout; see `_console`."""
    return _console(sys.stdout)


def stderr() -> Console:
    """A rich console on stderr; see `_console`."""
    return _console(sys.stderr)


def _console(file: TextIO) -> Console:
    """A rich console that prints names as they are: without markup, and control characters as escapes. Use `Text` for
    styles."""
    from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook, RenderResult
    from rich.segment import Segment

    class Printable:
        def __init__(self, renderable: RenderableType) -> None:
            self.renderable = renderable

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            for segment in console.render(self.renderable, options):
                yield segment if segment.control else Segment(printable_lines(segment.text), segment.style)

    class Hook(RenderHook):
        def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
            return [Printable(renderable) for renderable in renderables]

    replace_unknown_signs(file)
    screen = Console(file=file, markup=False, emoji=False, highlight=False, soft_wrap=not file.isatty())
    screen.push_render_hook(Hook())
    return screen


def replace_unknown_signs(file: object) -> None:
    """Write `?` for letters that the encoding of a terminal lacks, as in the name of a file, instead of failing."""
    if isinstance(file, io.TextIOWrapper) and file.errors == "strict":
        file.reconfigure(errors="replace")


def table(*titles: str, right: tuple[str, ...] = ()) -> Table:
    """An empty table without lines. right: the titles of the columns with right-aligned numbers."""
    from rich.table import Table

    empty = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_header=bool(titles))
    for title in titles:
        empty.add_column(title, justify="right" if title in right else "left", overflow="fold")
    return empty


def print_error(error: MienError) -> None:
    """Print an error without a traceback: what failed, the consequence, and the fix."""
    from rich.text import Text

    console = stderr()
    console.print(Text.assemble(("error  ", "bold red"), error.what))
    if error.follows:
        console.print(Text("       " + error.follows, style="dim"))
    if error.remedy:
        console.print(Text.assemble("       ", ("try  ", "bold green"), error.remedy))


def print_json(record: object) -> None:
    """Print a value as JSON on stdout, all in ASCII where its encoding lacks a letter or a name holds controls."""
    text = json.dumps(record, indent=2, ensure_ascii=False, default=str)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
        is_safe = printable_lines(text) == text
    except UnicodeEncodeError:
        is_safe = False
    print(text if is_safe else json.dumps(record, indent=2, default=str))


def show_log() -> None:
    """Print the package's warnings on stderr as notes."""
    _set_log_handler(_note_handler())
    logging.getLogger("mien.downloads").handlers = []


def hide_log() -> None:
    """Drop the package's warnings, in commands that print the collected notes themselves; downloads are still said."""
    _set_log_handler(logging.NullHandler())
    logging.getLogger("mien.downloads").handlers = [_note_handler()]


def _note_handler() -> logging.Handler:
    class NoteHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            from rich.text import Text

            stderr().print(Text.assemble(("note  ", "yellow"), record.getMessage()))

    return NoteHandler(logging.INFO)


def _set_log_handler(handler: logging.Handler) -> None:
    logger = logging.getLogger("mien")
    logger.handlers = [handler]
    logger.propagate = False


@contextmanager
def progress(title: str, *, quiet: bool = False, unit: str = "s") -> Iterator[ProgressDisplay]:
    """Context manager of a progress display in `unit` (seconds of media by default); display as in `status`."""
    with status(title, quiet=quiet) as update:

        def show(done: float, total: float | None = None) -> None:
            of_total = f" of {total:.0f}" if total else ""
            update(f"{done:.0f}{of_total} {unit}", done, total)

        yield show


@contextmanager
def status(title: str, *, quiet: bool = False) -> Iterator[StatusCallback]:
    """Show a line of text about a task: with a bar on a terminal, else as plain lines, at most one every LINE_EVERY_S
    seconds (for logs, pipes and continuous integration); nothing if quiet."""
    if quiet:
        yield lambda text, done, total: None
    elif not sys.stderr.isatty():
        last = time.monotonic()

        def print_line(text: str, done: float, total: float | None) -> None:
            nonlocal last
            if time.monotonic() - last >= LINE_EVERY_S:
                last = time.monotonic()
                print(f"{printable(title)}: {text}", file=sys.stderr, flush=True)

        yield print_line
    else:
        from rich import progress as rich

        columns = (
            rich.TextColumn("{task.description}", markup=False),
            rich.BarColumn(),
            rich.TextColumn("{task.fields[text]}", markup=False),
            rich.TimeElapsedColumn(),
        )
        with rich.Progress(*columns, console=stderr(), transient=True) as bars:
            task = bars.add_task(printable(title), total=None, text="")
            yield lambda text, done, total: bars.update(task, completed=done, total=total, text=text)
