"""Palette: colours that colour-blind readers can tell apart, and text that is readable on them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mien.labels import EXPRESSIONS
from mien.views.palette import EXPRESSION, class_colours, luminance, rgb, text_colour

#: Matrices of Machado, Oliveira and Fernandes, IEEE TVCG 15(6), 2009, severity 1, on linear RGB.
VISION = {
    "normal": np.eye(3).tolist(),
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.01182, 0.04294, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.3039],
    ],
}


def distances(colours: list[str], kind: str) -> np.ndarray:
    """CIE76 distance of each two colours as seen with a kind of vision; the diagonal is large."""
    values = np.array([rgb(c) for c in colours]) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(VISION[kind]).T, 0, 1)
    encoded = np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = cv2.cvtColor(encoded[None].astype(np.float32), cv2.COLOR_RGB2LAB)[0]
    return np.linalg.norm(lab[:, None] - lab[None], axis=2) + 1e3 * np.eye(len(colours))


@pytest.mark.parametrize("kind", VISION)
def test_colours_of_the_emotions_differ(kind: str) -> None:
    names = [n for n in EXPRESSION if n not in ("Neutral", "Other")]
    apart = distances([EXPRESSION[n] for n in names], kind)
    i, j = np.unravel_index(apart.argmin(), apart.shape)
    assert apart.min() > 10, f"{names[i]} and {names[j]} look alike ({apart.min():.1f})"


@pytest.mark.parametrize("kind", VISION)
def test_colours_of_twenty_other_names_differ(kind: str) -> None:
    colours = list(class_colours([f"class {k}" for k in range(20)]).values())
    apart = distances(colours, kind)
    i, j = np.unravel_index(apart.argmin(), apart.shape)
    assert apart.min() > 14, f"classes {i} and {j} look alike ({apart.min():.1f})"


@pytest.mark.parametrize("standard", [1, 4, 8])
def test_standard_names_keep_their_colours_among_others(standard: int) -> None:
    names = [*(f"class {k}" for k in range(20 - standard)), *EXPRESSIONS[:standard]]
    colours = class_colours(names)
    assert list(colours) == names
    assert {name: colours[name] for name in EXPRESSIONS[:standard]} == {
        name: EXPRESSION[name] for name in EXPRESSIONS[:standard]
    }
    assert len(set(colours.values())) == 20


def test_other_names_have_colours_by_position() -> None:
    assert list(class_colours(["a", "b", "c"]).values()) == list(class_colours(["x", "y", "z"]).values())
    assert len(class_colours([f"class {k}" for k in range(60)])) == 60


def test_text_on_every_colour_is_readable() -> None:
    """WCAG 2.2 asks for a contrast of 4.5."""
    colours = {*EXPRESSION.values(), *class_colours([f"class {k}" for k in range(20)]).values()}
    for colour in colours:
        light, dark = sorted((luminance(colour), luminance(text_colour(colour))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, colour
