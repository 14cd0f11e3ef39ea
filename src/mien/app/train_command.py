"""`mien train` and `mien recipes`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A shipped name (mien recipes) or a YAML file.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="key=value...", help="Changes to it.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; by default runs/<recipe>.")] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with a run that stopped.")] = None,
) -> None:
    """Train a model by a recipe.

    \b
    Examples:
      mien train starter train.epochs=2
      mien train mine.yaml train.lr=1e-4 model.dim=128 --out runs/wide
    """
    raise NotImplementedError


def recipes(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """List the recipes that ship with mien."""
    from mien import config

    names = config.names()
    print(json.dumps(names) if as_json else "\n".join(names))
