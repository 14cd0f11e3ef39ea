"""`mien models`: list the models that `mien predict --model` accepts."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mien.cli import console
from mien.cli.options import JsonOption

if TYPE_CHECKING:
    from mien.model_listing import ModelInfo


def models(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...", help="Models to show in detail, or folders that hold checkpoints or ensembles."
        ),
    ] = None,
    card: Annotated[bool, typer.Option("--card", help="Print the model card that mien hub push uploads.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the models that mien predict --model accepts.

    Lists the shipped checkpoints, the trained ones in ./runs and in the folders given, and the networks with a card:
    what each reads and predicts, its size and licence, measured figures, and the command that gets what it lacks.

    \b
    Examples:
      mien models
      mien models starter
      mien models runs/mine --card
    """
    from mien import model_listing
    from mien.model_card import write_card

    folders = [n for n in names or () if Path(n).is_dir() and not model_listing.is_model(Path(n))]
    single = [n for n in names or () if n not in folders]
    found = [model_listing.describe(name) for name in single]
    if card:
        for model in found:
            print(write_card(model, f"ORG/{Path(model.name).name}", model.licence))
        return
    if folders or not single:
        found += model_listing.list_models(folders)
    if as_json:
        print(json.dumps([asdict(model) for model in found], indent=1))
    elif single:
        for model in found:
            _print_details(model)
    else:
        _print_list(found)


def _predicts(model: ModelInfo) -> str:
    parts = [f"{len(model.classes)} classes"] if model.classes else []
    return ", ".join(parts + (["valence-arousal"] if model.valence_arousal else []))


def _size(model: ModelInfo) -> str:
    from mien.downloads import human_size

    return "" if model.size is None else human_size(model.size)


def _print_list(found: list[ModelInfo]) -> None:
    """Print a few lines for each model; a table would be wider than a terminal."""
    from rich.text import Text

    screen = console.stdout()
    for model in found:
        facts = [model.kind, _size(model), model.licence or "licence not stated", "ONNX" if model.onnx else ""]
        screen.print(Text.assemble((model.name, "bold"), f"  {', '.join(fact for fact in facts if fact)}"))
        figures = ", ".join(
            f"{k.removeprefix('val_').replace('_', ' ')} {v:.3f}" for k, v in model.figures.items() if k[:4] == "val_"
        )
        rows = [
            ("reads", ", ".join(f"{i.modality} ({i.encoder})" for i in model.inputs)),
            ("predicts", _predicts(model)),
            ("validation", f"{figures} (corpus: {model.corpus})" if figures else ""),
            ("problem", model.problem),
            ("missing", model.missing),
        ]
        for title, text in rows:
            if text:
                screen.print(f"  {title:11}{text}", markup=False)


def _print_details(model: ModelInfo) -> None:
    screen = console.stdout()
    screen.print(f"{model.name}  {model.kind}", markup=False)
    rows = [("predicts", _predicts(model)), ("classes", ", ".join(model.classes))]
    for i in model.inputs:
        weights = f" of {i.source}" if i.source else ""
        rows.append(("reads", f"{i.modality}: {i.encoder}{weights}, licence {i.licence}"))
    rows += [("figure", f"{name} {value:.4f}") for name, value in model.figures.items()]
    rows += [("measured", line) for line in model.measured]
    paper = f"{model.paper} (arXiv {model.arxiv})" if model.arxiv else model.paper
    rows += [
        ("paper", paper), ("system", model.system), ("corpus", model.corpus),
        ("trained", model.mien and f"mien {model.mien}"),
        ("size", _size(model)), ("licence", model.licence or "not stated"), ("onnx", "yes" if model.onnx else "no"),
        ("here", f"no: {model.missing}" if model.missing else "yes"),
    ]  # fmt: skip
    for title, text in rows:
        if text:
            screen.print(f"  {title:11}{text}", markup=False)
