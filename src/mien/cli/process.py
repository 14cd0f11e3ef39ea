"""The process of a command: signals that end it, and an output that is closed or full.

Exit codes are those of shells: 128 and the number of the signal, thus 130 for Ctrl-C, 143 for SIGTERM and 141 where the
reader of the output ends first, as in `mien models | head`.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn, TextIO, cast

from mien.cli import console
from mien.errors import MienError, OutputError

#: Signals that end a command, and how its message begins.
_ENDED_BY = {
    signal.SIGINT: "interrupted by Ctrl-C",
    signal.SIGTERM: "ended by SIGTERM",
}
if hasattr(signal, "SIGHUP"):  # Windows has none
    _ENDED_BY[signal.SIGHUP] = "ended, because its terminal was closed"


class Stopped(BaseException):
    """A signal ends the process, after `finally` blocks have removed unfinished files. number: of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = signal.Signals(number)


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn Ctrl-C inside the block into `Stopped`, because click would end the process with code 1."""
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(signal.SIGINT) from None


class _Output:
    """Standard output that turns failures into `Stopped`, where its reader has ended, and `OutputError`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text."""
        try:
            return self._stream.write(text)
        except OSError as error:
            raise _output_error(error) from None

    def flush(self) -> None:
        """Write what is buffered."""
        try:
            self._stream.flush()
        except OSError as error:
            raise _output_error(error) from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _output_error(error: OSError) -> BaseException:
    if error.errno == errno.EPIPE:
        return Stopped(signal.SIGPIPE if hasattr(signal, "SIGPIPE") else signal.SIGTERM)
    return OutputError(
        f"standard output could not be written: {os.strerror(error.errno or 0).lower()}",
        follows="The command ended there; files that were finished are kept.",
        remedy="Free some space, or send the output elsewhere.",
    )


def run(command: Callable[[], object]) -> NoReturn:
    """Run the command line, and end the process with its exit code."""
    for number in _ENDED_BY:
        if number != signal.SIGINT and signal.getsignal(number) is signal.SIG_DFL:  # nohup has it ignored
            signal.signal(number, _stop)
    for stream in (sys.stdout, sys.stderr):
        console.replace_unknown_signs(stream)
    standard = sys.stdout
    sys.stdout = cast(TextIO, _Output(standard))
    code: object = 0
    try:
        try:
            command()
        finally:
            sys.stdout.flush()
    except SystemExit as ended:
        code = ended.code
    except MienError as error:
        console.print_error(error)
        code = error.exit_code
    except KeyboardInterrupt:
        code = _report(signal.SIGINT)
    except Stopped as stopped:
        code = _report(stopped.number)
    try:
        standard.flush()
    except OSError:  # the interpreter would report it again when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), standard.fileno())
    sys.exit(code)  # type: ignore[arg-type]


def _stop(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one must not disturb the cleaning up
    raise Stopped(number)


def _report(number: signal.Signals) -> int:
    """Say by what the command was ended; return the exit code."""
    if number in _ENDED_BY:
        with suppress(OSError):
            text = f"stopped  {_ENDED_BY[number]}. Finished results are kept; unfinished files were removed."
            print(text, file=sys.stderr, flush=True)
    return 128 + number
