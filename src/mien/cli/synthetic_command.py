"""`mien synthetic`: the synthetic corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def synthetic(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the corpus goes.")],
    videos: Annotated[int, typer.Option(min=1, help="How many recordings.")] = 12,
    seconds: Annotated[float, typer.Option(min=1.0, help="Of each.")] = 20.0,
    seed: Annotated[int, typer.Option(help="Same seed, same corpus.")] = 0,
) -> None:
    """Write a synthetic corpus with known truth, laid out like Aff-Wild2.

    Nobody's face or voice is in it, and every label is true by construction: good for trying a pipeline,
    for tests, and for seeing how a model takes missing faces and silence. Not a substitute for real data.

    \b
    Example:
      mien synthetic demo-corpus --videos 6 --seconds 15
    """
    from mien.cli import console
    from mien.synthetic import affwild2_export

    with console.progress("rendering", unit="frames") as bar:
        affwild2_export.write(folder, videos, seconds, seed, progress=bar)
    console.out().print(f"{videos} recordings of {seconds:g} s in {folder}", markup=False)
