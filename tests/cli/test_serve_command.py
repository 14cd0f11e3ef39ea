"""`mien serve`: options that are refused before anything listens."""

from __future__ import annotations

import socket
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mien.cli.main import app

RUNNER = CliRunner()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--host", "0.0.0.0"], "no token protects the server"),
        (["--host", "192.0.2.1", "--token", "abc"], "--token has 3 characters"),
        (["--model", "nonsense"], "there is no model 'nonsense'"),
        (["--ray", "127.0.0.1:1"], "no Ray cluster is reachable"),
    ],
)
def test_wrong_options_exit_with_2(words: list[str], expected: str, tmp_path: Path) -> None:
    if "--ray" in words:
        pytest.importorskip("ray")
    result = RUNNER.invoke(app, ["serve", "--port", "0", "--folder", str(tmp_path / "data"), *words])
    assert result.exit_code == 2, result.output
    assert expected in result.output
    assert "try  " in result.output
    if "--ray" not in words:
        assert not (tmp_path / "data").exists()


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = RUNNER.invoke(app, ["serve", "--port", port, "--folder", str(tmp_path)])
    assert result.exit_code == 2
    assert f"port {port}: Address already in use" in result.output


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = PathFinder.find_spec

    def without(name: str, *rest: Any) -> Any:
        return None if name in ("uvicorn", "websockets") else find(name, *rest)

    monkeypatch.setattr("mien.cli.serve_command.find_spec", without)
    result = RUNNER.invoke(app, ["serve"])
    assert result.exit_code == 2
    assert "the server needs uvicorn, websockets, which are not installed" in result.output
    assert "pip install 'mien[serve]'" in result.output
