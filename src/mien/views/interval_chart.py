"""SVG chart of values with intervals: one row for each, on one axis (a forest plot)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mien.views.charts import level_steps
from mien.views.parts import shorten, text_width
from mien.views.render import load_template

#: Sizes in pixels: of a row, of the axis, of the text beside it, and the widest label.
ROW, AXIS_WIDTH, TEXT_WIDTH, MAX_LABEL = 24, 380, 150, 230
_FONT = 12


@dataclass(frozen=True, slots=True)
class IntervalRow:
    """One row. low, high: ends of the interval, None without one. text: shown to the right. style: of `charts`."""

    label: str
    value: float | None
    low: float | None = None
    high: float | None = None
    text: str = ""
    style: int = 0


def interval_chart(rows: Sequence[IntervalRow], limits: tuple[float, float], *, zero: bool = True) -> str:
    """Draws the rows as SVG, coloured by the page's style sheet. Values outside `limits` are drawn at their end.

    Args:
        zero: mark 0 with a line.
    """
    low, high = limits
    left = 12 + min(MAX_LABEL, max((text_width(row.label, _FONT) for row in rows), default=0.0))

    def x(value: float) -> float:
        return round(left + AXIS_WIDTH * (min(max(value, low), high) - low) / (high - low), 1)

    drawn = [
        {
            "y": 10 + ROW * i + ROW / 2,
            "label": shorten(row.label, _FONT, MAX_LABEL),
            "name": row.label,
            "x": None if row.value is None else x(row.value),
            "span": None if row.low is None or row.high is None else (x(row.low), x(row.high)),
            "text": row.text,
            "style": row.style,
        }
        for i, row in enumerate(rows)
    ]
    return load_template("intervals.svg").render(
        rows=drawn,
        left=round(left, 1),
        right=round(left + AXIS_WIDTH, 1),
        width=round(left + AXIS_WIDTH + TEXT_WIDTH),
        height=10 + ROW * len(rows) + 28,
        bottom=10 + ROW * len(rows),
        zero=x(0.0) if zero and low < 0 < high else None,
        levels=[(x(level), f"{level:g}".replace("-", "−")) for level in level_steps(low, high)],
    )
