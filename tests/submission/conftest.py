"""Fixtures: sample files, and the command line of submissions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from click.testing import Result
from submission_support import CLIPS, EXPR_HEADER, VA_HEADER, rows_of, write
from typer.testing import CliRunner

from mien.cli import submission_commands


@pytest.fixture
def expr(tmp_path: Path) -> Path:
    return write(tmp_path / "CVPR_expr_test_set_sample.txt", EXPR_HEADER, *(f"{name},0" for name in rows_of(CLIPS)))


@pytest.fixture
def va(tmp_path: Path) -> Path:
    return write(tmp_path / "CVPR_va_test_set_sample.txt", VA_HEADER, *(f"{name},0,0" for name in rows_of(CLIPS)))


@pytest.fixture
def cli() -> Callable[..., Result]:
    app = typer.Typer()
    submission_commands.register(app)
    return lambda *arguments: CliRunner().invoke(app, [str(a) for a in arguments])
