"""`mien export`: write the network of a checkpoint as ONNX."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mien.cli import console
from mien.cli.options import CheckpointArgument


def export(
    checkpoint: CheckpointArgument,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the two files; by default the checkpoint's own.")
    ] = None,
) -> None:
    """Export a checkpoint to ONNX for prediction without torch.

    Writes network.onnx and network.json into the folder. mien predict --model CHECKPOINT then starts several seconds
    sooner and needs half the memory; the probabilities agree to 1e-5. Needs: pip install 'mien[export]'.

    \b
    Examples:
      mien export runs/mine
      mien export runs/mine --out deploy
    """
    from mien.onnx_export import export as export_checkpoint

    print("exporting takes about ten seconds", file=sys.stderr)
    path = export_checkpoint(checkpoint, out=out)
    console.stdout().print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
