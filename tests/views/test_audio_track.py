"""Report and overlay of `mien predict --audio-track`: they play the sound track that was read."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoint import save_tiny
from typer.testing import CliRunner

from mien.cli.main import app
from mien.media.audio import blocks
from mien.views.extracts import waveform
from tests.media.test_sound_choice import two_tracks

#: Levels of the tones in the two tracks.
LEVELS = (0.1, 0.4)


def level(path: Path) -> float:
    """Peak of the sound in the middle of a file."""
    sound = np.concatenate([samples for _, samples in blocks(path)])
    return float(np.abs(sound[4000:12_000]).max())


@pytest.mark.parametrize(("options", "expected"), [((), 0), (("--audio-track", "2"), 1), (("--audio-track", "1"), 0)])
def test_they_play_the_track_that_was_read(options: tuple[str, ...], expected: int, tmp_path: Path) -> None:
    media, run = two_tracks(tmp_path / "two.mkv", LEVELS), save_tiny(tmp_path / "run")
    words = ["predict", media, "--model", run, "--device", "cpu", "--out", tmp_path / "out", "--report", "--overlay"]
    result = CliRunner().invoke(app, [*map(str, words), *options])
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    assert level(tmp_path / "out/two/overlay.mp4") == pytest.approx(LEVELS[expected], rel=0.15)
    page = (tmp_path / "out/two/report.html").read_text()
    pieces = re.findall(r'<script type="text/plain" class="media">([^<]*)</script>', page)
    (tmp_path / "embedded.mp4").write_bytes(base64.b64decode("".join(pieces)))
    assert level(tmp_path / "embedded.mp4") == pytest.approx(LEVELS[expected], rel=0.15)


def test_the_waveform_is_that_of_the_track(tmp_path: Path) -> None:
    media = two_tracks(tmp_path / "two.mkv", (0.0, 0.4))
    assert waveform(media, 1.0, audio_track=1).sum() == 0
    assert waveform(media, 1.0, audio_track=2).max() == 255
    assert waveform(media, 0.0, audio_track=2).size == 0, "a sound with a single row lasts 0 s"
