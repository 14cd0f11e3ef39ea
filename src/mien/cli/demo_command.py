"""`mien demo`: a first look, without any media of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the clip and its results go.")] = Path("demo"),
    seconds: Annotated[float, typer.Option(min=2.0, help="Length of the clip.")] = 20.0,
) -> None:
    """Render a clip of a simulated person, predict it, and write the report.

    \b
    Writes DIR/clip.mp4, DIR/clip/timeline.csv and DIR/clip/report.html.
    """
    from mien.cli import console
    from mien.cli.predict_command import predict
    from mien.synthetic.demo_clip import demo_clip

    clip = folder / "clip.mp4"
    folder.mkdir(parents=True, exist_ok=True)
    console.err().print(f"rendering {clip} ({seconds:g} s)", markup=False)
    with console.progress("rendering", unit="frames") as bar:
        demo_clip(clip, seconds=seconds, progress=bar)
    predict([clip], out=folder, report=True)
