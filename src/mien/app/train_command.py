"""`mien train` and `mien recipes`."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mien.errors import ConfigError

if TYPE_CHECKING:
    from mien.config import Recipe
    from mien.records import Recording


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped name (mien recipes) or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[key=value]...", help="Changes to it.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; by default runs/RECIPE.")] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with a run that stopped.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Train a model by a recipe.

    \b
    Examples:
      mien train starter train.epochs=2
      mien train mine.yaml train.lr=1e-4 model.dim=128 --out runs/wide
      mien train starter --resume runs/starter
    """
    from mien import config, models
    from mien.app import console

    settings = config.load(recipe, overrides or (), check=models.problems)
    data = {split: _recordings(settings, split) for split in ("train", "val")}
    from mien.training.fit import fit  # takes seconds: a mistyped recipe should not wait for it

    run = resume or out or Path("runs") / Path(recipe).stem
    folder = fit(
        settings,
        data["train"],
        data["val"],
        run,
        resume=resume is not None,
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


def _recordings(recipe: Recipe, split: str) -> list[Recording]:
    """The theatre's recordings of a split, as many as `corpus.options` says: train, val, seed, seconds."""
    if recipe.corpus.name != "theatre":
        raise ConfigError(
            f"corpus.name {recipe.corpus.name!r}: mien train reads the corpus 'theatre'",
            follows="nothing was started",
            remedy="for recordings of your own, call mien.training.fit.fit with them (docs/ARCHITECTURE.md)",
        )
    from mien.corpora.theatre.recordings import recordings

    options = dict(recipe.corpus.options)
    count = int(options.get(split, 0))
    rest = {key: options[key] for key in ("seconds", "seed", "balance", "faults") if key in options}
    logging.getLogger("mien").info("making %d recordings for %s", count, split)
    if split == "train" and options.get("real_voices"):
        logging.getLogger("mien").warning(
            "corpus.options.real_voices needs EMO-DB, which `make starter` reads; here all voices are synthetic"
        )
    return list(recordings(split, count, workers=os.cpu_count() or 1, **rest))


def recipes(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """List the recipes that ship with mien."""
    from mien import config

    names = config.names()
    print(json.dumps(names) if as_json else "\n".join(names))
