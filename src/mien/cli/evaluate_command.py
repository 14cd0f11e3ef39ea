"""`mien evaluate`: score a checkpoint on labelled clips."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mien.cli import console
from mien.cli.options import (
    CheckpointArgument,
    DeviceOption,
    IndexArgument,
    JsonOption,
    RobustnessOption,
    RootOption,
    StoreOption,
    TaskOption,
    VerifyOption,
)

if TYPE_CHECKING:
    from mien.checkpoint import Checkpoint
    from mien.datasets.index import Index


# Over 60 lines, because Typer reads the options from the signature.
def evaluate(
    model: CheckpointArgument,
    index: IndexArgument,
    store: StoreOption,
    split: Annotated[str, typer.Option(help="The split whose clips are scored.")] = "val",
    task: TaskOption = None,
    root: RootOption = None,
    calibrate: Annotated[
        bool, typer.Option(help="Fit smoothing, class bias and temperature on the validation clips.")
    ] = True,
    robustness: RobustnessOption = False,
    footage: Annotated[
        bool, typer.Option(help="Also score on corrupted recordings: dark, blurred, covered, noisy, silent, delayed.")
    ] = False,
    beside: Annotated[
        list[Path] | None,
        typer.Option(metavar="CHECKPOINT", help="Another checkpoint for the robustness plot; repeatable."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Zero-shot: a text file with one label, or label: prompt, per line."),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="OUT", help="Folder for the report.")] = Path("evaluation"),
    verify: VerifyOption = True,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Score a checkpoint on the labelled clips of a corpus.

    Writes OUT/evaluation.html (a page with scores and their 95 % bootstrap intervals over clips, per-class scores,
    confusion matrices and curves), OUT/evaluation.json (the same as numbers) and OUT/predictions.parquet (every frame).

    Only what the checkpoint was trained to predict is scored: expressions, valence and arousal, or both.

    --calibrate fits by cross-validation over the subjects of the val split and writes CHECKPOINT/calibration.json,
    which mien submit applies: mean, Hamming, Gaussian or median smoothing and its width for each output, class bias,
    temperature. Each subject is scored with values chosen on the others; the scores of values chosen on the scored
    clips themselves, as is common, are listed beside them, marked optimistic.

    --footage decodes every clip again for each of about forty corruptions: hours of video take days.

    \b
    Examples:
      mien evaluate runs/mine index.jsonl --store features
      mien evaluate runs/mine index.jsonl --store features --robustness --out report
    """
    from mien import checkpoint
    from mien.datasets.index import Index
    from mien.errors import ConfigError
    from mien.evaluation.evaluate import PAGE
    from mien.evaluation.evaluate import evaluate as evaluate_checkpoint
    from mien.evaluation.load_model import load_model

    device = checkpoint.torch_device(device)
    trained = load_model([Path(model)], device)
    corpus = Index.load(index, root)
    if prompts is not None:
        if not isinstance(trained, checkpoint.Checkpoint):
            raise ConfigError(
                f"--prompts {prompts}: {model} is an ensemble, and prompts belong to one checkpoint",
                follows="Nothing was scored.",
                remedy="Omit --prompts, or evaluate a member.",
            )
        trained, calibrate = _zero_shot(trained, prompts, corpus, device), False
    record = evaluate_checkpoint(
        trained,
        corpus,
        store,
        out,
        name=Path(model).name,
        folder=Path(model) if Path(model).is_dir() and prompts is None else None,
        split=split,
        task=task,
        calibrate=calibrate,
        robustness=robustness,
        footage=footage,
        beside={path.name: checkpoint.load(path, device) for path in beside or ()},
        verify=verify,
        bars=console.progress,
    )
    _print_scores(record, out / PAGE, as_json)


def _zero_shot(trained: Checkpoint, path: Path, corpus: Index, device: str) -> Checkpoint:
    """The checkpoint with the prompts of a file in place of its own."""
    from mien.errors import ConfigError
    from mien.zero_shot import read_prompts, with_prompts

    prompts = read_prompts(path, trained.recipe.objective.get("prompt", "{label}"))
    if tuple(prompts) != tuple(corpus.classes):
        raise ConfigError(
            f"{path} has the labels {', '.join(prompts)}; the corpus has {', '.join(corpus.classes)}",
            follows="Nothing was scored.",
            remedy="List the corpus's classes in its order, each with a prompt of your own after a colon.",
        )
    return with_prompts(trained, prompts, device=device)


def _print_scores(record: dict[str, Any], page: Path, as_json: bool) -> None:
    if as_json:
        print(json.dumps(record, indent=1))
        return
    from mien.views.evaluation import format_interval, format_score

    screen = console.stdout()
    screen.print(f"{record['name']} on {record['clips']} clips of {record['split']}", markup=False)
    for score in record["scores"]:
        screen.print(f"  {score['name']:14}{format_score(score['value'])}   {format_interval(score)}", markup=False)
    for note in record["notes"]:
        screen.print(f"note  {note}", markup=False)
    screen.print(f"\nreport   {page}", markup=False)
