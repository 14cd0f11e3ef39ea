"""What the benches obtained, kept beside the recipes (`recipes/measured.json`): `mien recipes` and the README show it.

A bench run with `--keep` writes its part: the command, what was measured on what, its table, and a figure a recipe.
Nothing else writes the file, and no figure stands anywhere without it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from mien import __version__

FILE = Path(str(resources.files("mien") / "recipes" / "measured.json"))


def read() -> dict[str, Any]:
    """bench -> `command, what, table, recipes`."""
    return dict(json.loads(FILE.read_text(encoding="utf-8"))) if FILE.exists() else {}


def keep(bench: str, *, command: str, what: str, table: str, recipes: Mapping[str, str]) -> None:
    """Replaces one bench's part. recipes: recipe -> what it obtained, in words."""
    found = read()
    found[bench] = {
        "command": command, "what": what, "version": __version__, "table": table, "recipes": dict(recipes),
    }  # fmt: skip
    FILE.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def obtained(recipe: str) -> list[str]:
    """What was measured with a recipe, a line for each experiment:
    `.705 ± .045 macro F1 (synthetic people, ...; python -m experiments systems)`."""
    return [
        f"{part['recipes'][recipe]} ({part['what']}; {part['command']})"
        for part in read().values()
        if recipe in part["recipes"]
    ]


def placed(page: str, bench: str, table: str) -> str:
    """A page with a bench's table between its two marks, `<!-- bench -->` and `<!-- /bench -->`."""
    head, mark, rest = page.partition(f"<!-- {bench} -->\n")
    _, end, tail = rest.partition(f"<!-- /{bench} -->")
    if not (mark and end):
        raise ValueError(f"the page has no place for the table of {bench}")
    return f"{head}{mark}{table}\n{end}{tail}"
