"""`mien export`: write the network of a checkpoint, and its encoders, as ONNX."""

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
        Path | None, typer.Option(metavar="DIR", help="Folder for the files; by default the checkpoint's own.")
    ] = None,
    encoders: Annotated[
        bool,
        typer.Option("--encoders", help="Export the pretrained image and speech encoders too, to DIR/encoders/NAME."),
    ] = False,
    int8: Annotated[
        bool,
        typer.Option("--int8", help="Keep the encoders' weights in 8 bits; refused if their error exceeds 1 %."),
    ] = False,
) -> None:
    """Export a checkpoint to ONNX for prediction without torch.

    Writes network.onnx and network.json into the folder; for a system over face images the card network.yaml, and
    mien predict --model CHECKPOINT/network.onnx is then a face network. Checkpoints in CHECKPOINT/stages are exported
    too. Every network is compared with torch before it is written; they agree to 1e-4. Prediction starts several
    seconds sooner and needs half the memory. Needs: pip install "mien[export]".

    \b
    Examples:
      mien export runs/mine
      mien export runs/mine --out deploy
      mien export runs/mine --encoders
    """
    if int8 and not encoders:
        raise typer.BadParameter("only encoders have 8-bit weights; add --encoders", param_hint="--int8")
    from mien.onnx_export import export_run

    if sys.stderr.isatty():
        print(f"exporting takes about {'some minutes' if encoders else 'ten seconds'}", file=sys.stderr)
    done = export_run(checkpoint, out=out, encoders=encoders, int8=int8)
    for path in done.files:
        size = sum(part.stat().st_size for part in path.parent.glob(f"{path.name}*"))
        console.stdout().print(f"{path}  {size / 1e6:.1f} MB")
    for name, reason in done.left_out.items():
        print(f"note: {name} still needs torch: {reason}", file=sys.stderr)
