"""Write the generated tables into README.md and docs/, between the comments that mark a table: the measured ones of
`src/mien/recipes/measured.json`, and `facts`, where each setting of a published system comes from.

python bench/pages.py
"""

from __future__ import annotations

from pathlib import Path

from mien import recipe_facts
from mien.results import insert_table, load

ROOT = Path(__file__).resolve().parents[1]


def pages() -> list[Path]:
    """README.md and every page of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def tables() -> dict[str, str]:
    """Name of a mark -> its table in Markdown."""
    return {name: entry["table"] for name, entry in load().items()} | {"facts": recipe_facts.tables()}


def fill(text: str) -> str:
    """A page with its tables up to date."""
    for name, table in tables().items():
        if f"<!-- {name} -->" in text:
            text = insert_table(text, name, table)
    return text


def main() -> None:
    for path in pages():
        text = path.read_text(encoding="utf-8")
        filled = fill(text)
        if filled != text:
            path.write_text(filled, encoding="utf-8")


if __name__ == "__main__":
    main()
