"""Fixtures of the extraction tests."""

from __future__ import annotations

import numpy as np
import pytest

from tests.extract.media_files import SquareTracker


@pytest.fixture
def squares(monkeypatch: pytest.MonkeyPatch) -> type[SquareTracker]:
    """Make extraction detect squares instead of faces, and crop them without alignment."""

    def crop_square(image: np.ndarray, mesh: np.ndarray, size: int, *_: float) -> np.ndarray:
        x, y = mesh[0, :2].astype(int)
        return image[y - size // 2 : y + size // 2, x - size // 2 : x + size // 2].copy()

    monkeypatch.setattr("mien.encode.encode_media.FaceTracker", SquareTracker)
    monkeypatch.setattr("mien.encode.subject_features.align", crop_square)
    SquareTracker.count = 0
    return SquareTracker
