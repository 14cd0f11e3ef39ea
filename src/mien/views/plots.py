"""SVG plot of a timeline: expression, probabilities, valence, arousal and evidence over time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from mien.clock import row_durations
from mien.labels import EXPRESSIONS, probability_column
from mien.views.palette import class_colours, text_colour
from mien.views.parts import Parts, parts_of, shorten, text_width
from mien.views.render import load_template

#: Layout in pixels. LEFT and LANES are those of the eight expressions: the left column grows with the longest class
#: name, and the lanes share their height among the classes, within limits.
WIDTH, MARGIN, LEFT, MAX_LEFT = 1100, 18, 136, 250
RIGHT = WIDTH - MARGIN
RIBBON, LANES, STRIP, GAP = 22, 208, 24, 12
#: Height of the curves, beside expressions and alone.
CURVES, CURVES_ALONE = 110, 200
MIN_LANE, MAX_LANE = 18, 36
#: Font sizes of the left column and of the bold names in the ribbon, and the width of a colour mark with its gap.
_FONT, _RIBBON_FONT, _MARK = 12, 11, 15
#: Most points of a curve, which keeps the file small. Our choice.
MAX_POINTS = 600
_FACE, _VOICE = "#6a5fd0", "#2f9a94"


@dataclass(frozen=True, slots=True)
class _Layout:
    """Positions of a panel, in pixels from its top.

    left: start of the time axis. lane: height of a class's lane. lanes, curves: top of these parts; strip: of the
    evidence.
    """

    classes: tuple[str, ...]
    parts: Parts
    left: int
    lane: int
    lanes: int
    curves: int
    curves_height: int
    strip: int

    @property
    def height(self) -> int:
        """Height of the panel."""
        return self.strip + STRIP

    def x(self, times: np.ndarray, stop: float) -> np.ndarray:
        """Horizontal position of times in seconds; the axis ends at `stop`."""
        return self.left + (RIGHT - self.left) * times / stop


def _layout(classes: Sequence[str], parts: Parts) -> _Layout:
    longest = max((text_width(name, _FONT) for name in classes), default=0.0) if parts.expression else 0.0
    lane = max(MIN_LANE, min(MAX_LANE, LANES // max(1, len(classes))))
    lanes = RIBBON + 10
    curves = lanes + lane * len(classes) + GAP if parts.expression else 0
    curves_height = CURVES if parts.expression else CURVES_ALONE
    strip = curves + curves_height + GAP if parts.valence_arousal else curves
    left = max(LEFT, min(MAX_LEFT, MARGIN + _MARK + round(longest) + 16))
    return _Layout(tuple(classes), parts, left, lane, lanes, curves, curves_height, strip)


def timeline_svg(table: pl.DataFrame, classes: Sequence[str] = EXPRESSIONS, *, title: str = "") -> str:
    """Plots a timeline with one panel per subject over one time axis; returns SVG text.

    A timeline without any expression has only the curves of valence and arousal, and the other way round.

    Args:
        table: a timeline's table (see `mien.timeline.columns.schema`).
        classes: its class names.
    """
    subjects = [rows.sort("time_s") for _, rows in sorted(table.group_by("subject"), key=lambda item: item[0])]
    stop = max((_stop(rows["time_s"].to_numpy()) for rows in subjects), default=1.0)
    layout = _layout(classes, parts_of(table))
    head = 60 if title else 40
    gap = layout.height + 64
    panels = [
        {
            "y": head + k * gap,
            "height": layout.height,
            "title": f"Subject {rows['subject'][0]}" if len(subjects) > 1 else "",
            **_panel(rows, stop, layout),
        }
        for k, rows in enumerate(subjects)
    ]
    return load_template("timeline.svg").render(
        width=WIDTH,
        height=head + gap * max(1, len(subjects)) - 24,
        margin=MARGIN,
        mark=_MARK,
        left=layout.left,
        right=RIGHT,
        ribbon_height=RIBBON,
        parts=layout.parts,
        title=title,
        ticks=list(_ticks(stop, layout)),
        panels=panels,
    )


def _panel(rows: pl.DataFrame, stop: float, layout: _Layout) -> dict[str, Any]:
    times = rows["time_s"].to_numpy()
    ends = times + row_durations(times) if len(times) > 1 else np.array([stop])
    x, x_end = layout.x(times, stop), layout.x(ends, stop)
    # Class names and evidence cannot be averaged: take the middle row of each group.
    first, last = _groups(len(rows))
    middle_rows = rows[(first + last) // 2]
    edges = x[first], x_end[last]
    evidence = middle_rows["evidence"].to_numpy()
    return {
        **(_expression_part(rows, middle_rows, x, float(x_end[-1]), edges, layout) if layout.parts.expression else {}),
        **(_curves_part(rows, middle_rows, x, edges, layout) if layout.parts.valence_arousal else {}),
        "strip": layout.strip,
        "evidence": [
            (
                name,
                y,
                colour,
                [(a, w) for a, w, _ in _runs(np.where(np.isin(evidence, kinds), 0, -1), *edges)],
            )
            for name, y, colour, kinds in (
                ("face", layout.strip, _FACE, ("both", "face")),
                ("voice", layout.strip + 13, _VOICE, ("both", "voice")),
            )
        ],
    }


def _expression_part(
    rows: pl.DataFrame,
    middle_rows: pl.DataFrame,
    x: np.ndarray,
    end: float,
    edges: tuple[np.ndarray, np.ndarray],
    layout: _Layout,
) -> dict[str, Any]:
    """The ribbon of the most probable class, and a lane for each class."""
    classes, colours = layout.classes, class_colours(layout.classes)
    expression = np.array([classes.index(e) if e else -1 for e in middle_rows["expression"]])
    probabilities = rows.select(map(probability_column, classes)).to_numpy()
    ribbon = []
    for a, w, value in _runs(expression, *edges):
        name = classes[value]
        fits = w > 1.1 * text_width(name, _RIBBON_FONT) + 10
        ribbon.append((a, w, colours[name], name, text_colour(colours[name]), fits))
    lanes = []
    for k, name in enumerate(classes):
        base = layout.lanes + (k + 1) * layout.lane
        path = _area(x, probabilities[:, k], base, layout.lane - 5, end)
        text = shorten(name, _FONT, layout.left - MARGIN - _MARK - 12)
        middle = base - layout.lane / 2 + 1
        lanes.append({"name": name, "text": text, "y": base, "middle": middle, "colour": colours[name], "path": path})
    hatched = [(a, w) for a, w, _ in _runs(np.where(expression < 0, 0, -1), *edges)]
    height = layout.lanes + layout.lane * len(classes)
    return {"ribbon": ribbon, "lanes": lanes, "hatched": hatched, "hatched_height": height}


def _curves_part(
    rows: pl.DataFrame,
    middle_rows: pl.DataFrame,
    x: np.ndarray,
    edges: tuple[np.ndarray, np.ndarray],
    layout: _Layout,
) -> dict[str, Any]:
    """The curves of valence and arousal."""
    middle, room = layout.curves + layout.curves_height / 2, layout.curves_height / 2 - 4
    missing = middle_rows["valence"].is_null().to_numpy()
    curves = {
        name: _line(x, middle - rows[name].cast(pl.Float64).fill_null(np.nan).to_numpy() * room)
        for name in ("valence", "arousal")
    }
    return {
        "levels": [(v, middle - v * room) for v in (-1, 0, 1)],
        "middle": middle,
        "curves_top": layout.curves,
        "curves_height": layout.curves_height,
        "curves_hatched": [(a, w) for a, w, _ in _runs(np.where(missing, 0, -1), *edges)],
        **curves,
    }


def _stop(times: np.ndarray) -> float:
    return float(times[-1] + row_durations(times)[-1]) if len(times) > 1 else float(times[0]) + 1.0


def _runs(values: np.ndarray, x: np.ndarray, x_end: np.ndarray) -> Iterator[tuple[float, float, int]]:
    """Yields (x, width, value) of each run of equal values except -1."""
    starts = np.flatnonzero(np.diff(values, prepend=-2))
    for a, b in zip(starts, np.append(starts[1:], len(values)), strict=True):
        if values[a] >= 0:
            yield round(float(x[a]), 1), round(float(x_end[b - 1] - x[a]), 1), int(values[a])


def _groups(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last row of at most MAX_POINTS groups of neighbouring rows."""
    first = np.arange(0, rows, -(-rows // MAX_POINTS))
    return first, np.append(first[1:], rows) - 1


def _group_means(x: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of each group of rows; NaN for a group with a NaN, so that gaps remain visible."""
    first, last = _groups(len(x))
    sizes = last - first + 1
    return np.add.reduceat(x, first) / sizes, np.add.reduceat(values, first) / sizes


def _line(x: np.ndarray, y: np.ndarray) -> str:
    x, y = _group_means(x, y)
    commands, is_connected = [], False
    for a, b in zip(x, y, strict=True):
        if np.isfinite(b):
            commands.append(f"{'L' if is_connected else 'M'}{a:.1f} {b:.1f}")
        is_connected = bool(np.isfinite(b))
    return "".join(commands)


def _area(x: np.ndarray, share: np.ndarray, base: float, room: float, end: float) -> str:
    x, share = _group_means(x, share.astype(np.float64))
    edges = np.append(x, end)
    commands = []
    for a, b in zip(*_spans(np.isfinite(share)), strict=True):
        top = "".join(f"L{edges[i]:.1f} {base - share[i] * room:.1f}" for i in range(a, b))
        last = base - share[b - 1] * room
        commands.append(f"M{edges[a]:.1f} {base}{top}L{edges[b]:.1f} {last:.1f}L{edges[b]:.1f} {base}Z")
    return "".join(commands)


def _spans(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    step = np.diff(np.concatenate([[0], mask.astype(int), [0]]))
    return np.flatnonzero(step > 0), np.flatnonzero(step < 0)


def _ticks(stop: float, layout: _Layout) -> Iterator[tuple[float, str]]:
    steps = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)
    step = next((s for s in steps if s >= stop / 10), steps[-1])
    for k in range(int(stop / step + 1e-9) + 1):
        t = k * step
        text = f"{t:g} s" if stop < 60 else f"{int(t // 60)}:{int(t % 60):02d}"
        yield round(float(layout.x(np.array(t), stop)), 1), text
