"""Comparison page: one self-contained HTML file of a comparison's record, with the record as JSON beside it.

The page shows a record of `mien.compare.comparison.compare` and computes nothing but axes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mien import __version__
from mien.atomic import atomic_path
from mien.views.charts import Panel, Series, figure
from mien.views.evaluation import abbreviations, confusion_rows, format_count, format_interval, format_percent
from mien.views.evaluation import format_score as score
from mien.views.interval_chart import IntervalRow, interval_chart
from mien.views.palette import class_colours
from mien.views.render import load_template, read_source
from mien.views.words import count

Record = Mapping[str, Any]
#: Recordings listed by name at most.
MAX_ROWS = 200


def write_page(path: Path, record: Record) -> Path:
    """Writes the page, and `record` as JSON under the same name with `.json`; both atomically.

    Raises OutputError.
    """
    template = load_template(
        "comparison.html",
        score=score,
        interval=format_interval,
        number=format_number,
        ends=_format_ends,
        whole=format_count,
        percent=format_percent,
        p=format_p,
        count=count,
    )
    text = template.render(**_context(record))
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    with atomic_path(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return path


def format_number(value: float | None) -> str:
    """A number of any size: three decimals below 10, then one; an en dash for None. Shares keep no leading zero."""
    if value is None:
        return "–"
    text = f"{abs(value):.3f}" if abs(value) < 10 else f"{abs(value):,.1f}"
    return ("−" if value < 0 and float(text.replace(",", "")) else "") + text.removeprefix("0")


def _format_ends(ends: Mapping[str, float | None]) -> str:
    """As `format_interval`, of numbers of any size."""
    if ends.get("low") is None or ends.get("high") is None:
        return ""
    return f"[{format_number(ends['low'])}, {format_number(ends['high'])}]"


def format_p(value: float | None) -> str:
    """A p value with three decimals and no leading zero; `<.001` below; an en dash for None."""
    if value is None:
        return "–"
    return "<.001" if value < 0.001 else score(value)


def _context(record: Record) -> dict[str, Any]:
    agreement, names = record["agreement"], record["names"]
    rows = []
    if agreement:
        rows = sorted(agreement["recordings"], key=lambda r: _first(r["kappa"], r["agreement"], r["ccc valence"]))
    return {
        **record,
        "title": f"{_heading(record)} · mien",
        "name": _heading(record),
        "facts": _facts(record),
        "version": __version__,
        "css": read_source("base.css", "report.css", "evaluation.css"),
        "a": names[0],
        "b": names[1],
        "colours": class_colours(record["classes"]),
        "short": abbreviations(record["classes"]),
        "matrix": confusion_rows(record["classes"], agreement["confusion"]) if agreement else [],
        "has_expressions": bool(agreement) and any(map(any, agreement["confusion"])),
        "rows": rows[:MAX_ROWS],
        "keys": [s["key"] for s in agreement["scores"]] if agreement else [],
        "titles": {s["key"]: s["name"] for s in agreement["scores"]} if agreement else {},
        "curves_svg": Markup(_curves_svg(record)) if agreement else "",
        "attributes": _attributes(record),
        "contrast_svg": Markup(_contrast_svg(record["groups"]["contrasts"])) if record["groups"] else "",
        "value_svg": Markup(_value_svg(record)) if record["groups"] else "",
        "event_figures": _event_figures(record),
    }


def _heading(record: Record) -> str:
    a, b = record["names"]
    return f"{a} and {b}" if record["agreement"] or record["groups"] else f"{a} around events"


def _facts(record: Record) -> list[str]:
    a, b = record["names"]
    n, m = record["recordings"]
    agreement = record["agreement"]
    if agreement:
        counted = sum(r["counted"] for r in agreement["recordings"]) / record["rate_hz"]
        return [f"{count(len(agreement['recordings']), 'recording')} in both", f"{counted / 60:.1f} minutes compared"]
    return [f"{a}: {count(n, 'recording')}", *([f"{b}: {count(m, 'recording')}"] if m else [])]


def _first(*values: float | None) -> float:
    """The first value that is known. κ is unknown where both sides have one and the same class throughout."""
    return next((v for v in values if v is not None), -math.inf)


def _curves_svg(record: Record) -> str:
    """The mean of B against A's values, with quartiles as bands."""
    ticks = [(k / 2, f"{k / 2:g}".replace("-", "−")) for k in range(-2, 3)]
    panels = [
        Panel(
            curve["name"],
            f"{record['names'][0]}",
            [
                Series(
                    f"mean of {record['names'][1]}",
                    [p["x"] for p in curve["points"]],
                    [p["y"] for p in curve["points"]],
                    [p["low"] for p in curve["points"]],
                    [p["high"] for p in curve["points"]],
                )
            ],
            ticks,
            (-1.0, 1.0),
            diagonal=True,
        )
        for curve in record["agreement"]["curves"]
        if curve["points"]
    ]
    return figure(panels, y_title=record["names"][1], standalone=False) if panels else ""


