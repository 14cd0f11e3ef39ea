"""Measured results, stored with the recipes in `recipes/measured.json`; `mien recipes` and the README show them.

`python -m experiments NAME --keep` writes an experiment's entry: its command, what was measured, its table, and one
result for each recipe. Nothing else writes the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TypedDict

from mien import __version__

FILE = Path(str(resources.files("mien") / "recipes" / "measured.json"))


class ExperimentResult(TypedDict):
    """One experiment's entry. what: the data and the metric. table: Markdown. recipes: recipe -> result as text."""

    command: str
    what: str
    version: str
    table: str
    recipes: dict[str, str]


def load() -> dict[str, ExperimentResult]:
    """All entries by experiment name; empty without the file."""
    if not FILE.exists():
        return {}
    entries: dict[str, ExperimentResult] = json.loads(FILE.read_text(encoding="utf-8"))
    return entries


def save(experiment: str, *, command: str, what: str, table: str, recipes: Mapping[str, str]) -> None:
    """Replace one experiment's entry; `ExperimentResult` explains the arguments."""
    entries = load()
    entries[experiment] = {
        "command": command, "what": what, "version": __version__, "table": table, "recipes": dict(recipes),
    }  # fmt: skip
    FILE.write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def for_recipe(recipe: str) -> list[str]:
    """Results measured with a recipe, one line per experiment:
    `.705 ± .045 macro F1 (synthetic people, ...; python -m experiments systems)`."""
    return [
        f"{entry['recipes'][recipe]} ({entry['what']}; {entry['command']})"
        for entry in load().values()
        if recipe in entry["recipes"]
    ]


def insert_table(page: str, experiment: str, table: str) -> str:
    """Insert a table into a page, between the marks `<!-- experiment -->` and `<!-- /experiment -->`.

    Raises:
        ValueError: the page lacks the marks.
    """
    head, mark, rest = page.partition(f"<!-- {experiment} -->\n")
    _, end, tail = rest.partition(f"<!-- /{experiment} -->")
    if not (mark and end):
        raise ValueError(f"the page has no marks <!-- {experiment} --> and <!-- /{experiment} --> for the table")
    return f"{head}{mark}{table}\n{end}{tail}"
