"""`mien train` and `mien recipes`: train a checkpoint by a recipe, and list the recipes."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mien.cli import console
from mien.cli.options import (
    DeviceOption,
    JsonOption,
    OptionalIndexOption,
    OptionalStoreOption,
    OverridesArgument,
    RecipeArgument,
    StageOption,
    TaskOption,
    VerifyOption,
    parse_stages,
)
from mien.errors import ConfigError

if TYPE_CHECKING:
    from mien.config import Recipe
    from mien.datasets.synthetic_recordings import TrainingData


# Over 60 lines, because Typer reads the options from the signature.
def train(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    out: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Folder for the checkpoint; by default runs/RECIPE.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Resume the interrupted run in this folder; replaces --out.")
    ] = None,
    emodb: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of EMO-DB's .wav files, for recipes that add real voices."),
    ] = None,
    index: OptionalIndexOption = None,
    store: OptionalStoreOption = None,
    task: TaskOption = None,
    root: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The image folder of an image recipe; or the corpus, if it was moved."),
    ] = None,
    stage: StageOption = None,
    folds: Annotated[
        int | None,
        typer.Option(
            min=2, metavar="K", help="Train K checkpoints on folds by subject, and score each on its held-out clips."
        ),
    ] = None,
    device: DeviceOption = "auto",
    verify: VerifyOption = True,
    devices: Annotated[int, typer.Option(min=1, help="Processes (GPUs) on this machine that share each batch.")] = 1,
    nodes: Annotated[
        int, typer.Option(min=1, help="Machines; start the command on each, with MASTER_ADDR and NODE_RANK set.")
    ] = 1,
    as_json: JsonOption = False,
) -> None:
    """Train a checkpoint by a recipe.

    Writes the checkpoint (weights, recipe, metrics.json) into OUT; mien predict, evaluate and submit take the folder.

    With --index and --store, trains on an indexed corpus: its clips of the split train are trained on, those of val
    select the epoch. Without them, a recipe of the synthetic corpus simulates its recordings.

    With --folds K, the clips of train and val together are divided into K folds by subject. OUT/fold-1 to OUT/fold-K
    are checkpoints, each trained without its fold; one fifth of its training clips selects the epoch. OUT/report
    evaluates all clips, each predicted by the checkpoint that has not seen its subject. OUT is then an ensemble.

    \b
    Examples:
      mien train synthetic corpus.options.real_voices=false train.epochs=2
      mien train safe_cross_attention --index index.jsonl --store features
      mien train mine.yaml train.lr=1e-4 model.dim=128 --out runs/wide
      mien train mine.yaml --resume runs/wide
      mien train mine.yaml --folds 5 --index index.jsonl --store features --out runs/five
      mien train synthetic --emodb EMODB
      mien train dynamic_threshold --root RAF-DB/basic corpus.options.labelled=100
      mien train va_reliability --index index.jsonl --store features --stage va_face=runs/va_face
    """
    from mien import config, models

    settings = config.load(recipe, overrides or (), check=models.problems)
    run, is_resumed = resume or out or Path("runs") / Path(recipe).stem, resume is not None
    if folds is not None:
        _check_folds(settings, index, store, devices * nodes, folds)
    if models.system_class(settings).input_kind == "images":
        folder = _train_on_images(settings, run, root, is_resumed, device)
        hint = f"mien predict clip.mp4 --model {folder}; or mien extract INDEX --encoder {folder} --store DIR"
        _print_metrics(folder, hint, as_json, only=("val_macro_f1", "val_accuracy"))
        return
    if (index is None) != (store is None):
        raise ConfigError(
            f"{'--store' if store is None else '--index'} is missing: --index names the clips, --store their features",
            follows="Nothing was trained.",
            remedy="Give both --index and --store, or neither for a recipe of the synthetic corpus.",
        )
    if folds is not None and index is not None and store is not None:
        _train_on_folds(
            settings,
            recipe,
            overrides or (),
            index,
            store,
            task,
            root,
            run,
            folds,
            is_resumed,
            verify,
            device,
            as_json,
            parse_stages(stage or ()),
        )
        return
    from mien.training.data_defaults import suited
    from mien.training.fit import fit  # takes seconds, so errors in the recipe are reported before

    if index is None or store is None:
        data = _simulate(settings, emodb)
    else:
        data = _load(settings, index, store, task, root, verify)
    folder = fit(
        suited(settings, recipe, [*data.train, *data.val], overrides or ()),
        data.train,
        data.val,
        run,
        resume=is_resumed,
        augment=data.augment,
        device=device,
        devices=devices,
        nodes=nodes,
        stages=parse_stages(stage or ()),
    )
    if devices * nodes > 1:
        from mien.training.callbacks import is_first_process

        if not is_first_process():
            return
    _print_metrics(folder, f"mien predict clip.mp4 --model {folder}", as_json)


def _check_folds(settings: Recipe, index: Path | None, store: Path | None, processes: int, folds: int) -> None:
    """Raise ConfigError for a recipe or options that --folds cannot be used with."""
    from mien import models

    problem = None
    if models.system_class(settings).input_kind == "images":
        problem = f"{settings.model.name} is trained on single images", "Omit --folds, or use a recipe over streams."
    elif index is None or store is None:
        problem = "the clips to divide are missing", "Give --index and --store."
    elif processes > 1:
        problem = f"{processes} processes would share each fold", "Omit --devices and --nodes."
    if problem:
        raise ConfigError(f"--folds {folds}: {problem[0]}", follows="Nothing was trained.", remedy=problem[1])


def _train_on_folds(
    settings: Recipe,
    recipe: str,
    overrides: Sequence[str],
    index: Path,
    store: Path,
    task: str | None,
    root: Path | None,
    out: Path,
    folds: int,
    resume: bool,
    verify: bool,
    device: str,
    as_json: bool,
    stages: dict[str, Path],
) -> None:
    from mien.evaluation.evaluate import PAGE
    from mien.training.data_defaults import suited
    from mien.training.folds import fit_folds
    from mien.views.evaluation import format_interval, format_score

    data = _load(settings, index, store, task, root, verify, quiet=True)
    screen = console.stderr()
    clips = [*data.train, *data.val]
    record = fit_folds(
        suited(settings, recipe, clips, overrides),
        clips,
        out,
        folds,
        name=Path(recipe).stem,
        resume=resume,
        device=device,
        stages=stages,
        progress=lambda fold, count, text: screen.print(f"fold {fold}/{count}: {text}", markup=False),
    )
    if as_json:
        print(json.dumps({"run": str(out), "folds": folds, "scores": record["scores"]}, indent=2))
        return
    screen = console.stdout()
    screen.print(f"{folds} folds, {record['clips']} clips, each predicted by the fold that held it out", markup=False)
    for score in record["scores"]:
        screen.print(f"  {score['name']:14}{format_score(score['value'])}   {format_interval(score)}", markup=False)
    screen.print(f"\nreport   {out / 'report' / PAGE}", markup=False)
    screen.print(f"next     mien predict clip.mp4 --model {out}", markup=False)


def _train_on_images(settings: Recipe, run: Path, root: Path | None, resume: bool, device: str) -> Path:
    from mien.datasets.image_datasets import load_image_sets
    from mien.training.semi_supervised import fit_images, steps_of

    console.stderr().print("reading images ...")
    with console.progress("aligning faces", unit="images") as bar:
        labelled, unlabelled, val = load_image_sets(settings, root, workers=os.cpu_count() or 1, progress=bar)
    scored = len(val) if val is not None else 0
    console.stderr().print(f"{len(labelled)} labelled images, {len(unlabelled)} unlabelled, {scored} to score")
    steps = steps_of(settings, labelled, unlabelled)
    with console.progress("training", unit="steps") as bar:
        return fit_images(
            settings,
            labelled,
            unlabelled,
            val,
            run,
            steps=steps,
            resume=resume,
            device=device,
            on_epoch=lambda _, report: bar(int(report["step"]), steps),
        )


def _simulate(settings: Recipe, emodb: Path | None) -> TrainingData:
    from mien.datasets.synthetic_recordings import prepare_training_data

    console.stderr().print("simulating and encoding recordings ...")
    return prepare_training_data(settings, voices=emodb, workers=os.cpu_count() or 1)


def _load(
    settings: Recipe,
    index: Path,
    store: Path,
    task: str | None,
    root: Path | None,
    verify: bool,
    *,
    quiet: bool = False,
) -> TrainingData:
    from mien import models
    from mien.datasets.index import Index
    from mien.datasets.stored_recordings import load_recordings
    from mien.datasets.synthetic_recordings import TrainingData

    corpus = Index.load(index, root)
    encoders = {modality: feature.encoder for modality, feature in settings.features.items()}
    models.check_task(settings, task)
    expression, scores = models.predicts_expression(settings), models.score_tasks(settings)
    task = task or corpus.task_of(expression=expression, scores=scores)
    train, val = (
        load_recordings(corpus, store, encoders, task=task, split=split, scores=scores, verify=verify)
        for split in ("train", "val")
    )
    if not quiet:
        console.stderr().print(f"{len(train)} clips to train on; {len(val)} clips select the epoch")
    return TrainingData(train, val)


def _print_metrics(folder: Path, hint: str, as_json: bool, only: tuple[str, ...] = ()) -> None:
    """Print a run's metrics (those of `only`, if given) and the next command."""
    metrics = json.loads((folder / "metrics.json").read_text())
    if as_json:
        print(json.dumps({"run": str(folder), "metrics": metrics}, indent=2))
        return
    screen = console.stdout()
    screen.print(f"{folder}  next: {hint}", markup=False)
    for name, value in metrics.items():
        if isinstance(value, float) and (not only or name in only):
            screen.print(f"  {name:24}{value:.4f}", markup=False)


