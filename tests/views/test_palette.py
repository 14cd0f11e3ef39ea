"""Palette: colours that colour-blind readers can tell apart."""

from __future__ import annotations

import cv2
import numpy as np

from mien.views.palette import EXPRESSION, rgb


def test_colours_differ_for_colour_blind_readers() -> None:
    """Any two of the six emotions differ by at least 10 (CIE76) under each kind of dichromacy.

    Matrices of Machado, Oliveira and Fernandes, IEEE TVCG 15(6), 2009, severity 1.
    """
    kinds = {
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
    names = [n for n in EXPRESSION if n not in ("Neutral", "Other")]
    linear = np.array([[(c / 255) ** 2.2 for c in rgb(EXPRESSION[n])] for n in names])
    for kind, matrix in kinds.items():
        seen = np.clip(linear @ np.array(matrix).T, 0, 1) ** (1 / 2.2)
        lab = cv2.cvtColor(seen[None].astype(np.float32), cv2.COLOR_RGB2LAB)[0]
        apart = np.linalg.norm(lab[:, None] - lab[None], axis=2) + 1e3 * np.eye(len(names))
        i, j = np.unravel_index(apart.argmin(), apart.shape)
        assert apart.min() > 10, f"{names[i]} and {names[j]} look alike ({kind}, {apart.min():.1f})"
