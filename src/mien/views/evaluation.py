"""Evaluation page: one self-contained HTML file of scores with intervals and curves, with the record as JSON beside it.

The page shows a record of `mien.evaluation.record.summarise` and computes no scores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from mien import __version__
from mien.atomic import atomic_path
from mien.soft_vote import KERNELS
from mien.views.charts import Panel, Series, axis_limit, figure
from mien.views.palette import class_colours
from mien.views.render import load_template, read_source

Record = Mapping[str, Any]
#: An axis is linear unless its widest step is more than this many times its narrowest; then levels are evenly spaced.
_MAX_STEP_RATIO = 6.0
#: Up to this many classes, the scores by class and the confusion matrix fit side by side.
_PAIR_CLASSES = 10


def write_page(path: Path, record: Record) -> Path:
    """Writes the page, and `record` as JSON under the same name with `.json`; both atomically.

    Raises OutputError.
    """
    path = Path(path)
    template = load_template(
        "evaluation.html", score=format_score, percent=format_percent, interval=format_interval, whole=format_count
    )
    text = template.render(**_context(record))
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    with atomic_path(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return path


def _context(record: Record) -> dict[str, Any]:
    rows = record["robustness"]
    calibration = record["calibration"]
    # The curves show macro F1, or the mean CCC where no system predicts expressions.
    affect = bool(rows) and all(row["macro_f1"] is None for row in rows)
    scored_clips = [clip for clip in record["by_clip"] if clip["accuracy"] is not None]
    return {
        **record,
        "title": f"{record['name']} · evaluation · mien",
        "version": __version__,
        "facts": _facts(record),
        "css": read_source("base.css", "report.css", "evaluation.css"),
        "pair_classes": _PAIR_CLASSES,
        "abbreviations": _abbreviations(record["classes"]),
        "colours": class_colours(record["classes"]),
        "confusion_rows": _confusion_rows(record),
        "worst": sorted(scored_clips, key=lambda clip: (clip["accuracy"], -clip["frames"])),
        "robustness_svg": Markup(robustness_svg(rows, affect=affect, standalone=False)) if rows else "",
        "corruptions": _corruption_tables(rows, "va_score" if affect else "macro_f1"),
        "curves_show_affect": affect,
        "has_bands": any(row.get("va_low" if affect else "low") is not None for row in rows),
        "shown": {row["key"] for row in record["scores"]},
        "smoothing_svg": Markup(_smoothing_svg(calibration)) if calibration else "",
        "reliability_svg": Markup(_reliability_svg(record)) if record["reliability"] else "",
    }


# --- numbers as text ---------------------------------------------------------------------------------------


def format_score(value: float | None) -> str:
    """Score with three decimals and no leading zero, as in papers: .503; an en dash for None."""
    if value is None:
        return "–"
    text = f"{abs(value):.3f}"
    sign = "−" if value < 0 and float(text) else ""
    return sign + (text if text.startswith("1") else text[1:])


def format_interval(ends: Mapping[str, float | None]) -> str:
    """Interval `[.48, .53]` from `low` and `high`, or "" if either is missing."""
    if ends.get("low") is None or ends.get("high") is None:
        return ""
    return f"[{format_score(ends['low'])}, {format_score(ends['high'])}]"


def format_percent(value: float | None) -> str:
    """Whole percent with a no-break space; `<1 %` and `>99 %` for shares that would round to 0 or 100 %."""
    if value is None:
        return "–"
    if 0 < value < 0.005:
        return "<1\u00a0%"
    return ">99\u00a0%" if 0.995 <= value < 1 else f"{100 * value:.0f}\u00a0%"


def format_count(value: float | None) -> str:
    """Count with thousands separators; an en dash for None."""
    return "–" if value is None else f"{value:,.0f}"


def _facts(record: Record) -> list[str]:
    facts = [f"{record['clips']:,} {record['split']} clips".replace("  ", " ")]
    if record["groups"] != record["clips"]:
        facts.append(f"{record['groups']:,} subjects")
    if record["frames"] is not None:
        facts.append(f"{record['frames']:,} labelled frames")
    facts.append(f"{format_percent(record['level'])} confidence intervals, {record['draws']:,} resamples")
    return facts


def _abbreviations(classes: Sequence[str]) -> list[str]:
    """Names of at most five letters for the columns of the confusion matrix; empty if two would be the same."""
    short = [name if len(name) <= 5 else name[:4] + "." for name in classes]
    return short if len(set(short)) == len(short) else []


def _confusion_rows(record: Record) -> list[dict[str, Any]]:
    rows = []
    for name, counts in zip(record["classes"], record["confusion"], strict=False):
        total = sum(counts)
        cells = [
            {"count": n, "share": n / total if total else 0.0, "predicted": predicted, "hit": predicted == name}
            for predicted, n in zip(record["classes"], counts, strict=True)
        ]
        rows.append({"name": name, "total": total, "cells": cells})
    return rows


# --- charts ------------------------------------------------------------------------------------------------


def robustness_svg(rows: Sequence[Record], *, affect: bool = False, standalone: bool = True) -> str:
    """Draws rows of `robustness.score_conditions` as SVG: a panel per corruption, a line per model, bands as intervals.

    Args:
        affect: show the mean CCC of valence and arousal instead of the macro F1.
        standalone: see `charts.figure`.
    """
    keys = ("va_score", "va_low", "va_high") if affect else ("macro_f1", "low", "high")
    models = list(dict.fromkeys(row["model"] for row in rows))
    top = axis_limit([row.get(k) for row in rows for k in keys])
    panels = []
    for name, own in _by_corruption(rows).items():
        positions = _positions([(row["level"], row["label"]) for row in own])
        series = []
        for style, model in enumerate(models):
            points = sorted((row for row in own if row["model"] == model), key=lambda row: positions[row["label"]])
            y, low, high = ([row.get(key) for row in points] for key in keys)
            series.append(Series(model, [positions[row["label"]] for row in points], y, low, high, style))
        ticks = sorted((position, label.replace("-", "−")) for label, position in positions.items())
        panels.append(Panel(_title(name), own[0]["unit"], series, ticks, (0.0, top)))
    return figure(panels, y_title="mean CCC" if affect else "macro F1", standalone=standalone)


def _by_corruption(rows: Sequence[Record]) -> dict[str, list[Record]]:
    names = dict.fromkeys(row["corruption"] for row in rows)
    return {name: [row for row in rows if row["corruption"] == name] for name in names}


def _title(name: str) -> str:
    return name[:1].upper() + name[1:]


def _positions(levels: Sequence[tuple[float | None, str]]) -> dict[str, float]:
    """Position of each label on the x axis; the corruption grows to the right.

    A level of inf, or None in JSON, is the uncorrupted end of a scale on which lower is worse.
    """
    unique = dict.fromkeys(levels)
    clean = [label for level, label in unique if level is None or level == float("inf")]
    numbers = {label: float(level) for level, label in unique if label not in clean and level is not None}
    order = [*clean, *sorted(numbers, key=lambda label: -numbers[label] if clean else numbers[label])]
    steps = np.diff(sorted(numbers.values()))
    if clean or not len(steps) or max(steps) > _MAX_STEP_RATIO * min(steps):
        return {label: float(i) for i, label in enumerate(order)}
    return numbers


def _corruption_tables(rows: Sequence[Record], score: str) -> list[dict[str, Any]]:
    """The numbers of the robustness figure: a table per corruption, models by levels, of a score of the rows."""
    ends = ("va_low", "va_high") if score == "va_score" else ("low", "high")
    tables = []
    for name, own in _by_corruption(rows).items():
        positions = _positions([(row["level"], row["label"]) for row in own])
        labels = sorted(positions, key=lambda label: positions[label])
        by_cell = {
            (row["model"], row["label"]): {
                "value": row[score],
                "low": row.get(ends[0]),
                "high": row.get(ends[1]),
            }
            for row in own
        }
        models = dict.fromkeys(row["model"] for row in own)
        cells = [(model, [by_cell.get((model, label)) for label in labels]) for model in models]
        tables.append({"name": _title(name), "unit": own[0]["unit"], "labels": labels, "models": cells})
    return tables


def _smoothing_svg(calibration: Record) -> str:
    """Macro F1 on held-out folds, and the CCC of valence and of arousal, against the width of smoothing."""
    chosen, grid, affect_grid = calibration["chosen"], calibration["grid"], calibration["affect_grid"]
    expression = [row for row in grid if row["strength"] == chosen["strength"]]
    panels = [_smoothing_panel("macro F1", expression, "macro_f1", chosen["expression"])] if grid else []
    if affect_grid:
        panels += [_smoothing_panel(f"CCC of {one}", affect_grid, one, chosen[one]) for one in ("valence", "arousal")]
    return figure(panels, y_title="score", standalone=False)


def _smoothing_panel(title: str, rows: Sequence[Record], key: str, chosen: Record) -> Panel:
    """One output: a line for each kernel, and a mark at the chosen width."""
    positions = {seconds: float(i) for i, seconds in enumerate(sorted({row["seconds"] for row in rows}))}
    series = []
    for style, (kernel, name) in enumerate(KERNELS.items()):
        own = [row for row in rows if row[key] is not None and (row["kernel"] == kernel or not row["seconds"])]
        series.append(Series(name, [positions[row["seconds"]] for row in own], [row[key] for row in own], style=style))
    ticks = [(position, f"{seconds:g}") for seconds, position in positions.items()]
    mark = (positions[chosen["seconds"]], "chosen")
    top = axis_limit([y for one in series for y in one.y])
    return Panel(title, "width of smoothing, s", series, ticks, (0.0, top), mark=mark)


def _reliability_svg(record: Record) -> str:
    tables = {"as predicted": record["reliability"]}
    if record["calibration"] and record["calibration"]["reliability"]:
        tables["calibrated"] = record["calibration"]["reliability"]
    series = [
        Series(name, [row["confidence"] for row in rows], [row["accuracy"] for row in rows], style=style)
        for style, (name, rows) in enumerate(tables.items())
    ]
    ticks = [(k / 5, f"{k / 5:g}") for k in range(6)]
    panel = Panel("", "confidence of the predicted class", series, ticks, diagonal=True)
    return figure([panel], y_title="accuracy", standalone=False)
