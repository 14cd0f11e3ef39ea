"""Colours of classes in all views."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
#: Colours of other class names, in order: five colours of the palette above, then fifteen that a greedy search chose
#: from a grid of sRGB. Any two of these twenty, and each of the fifteen and any colour above, differ by at least 14
#: (CIE76) for normal vision and under each kind of dichromacy; text on each has a contrast of at least 4.5. The last
#: three are less distinct from Neutral grey or from green.
_OTHER_NAMES = (
    *("#0072b2", "#d55e00", "#009e73", "#f0b400", "#56b4e9"),
    *("#b40c18", "#846cfc", "#84486c", "#d8c078", "#90cca8", "#a80090", "#7830c0", "#a89048"),
    *("#0c6c24", "#ccc0e4", "#b484fc", "#fc903c", "#f03c6c", "#603ce4", "#f000c0"),
    *("#cc79a7", "#7a6a53", "#9aa3ad"),
)
#: Colour of rows without an expression, and of rows with valence and arousal alone.
NO_EXPRESSION, VALENCE_AROUSAL = "#c4c7cc", "#8f86f0"


def class_colours(classes: Sequence[str]) -> dict[str, str]:
    """Colour of each class, `#rrggbb`: the standard eight names have fixed colours, others get one by position.

    The colours of up to 20 classes are distinct; those of standard names among the classes are not used twice. Colours
    repeat where there are more classes than colours.
    """
    taken = {EXPRESSION[name] for name in classes if name in EXPRESSION}

    def free() -> Iterator[str]:
        colours = [c for c in _OTHER_NAMES if c not in taken]
        while True:
            yield from colours

    pool = free()
    return {name: EXPRESSION.get(name) or next(pool) for name in classes}


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
