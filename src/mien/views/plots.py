"""SVG plot of a timeline: expression, probabilities, valence, arousal and evidence over time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from mien.clock import row_durations
from mien.labels import EXPRESSIONS, probability_column
from mien.views.palette import EXPRESSION, text_colour
from mien.views.render import load_template

#: Layout in pixels.
WIDTH, MARGIN, LEFT = 1100, 18, 136
RIGHT = WIDTH - MARGIN
RIBBON, LANE, CURVES, STRIP = 22, 26, 110, 24
#: Most points of a curve, which keeps the file small. Our choice.
MAX_POINTS = 600
PANEL = RIBBON + 10 + LANE * len(EXPRESSIONS) + 12 + CURVES + 12 + STRIP
_FACE, _VOICE = "#6a5fd0", "#2f9a94"


def timeline_svg(table: pl.DataFrame, *, title: str = "") -> str:
    """Plots a timeline with one panel per subject over one time axis; returns SVG text.

    Args:
        table: a timeline's table (see `mien.timeline.table.SCHEMA`).
    """
    subjects = [rows.sort("time_s") for _, rows in sorted(table.group_by("subject"), key=lambda item: item[0])]
    stop = max((_stop(rows["time_s"].to_numpy()) for rows in subjects), default=1.0)
    head = 60 if title else 40
    gap = PANEL + 64
    panels = [
        {
            "y": head + k * gap,
            "height": PANEL,
            "title": f"Subject {rows['subject'][0]}" if len(subjects) > 1 else "",
            **_panel(rows, stop),
        }
        for k, rows in enumerate(subjects)
    ]
    return load_template("timeline.svg").render(
        width=WIDTH,
        height=head + gap * max(1, len(subjects)) - 24,
        margin=MARGIN,
        left=LEFT,
        right=RIGHT,
        title=title,
        ticks=list(_ticks(stop)),
        panels=panels,
    )


def _panel(rows: pl.DataFrame, stop: float) -> dict[str, Any]:
    times = rows["time_s"].to_numpy()
    ends = times + row_durations(times) if len(times) > 1 else np.array([stop])
    x, x_end = _x(times, stop), _x(ends, stop)
    # Class names cannot be averaged: take the middle row of each group.
    first, last = _groups(len(rows))
    middle_rows = rows[(first + last) // 2]
    expression = np.array([EXPRESSIONS.index(e) if e else -1 for e in middle_rows["expression"]])
    evidence = middle_rows["evidence"].to_numpy()
    edges = x[first], x_end[last]
    probabilities = rows.select(probability_column(e) for e in EXPRESSIONS).to_numpy()
    lanes_top = RIBBON + 10
    curves_top = lanes_top + LANE * len(EXPRESSIONS) + 12
    middle, room = curves_top + CURVES / 2, CURVES / 2 - 4
    strip = curves_top + CURVES + 12
    ribbon = []
    for a, w, value in _runs(expression, *edges):
        name = EXPRESSIONS[value]
        fits = w > 7 * len(name) + 8
        ribbon.append((a, w, EXPRESSION[name], name, text_colour(EXPRESSION[name]), fits))
    lanes = [
        {
            "name": name,
            "y": lanes_top + (k + 1) * LANE,
            "colour": EXPRESSION[name],
            "path": _area(x, probabilities[:, k], lanes_top + (k + 1) * LANE, LANE - 5, float(x_end[-1])),
        }
        for k, name in enumerate(EXPRESSIONS)
    ]
    return {
        "ribbon": ribbon,
        "hatched": [(a, w) for a, w, _ in _runs(np.where(expression < 0, 0, -1), *edges)],
        "lanes": lanes,
        "levels": [(v, middle - v * room) for v in (-1, 0, 1)],
        "middle": middle,
        "valence": _line(x, middle - rows["valence"].cast(pl.Float64).fill_null(np.nan).to_numpy() * room),
        "arousal": _line(x, middle - rows["arousal"].cast(pl.Float64).fill_null(np.nan).to_numpy() * room),
        "strip": strip,
        "evidence": [
            (
                name,
                y,
                colour,
                [(a, w) for a, w, _ in _runs(np.where(np.isin(evidence, kinds), 0, -1), *edges)],
            )
            for name, y, colour, kinds in (
                ("face", strip, _FACE, ("both", "face")),
                ("voice", strip + 13, _VOICE, ("both", "voice")),
            )
        ],
    }


def _stop(times: np.ndarray) -> float:
    return float(times[-1] + row_durations(times)[-1]) if len(times) > 1 else float(times[0]) + 1.0


def _x(times: np.ndarray, stop: float) -> np.ndarray:
    return LEFT + (RIGHT - LEFT) * times / stop


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


def _ticks(stop: float) -> Iterator[tuple[float, str]]:
    steps = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)
    step = next((s for s in steps if s >= stop / 10), steps[-1])
    for k in range(int(stop / step + 1e-9) + 1):
        t = k * step
        text = f"{t:g} s" if stop < 60 else f"{int(t // 60)}:{int(t % 60):02d}"
        yield round(float(_x(np.array(t), stop)), 1), text
