"""What is imported when: polars takes 50 MB, and is needed for the table alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mien
from mien import hub
from mien.encode import create_encoders
from mien.encoders import smart_turn
from mien.faces import tflite
from mien.predict import predictor
from tests.media.makers import make_video, tone


def test_polars_is_imported_when_a_recording_is_encoded(tmp_path: Path) -> None:
    if not all(hub.available(name) for name in hub.NEEDED):
        pytest.skip(f"networks are not here: mien hub pull {' '.join(hub.NEEDED)}")
    video = make_video(tmp_path / "v.mp4", count=20, rate=10, picture=_grey, audio=tone(2.0))
    code = (
        "import sys, mien\n"
        "seen = []\n"
        "note = lambda done_s, total_s: seen.append((done_s, 'polars' in sys.modules))\n"
        "predictor = mien.load('starter')\n"
        f"rows = len(predictor.predict({str(video)!r}, progress=note))\n"
        "assert seen and rows == 20, (seen, rows)\n"
        "print({loaded for _, loaded in seen}, 'polars' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{False} True"


def _grey(number: int) -> np.ndarray:
    return np.full((48, 64, 3), 100 + number, np.uint8)


def test_networks_are_freed_before_the_table_and_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not all(hub.available(name) for name in hub.NEEDED):
        pytest.skip(f"networks are not here: mien hub pull {' '.join(hub.NEEDED)}")
    video = make_video(tmp_path / "v.mp4", count=12, rate=10, picture=_grey, audio=tone(1.2))
    held: list[tuple[int, int]] = []

    def note() -> None:
        held.append((sum(map(len, tflite._idle.values())), smart_turn._session.cache_info().currsize))

    monkeypatch.setattr(predictor, "release_freed_memory", note)
    starter = mien.load("starter")
    kept = starter.predict(video).table
    monkeypatch.setattr(create_encoders, "LONG_S", 1.0)
    freed = [starter.predict(video).table for _ in range(2)]
    assert held[0] >= (2, 1), "detector, mesh and speech states serve the next recording"
    assert held[1:] == [(0, 0), (0, 0)]
    assert all(table.equals(kept) for table in freed)
