"""The Lightning module: any system's `objective(batch) -> (loss, logs)` in one loop."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
from torch import Tensor, nn

from mien.config import Train
from mien.data import mixed_seed
from mien.evaluation import metrics
from mien.records import Batch
from mien.training.optim import WeightAverage, groups, rate


class Task(lightning.LightningModule):
    """Trains `model`.

    After each epoch `finish_epoch` gives the mean of the logs, the seconds taken and, if there is
    validation data, `val_macro_f1` (over the classes that occur there) and `val_ccc` (mean of valence's
    and arousal's), on the tokens that have labels, with the averaged weights.

    Args:
        steps: batches in an epoch.
        done: epochs finished before this process; with the seed it decides everything random.
    """

    def __init__(self, model: nn.Module, train: Train, *, classes: int, steps: int, done: int = 0) -> None:
        super().__init__()
        self.model, self.settings, self.classes = model, train, classes
        self.steps, self.done = steps, done
        self.average: WeightAverage | None = None
        self.step = done * steps
        self.report: dict[str, float] = {}
        self.logs: dict[str, Tensor] = {}
        self.seen: list[tuple[np.ndarray, ...]] = []
        self._averaged: AbstractContextManager[None] | None = None
        self.count, self._started = 0, time.monotonic()

    @property
    def epoch(self) -> int:
        """Epochs finished, in this process and before."""
        return self.done + int(self.current_epoch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        fused = self.settings.precision == "32"  # Lightning cannot clip for fused optimisers in mixed precision
        return torch.optim.AdamW(groups(self.model, self.settings.weight_decay), lr=self.settings.lr, fused=fused)

    def on_fit_start(self) -> None:
        self.average = self.average or WeightAverage(self.model, self.settings.ema)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        if device.type == "cpu":
            return batch
        labels = (batch.expression, batch.valence_arousal)
        expression, affect = (None if t is None else t.to(device, non_blocking=True) for t in labels)
        return Batch(
            values={name: v.to(device, non_blocking=True) for name, v in batch.values.items()},
            valid={name: v.to(device, non_blocking=True) for name, v in batch.valid.items()},
            expression=expression,
            valence_arousal=affect,
        )

    def on_train_epoch_start(self) -> None:
        # Whatever the network draws in this epoch (dropout, hidden modalities) follows from seed and
        # epoch alone: a resumed run needs no generator states.
        rank = [self.global_rank] if self.global_rank else []
        torch.manual_seed(mixed_seed(self.settings.seed, self.epoch, 1, *rank))
        self.logs, self.count, self._started = {}, 0, time.monotonic()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        factor = rate(self.step, self.steps * self.settings.epochs, self.settings.warmup, self.settings.schedule)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.settings.lr * factor
        loss, logs = self.model.objective(batch)  # type: ignore[operator]
        for name, value in logs.items():
            self.logs[name] = self.logs[name] + value if name in self.logs else value
        self.count += 1
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.step += 1
        assert self.average is not None
        self.average.update()

    def on_validation_epoch_start(self) -> None:
        self.seen = []
        assert self.average is not None
        self._averaged = self.average.applied()
        self._averaged.__enter__()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        out = self.model(batch.values, batch.valid)
        assert batch.expression is not None
        assert batch.valence_arousal is not None
        kept = out.evidence[:, None].expand(batch.expression.shape)
        self.seen.append(
            tuple(
                t[kept].float().cpu().numpy()
                for t in (out.logits.argmax(-1), batch.expression, out.valence_arousal, batch.valence_arousal)
            )
        )

    def on_validation_epoch_end(self) -> None:
        assert self._averaged is not None
        self._averaged.__exit__(None, None, None)

    def finish_epoch(self) -> dict[str, float]:
        """What the epoch came to; called once at its end."""
        report = {name: float(total) / max(1, self.count) for name, total in self.logs.items()}
        if self.seen:
            predicted, labels, affect, truth = (np.concatenate(parts) for parts in zip(*self.seen, strict=True))
            present = np.unique(labels[labels >= 0]).astype(int).tolist()
            if present:
                report["val_macro_f1"] = metrics.macro_f1(
                    labels.astype(int), predicted.astype(int), classes=self.classes, over=present
                )
            if np.isfinite(truth).all(axis=1).any():
                report["val_ccc"] = metrics.va_score(truth, affect)
        report["seconds"] = round(time.monotonic() - self._started, 3)
        self.report = report
        return report
