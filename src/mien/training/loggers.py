"""Experiment loggers by name (`train.logger`): CSV, TensorBoard, Weights & Biases, MLflow.

Each gets the report of every epoch and, if it keeps them, the settings of the recipe. A resumed run continues its log.
CSV and TensorBoard files lie in the run's folder. Where the other two write is theirs to decide: WANDB_MODE,
WANDB_PROJECT, MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME, as their own documentation says.
"""

from __future__ import annotations

import csv
import hashlib
import importlib
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from mien import config, extras
from mien.atomic import write_bytes
from mien.config import Recipe

#: Logger -> the package that it needs, as pip names it.
PACKAGES = {"csv": "", "tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
#: Project of Weights & Biases where the environment names none.
_PROJECT = "mien"
#: Run id of MLflow, kept so that a resumed run continues its log.
_MLFLOW_ID = "mlflow_run_id.txt"


class Logger(Protocol):
    """Log of a training run."""

    def log(self, epoch: int, history: Sequence[Mapping[str, float]]) -> None:
        """Log the last report of `history`, which holds the reports of epochs 1 to `epoch`."""


def make_logger(name: str, recipe: Recipe, out: Path) -> Logger:
    """Create the logger of a run in `out`.

    Args:
        name: a key of `PACKAGES`.

    Raises:
        ConfigError: its package is not installed.
    """
    makers: dict[str, Callable[[Recipe, Path], Logger]] = {
        "csv": _CsvLog,
        "tensorboard": _TensorBoard,
        "wandb": _WeightsAndBiases,
        "mlflow": _MLflow,
    }
    return makers[name](recipe, out)


def _import(module: str, logger: str) -> Any:
    extras.require(
        module, f"train.logger: {logger}", preferred="train", follows="Nothing was trained.",
        instead="Or set train.logger=csv.",
    )  # fmt: skip
    return importlib.import_module(module)


class _CsvLog:
    """`log.csv`: a row for each epoch. It is written anew each time, because later epochs may have further columns."""

    def __init__(self, recipe: Recipe, out: Path) -> None:
        self._path = out / "log.csv"

    def log(self, epoch: int, history: Sequence[Mapping[str, float]]) -> None:
        columns = list(dict.fromkeys(name for report in history for name in report))
        text = io.StringIO()
        writer = csv.DictWriter(text, ["epoch", *columns], lineterminator="\n")
        writer.writeheader()
        writer.writerows({"epoch": number, **report} for number, report in enumerate(history, 1))
        write_bytes(self._path, text.getvalue().encode())


class _TensorBoard:
    """Event files in the folder `tensorboard`."""

    def __init__(self, recipe: Recipe, out: Path) -> None:
        _import("tensorboard", "tensorboard")
        self._writer = _import("torch.utils.tensorboard", "tensorboard").SummaryWriter(out / "tensorboard")

    def log(self, epoch: int, history: Sequence[Mapping[str, float]]) -> None:
        for name, value in history[-1].items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()


class _WeightsAndBiases:
    """A run whose id follows from the folder, so that resuming continues it."""

    def __init__(self, recipe: Recipe, out: Path) -> None:
        wandb = _import("wandb", "wandb")
        identity = hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16]
        out.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT), name=out.name, id=identity, resume="allow", dir=str(out),
            config=config.flat(recipe),
        )  # fmt: skip

    def log(self, epoch: int, history: Sequence[Mapping[str, float]]) -> None:
        self._run.log(dict(history[-1]), step=epoch)


class _MLflow:
    """A run of the experiment that MLFLOW_EXPERIMENT_NAME names, through MLflow's client."""

    def __init__(self, recipe: Recipe, out: Path) -> None:
        mlflow = _import("mlflow", "mlflow")
        self._mlflow, path = mlflow, out / _MLFLOW_ID
        if path.is_file():
            self._id = path.read_text(encoding="utf-8").strip()
            return
        with mlflow.start_run(run_name=out.name) as run:
            # MLflow refuses values of more than 6,000 characters.
            mlflow.log_params({key: str(value)[:6000] for key, value in config.flat(recipe).items()})
            self._id = str(run.info.run_id)
        out.mkdir(parents=True, exist_ok=True)
        write_bytes(path, (self._id + "\n").encode())

    def log(self, epoch: int, history: Sequence[Mapping[str, float]]) -> None:
        self._mlflow.log_metrics(dict(history[-1]), step=epoch, run_id=self._id)
