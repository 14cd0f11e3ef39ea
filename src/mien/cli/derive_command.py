"""`mien derive`: compute features with a trained stage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mien.cli import console
from mien.cli.options import DeviceOption, IndexArgument, RootOption, StoreOption


def derive(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="The folder of a trained stage (va_face, va_behaviour or va_voice).")
    ],
    index: IndexArgument,
    store: StoreOption,
    name: Annotated[
        str | None, typer.Option(help="The encoder name of the new features in the store; by default the run's name.")
    ] = None,
    root: RootOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Compute the features of a trained stage for the next stage.

    Reads each clip's features from the store and writes the stage's embedding and its valence and arousal back into the
    store, as the features of an encoder called NAME. The recipes va_directed_experts and va_reliability read them.

    \b
    Examples:
      mien derive runs/va_face index.jsonl --store features
      mien derive runs/trial index.jsonl --store features --name va_face
    """
    from mien.datasets.index import Index
    from mien.training.stages import derive_features

    name = name or run.resolve().name
    with console.progress(f"deriving {name}", unit="clips") as bar:
        count = derive_features(run, Index.load(index, root), store, name, device=device, progress=bar)
    console.stdout().print(f"{count} clips in {store}, called {name}", markup=False)
