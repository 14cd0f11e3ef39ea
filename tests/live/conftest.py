"""A rendered clip that the tests of live prediction share."""

from __future__ import annotations

from pathlib import Path

import pytest

from mien.synthetic.demo_clip import render_demo_clip


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of one simulated person with sound, who is away from 1.26 to 1.62 s."""
    path = tmp_path_factory.mktemp("live") / "clip.mp4"
    render_demo_clip(path, seconds=3.0)
    return path
