"""Copy the tables of `src/mien/recipes/measured.json` into README.md and docs/, between the comments that mark a table.

python bench/pages.py
"""

from __future__ import annotations

from pathlib import Path

from mien.results import insert_table, load

ROOT = Path(__file__).resolve().parents[1]


def pages() -> list[Path]:
    """README.md and every page of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def main() -> None:
    for path in pages():
        text = path.read_text(encoding="utf-8")
        filled = text
        for experiment, entry in load().items():
            if f"<!-- {experiment} -->" in text:
                filled = insert_table(filled, experiment, entry["table"])
        if filled != text:
            path.write_text(filled, encoding="utf-8")


if __name__ == "__main__":
    main()
