"""Tables of the comparison of systems: intervals over seeds and people, Markdown, and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from experiments import valence_arousal
from mien.evaluation import robustness

#: Recipe of the valence-arousal system -> the stream or fusion that it trains.
VA_FUSIONS = ("va_directed_experts", "va_reliability")
CHAIN = {**{f"va_{name}": name for name in valence_arousal.STREAMS}, **{name: name for name in VA_FUSIONS}}
#: Column of the table -> corruption and label of its condition.
COLUMNS: dict[str, tuple[str, str]] = {
    "clean": ("face frames missing", "0"),
    "90 % of the face missing": ("face frames missing", "90"),
    "no face": ("face frames missing", "100"),
    "no voice": ("voice silent", "100"),
    "noise at −5 dB": ("noise in the sound", "-5"),
}


def with_people(tables: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """The mean over seeds of tables of `score_conditions`, with intervals for other seeds and other people.

    The half-width is the root of the sum of the squares of two: that of the t-interval over seeds, and the mean over
    seeds of the bootstrap's over people, who are the same for each seed. Our choice, because the two are independent.
    """
    over_seeds = robustness.aggregate_seeds(tables)
    if len(tables) == 1:
        return over_seeds
    keys = ["corruption", "label", "model"]
    ends = [(low, high) for low, high in (("low", "high"), ("va_low", "va_high")) if low in over_seeds.columns]
    people = (
        pl.concat(tables).group_by(keys).agg(*((pl.col(h) - pl.col(lo)).mean().alias(f"{lo} people") for lo, h in ends))
    )
    joined = over_seeds.join(people, on=keys, how="left", maintain_order="left")
    for low, high in ends:
        middle = (pl.col(low) + pl.col(high)) / 2
        half = (((pl.col(high) - pl.col(low)) / 2) ** 2 + (pl.col(f"{low} people") / 2) ** 2).sqrt()
        joined = joined.with_columns((middle - half).alias(low), (middle + half).alias(high))
    return joined.drop([f"{low} people" for low, _ in ends])


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown tables by system and condition: macro F1 with its interval (`with_people`), then mean CCC likewise."""
    parts = (
        ("macro F1", [r for r in rows if r["model"] not in CHAIN]),
        ("mean CCC", [r for r in rows if r["model"] in CHAIN]),
    )
    return "\n\n".join(_table(title, chosen) for title, chosen in parts if chosen)


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"| {title} | " + " | ".join(COLUMNS) + " |", "|---" * (1 + len(COLUMNS)) + "|"]
    by_condition = {(r["model"], r["corruption"], r["label"]): r for r in rows}
    for name in dict.fromkeys(r["model"] for r in rows):
        cells = []
        for corruption, label in COLUMNS.values():
            row = by_condition.get((name, corruption, label))
            if row is None and label == "0":
                row = by_condition.get((name, "voice silent", "0"))
            cells.append("–" if row is None else cell(row))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(row: Mapping[str, Any]) -> str:
    score, low, high = ("va_score", "va_low", "va_high") if row["model"] in CHAIN else ("macro_f1", "low", "high")
    if row.get(low) is None:
        return f"{row[score]:.3f}".replace("0.", ".", 1)
    return f"{row[score]:.3f} ± {(row[high] - row[low]) / 2:.3f}".replace("0.", ".")


def save_rows(rows: pl.DataFrame, path: Path, *, keep_others: bool = False) -> list[dict[str, Any]]:
    """Write rows as JSON and return them as plain values, NaN as None.

    keep_others: keep the rows of other systems in an existing file, in its order.
    """
    plain = [
        {k: (None if isinstance(v, float) and not np.isfinite(v) else round(v, 5) if isinstance(v, float) else v)
         for k, v in row.items()}
        for row in rows.to_dicts()
    ]  # fmt: skip
    if keep_others and path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        updated = list(dict.fromkeys(r["model"] for r in plain))
        order = dict.fromkeys([*(r["model"] for r in before), *updated])
        merged = [*(r for r in before if r["model"] not in updated), *plain]
        plain = [r for name in order for r in merged if r["model"] == name]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plain, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
    return plain
