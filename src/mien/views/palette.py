"""Colours of the expressions and of the evidence, the same in every view."""

from __future__ import annotations

#: Okabe and Ito's set for colour-blind readers, with Neutral in grey and Other in a dark sand (our choice:
#: both : recede behind the six emotions). Every view also writes the name, so that no colour carries meaning alone.
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
#: Evidence differs in lightness as much as in hue, and each view names it.
EVIDENCE: dict[str, str] = {
    "both": "#4b3fae",
    "face": "#8f86e0",
    "voice": "#3aa6a0",
    "none": "#d7d9de",
}
UNNAMED = "#c4c7cc"


def rgb(colour: str) -> tuple[int, int, int]:
    """`#rrggbb` as three numbers 0..255."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def readable_on(colour: str) -> str:
    """Near-black or white, whichever reads better on `colour` (contrast of WCAG 2.2, relative luminance)."""
    light = luminance(colour)
    return "#ffffff" if 1.05 / (light + 0.05) >= (light + 0.05) / 0.055 else "#14161a"


def luminance(colour: str) -> float:
    """Relative luminance in [0, 1], as WCAG 2.2 defines it for sRGB."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in rgb(colour))]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
