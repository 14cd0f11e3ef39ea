"""`mien train` and `mien recipes`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped name (mien recipes) or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[key=value]...", help="Changes to it.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; by default runs/RECIPE.")] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with a run that stopped.")] = None,
    emodb: Annotated[
        Path | None, typer.Option(metavar="DIR", help="EMO-DB's .wav files, where the recipe asks for real voices.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Train a model by a recipe.

    \b
    Examples:
      mien train starter --emodb EMODB
      mien train starter corpus.options.real_voices=false train.epochs=2
      mien train mine.yaml train.lr=1e-4 model.dim=128 --out runs/wide
      mien train mine.yaml --resume runs/mine
    """
    from mien import config, models
    from mien.app import console

    settings = config.load(recipe, overrides or (), check=models.problems)
    from mien.training.fit import fit  # takes seconds: a mistyped recipe should not wait for it
    from mien.training.material import gather

    console.err().print("simulating and encoding recordings ...")
    material = gather(settings, voices=emodb, workers=os.cpu_count() or 1)
    run = resume or out or Path("runs") / Path(recipe).stem
    folder = fit(
        settings,
        material.train,
        material.val,
        run,
        resume=resume is not None,
        augment=material.augment,
        device=device,
    )
    metrics = json.loads((folder / "metrics.json").read_text())
    if as_json:
        print(json.dumps({"run": str(folder), "metrics": metrics}, indent=2))
        return
    screen = console.out()
    screen.print(f"{folder}  ready for: mien predict clip.mp4 --model {folder}", markup=False)
    for name, value in metrics.items():
        if isinstance(value, float):
            screen.print(f"  {name:24}{value:.4f}", markup=False)


def recipes(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """List the recipes that ship with mien."""
    from mien import config

    names = config.names()
    print(json.dumps(names) if as_json else "\n".join(names))
