"""`mien synthetic`: write a synthetic corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def synthetic(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for the corpus.")],
    videos: Annotated[int, typer.Option(min=1, help="Number of videos.")] = 12,
    seconds: Annotated[float, typer.Option(min=1.0, help="Length of each video in seconds.")] = 20.0,
    seed: Annotated[int, typer.Option(help="Random seed; the same seed gives the same corpus.")] = 0,
) -> None:
    """Write a synthetic corpus with known labels.

    Writes videos, cropped faces and annotations into DIR, in the layout of Aff-Wild2. Faces and voices are simulated,
    and every label is true by construction. Use it to try the other commands, for tests, and to measure the effect of
    missing faces and silence. It does not replace real data.

    \b
    Examples:
      mien synthetic demo-corpus --videos 6 --seconds 15
      mien reproduce synthetic --root demo-corpus --corpus synthetic
    """
    from mien.cli import console
    from mien.synthetic import affwild2_export

    with console.progress("rendering", unit="frames") as bar:
        affwild2_export.write_corpus(folder, videos, seconds, seed, progress=bar)
    console.stdout().print(f"{videos} videos of {seconds:g} s in {folder}", markup=False)
