"""What happens between two epochs: keep the best weights, write the resume state, decide whether to stop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.utilities import rank_zero_only

from mien import checkpoint
from mien.config import Recipe
from mien.training import resume as unfinished
from mien.training.lightning_module import Task
from mien.training.resume import RunState

log = logging.getLogger("mien")
#: Called after each epoch with its number from 1 and its report.
AfterEpoch = Callable[[int, Mapping[str, float]], None]


def first_process() -> bool:
    """Whether this is the process that writes and reports, of the several that a run may have."""
    rank: int = getattr(rank_zero_only, "rank", 0)
    return rank == 0


class Keeper(Callback):
    """After each epoch: keep the best weights, write the resume state, stop when patience is over."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        progress: RunState,
        after_epoch: AfterEpoch | None,
        *,
        validated: bool,
        restored: unfinished.Earlier | None,
    ) -> None:
        self.recipe, self.out, self.progress = recipe, out, progress
        self.after_epoch, self.validated = after_epoch, validated
        self.restored = restored
        self.told: dict[str, float] = {}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self.restored:
            assert isinstance(pl_module, Task)
            unfinished.restore(pl_module.model, trainer.optimizers[0], self.restored, pl_module.average)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        task, progress = pl_module, self.progress
        assert isinstance(task, Task)
        report = trainer.strategy.broadcast(task.finish_epoch())  # all processes go on, or stop, together
        progress.epochs += 1
        progress.history.append(report)
        score = report.get("val_macro_f1", report.get("val_ccc", float(progress.epochs)))
        progress.waited += 1
        if progress.best is None or score > progress.best:
            progress.best, progress.best_epoch, progress.waited = score, progress.epochs, 0
            assert task.average is not None
            if trainer.is_global_zero:
                with task.average.applied():
                    checkpoint.save(self.out, task.model, self.recipe, metrics=self.metrics())
        if trainer.is_global_zero:
            unfinished.write(self.out, task.model, trainer.optimizers[0], progress, task.average)
        trainer.should_stop = trainer.should_stop or self.enough()
        for logger in trainer.loggers:
            logger.log_metrics(report, step=progress.epochs)
        if not trainer.is_global_zero:
            return
        shown = "  ".join(f"{name} {value:.4g}" for name, value in report.items())
        log.info("epoch %d/%d  %s", progress.epochs, self.recipe.train.epochs, shown)
        if self.after_epoch:
            self.after_epoch(progress.epochs, report)

    def enough(self) -> bool:
        """Whether patience is over."""
        patience = self.recipe.train.patience
        return self.validated and bool(patience) and self.progress.waited >= patience

    def metrics(self) -> dict[str, Any]:
        """What the checkpoint says of its training."""
        progress = self.progress
        best = progress.history[progress.best_epoch - 1] if progress.history else {}
        kept = {name: value for name, value in best.items() if name.startswith("val_")}
        return {
            "best_epoch": progress.best_epoch,
            **kept,
            **self.told,
            "windows": progress.windows,
            "history": progress.history,
        }

    def close(self) -> None:
        """The run is over: complete the metrics, drop the resume state. The first process does it."""
        if not first_process():
            return
        checkpoint.write_metrics(self.out, self.metrics())
        (self.out / unfinished.FILE).unlink(missing_ok=True)


class Bar(TQDMProgressBar):
    """Lightning's bar with the running loss, which is read only when the bar is drawn."""

    def get_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> dict[str, Any]:
        if not isinstance(pl_module, Task) or not pl_module.logs:
            return {}
        report = {k: v for k, v in pl_module.report.items() if k.startswith("val_")}
        return {"loss": float(pl_module.logs["loss"]) / max(1, pl_module.count), **report}
