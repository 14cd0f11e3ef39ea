"""Which parts of a timeline the views show, and how wide its class names are."""

from __future__ import annotations

import unicodedata
from typing import NamedTuple

import polars as pl


class Parts(NamedTuple):
    """The parts that a view shows. expression: class, probabilities and confidence. valence_arousal: the curves."""

    expression: bool
    valence_arousal: bool


def choose_parts(has_expression: bool, has_valence_arousal: bool) -> Parts:
    """The parts with an estimate; both where there is none at all, so that the view shows what is missing."""
    if not (has_expression or has_valence_arousal):
        return Parts(True, True)
    return Parts(has_expression, has_valence_arousal)


def parts_of(table: pl.DataFrame) -> Parts:
    """The parts of a timeline's table: a system trained without expressions, or without valence and arousal, leaves
    those columns null in every row."""
    has_values = [table[name].null_count() < len(table) for name in ("expression", "valence")]
    return choose_parts(*has_values)


def text_width(text: str, size: float) -> float:
    """Estimated width of sans-serif text in pixels, slightly too wide; size: of the font, in pixels.

    East Asian wide characters are 1 em, others 0.6 em, combining marks nothing.
    """
    widths = (
        0.0 if unicodedata.combining(c) else 1.0 if unicodedata.east_asian_width(c) in "WF" else 0.6 for c in text
    )
    return size * sum(widths)


def shorten(text: str, size: float, width: float) -> str:
    """The text, cut with an ellipsis where it is wider than `width` pixels; see `text_width`."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "…", size) > width:
        text = text[:-1]
    return text.rstrip() + "…"
