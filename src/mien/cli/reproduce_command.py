"""`mien reproduce`: a published system from a corpus on disk to a report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mien.cli import console


def reproduce(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped name (mien recipes) or a YAML file.")],
    root: Annotated[Path, typer.Option(metavar="DIR", help="The corpus.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[key=value]...", help="Changes to it.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="All that is made; by default runs/RECIPE.")] = None,
    corpus: Annotated[
        str | None, typer.Option(help="aff-wild2, synthetic, folder, emodb; by default the recipe's.")
    ] = None,
    table: Annotated[Path | None, typer.Option(help="For `folder`: the CSV of labels.")] = None,
    task: Annotated[str | None, typer.Option(help="expr or va: whose labels and splits; the first by default.")] = None,
    faces: Annotated[str | None, typer.Option(help="video or crops; by default the recipe's.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that extract features.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    robustness: Annotated[bool, typer.Option(help="Also score under missing, noisy and late streams.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record instead of a table.")] = False,
) -> None:
    """Index, extract, train, evaluate: a published system, its numbers beside those of the paper, and what differs.

    Stopped anywhere, the same command goes on where it stopped. Everything lies in OUT: index.jsonl, features/, run/
    (a checkpoint for mien predict, evaluate and submit) and report/evaluation.html.

    \b
    Examples:
      mien reproduce safe_cross_attention --root /data/Aff-Wild2
      mien synthetic stage --videos 24 && mien reproduce starter --root stage --corpus synthetic --out runs/stage
    """
    from mien import config, models
    from mien.cli.extract_commands import following
    from mien.reproduce import reproduce as chain

    settings = config.load(recipe, overrides or (), check=models.problems)
    screen = console.err()
    done = chain(
        settings,
        root,
        out or Path("runs") / Path(recipe).stem,
        corpus=corpus,
        table=table,
        task=task,
        faces=faces,
        workers=workers,
        device=device,
        robustness=robustness,
        tell=lambda line: screen.print(line, markup=False),
        bars=console.progress,
        extracting=following,
    )
    if as_json:
        print(json.dumps(done.record, indent=1))
    else:
        _show(done.record, done.page)
    if done.failed:
        raise typer.Exit(1)


def _show(record: Mapping[str, Any], page: Path) -> None:
    from rich.table import Table

    from mien.views.evaluation import interval, score

    screen = console.out()
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for title in (f"{record['name']}, {record['clips']} clips of {record['split']}", "obtained", "95 %", "published"):
        table.add_column(title)
    published = {row["name"].removesuffix(f", {record['split']}"): row["reported"] for row in record["reported"]}
    for row in record["scores"]:
        there = published.pop(row["name"], None)
        table.add_row(row["name"], score(row["value"]), interval(row), score(there))
    for name, value in published.items():
        table.add_row(name, "", "", score(value))
    screen.print(table, markup=False)
    for line in record["differs"]:
        screen.print(f"differs  {line}", markup=False)
    screen.print(f"\nreport   {page}", markup=False)
