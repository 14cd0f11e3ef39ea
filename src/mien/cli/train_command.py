"""`mien train` and `mien recipes`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mien.cli import console
from mien.errors import ConfigError

if TYPE_CHECKING:
    from mien.config import Recipe
    from mien.datasets.synthetic_recordings import Material


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped name (mien recipes) or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[key=value]...", help="Changes to it.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; by default runs/RECIPE.")] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with a run that stopped.")] = None,
    emodb: Annotated[
        Path | None, typer.Option(metavar="DIR", help="EMO-DB's .wav files, where the recipe asks for real voices.")
    ] = None,
    index: Annotated[
        Path | None, typer.Option(metavar="INDEX", help="A corpus of yours (mien index), in place of the recipe's.")
    ] = None,
    store: Annotated[Path | None, typer.Option(metavar="DIR", help="Its features (mien extract).")] = None,
    task: Annotated[str | None, typer.Option(help="expr or va: whose labels and splits; the first by default.")] = None,
    root: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the corpus lies now, if it moved.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    devices: Annotated[int, typer.Option(min=1, help="Processes (GPUs) on this machine that share a batch.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Machines; start the command on each (MASTER_ADDR).")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Train a model by a recipe.

    A recipe of the synthetic corpus simulates its recordings. With --index and --store the recordings are those of an
    indexed corpus, with the features of the recipe's encoders, split as the corpus is: clips of its split "train"
    are trained on, those of "val" choose the epoch.

    \b
    Examples:
      mien train starter --emodb EMODB
      mien train starter corpus.options.real_voices=false train.epochs=2
      mien train mine.yaml train.lr=1e-4 model.dim=128 --out runs/wide
      mien train mine.yaml --resume runs/mine
      mien train safe_cross_attention --index index.jsonl --store features
      mien train dynamic_threshold --root RAF-DB/basic corpus.options.labelled=100
    """
    from mien import config, models

    settings = config.load(recipe, overrides or (), check=models.problems)
    if settings.model.name in ("dynamic_threshold", "cnn_static"):
        _pictures(settings, resume or out or Path("runs") / Path(recipe).stem, root, resume is not None, as_json)
        return
    if (index is None) != (store is None):
        raise ConfigError(
            "--index and --store go together: one names the clips, the other holds their features",
            follows="nothing was started",
            remedy="give both, or neither for a recipe of the synthetic corpus",
        )
    from mien.training.fit import fit  # takes seconds: a mistyped recipe should not wait for it

    material = _simulated(settings, emodb) if store is None else _stored(settings, index, store, task, root)
    run = resume or out or Path("runs") / Path(recipe).stem
    folder = fit(
        settings,
        material.train,
        material.val,
        run,
        resume=resume is not None,
        augment=material.augment,
        device=device,
        devices=devices,
        nodes=nodes,
    )
    if devices * nodes > 1:
        from mien.training.callbacks import first_process

        if not first_process():
            return
    metrics = json.loads((folder / "metrics.json").read_text())
    if as_json:
        print(json.dumps({"run": str(folder), "metrics": metrics}, indent=2))
        return
    screen = console.out()
    screen.print(f"{folder}  ready for: mien predict clip.mp4 --model {folder}", markup=False)
    for name, value in metrics.items():
        if isinstance(value, float):
            screen.print(f"  {name:24}{value:.4f}", markup=False)


def _pictures(settings: Recipe, run: Path, root: Path | None, resume: bool, as_json: bool) -> None:
    from mien.datasets.image_datasets import gather_pictures
    from mien.training.semi_supervised import fit_pictures

    console.err().print("reading pictures ...")
    labelled, unlabelled, val = gather_pictures(settings, root, workers=os.cpu_count() or 1)
    scored = len(val) if val is not None else 0
    console.err().print(f"{len(labelled)} labelled pictures, {len(unlabelled)} unlabelled, {scored} to score")
    steps = max(1, settings.train.epochs * max(100, len(unlabelled) // (4 * settings.train.batch)))
    with console.progress("training", unit="steps") as bar:
        folder = fit_pictures(
            settings,
            labelled,
            unlabelled,
            val,
            run,
            steps=steps,
            resume=resume,
            told=lambda step, row: bar(step, steps),
        )
    metrics = json.loads((folder / "metrics.json").read_text())
    if as_json:
        print(json.dumps({"run": str(folder), "metrics": metrics}, indent=2))
        return
    console.out().print(f"{folder}  ready for: mien extract INDEX --encoder {folder} --store DIR", markup=False)
    for name in ("val_macro_f1", "val_accuracy"):
        if name in metrics:
            console.out().print(f"  {name:24}{metrics[name]:.4f}", markup=False)


def _simulated(settings: Recipe, emodb: Path | None) -> Material:
    from mien.datasets.synthetic_recordings import gather

    console.err().print("simulating and encoding recordings ...")
    return gather(settings, voices=emodb, workers=os.cpu_count() or 1)


def _stored(settings: Recipe, index: Path | None, store: Path, task: str | None, root: Path | None) -> Material:
    from mien.datasets.index import Index
    from mien.datasets.stored_recordings import recordings
    from mien.datasets.synthetic_recordings import Material

    assert index is not None
    corpus = Index.load(index, root)
    encoders = {modality: feature.encoder for modality, feature in settings.features.items()}
    train, val = (recordings(corpus, store, encoders, task=task, split=split) for split in ("train", "val"))
    console.err().print(f"{len(train)} clips to train on, {len(val)} to choose the epoch by")
    return Material(train, val)


def recipes(
    names: Annotated[list[str] | None, typer.Argument(metavar="[RECIPE]...", help="Just these.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the recipes: paper, inputs, what the paper reports, what was obtained here, and on what.

    Published figures are the papers' own, on their corpora; obtained ones were measured by the command named beside
    them. What a recipe does otherwise than its paper is listed under it when it is named.

    \b
    Examples:
      mien recipes
      mien recipes va_reliability
    """
    from mien import config
    from mien.results import obtained

    known = config.names()
    for name in names or ():
        if name not in known:
            raise ConfigError(
                f"no recipe is called {name!r}{config.nearest(name, known)}", follows="nothing was listed"
            )
    records = [
        {
            "name": name,
            "model": recipe.model.name,
            "paper": recipe.paper.title,
            "arxiv": recipe.paper.arxiv,
            "inputs": {n: f.encoder for n, f in recipe.features.items()},
            "reported": recipe.paper.reported,
            "obtained": obtained(name),
            "differs": recipe.paper.differs,
        }
        for name, recipe in ((n, config.load(n)) for n in names or known)
    ]
    if as_json:
        print(json.dumps(records, indent=1))
        return
    for record in records:
        _tell_recipe(record, whole=bool(names))


def _tell_recipe(record: dict[str, Any], *, whole: bool) -> None:
    screen = console.out()
    inputs = ", ".join(f"{n} from {e}" for n, e in record["inputs"].items())
    screen.print(f"[bold]{record['name']}[/bold]  arXiv {record['arxiv']}", highlight=False)
    screen.print(f"  inputs     {inputs}", markup=False, highlight=False)
    if record["reported"]:
        told = ", ".join(f"{k.replace('_', ' ')} {v:g}" for k, v in record["reported"].items())
        screen.print(f"  published  {told}", markup=False, highlight=False)
    for line in record["obtained"]:
        screen.print(f"  obtained   {line}", markup=False, highlight=False)
    if whole:
        screen.print(f"  paper      {record['paper']}", markup=False, highlight=False)
        for line in record["differs"]:
            screen.print(f"  differs    {line}", markup=False, highlight=False)
