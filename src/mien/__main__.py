"""The command `mien`, also as `python -m mien`."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line."""
    # In the half second of the imports, Ctrl-C would print Python's traceback. Nothing is open yet, so the default of
    # the system ends the process. A signal that the shell ignores stays ignored.
    raises = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if raises:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from mien.cli.main import main as run

    if raises:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
