"""The report page inside a notebook: Jupyter, Google Colab, and others with IPython's kernel."""

from __future__ import annotations

import html
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from mien.errors import ConfigError
from mien.extras import is_installed
from mien.scratch import scratch_folder


def show_page(write: Callable[[Path], object], *, height: int) -> None:
    """Display a page in the output of the cell that runs, in a frame that cannot reach the notebook.

    Args:
        write: writes the page to the path that it gets.
        height: of the frame, pixels.

    Raises:
        ConfigError: no notebook runs here.
    """
    display = _display()
    with scratch_folder(Path(tempfile.gettempdir()) / "mien-page") as folder:
        page = folder / "page.html"
        write(page)
        text = page.read_text(encoding="utf-8")
    # allow-scripts alone: scripts of the page run, with an origin of their own.
    display.display(
        display.HTML(
            f'<iframe srcdoc="{html.escape(text, quote=True)}" sandbox="allow-scripts" title="mien report" '
            f'style="width: 100%; height: {int(height)}px; border: 0"></iframe>'
        )
    )


def _display() -> Any:
    """The module IPython.display, which mien does not require. Raises ConfigError if no notebook runs."""
    remedy = 'Write the page with timeline.report("report.html") and open it, or timeline.plot("plot.svg").'
    if not is_installed("IPython"):
        raise ConfigError(
            "timeline.show() displays the report in a notebook, and IPython is not installed",
            follows="Nothing was shown.",
            remedy=f"{remedy} In a notebook's environment, install it with `pip install jupyterlab`.",
        )
    shell = import_module("IPython").get_ipython()
    if getattr(shell, "kernel", None) is None:  # Python itself, or IPython in a terminal
        raise ConfigError(
            "timeline.show() displays the report in a notebook, and this Python does not run in one",
            follows="Nothing was shown.",
            remedy=remedy,
        )
    return import_module("IPython.display")
