"""Shared fixtures. Real material lies beside the project in ../shared; tests that need it say so by asking for it."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("untimed", deadline=None)  # times depend on what else the machine does
hypothesis.settings.load_profile("untimed")
SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real clips, speech and small networks."""
    if not (SHARED / "clips").is_dir():
        pytest.skip(f"real material is not here: {SHARED} has no clips/")
    return SHARED
