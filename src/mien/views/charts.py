"""SVG line charts: panels side by side with intervals as bands and one legend."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mien.views.render import load_template

#: Size of a panel's plot, its margins, and the gap between panels, in pixels.
PLOT_WIDTH, PLOT_HEIGHT = 268, 150
LEFT, TOP, RIGHT, BOTTOM = 46, 34, 18, 46
GAP = 14
COLUMNS = 3
#: Number of distinct line styles (see charts.svg).
STYLES = 7
_MARKERS = ("circle", "square", "triangle", "diamond", "circle", "square", "triangle")


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart.

    Attributes:
        x, y: positions and values, None for a missing value.
        low, high: ends of the intervals, or empty.
        style: index of the line style; use the same one for a name in every panel.
        line: connect the points.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    style: int = 0
    line: bool = True


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart.

    Attributes:
        ticks: (position, text) of the x axis.
        y_range: limits of the y axis.
        diagonal: draw y = x.
        mark: (x, text) of a vertical line.
        x_labels: texts of positions without a tick, for tooltips.
    """

    title: str
    x_title: str
    series: Sequence[Series]
    ticks: Sequence[tuple[float, str]]
    y_range: tuple[float, float] = (0.0, 1.0)
    diagonal: bool = False
    mark: tuple[float, str] | None = None
    x_labels: Mapping[float, str] = field(default_factory=dict)


def figure(panels: Sequence[Panel], *, y_title: str = "", columns: int = COLUMNS, standalone: bool = True) -> str:
    """Draws panels in rows of `columns` with one legend; returns SVG text.

    Args:
        y_title: title of every y axis.
        standalone: include colours, for a file of its own; otherwise the page's style sheet colours the classes.
    """
    columns = max(1, min(columns, len(panels)))
    width, height = LEFT + PLOT_WIDTH + RIGHT, TOP + PLOT_HEIGHT + BOTTOM
    names = list(dict.fromkeys((s.name, s.style) for p in panels for s in p.series))
    legend = _legend(names, GAP + columns * (width + GAP)) if len(names) > 1 else []
    head = legend[-1]["y"] + 18 if legend else 4
    rows = -(-len(panels) // columns)
    laid_out = [
        {"x": GAP + (i % columns) * (width + GAP), "y": head + (i // columns) * (height + GAP), **_layout(panel)}
        for i, panel in enumerate(panels)
    ]
    return load_template("charts.svg").render(
        width=GAP + columns * (width + GAP),
        height=head + rows * (height + GAP),
        panels=laid_out,
        legend=legend,
        y_title=y_title,
        standalone=standalone,
        left=LEFT,
        top=TOP,
        plot_width=PLOT_WIDTH,
        plot_height=PLOT_HEIGHT,
    )


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


def _layout(panel: Panel) -> dict[str, Any]:
    low, high = panel.y_range
    positions = [x for x, _ in panel.ticks] + [x for s in panel.series for x in s.x]
    first, last = min(positions), max(positions)
    pad = 0.04 * (last - first or 1.0)
    first, last = first - pad, last + pad

    def to_pixel(x: float, y: float) -> tuple[float, float]:
        share = min(max((y - low) / (high - low), 0.0), 1.0)
        return round(LEFT + PLOT_WIDTH * (x - first) / (last - first), 1), round(TOP + PLOT_HEIGHT * (1 - share), 1)

    start, end = max(first, low), min(last, high)
    return {
        "title": panel.title,
        "x_title": panel.x_title,
        "ticks": [(to_pixel(x, low)[0], text) for x, text in panel.ticks],
        "levels": [(to_pixel(first, y)[1], f"{y:g}".replace("-", "−")) for y in level_steps(low, high)],
        "diagonal": [*to_pixel(start, start), *to_pixel(end, end)] if panel.diagonal else [],
        "mark": (to_pixel(panel.mark[0], low)[0], panel.mark[1]) if panel.mark else None,
        "series": [_line(series, to_pixel, panel) for series in panel.series],
    }


def _line(series: Series, to_pixel: Callable[[float, float], tuple[float, float]], panel: Panel) -> dict[str, Any]:
    values = enumerate(zip(series.x, series.y, strict=True))
    points = [(x, y, *to_pixel(x, y), i) for i, (x, y) in values if y is not None]
    ends = zip(series.x, series.low, series.high, strict=False)
    band = [(x, low, high) for x, low, high in ends if low is not None and high is not None]
    outline = [to_pixel(x, high) for x, _, high in band] + [to_pixel(x, low) for x, low, _ in reversed(band)]
    texts = dict(panel.ticks) | dict(panel.x_labels)

    def tooltip(x: float, y: float, i: int) -> str:
        has_interval = i < len(series.low) and series.low[i] is not None
        interval = f" [{series.low[i]:.3f}, {series.high[i]:.3f}]" if has_interval else ""
        return f"{series.name}, {texts.get(x, f'{x:g}')}: {y:.3f}{interval}"

    return {
        "style": series.style % STYLES,
        "path": "M" + "L".join(f"{px} {py}" for _, _, px, py, _ in points) if points and series.line else "",
        "band": "M" + "L".join(f"{px} {py}" for px, py in outline) + "Z" if len(band) > 1 else "",
        "points": [{"marker": _marker(series.style, px, py), "title": tooltip(x, y, i)} for x, y, px, py, i in points],
    }


def _marker(style: int, x: float, y: float) -> str:
    """Path of the style's marker, so that lines do not differ by colour alone."""
    r = 3.4
    shape = _MARKERS[style % STYLES]
    if shape == "square":
        return f"M{x - 3:.1f} {y - 3:.1f}h6v6h-6Z"
    if shape == "triangle":
        return f"M{x:.1f} {y - 4:.1f}l4 7h-8Z"
    if shape == "diamond":
        return f"M{x:.1f} {y - 4.4:.1f}l4.2 4.4l-4.2 4.4l-4.2 -4.4Z"
    return f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0Z"


def level_steps(low: float, high: float) -> list[float]:
    """Positions of at most six grid lines in `[low, high]`, multiples of a round step.

    A line beyond an end by a billionth of the step is one at the end that rounding has moved.
    """
    steps = (0.05, 0.1, 0.2, 0.25, 0.5, *(digit * 10.0**power for power in range(16) for digit in (1, 2, 5)))
    step = next(s for s in steps if (high - low) / s <= 5.001)
    return [round(k * step, 6) for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def axis_limit(values: Sequence[float | None]) -> float:
    """Upper limit of an axis from 0: the maximum of the values rounded up to a tenth, in [0.1, 1]."""
    top = max((v for v in values if v is not None), default=1.0)
    return min(1.0, max(0.1, math.ceil(top * 10 - 1e-9) / 10))
