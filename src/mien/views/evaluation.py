"""The evaluation report: one self-contained HTML page of scores, their intervals and curves, with its JSON beside it.

It draws what `mien.evaluation.record.summarise` says (plain dicts, lists and numbers, None where a number does not
exist) and computes nothing of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from mien import __version__
from mien.atomic import atomic_path
from mien.views.charts import Panel, Series, above, figure
from mien.views.palette import EXPRESSION

Record = Mapping[str, Any]
_TEMPLATES = Path(__file__).parent / "templates"
#: An axis is drawn to scale unless its widest step is this many times its narrowest; then its levels stand evenly.
_EVEN = 6.0
_OTHERS = ("#4b3fae", "#c2410c", "#0f8a83", "#7d858f", "#b0850a", "#a04a86", "#0072b2", "#7a6a53")


def page(path: Path, summary: Record) -> Path:
    """Writes the page, and `summary` as JSON under the same name with `.json`. Both are written beside and renamed.

    Raises OutputError.
    """
    path = Path(path)
    text = _environment().get_template("evaluation.html").render(**_context(summary))
    with atomic_path(path) as scratch:
        scratch.write_text(text, encoding="utf-8")
    with atomic_path(path.with_suffix(".json")) as scratch:
        scratch.write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return path


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mien.views"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"score": score, "percent": percent, "interval": interval, "whole": whole}
    return environment


def _context(summary: Record) -> dict[str, Any]:
    rows = summary["robustness"]
    calibration = summary["calibration"]
    return {
        **summary,
        "version": __version__,
        "facts": _facts(summary),
        "css": Markup(
            "".join((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "evaluation.css"))
        ),
        "colours": _colours(summary["classes"]),
        "confusion_rows": _confusion_rows(summary),
        "worst": sorted(
            (c for c in summary["by_clip"] if c["accuracy"] is not None), key=lambda c: (c["accuracy"], -c["frames"])
        ),
        "robustness_svg": Markup(robustness(rows, alone=False)) if rows else "",
        "corruptions": _corruptions(rows),
        "smoothing_svg": Markup(_smoothing(calibration)) if calibration else "",
        "reliability_svg": Markup(_reliability(summary)) if summary["reliability"] else "",
    }


# --- numbers as text ---------------------------------------------------------------------------------------


def score(value: float | None) -> str:
    """Three decimals without the leading zero, as papers print scores: .503; an en dash where there is none."""
    if value is None:
        return "–"
    text = f"{abs(value):.3f}"
    sign = "−" if value < 0 and float(text) else ""
    return sign + (text if text.startswith("1") else text[1:])


def interval(found: Mapping[str, float | None]) -> str:
    """`[.48, .53]`, or nothing where there is no interval."""
    if found.get("low") is None or found.get("high") is None:
        return ""
    return f"[{score(found['low'])}, {score(found['high'])}]"


def percent(value: float | None) -> str:
    """Whole percent, on one line; `<1 %` and `>99 %` where rounding would say none or all."""
    if value is None:
        return "–"
    if 0 < value < 0.005:
        return "<1\u00a0%"
    return ">99\u00a0%" if 0.995 <= value < 1 else f"{100 * value:.0f}\u00a0%"


def whole(value: float | None) -> str:
    """A count with thousands apart."""
    return "–" if value is None else f"{value:,.0f}"


def _facts(summary: Record) -> list[str]:
    facts = [f"{summary['clips']:,} {summary['split']} clips".replace("  ", " ")]
    if summary["groups"] != summary["clips"]:
        facts.append(f"{summary['groups']:,} subjects")
    if summary["frames"] is not None:
        facts.append(f"{summary['frames']:,} labelled frames")
    facts.append(f"intervals {percent(summary['level'])}, {summary['draws']:,} resamples")
    return facts


def _colours(classes: Sequence[str]) -> dict[str, str]:
    return {name: EXPRESSION.get(name, _OTHERS[i % len(_OTHERS)]) for i, name in enumerate(classes)}


def _confusion_rows(summary: Record) -> list[dict[str, Any]]:
    rows = []
    for name, counts in zip(summary["classes"], summary["confusion"], strict=False):
        total = sum(counts)
        cells = [
            {"count": n, "share": n / total if total else 0.0, "said": said, "hit": said == name}
            for said, n in zip(summary["classes"], counts, strict=True)
        ]
        rows.append({"name": name, "total": total, "cells": cells})
    return rows


# --- charts ------------------------------------------------------------------------------------------------


def robustness(rows: Sequence[Record], *, affect: bool = False, alone: bool = True) -> str:
    """The figure of `robustness.curve`'s rows: a panel a corruption, a line a model, bands for intervals. SVG.

    Damage grows to the right. affect: the mean CCC of valence and arousal in place of the macro F1. alone: see
    `charts.figure`.
    """
    keys = ("va_score", "va_low", "va_high") if affect else ("macro_f1", "low", "high")
    models = list(dict.fromkeys(row["model"] for row in rows))
    top = above([row.get(k) for row in rows for k in keys])
    panels = []
    for name in dict.fromkeys(row["corruption"] for row in rows):
        mine = [row for row in rows if row["corruption"] == name]
        places = _places([(row["level"], row["label"]) for row in mine])
        series = []
        for style, model in enumerate(models):
            own = sorted((row for row in mine if row["model"] == model), key=lambda row: places[row["label"]])
            y, low, high = ([row.get(key) for row in own] for key in keys)
            series.append(Series(model, [places[row["label"]] for row in own], y, low, high, style))
        ticks = sorted((place, label.replace("-", "−")) for label, place in places.items())
        panels.append(Panel(_title(name), mine[0]["unit"], series, ticks, (0.0, top)))
    return figure(panels, y_title="mean CCC" if affect else "macro F1", alone=alone)


def _title(name: str) -> str:
    return name[:1].upper() + name[1:]


def _places(levels: Sequence[tuple[float | None, str]]) -> dict[str, float]:
    """label -> where it stands. A level of None (JSON has no infinity) or inf is the clean end of a scale on which less
    is worse."""
    found = dict.fromkeys(levels)
    clean = [label for level, label in found if level is None or level == float("inf")]
    numbers = {label: float(level) for level, label in found if label not in clean and level is not None}
    order = [*clean, *sorted(numbers, key=lambda label: -numbers[label] if clean else numbers[label])]
    steps = [b - a for a, b in zip(sorted(numbers.values()), sorted(numbers.values())[1:], strict=False)]
    if clean or not steps or max(steps) > _EVEN * min(steps):
        return {label: float(i) for i, label in enumerate(order)}
    return numbers


def _corruptions(rows: Sequence[Record]) -> list[dict[str, Any]]:
    """The figure's numbers as tables: a corruption's models by its levels."""
    tables = []
    for name in dict.fromkeys(row["corruption"] for row in rows):
        mine = [row for row in rows if row["corruption"] == name]
        places = _places([(row["level"], row["label"]) for row in mine])
        labels = sorted(places, key=lambda label: places[label])
        found = {(row["model"], row["label"]): row for row in mine}
        models = list(dict.fromkeys(row["model"] for row in mine))
        cells = [(model, [found.get((model, label)) for label in labels]) for model in models]
        tables.append({"name": _title(name), "unit": mine[0]["unit"], "labels": labels, "models": cells})
    return tables


def _smoothing(calibration: Record) -> str:
    """Held-out score in the training clips against the radius of smoothing."""
    chosen = calibration["chosen"]
    strengths = list(dict.fromkeys([0.0, chosen["strength"]]))
    lines = []
    for style, strength in enumerate(strengths):
        own = [row for row in calibration["grid"] if row["strength"] == strength]
        name = "no class bias" if strength == 0 else f"class bias, strength {strength:g}"
        lines.append((name, own, style))
    radii = [row["radius_s"] for row in calibration["grid"]]
    places = {radius: float(i) for i, radius in enumerate(dict.fromkeys(radii))}
    values = [row["macro_f1"] for _, own, _ in lines for row in own]
    series = [
        Series(name, [places[row["radius_s"]] for row in own], [row["macro_f1"] for row in own], style=style)
        for name, own, style in lines
        if own
    ]
    ticks = [(place, f"{radius:g}") for radius, place in places.items()]
    mark = (places[chosen["radius_s"]], "chosen") if chosen["radius_s"] in places else None
    panel = Panel("", "radius of smoothing, s", series, ticks, (0.0, above(values)), mark=mark)
    return figure([panel], y_title="macro F1, held-out folds", alone=False)


def _reliability(summary: Record) -> str:
    found = {"as predicted": summary["reliability"]}
    if summary["calibration"]:
        found["corrected"] = summary["calibration"]["reliability"]
    series = [
        Series(name, [row["confidence"] for row in rows], [row["accuracy"] for row in rows], style=style)
        for style, (name, rows) in enumerate(found.items())
    ]
    ticks = [(k / 5, f"{k / 5:g}") for k in range(6)]
    panel = Panel("", "confidence of the named class", series, ticks, diagonal=True)
    return figure([panel], y_title="share that is right", alone=False)
