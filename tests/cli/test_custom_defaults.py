"""`mien train custom_data` and `mien reproduce custom_data` choose the values that `custom_data.train` chooses."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from mien import checkpoint, config, custom_data
from mien import reproduce as reproduction
from mien.cli import train_command
from mien.cli.main import app
from mien.records import Recording
from mien.training.data_defaults import suited

SMALL = ["train.epochs=1", "model.dim=8", "model.heads=1", "model.layers=1"]


def mien(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def clips(split: str) -> list[Recording]:
    """Four clips of one vector each and one label."""
    return [
        custom_data.recording(f"{split}{i}", face=np.full(3, i), voice=np.ones(2), label="Anger", split=split)
        for i in range(4)
    ]


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Options that name an index and a store, which hold `clips`."""
    data = SimpleNamespace(train=clips("train"), val=clips("val"), augment=None)
    monkeypatch.setattr(train_command, "_load", lambda *_, **__: data)
    return ("--index", "index.jsonl", "--store", "features")


def test_training_by_the_command_line_is_that_of_the_python_api(stored: tuple[str, ...], tmp_path: Path) -> None:
    result = mien("train", "custom_data", *SMALL, *stored, "--device", "cpu", "--out", tmp_path / "cli")
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    custom_data.train([*clips("train"), *clips("val")], tmp_path / "python", SMALL, progress=False)
    ours, theirs = (checkpoint.load(tmp_path / name).recipe for name in ("cli", "python"))
    assert ours.windows.rate_hz == 1.0
    assert ours.train.balance == 0.0
    for section in ("windows", "model", "objective", "train", "vote"):
        assert getattr(ours, section) == getattr(theirs, section), section


def test_keys_of_the_user_win_and_other_recipes_stay(stored: tuple[str, ...], tmp_path: Path) -> None:
    words = ("windows.seconds=2.0", "train.balance=0.3", *SMALL)
    assert mien("train", "custom_data", *words, *stored, "--device", "cpu", "--out", tmp_path / "own").exit_code == 0
    own = checkpoint.load(tmp_path / "own").recipe
    assert (own.windows.seconds, own.windows.rate_hz, own.train.balance) == (2.0, 10.0, 0.3)
    other = config.load("synthetic")
    assert suited(other, "synthetic", clips("train"), ()) is other


def test_the_choice_is_logged_and_keeps_the_classes_of_the_table(caplog: pytest.LogCaptureFixture) -> None:
    recipe = config.changed(config.load("custom_data"), corpus={"labels": ["bored", "glad"]})
    with caplog.at_level(logging.INFO, "mien"):
        chosen = suited(recipe, "custom_data", clips("train"), ())
    assert chosen.corpus.labels == ["bored", "glad"]
    assert chosen.features == recipe.features
    assert "windows.seconds=1.0" in caplog.text


def test_reproduce_passes_the_choice_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: dict[str, Any] = {}

    def spy(recipe: config.Recipe, *_: object, **options: Any) -> None:
        given.update(options, recipe=recipe)
        raise SystemExit

    monkeypatch.setattr(reproduction, "reproduce", spy)
    mien("reproduce", "custom_data", "train.batch=8", "--root", tmp_path, "--out", tmp_path / "out")
    chosen = given["suit"](given["recipe"], clips("train"))
    assert chosen.windows.rate_hz == 1.0
    assert chosen.train.batch == 8
