"""`mien reproduce`: train and score a published system on a corpus."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mien.cli import console
from mien.cli.options import (
    CORPUS_NAMES,
    DeviceOption,
    JsonOption,
    OverridesArgument,
    RecipeArgument,
    RobustnessOption,
    StageOption,
    TableOption,
    TaskOption,
    parse_stages,
)


def reproduce(
    recipe: RecipeArgument,
    root: Annotated[Path, typer.Option(metavar="DIR", help="The folder of the corpus.")],
    overrides: OverridesArgument = None,
    out: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Folder for all results; by default runs/RECIPE.")
    ] = None,
    corpus: Annotated[str | None, typer.Option(help=f"{CORPUS_NAMES}; by default the recipe's.")] = None,
    table: TableOption = None,
    task: TaskOption = None,
    faces: Annotated[
        str | None,
        typer.Option(help="video (detect faces) or crops (the corpus's cropped faces); by default the recipe's."),
    ] = None,
    stage: StageOption = None,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes that extract features.")] = 1,
    device: DeviceOption = "auto",
    robustness: RobustnessOption = False,
    as_json: JsonOption = False,
) -> None:
    """Index, extract, train and evaluate by a recipe, in one command.

    Prints the measured scores beside the published ones, and the differences from the publication. Writes
    OUT/index.jsonl, OUT/features/, OUT/run/ (a checkpoint for mien predict, evaluate and submit) and
    OUT/report/evaluation.html. If it is interrupted, run the same command again: it resumes.

    The stages of a system (the three streams of va_reliability, the static face network of cnn_pdem) are trained first,
    on the same corpus, in OUT/run/stages. --stage gives a trained one.

    Exit code: 0 success, 1 some clips could not be read, 2 wrong usage.

    \b
    Examples:
      mien reproduce safe_cross_attention --root /data/Aff-Wild2
      mien reproduce va_reliability --root /data/Aff-Wild2 --task va
      mien reproduce synthetic train.epochs=5 --root demo-corpus --corpus synthetic --out runs/demo
    """
    from mien import config, models
    from mien.cli.extract_commands import extraction_progress
    from mien.reproduce import reproduce as run_all_steps
    from mien.training.data_defaults import suited

    settings = config.load(recipe, overrides or (), check=models.problems)
    result = run_all_steps(
        settings,
        root,
        out or Path("runs") / Path(recipe).stem,
        corpus=corpus,
        table=table,
        task=task,
        faces=faces,
        stages=parse_stages(stage or ()),
        suit=lambda settings, clips: suited(settings, recipe, clips, overrides or ()),
        workers=workers,
        device=device,
        robustness=robustness,
        on_step=lambda line: console.stderr().print(line, markup=False),
        bars=console.progress,
        extraction_progress=extraction_progress,
    )
    if as_json:
        print(json.dumps(result.record, indent=1))
    else:
        _print_scores(result.record, result.page)
    if result.failed:
        raise typer.Exit(1)


def _print_scores(record: Mapping[str, Any], page: Path) -> None:
    from mien.views.evaluation import format_interval, format_score

    screen = console.stdout()
    title = f"{record['name']}, {record['clips']} clips of {record['split']}"
    table = console.table(title, "measured", "95 %", "published")
    published = {row["name"].removesuffix(f", {record['split']}"): row["reported"] for row in record["reported"]}
    for row in record["scores"]:
        reported = format_score(published.pop(row["name"], None))
        table.add_row(row["name"], format_score(row["value"]), format_interval(row), reported)
    for name, value in published.items():
        table.add_row(name, "", "", format_score(value))
    screen.print(table, markup=False)
    for line in record["differs"]:
        screen.print(f"differs  {line}", markup=False)
    screen.print(f"\nreport   {page}", markup=False)
