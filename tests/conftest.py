"""Shared fixtures. Real material lies beside the project in ../shared; tests that need it say so by asking for it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

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


@pytest.fixture
def extraction_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `mien reproduce` extract in this process: each worker process imports torch and transformers again, which
    takes several times as long as the rest. tests/extract and tests/cli/test_corpus_path.py test the processes."""
    from mien.training import stages

    extract = stages.extract

    def in_this_process(*arguments: Any, workers: int, **options: Any) -> Any:
        return extract(*arguments, workers=0, **options)

    monkeypatch.setattr(stages, "extract", in_this_process)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Fail a test that leaves the process under another scheduling policy, because every other one then waits for it:
    encoders do that, such as SVT-AV1, which takes real-time priority where it may."""
    if hasattr(os, "sched_getscheduler") and (policy := os.sched_getscheduler(0)) != os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        pytest.fail(f"{item.nodeid} has changed the scheduling policy of the process to {policy}")
