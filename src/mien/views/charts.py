"""Small line charts side by side, as SVG text: curves of scores with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import jinja2

#: Pixels. A panel's plot, and what stands around it.
PLOT_WIDTH, PLOT_HEIGHT = 268, 150
LEFT, TOP, RIGHT, BOTTOM = 46, 34, 18, 46
GAP = 14
COLUMNS = 3
#: As many series as have a style of their own (see charts.svg).
STYLES = 7
_MARKERS = ("circle", "square", "triangle", "diamond", "circle", "square", "triangle")


@dataclass(frozen=True, slots=True)
class Series:
    """One line. x, y: positions and values, None where there is no value; low, high: its interval, or empty.
    style: which of the STYLES; the same name should have the same one in every panel."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    style: int = 0


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart. ticks: (position, text) of the x axis. y_range: of the y axis. diagonal: draw y = x. mark: (x, text)
    of a vertical line."""

    title: str
    x_title: str
    series: Sequence[Series]
    ticks: Sequence[tuple[float, str]]
    y_range: tuple[float, float] = (0.0, 1.0)
    diagonal: bool = False
    mark: tuple[float, str] | None = None
    x_labels: Mapping[float, str] = field(default_factory=dict)


def figure(panels: Sequence[Panel], *, y_title: str = "", columns: int = COLUMNS, alone: bool = True) -> str:
    """SVG with the panels in rows of `columns` and one legend.

    Args:
        alone: a file of its own, with its colours inside; else its classes take colours from the page it stands in.
    """
    columns = max(1, min(columns, len(panels)))
    width, height = LEFT + PLOT_WIDTH + RIGHT, TOP + PLOT_HEIGHT + BOTTOM
    names = list(dict.fromkeys((s.name, s.style) for p in panels for s in p.series))
    legend = _legend(names, GAP + columns * (width + GAP)) if len(names) > 1 else []
    head = legend[-1]["y"] + 18 if legend else 4
    rows = -(-len(panels) // columns)
    drawn = [
        {"x": GAP + (i % columns) * (width + GAP), "y": head + (i // columns) * (height + GAP), **_drawn(panel)}
        for i, panel in enumerate(panels)
    ]
    return _template().render(
        width=GAP + columns * (width + GAP),
        height=head + rows * (height + GAP),
        panels=drawn,
        legend=legend,
        y_title=y_title,
        alone=alone,
        left=LEFT,
        top=TOP,
        plot_width=PLOT_WIDTH,
        plot_height=PLOT_HEIGHT,
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mien.views"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("charts.svg")


def _legend(names: Sequence[tuple[str, int]], width: int) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    x, y = GAP + LEFT, 12
    for name, style in names:
        space = 33 + 7 * len(name)  # text cannot be measured here; letters are about 7 wide
        if out and x + space > width:
            x, y = GAP + LEFT, y + 19
        out.append({"name": name, "style": style % STYLES, "x": x, "y": y, "marker": _marker(style, x + 13, y)})
        x += space + 20
    return out


def _drawn(panel: Panel) -> dict[str, Any]:
    low, high = panel.y_range
    places = [x for x, _ in panel.ticks] + [x for s in panel.series for x in s.x]
    first, last = min(places), max(places)
    pad = 0.04 * (last - first or 1.0)
    first, last = first - pad, last + pad

    def at(x: float, y: float) -> tuple[float, float]:
        inside = min(max((y - low) / (high - low), 0.0), 1.0)
        return round(LEFT + PLOT_WIDTH * (x - first) / (last - first), 1), round(TOP + PLOT_HEIGHT * (1 - inside), 1)

    return {
        "title": panel.title,
        "x_title": panel.x_title,
        "ticks": [(at(x, low)[0], text) for x, text in panel.ticks],
        "levels": [(at(first, y)[1], f"{y:g}") for y in _levels(low, high)],
        "diagonal": [*at(max(first, low), max(first, low)), *at(min(last, high), min(last, high))]
        if panel.diagonal
        else [],
        "mark": (at(panel.mark[0], low)[0], panel.mark[1]) if panel.mark else None,
        "series": [_line(one, at, panel) for one in panel.series],
    }


def _line(one: Series, at: Any, panel: Panel) -> dict[str, Any]:
    points = [(x, y, *at(x, y), i) for i, (x, y) in enumerate(zip(one.x, one.y, strict=True)) if y is not None]
    pairs = [(x, a, b) for x, a, b in zip(one.x, one.low, one.high, strict=False) if a is not None and b is not None]
    upper = [at(x, b) for x, _, b in pairs]
    lower = [at(x, a) for x, a, _ in reversed(pairs)]
    texts = dict(panel.ticks) | dict(panel.x_labels)

    def said(x: float, y: float, i: int) -> str:
        ends = f" [{one.low[i]:.3f}, {one.high[i]:.3f}]" if i < len(one.low) and one.low[i] is not None else ""
        return f"{one.name}, {texts.get(x, f'{x:g}')}: {y:.3f}{ends}"

    return {
        "style": one.style % STYLES,
        "path": "M" + "L".join(f"{px} {py}" for _, _, px, py, _ in points) if points else "",
        "band": "M" + "L".join(f"{px} {py}" for px, py in upper + lower) + "Z" if len(pairs) > 1 else "",
        "points": [{"marker": _marker(one.style, px, py), "title": said(x, y, i)} for x, y, px, py, i in points],
    }


def _marker(style: int, x: float, y: float) -> str:
    """A path of the style's shape, so that no line is told apart by colour alone."""
    r = 3.4
    shape = _MARKERS[style % STYLES]
    if shape == "square":
        return f"M{x - 3:.1f} {y - 3:.1f}h6v6h-6Z"
    if shape == "triangle":
        return f"M{x:.1f} {y - 4:.1f}l4 7h-8Z"
    if shape == "diamond":
        return f"M{x:.1f} {y - 4.4:.1f}l4.2 4.4l-4.2 4.4l-4.2 -4.4Z"
    return f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0Z"


def _levels(low: float, high: float) -> list[float]:
    step = next(s for s in (0.05, 0.1, 0.2, 0.25, 0.5, 1.0, 2.0, math.inf) if (high - low) / s <= 5.001)
    return [round(k * step, 6) for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def above(values: Sequence[float | None]) -> float:
    """A round end of an axis from 0 that holds all values: 0.1, 0.2 ... 1."""
    top = max((v for v in values if v is not None), default=1.0)
    return min(1.0, max(0.1, math.ceil(top * 10 - 1e-9) / 10))
