"""Run encoders in float32 for comparison with their libraries, also where `auto` would choose bfloat16."""

from __future__ import annotations

import pytest

from mien.encoders import precision


@pytest.fixture(autouse=True)
def _single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_half_is_faster", lambda device, threads: False)
