"""Training loop, for windows of streams and for single images.

It runs on Lightning Fabric, which places tensors, sets the precision and, with several processes, averages gradients
(DDP). Everything random follows from the recipe's seed and the epoch (for images: the step), so that a resumed run
needs no generator states and ends in the same weights, to the bit on one CPU thread.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor

from mien.config import Train
from mien.data import mix_seeds
from mien.layers.system import System
from mien.training import resume
from mien.training.callbacks import Callback, validation_score
from mien.training.ema import WeightAverage
from mien.training.resume import RunState
from mien.training.schedule import learning_rate_factor, plateau_factor


class Movable(Protocol):
    """A batch that can be moved to a device."""

    def to(self, device: torch.device) -> Any:
        """The batch on another device."""


class TrainingData(Protocol):
    """Interface of training and validation data.

    Attributes:
        size: number of training windows or images. counted: what `size` counts, in words for messages.
        epochs: in the whole run. total_steps: optimiser steps in the whole run.
    """

    size: int
    counted: str
    epochs: int
    total_steps: int

    def batches(self, epoch: int, part: tuple[int, int]) -> Iterator[Movable]:
        """The batches of epoch `epoch`, counted from 0; the same in every call. A step takes `train.accumulate` of
        them, the last one what is left. part: (rank, processes) of this process, which gets its share of every batch.
        """

    def validate(self, system: System[Any], epoch: int) -> dict[str, float]:
        """Validation metrics after an epoch, named `val_*`; empty if there is nothing to validate on."""


def make_fabric(device: str, settings: Train, devices: int = 1, nodes: int = 1) -> Fabric:
    """Fabric for a device (`auto`, `cpu`, `cuda`), the recipe's precision, and a number of processes and machines."""
    several = devices * nodes > 1
    return Fabric(
        accelerator={"cuda": "gpu"}.get(device, device),
        devices=devices,
        num_nodes=nodes,
        # A head whose labels a batch lacks gets no gradient, which DDP otherwise reports as an error.
        strategy=DDPStrategy(find_unused_parameters=True) if several else "auto",
        precision="bf16-mixed" if settings.precision == "bf16" else "32-true",
    )


class TrainingLoop:
    """Trains a system in place.

    Args:
        state: how far the run is; updated after every epoch. saved: the saved run to go on with, None to begin.
        callbacks: called after every step and every epoch, in order.
    """

    def __init__(
        self,
        system: System[Any],
        data: TrainingData,
        settings: Train,
        fabric: Fabric,
        state: RunState,
        *,
        saved: resume.SavedRun | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.system, self.data, self.settings, self.state = system, data, settings, state
        self.fabric, self.callbacks = fabric, callbacks
        self.part = fabric.global_rank, fabric.world_size
        self.optimiser = torch.optim.AdamW(
            system.parameter_groups(settings.weight_decay),
            lr=settings.lr,
            fused=settings.precision == "32",  # gradients of fused optimisers cannot be clipped in mixed precision
        )
        self.wrapped: Any
        self.wrapped, self.stepper = fabric.setup(system, self.optimiser)
        self.wrapped.mark_forward_method("objective")
        self.average = WeightAverage(system, settings.ema)
        if saved:
            resume.restore(system, self.optimiser, saved, self.average)

    def run(self) -> None:
        """Train until the last epoch, or until a callback asks to stop."""
        while self.state.epochs < self.data.epochs and not any(callback.stop for callback in self.callbacks):
            started = time.monotonic()
            report = self._train_epoch(self.state.epochs) | self._validate(self.state.epochs)
            report["seconds"] = round(time.monotonic() - started, 3)
            report = self.fabric.broadcast(report)  # all processes go on, or stop, together
            self.state.epochs += 1
            self.state.history.append(report)
            for callback in self.callbacks:
                callback.on_epoch_end(self.system, self.optimiser, self.average, report)

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        """Train one epoch; returns `step`, the means of the logged values, and the system's own report."""
        settings, state, rank = self.settings, self.state, self.part[0]
        torch.manual_seed(mix_seeds(settings.seed, epoch, 1, *([rank] if rank else [])))
        self.system.train()
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        means, batches, reduced = _Means(), iter(self.data.batches(epoch, self.part)), self._plateau_factor()
        while step := list(islice(batches, settings.accumulate)):
            factor = learning_rate_factor(
                state.steps, self.data.total_steps, settings.warmup, settings.schedule, settings.lr_end
            )
            for group in self.optimiser.param_groups:
                group["lr"] = settings.lr * factor * reduced * group["scale"]
            self.optimiser.zero_grad()
            self._add_gradients(step, means)
            self.system.before_step()
            if settings.clip:
                torch.nn.utils.clip_grad_norm_(parameters, settings.clip)
            self.stepper.step()
            self.system.after_step()
            self.average.update()
            state.steps += 1
            for callback in self.callbacks:
                callback.on_step(means)
        return {"step": float(state.steps), **means.result(), **self.system.training_report()}

    def _add_gradients(self, batches: Sequence[Movable], means: _Means) -> None:
        """Add the gradient of the batches' mean loss, by one pass for each batch; processes exchange it once."""
        for number, batch in enumerate(batches, 1):
            with self.fabric.no_backward_sync(self.wrapped, enabled=number < len(batches)):
                loss, logs = self.wrapped.objective(batch.to(self.fabric.device))
                self.fabric.backward(loss / len(batches))
            means.add(logs)

    def _plateau_factor(self) -> float:
        """What the schedule `plateau` multiplies the learning rate by in the next epoch; 1 for the others."""
        settings = self.settings
        if settings.schedule != "plateau":
            return 1.0
        scores = [score for report in self.state.history if (score := validation_score(report)) is not None]
        return plateau_factor(scores, patience=settings.plateau_patience, factor=settings.plateau_factor)

    def _validate(self, epoch: int) -> dict[str, float]:
        """Validation metrics with the averaged weights, in the first process."""
        if self.part[0]:
            return {}
        with torch.no_grad(), self.fabric.autocast(), self.average.applied():
            self.system.eval()
            return self.data.validate(self.system, epoch)


class _Means:
    """Running means of logged scalars; a value that is not finite is left out."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}

    def add(self, logs: dict[str, Tensor]) -> None:
        for name, value in logs.items():
            known = torch.isfinite(value)
            total = torch.where(known, value, 0.0)
            self._sums[name] = self._sums[name] + total if name in self._sums else total
            self._counts[name] = self._counts[name] + known if name in self._counts else known.long()

    def result(self) -> dict[str, float]:
        """Name -> mean; names without any finite value are left out."""
        return {name: float(total) / n for name, total in self._sums.items() if (n := int(self._counts[name]))}


@contextmanager
def reproducible(threads: int) -> Iterator[None]:
    """Context manager for reproducible training: sets CPU threads, deterministic CUDA kernels and a separate random
    state, and hides Fabric's advice. Restores everything on exit."""
    threads_before = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.set_num_threads(threads)
    if torch.cuda.is_available():
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng():
            warnings.filterwarnings("ignore", module="lightning_fabric")
            yield
    finally:
        torch.set_num_threads(threads_before)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
