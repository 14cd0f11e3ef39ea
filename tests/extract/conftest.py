"""Fixtures of the extraction tests."""

from __future__ import annotations

import numpy as np
import pytest

from mien.encoders.protocol import Crop
from tests.extract.media_files import SquareTracker


@pytest.fixture
def squares(monkeypatch: pytest.MonkeyPatch) -> type[SquareTracker]:
    """Make extraction detect squares instead of faces, and crop them without alignment."""

    def crop_square(image: np.ndarray, mesh: np.ndarray, crop: Crop) -> np.ndarray:
        (x, y), size = mesh[0, :2].astype(int), crop.size
        return image[y - size // 2 : y + size // 2, x - size // 2 : x + size // 2].copy()

    monkeypatch.setattr("mien.encode.corpus_pass._make_tracker", SquareTracker)
    monkeypatch.setattr("mien.encode.corpus_pass._align", crop_square)
    SquareTracker.count = 0
    return SquareTracker