def recipes(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[RECIPE]...", help="Recipes to list in detail; by default all.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the recipes with published and measured results.

    Prints each recipe's paper, its encoders, the results that the paper reports on its own corpus, and the results
    measured with mien, each with the data and the command. For a recipe that is named, the differences from the paper
    are printed too. Writes nothing.

    \b
    Examples:
      mien recipes
      mien recipes va_reliability
    """
    from mien import config
    from mien.results import for_recipe

    known = config.names()
    for name in names or ():
        if name not in known:
            raise ConfigError(
                f"there is no recipe {name!r}{config.nearest(name, known)}",
                follows="Nothing was listed.",
                remedy="Run `mien recipes` for all names.",
            )
    records = [
        {
            "name": name,
            "model": recipe.model.name,
            "paper": recipe.paper.title,
            "arxiv": recipe.paper.arxiv,
            "inputs": {modality: feature.encoder for modality, feature in recipe.features.items()},
            "reported": recipe.paper.reported,
            "obtained": for_recipe(name),
            "differs": recipe.paper.differs,
        }
        for name, recipe in ((n, config.load(n)) for n in names or known)
    ]
    if as_json:
        print(json.dumps(records, indent=1))
        return
    for record in records:
        _print_recipe(record, details=bool(names))


def _print_recipe(record: dict[str, Any], *, details: bool) -> None:
    from rich.text import Text

    screen = console.stdout()
    screen.print(Text.assemble((record["name"], "bold"), f"  arXiv {record['arxiv']}" if record["arxiv"] else ""))
    rows = [("inputs", ", ".join(f"{modality} from {encoder}" for modality, encoder in record["inputs"].items()))]
    if record["reported"]:
        reported = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in record["reported"].items())
        rows.append(("published", reported))
    rows += [("measured", line) for line in record["obtained"]]
    if details:
        rows += [("paper", record["paper"]), *(("differs", line) for line in record["differs"])]
    for title, text in rows:
        screen.print(f"  {title:11}{text}", markup=False)
