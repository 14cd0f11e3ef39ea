"""Experiment loggers by name. Weights & Biases and MLflow are recorded stand-ins: the packages are not installed."""

from __future__ import annotations

import csv
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from mien import config
from mien.errors import ConfigError
from mien.training.loggers import make_logger

RECIPE = config.load("custom_data")
HISTORY = [{"loss": 2.0, "step": 5.0}, {"loss": 1.5, "step": 10.0, "val_macro_f1": 0.25}]


def log_all(name: str, out: Path) -> None:
    for epoch in (1, 2):
        make_logger(name, RECIPE, out).log(epoch, HISTORY[:epoch])  # made anew, as by a resumed run


def test_csv_has_a_row_for_each_epoch_also_after_resuming(tmp_path: Path) -> None:
    log_all("csv", tmp_path)
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {"epoch": "1", "loss": "2.0", "step": "5.0", "val_macro_f1": ""},
        {"epoch": "2", "loss": "1.5", "step": "10.0", "val_macro_f1": "0.25"},
    ]


def test_wandb_continues_the_run_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = MagicMock()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    log_all("wandb", tmp_path / "run")
    calls = [call.kwargs for call in wandb.init.call_args_list]
    assert len({call["id"] for call in calls}) == 1
    assert calls[0]["resume"] == "allow"
    assert calls[0]["name"] == "run"
    assert calls[0]["config"]["train.lr"] == RECIPE.train.lr
    logged = [(call.args[0], call.kwargs["step"]) for call in wandb.init.return_value.log.call_args_list]
    assert logged == [(HISTORY[0], 1), (HISTORY[1], 2)]


def test_mlflow_continues_the_run_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[Any] = []
    started: list[str] = []
    mlflow = MagicMock()
    mlflow.start_run = lambda run_name: (
        started.append(run_name) or nullcontext(SimpleNamespace(info=SimpleNamespace(run_id="abc")))  # type: ignore[func-returns-value]
    )
    mlflow.log_metrics = lambda values, *, step, run_id: logged.append((values, step, run_id))
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    log_all("mlflow", tmp_path / "run")
    assert started == ["run"]
    assert logged == [(HISTORY[0], 1, "abc"), (HISTORY[1], 2, "abc")]


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_package_is_named_with_its_command(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    command = {"tensorboard": r'"mien\[train\]"'}.get(name, name)
    with pytest.raises(ConfigError, match=rf"needs the package {name}.*\nNothing.*\nRun `pip install {command}`"):
        make_logger(name, RECIPE, tmp_path)


def test_recipes_of_earlier_checkpoints_load() -> None:
    raw = RECIPE.model_dump()
    rest = {key: value for key, value in raw["train"].items() if key != "logger"}
    for old, new in ((True, "tensorboard"), (False, "none")):
        recipe = config.read({**raw, "train": {**rest, "tensorboard": old}}, origin="old")
        assert recipe.train.logger == new
    with pytest.raises(ConfigError, match=r"train\.logger: input should be 'none', 'csv'"):
        config.load("custom_data", ["train.logger=tensorbord"])
