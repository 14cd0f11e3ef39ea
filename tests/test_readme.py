"""README.md: every command line and every Python block runs, in order, in one folder; tables are the measured ones."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, flags=re.M | re.S)
MAKE_TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))


def shell_lines() -> list[str]:
    lines = []
    for language, body in BLOCKS:
        if language == "bash":
            lines += [ln.split("  #")[0].strip() for ln in body.splitlines() if ln.strip() and not ln.startswith("#")]
    return lines


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the README's examples name, made by the synthetic corpus."""
    from mien.synthetic.demo_clip import render_demo_clip

    path = tmp_path_factory.mktemp("readme")
    (path / "holiday").mkdir()
    render_demo_clip(path / "clip.mp4", seconds=3.0)
    render_demo_clip(path / "holiday" / "one.mp4", seconds=2.0)
    return path


def test_readme_has_the_two_commands() -> None:
    assert {"make demo", "make test"} <= set(shell_lines())


def test_make_lines_name_real_targets() -> None:
    for line in shell_lines():
        if line.startswith("make "):
            assert line.split()[1] in MAKE_TARGETS, f"README says '{line}', the Makefile has no such target"


def test_commands_and_code_run(folder: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    ran = 0
    for language, body in BLOCKS:
        if language == "python":
            done = subprocess.run(
                [sys.executable, "-c", body], cwd=folder, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, f"README's Python block failed:\n{body}\n{done.stderr}"
            ran += 1
        if language == "bash":
            for line in [ln.split("  #")[0].strip() for ln in body.splitlines()]:
                if not line.startswith("mien "):
                    assert not line or line.startswith(("#", "make ")), f"README line that no test runs: {line}"
                    continue
                done = subprocess.run(shlex.split(line), cwd=folder, env=environment, capture_output=True, text=True)
                assert done.returncode == 0, f"README says '{line}':\n{done.stdout}\n{done.stderr}"
                ran += 1
    assert ran >= 3


def test_tables_are_the_generated_ones() -> None:
    from bench.pages import fill, pages, tables

    texts = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in pages()}
    for table in tables():
        assert any(f"<!-- {table} -->" in text for text in texts.values()), f"no page has marks for the table {table}"
    for name, text in texts.items():
        assert fill(text) == text, f"run python bench/pages.py: {name} is outdated"
