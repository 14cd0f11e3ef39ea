"""`mien export`: the network of a checkpoint without torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mien.cli import console


def export(
    model: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="The folder of a trained checkpoint, or starter.")],
    out: Annotated[
        Path | None, typer.Option(help="A folder for the two files, in place of the checkpoint's own.")
    ] = None,
) -> None:
    """Write a checkpoint's network as ONNX, so that predicting with it needs no torch.

    Adds network.onnx and network.json to the folder; `mien predict --model FOLDER` then starts several seconds
    sooner and takes half the memory. The probabilities are the same to 1e-5.
    Needs the packages of: pip install 'mien[export]'.

    Examples:
      mien export runs/mine
      mien predict talk.mp4 --model runs/mine
    """
    from mien import checkpoint

    print("exporting takes about ten seconds", file=sys.stderr)
    path = checkpoint.export(model, out=out)
    console.out().print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
