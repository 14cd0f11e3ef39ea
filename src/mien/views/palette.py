"""Colours of expressions and evidence in all views."""

from __future__ import annotations

#: Palette of Okabe and Ito for colour-blind readers, with Neutral in grey and Other in dark sand so that both recede
#: behind the six emotions (our choice). Every view also writes the name, so no meaning depends on colour alone.
EXPRESSION: dict[str, str] = {
    "Neutral": "#9aa3ad",
    "Anger": "#d55e00",
    "Disgust": "#009e73",
    "Fear": "#cc79a7",
    "Happiness": "#f0b400",
    "Sadness": "#0072b2",
    "Surprise": "#56b4e9",
    "Other": "#7a6a53",
}
#: Colour of rows without an expression.
NO_EXPRESSION = "#c4c7cc"


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue in 0..255 of `#rrggbb`."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def text_colour(colour: str) -> str:
    """Near-black or white, whichever has the higher contrast on `colour` (WCAG 2.2, contrast ratio)."""
    light = luminance(colour)
    return "#ffffff" if 1.05 / (light + 0.05) >= (light + 0.05) / 0.055 else "#14161a"


def luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb` in [0, 1], as defined by WCAG 2.2 for sRGB."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in rgb(colour))]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
