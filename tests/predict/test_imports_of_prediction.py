"""What is imported when: polars takes 50 MB, and is needed for the table alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mien import hub
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
