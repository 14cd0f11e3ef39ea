"""Puts the tables of `src/mien/recipes/measured.json` into README.md and docs/BENCHMARKS.md, between their marks.

python bench/pages.py
"""

from __future__ import annotations

from pathlib import Path

from mien.results import placed, read

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    for name in ("README.md", "docs/BENCHMARKS.md"):
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        for bench, part in read().items():
            if f"<!-- {bench} -->" in text:
                text = placed(text, bench, part["table"])
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
