"""`mien evaluate`: how good a checkpoint is on clips whose truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mien.cli import console

if TYPE_CHECKING:
    from mien.checkpoint import Checkpoint
    from mien.datasets.index import Index


def evaluate(
    model: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="Folder of a trained checkpoint, or starter.")],
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="The corpus, as mien index wrote it.")],
    store: Annotated[Path, typer.Option(metavar="DIR", help="Its features (mien extract).")],
    split: Annotated[str, typer.Option(help="The clips that are scored.")] = "val",
    task: Annotated[str | None, typer.Option(help="expr or va: whose labels and splits; the first by default.")] = None,
    root: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the corpus lies now, if it moved.")] = None,
    calibrate: Annotated[
        bool, typer.Option(help="Choose smoothing, class bias and temperature inside the training clips.")
    ] = True,
    robustness: Annotated[bool, typer.Option(help="Also score under missing, noisy and late streams.")] = False,
    footage: Annotated[
        bool, typer.Option(help="Also damage the recordings themselves: dark, blurred, covered, noisy, silent, late.")
    ] = False,
    beside: Annotated[
        list[Path] | None, typer.Option(metavar="CHECKPOINT", help="Another system on the robustness plot; repeatable.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Zero-shot: labels (or label: prompt), a line each.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("evaluation"),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the record instead of a table.")] = False,
) -> None:
    """Score a checkpoint on an indexed corpus whose features are stored.

    Writes OUT/evaluation.html, a page of scores with intervals (clips drawn again and again), classes, confusions and
    curves; evaluation.json, the same as numbers; and predictions.parquet, every frame. What --calibrate chooses, it
    chooses by cross-validation inside the training clips, and keeps as CHECKPOINT/calibration.json, which mien submit
    applies; the usual practice of tuning on the clips that are scored
    is shown beside it, marked optimistic. --footage opens every clip again for each of forty kinds and levels of
    damage: hours of video take days.

    \b
    Examples:
      mien evaluate runs/mine index.jsonl --store features
      mien evaluate runs/mine index.jsonl --store features --robustness --out report
    """
    from mien import checkpoint
    from mien.datasets.index import Index
    from mien.evaluation.evaluate import PAGE
    from mien.evaluation.evaluate import evaluate as scored

    trained = checkpoint.load(model, checkpoint.torch_device(device))
    corpus = Index.load(index, root)
    if prompts is not None:
        trained, calibrate = _zero_shot(trained, prompts, corpus, checkpoint.torch_device(device)), False
    record = scored(
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
        beside={path.name: checkpoint.load(path, checkpoint.torch_device(device)) for path in beside or ()},
        bars=console.progress,
    )
    _show(record, out / PAGE, as_json)


def _zero_shot(trained: Checkpoint, prompts: Path, corpus: Index, device: str) -> Checkpoint:
    from mien.errors import ConfigError
    from mien.evaluation.zero_shot import read_prompts, with_prompts

    said = read_prompts(prompts, trained.recipe.objective.get("prompt", "{label}"))
    if tuple(said) != tuple(corpus.classes):
        raise ConfigError(
            f"{prompts} names {', '.join(said)}; the corpus's classes are {', '.join(corpus.classes)}",
            follows="nothing could be scored",
            remedy="name the corpus's classes in its order, with prompts of your own after a colon",
        )
    return with_prompts(trained, said, device=device)


def _show(record: dict[str, Any], page: Path, as_json: bool) -> None:
    import json

    if as_json:
        print(json.dumps(record, indent=1))
        return
    from mien.views.evaluation import interval, score

    screen = console.out()
    screen.print(f"{record['name']} on {record['clips']} clips of {record['split']}", markup=False)
    for found in record["scores"]:
        screen.print(f"  {found['name']:14}{score(found['value'])}   {interval(found)}", markup=False)
    screen.print(f"\nreport   {page}", markup=False)