def _attributes(record: Record) -> list[dict[str, Any]]:
    """A chart for each attribute and score: its values by group, and the gap."""
    found = []
    for entry in (record["agreement"] or {}).get("attributes", []):
        charts = []
        for shown in record["agreement"]["scores"]:
            key = shown["key"]
            rows = [
                IntervalRow(
                    f"{v['value']} ({v['recordings']})",
                    v["scores"][key]["value"],
                    v["scores"][key]["low"],
                    v["scores"][key]["high"],
                    f"{score(v['scores'][key]['value'])} {format_interval(v['scores'][key])}",
                )
                for v in entry["values"]
            ]
            low = -1.0 if any((r.low if r.low is not None else r.value or 0) < 0 for r in rows) else 0.0
            gap = entry["gaps"][key]
            charts.append({"name": shown["name"], "svg": Markup(interval_chart(rows, (low, 1.0))), **gap})
        found.append({"name": entry["attribute"], "charts": charts})
    return found


def _contrast_svg(contrasts: Sequence[Record]) -> str:
    """Effect sizes; one measure in each row."""
    known = [abs(c["effect"]) for c in contrasts if c["effect"] is not None]
    limit = max(1.0, math.ceil(max(known, default=1.0)))
    limit = min(limit, 5.0)
    rows = [
        IntervalRow(c["measure"], c["effect"], text=f"{_signed(c['effect'])}, p {format_p(c['p_holm'])}")
        for c in contrasts
    ]
    return interval_chart(rows, (-limit, limit))


def _value_svg(record: Record) -> str:
    """The value of every recording in both groups, a panel for each measure."""
    panels = []
    for contrast in record["groups"]["contrasts"]:
        values = [*contrast["a"].values()], [*contrast["b"].values()]
        everything = [*values[0], *values[1]]
        low, high = _range(min(everything), max(everything))
        series = [
            Series(name, _spread(len(own), centre), own, style=k, line=False)
            for k, (name, own, centre) in enumerate(zip(record["names"], values, (0.0, 1.0), strict=True))
        ]
        ticks = [(0.0, record["names"][0]), (1.0, record["names"][1])]
        panels.append(Panel(contrast["measure"], "", [*series], [(-0.5, ""), *ticks, (1.5, "")], (low, high)))
    return figure(panels, standalone=False) if panels else ""


def _spread(count: int, centre: float) -> list[float]:
    """Positions beside each other, so that points of equal value can be told apart."""
    return [centre + 0.5 * ((k * 0.618) % 1 - 0.5) for k in range(count)]


def _range(low: float, high: float) -> tuple[float, float]:
    """Limits of an axis that hold both, rounded to a step that gives few levels."""
    width = max(high - low, 1e-3)
    step = next(s for s in (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 1e9) if width / s <= 4)
    first = math.floor(low / step) * step
    last = math.ceil(high / step) * step
    return round(first, 6), round(last if last > first else first + step, 6)


def _event_figures(record: Record) -> list[dict[str, Any]]:
    """For each event a figure: a panel for each measure, a line for each of A and B."""
    curves = record["events"] or []
    figures = []
    for event in dict.fromkeys(c["event"] for c in curves):
        own = [c for c in curves if c["event"] == event]
        panels = []
        for measure in dict.fromkeys(c["measure"] for c in own):
            series = [
                Series(
                    c["of"],
                    [p["offset_s"] for p in c["points"]],
                    [p["value"] for p in c["points"]],
                    [p["low"] for p in c["points"]],
                    [p["high"] for p in c["points"]],
                    style=record["names"].index(c["of"]),
                )
                for c in own
                if c["measure"] == measure
            ]
            ends = [v for s in series for part in (s.y, s.low, s.high) for v in part if v is not None]
            limits = _range(min(ends), max(ends)) if ends else (0.0, 1.0)
            offsets = [x for s in series for x in s.x]
            ticks = [
                (float(t), f"{t:g}".replace("-", "−")) for t in range(math.ceil(min(offsets)), int(max(offsets)) + 1)
            ]
            panels.append(Panel(measure, "seconds from the event", series, ticks, limits, mark=(0.0, event)))
        counts = {c["of"]: (c["count"], c["units"]) for c in own}
        figures.append({"name": event, "counts": counts, "svg": Markup(figure(panels, standalone=False))})
    return figures


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}".replace("-", "−")
