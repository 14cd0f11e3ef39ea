"""Training callbacks: best checkpoint and resume state, log, progress bar."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.optim import Optimizer

from mien import checkpoint
from mien.config import Recipe
from mien.layers.system import System
from mien.training import resume
from mien.training.ema import WeightAverage
from mien.training.loggers import make_logger
from mien.training.resume import RunState
from mien.training.score_validation import MEASURES

log = logging.getLogger("mien")
#: Called after each epoch with its number from 1 and its report: means of the losses, `val_*` metrics, `step`,
#: `seconds`.
EpochCallback = Callable[[int, Mapping[str, float]], None]
#: Validation measures that choose the best epoch, the first that there is. A system measures only what it predicts.
SELECTION = ("val_macro_f1", "val_ccc", *MEASURES.values())


class Means(Protocol):
    """Running means over the current epoch."""

    def result(self) -> dict[str, float]:
        """Name -> mean so far."""


class Callback:
    """Base class of training callbacks. stop: whether training should end after this epoch."""

    stop = False

    def on_step(self, means: Means) -> None:
        """Called after every optimiser step."""

    def on_epoch_end(
        self, system: System[Any], optimiser: Optimizer, average: WeightAverage, report: Mapping[str, float]
    ) -> None:
        """Called in every process after each epoch, once its report is complete."""


def validation_score(report: Mapping[str, float]) -> float | None:
    """The score of an epoch by which epochs are compared, the first of `SELECTION` that there is; None without
    validation."""
    return next((report[name] for name in SELECTION if name in report), None)


class KeepBest(Callback):
    """Saves the best weights as a checkpoint and the run state for resuming; stops early by `train.patience`.

    The best epoch has the highest value of the first measure of `SELECTION` that validation gives. Without validation,
    the last epoch is kept.

    Args:
        out: folder of the checkpoint. total: epochs of the whole run. writes: whether this process writes, one of the
            several that a run may have. files: further files of the checkpoint, by name.
    """

    #: The file of the folder that states what it holds (`mien.saved_state`).
    manifest = checkpoint.ABOUT

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        state: RunState,
        total: int,
        *,
        writes: bool = True,
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        self.recipe, self.out, self.state, self.total, self.writes = recipe, out, state, total, writes
        self.files = dict(files or {})
        self.extra: dict[str, float] = {}
        self.stop = self._is_patience_over()

    def on_epoch_end(
        self, system: System[Any], optimiser: Optimizer, average: WeightAverage, report: Mapping[str, float]
    ) -> None:
        """Save the weights if the epoch is the best so far, save the run, and decide whether to stop."""
        state = self.state
        measured = validation_score(report)
        state.waited = state.waited + 1 if measured is not None else 0
        if measured is None or state.best is None or measured > state.best:
            state.best, state.best_epoch, state.waited = measured, state.epochs, 0
            if self.writes and (measured is not None or state.epochs == self.total):
                with average.applied():
                    self.save(system)
        if self.writes:
            resume.write(self.out, system, optimiser, state, average)
        self.stop = self._is_patience_over()

    def save(self, system: System[Any]) -> None:
        """Write the weights of the best epoch."""
        checkpoint.save(self.out, system, self.recipe, metrics=self.metrics(), files=self.files)

    def _is_patience_over(self) -> bool:
        patience = self.recipe.train.patience
        return bool(patience) and self.state.waited >= patience

    def metrics(self) -> dict[str, Any]:
        """Training metrics for the checkpoint: the best epoch with its validation metrics, and the history."""
        state = self.state
        best = state.history[state.best_epoch - 1] if state.history else {}
        return {
            "best_epoch": state.best_epoch,
            **{name: value for name, value in best.items() if name.startswith("val_")},
            **self.extra,
            "steps": state.steps,
            state.counted.split()[-1]: state.size,  # `windows` or `images`
            "history": state.history,
        }

    def close(self, **extra: float) -> None:
        """Complete the run: write the final metrics, including `extra`, and remove the saved run state."""
        if not self.writes:
            return
        self.extra |= extra
        checkpoint.write_metrics(self.out, self.metrics(), self.manifest)
        (self.out / resume.FILE).unlink(missing_ok=True)


class Report(Callback):
    """Logs each epoch as a line and to the recipe's logger (`train.logger`); calls the caller's function.

    Args:
        total: epochs of the whole run. on_epoch: the caller's function, None for none.
    """

    def __init__(self, recipe: Recipe, out: Path, state: RunState, total: int, on_epoch: EpochCallback | None) -> None:
        self.state, self.total, self.on_epoch = state, total, on_epoch
        self.logger = None if recipe.train.logger == "none" else make_logger(recipe.train.logger, recipe, out)

    def on_epoch_end(
        self, system: System[Any], optimiser: Optimizer, average: WeightAverage, report: Mapping[str, float]
    ) -> None:
        """Write the log line, log the report, and call `on_epoch`."""
        if self.logger is not None:
            self.logger.log(self.state.epochs, self.state.history)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in report.items() if name != "step")
        log.info("epoch %d/%d  %s", self.state.epochs, self.total, shown)
        if self.on_epoch:
            self.on_epoch(self.state.epochs, report)


class ProgressBar(Callback):
    """Progress bar over the steps of the whole run, with the running loss and the last validation metrics.

    Use it as a context manager.

    Args:
        total: optimiser steps of the whole run.
    """

    #: Steps between two reads of the loss. Each read waits for the device.
    EVERY = 20

    def __init__(self, state: RunState, total: int) -> None:
        self.state = state
        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}"),
        )  # fmt: skip
        self.row = self.bar.add_task("training", total=total, completed=state.steps, epoch=state.epochs + 1, metrics="")
        self.validation = ""

    def __enter__(self) -> ProgressBar:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def on_step(self, means: Means) -> None:
        """Advance the bar; show the running loss at intervals."""
        self.bar.update(self.row, completed=self.state.steps, epoch=self.state.epochs + 1)
        if self.state.steps % self.EVERY == 0:
            loss = means.result().get("loss", float("nan"))
            self.bar.update(self.row, metrics=f"loss {loss:.4g}  {self.validation}")

    def on_epoch_end(
        self, system: System[Any], optimiser: Optimizer, average: WeightAverage, report: Mapping[str, float]
    ) -> None:
        """Update the validation metrics that the bar shows."""
        self.validation = "  ".join(f"{name} {value:.3f}" for name, value in report.items() if name.startswith("val_"))


def is_first_process() -> bool:
    """Whether this process has rank 0: the only one that writes files and reports progress."""
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0
