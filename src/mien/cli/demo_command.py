"""`mien demo`: render a demonstration clip and predict it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for the clip and its results.")] = Path("demo"),
    seconds: Annotated[float, typer.Option(min=2.0, help="Length of the clip in seconds.")] = 20.0,
) -> None:
    """Render a clip of a simulated person and predict it.

    Writes DIR/clip.mp4, DIR/clip/timeline.csv (see mien predict) and DIR/clip/report.html, a page to look at. Needs no
    media of your own.

    \b
    Examples:
      mien demo
      mien demo trial --seconds 5
    """
    from mien.cli import console
    from mien.cli.predict_command import predict
    from mien.synthetic.demo_clip import render_demo_clip

    clip = folder / "clip.mp4"
    folder.mkdir(parents=True, exist_ok=True)
    console.stderr().print(f"rendering {clip} ({seconds:g} s)", markup=False)
    with console.progress("rendering", unit="frames") as bar:
        render_demo_clip(clip, seconds=seconds, progress=bar)
    predict([clip], out=folder, report=True)
