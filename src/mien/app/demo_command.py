"""`mien demo`: render a clip of the theatre, predict it, write everything there is to look at."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from mien.app import console
from mien.app.predict_command import Format, predict


def demo(
    out: Annotated[Path, typer.Argument(help="Where the clip and the results go.")] = Path("demo"),
    seconds: Annotated[float, typer.Option(min=2.0, max=600.0, help="Length of the clip.")] = 20.0,
) -> None:
    """Render a clip, predict it, write its timeline, report and overlay.

    The clip is synthetic: a public-domain photograph moved by simulated facial actions, with a synthesised
    voice. The face turns away for a while and the voice falls silent for a while, so that the evidence strip has
    something to show. Nothing is downloaded but the two face networks.
    """
    from mien.corpora.theatre import demo_clip

    screen = console.out()
    clip = out / "clip.mp4"
    began = time.perf_counter()
    screen.print(f"rendering {seconds:g} s of theatre ...", markup=False)
    demo_clip(clip, seconds=seconds)
    screen.print(f"rendered  {clip} in {time.perf_counter() - began:.1f} s\n", markup=False)
    predict([clip], out=out, format=Format.csv, report=True, overlay=True)
    screen.print(f"Open {out / 'clip' / 'report.html'} in a browser.", markup=False)
