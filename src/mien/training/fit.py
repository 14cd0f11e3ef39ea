"""From a recipe and recordings to a checkpoint folder."""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader

from mien import checkpoint, config, memory, models
from mien.config import Recipe
from mien.data import Augment, WindowDataset, WindowSampler, collate, statistics, window_weights
from mien.errors import ConfigError
from mien.evaluation import metrics
from mien.records import Batch, Recording
from mien.training import resume as unfinished
from mien.training.callbacks import AfterEpoch, Bar, Keeper, first_process
from mien.training.lightning_module import Task
from mien.training.resume import RunState


def fit(
    recipe: Recipe,
    train: Sequence[Recording],
    val: Sequence[Recording],
    out: Path,
    resume: bool = False,
    *,
    augment: Mapping[str, Augment] | None = None,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    progress: bool | None = None,
    after_epoch: AfterEpoch | None = None,
) -> Path:
    """Train what the recipe describes; returns `out`, a checkpoint folder (`mien.checkpoint.load`).

    The weights of the epoch with the highest validation macro F1 are kept (highest CCC if nothing has an
    expression label; the last epoch's without validation recordings). Same recipe, recordings and
    threads: same weights, bit by bit, also when the run was interrupted after any epoch and resumed, on a
    CPU.

    Args:
        train, val: labelled recordings; `val` may be empty.
        resume: go on with the unfinished run in `out`; a finished one is returned as it is.
        augment: modality -> what to do to drawn batches, see `mien.data.Augment`.
        device: `auto`, `cpu` or `cuda`.
        devices, nodes: processes on this machine, and machines. Above one, each process takes its part of every
            batch and gradients are averaged (DDP): one process with the same batch gets the same weights up to
            rounding where each part has as many labels, and other draws of dropout and augmentation. The script
            that calls this is started once a process; on several machines, start it on each as Lightning or
            torchrun want it (MASTER_ADDR, NODE_RANK).
        progress: show a bar; by default if standard error is a terminal. Otherwise a line an epoch goes
            to the log.

    Raises ConfigError for a recipe that does not fit the recordings or the unfinished run in `out`, and
    ValueError if nothing in `train` is labelled.
    """
    processes = devices * nodes
    if processes > recipe.train.batch:
        raise ConfigError(
            f"train.batch is {recipe.train.batch} windows, and {processes} processes share it",
            follows="nothing was started",
            remedy="a larger train.batch, or fewer processes",
        )
    if resume and not (out / unfinished.FILE).exists() and (out / checkpoint.ABOUT).exists():
        return out
    recipe = _completed(recipe, train)
    settings, classes = recipe.train, len(recipe.corpus.labels)
    memory.keep_freed_memory()
    with _quiet(settings.threads), torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        model = models.build(recipe)
        data = _windows(recipe, train, augment)
        told = statistics(data, classes, balance=settings.balance)
        model.prepare(told.mean, told.deviation, told.counts)  # type: ignore[operator]
        _read_prompts(model, recipe)
        state = RunState(recipe=config.dump(recipe), windows=len(data))
        earlier = unfinished.earlier(out, state, resume)
        if earlier:
            state = earlier[0]
        task = Task(model, settings, classes=classes, steps=-(-len(data) // settings.batch), done=state.epochs)
        keeper = Keeper(recipe, out, state, after_epoch, validated=bool(val), restored=earlier)
        left = 0 if keeper.enough() else settings.epochs - state.epochs
        if left > 0:
            loaders = Loaders(recipe, data, _validation(recipe, val))
            with _interruptible():
                _trainer(recipe, out, keeper, device, progress, left, devices, nodes).fit(task, datamodule=loaders)
        if first_process():
            keeper.told = _settle(out, recipe, data, _validation(recipe, val))
    keeper.close()
    return out


class Loaders(lightning.LightningDataModule):
    """Batches of an epoch, drawn from seed and epoch; validation windows side by side, in order."""

    def __init__(self, recipe: Recipe, train: WindowDataset, val: WindowDataset | None) -> None:
        super().__init__()
        self.settings, self.data, self.val = recipe.train, train, val
        counts = train.class_counts(len(recipe.corpus.labels))
        self.weights = window_weights(counts, recipe.train.balance)

    def train_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        task = self.trainer.lightning_module
        assert isinstance(task, Task)
        sampler = WindowSampler(
            self.weights,
            batch=self.settings.batch,
            seed=self.settings.seed,
            epoch=task.epoch,
            balance=self.settings.balance,
            part=(self.trainer.global_rank, self.trainer.world_size),
        )
        return self._loader(self.data, sampler)

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        if self.val is None:
            return []
        order = torch.arange(len(self.val)).split(max(64, self.settings.batch))
        return self._loader(self.val, [chunk.tolist() for chunk in order])

    def _loader(self, data: WindowDataset, batches: WindowSampler | list[list[int]]) -> DataLoader[Batch]:
        return DataLoader(
            data,
            batch_sampler=batches,  # type: ignore[arg-type]
            collate_fn=collate,
            num_workers=self.settings.workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(0),  # or each loader would draw from the global generator
        )


def _completed(recipe: Recipe, train: Sequence[Recording]) -> Recipe:
    """The recipe with feature widths taken from the recordings and every default written out."""
    widths: dict[str, int] = {}
    for recording in train:
        for name, stream in recording.streams.items():
            widths.setdefault(name, stream.dim)
    found = []
    features = recipe.model_dump()["features"]
    for name, feature in features.items():
        if name not in widths:
            found.append(f"features.{name}: no training recording has a {name} stream; they have {sorted(widths)}")
        elif feature["dim"] not in (None, widths[name]):
            found.append(f"features.{name}.dim: {feature['dim']}, but the recordings have {widths[name]} values")
        else:
            feature["dim"] = widths[name]
    found += models.problems(recipe.model_dump())
    if found:
        raise config.refusal("recipe", found)
    return models.complete(config.changed(recipe, features=features))


def _read_prompts(model: torch.nn.Module, recipe: Recipe) -> None:
    """The words of a system that compares faces with words, in the space of the recipe's text encoder."""
    name = recipe.objective.get("text")
    if not name or not hasattr(model, "set_prompts"):
        return
    from mien.encoders.registry import create, spec_of

    encoder: Any = create(spec_of(name, recipe.objective.get("text_options", {})))
    prompt = recipe.objective["prompt"]
    rows = encoder.encode_prompts([prompt.format(label=label.lower()) for label in recipe.corpus.labels])
    width = int(recipe.model.options["text_dim"])
    if rows.shape[1] != width:
        raise ConfigError(
            f"the text encoder {name} gives {rows.shape[1]} values; model.text_dim is {width}",
            follows="nothing was trained",
            remedy=f"set model.text_dim={rows.shape[1]}",
        )
    model.set_prompts(torch.from_numpy(rows))  # type: ignore[operator]


def _settle(out: Path, recipe: Recipe, data: WindowDataset, val: WindowDataset | None) -> dict[str, float]:
    """What a system fits when its networks are trained, on the weights that were kept: classical machines on the
    training windows, its fusion on the validation windows (on the training ones where there are none)."""
    if not hasattr(models.system(recipe), "settle"):
        return {}
    model: Any = checkpoint.load(out).model
    measures = {
        "macro_f1": lambda y, p, n: metrics.macro_f1(y, p, classes=n, over=np.unique(y).tolist()),
        "accuracy": lambda y, p, n: metrics.accuracy(y, p),
    }

    def batches(windows: WindowDataset) -> Iterator[Batch]:
        order = torch.arange(len(windows)).split(64)
        return (collate(windows.__getitems__(part.tolist())) for part in order)

    if hasattr(model, "fit_machines"):
        model.fit_machines(batches(data))
    told = model.settle(batches(val or data), measures)
    checkpoint.save(out, model, recipe)
    return dict(told)


def _windows(recipe: Recipe, train: Sequence[Recording], augment: Mapping[str, Augment] | None) -> WindowDataset:
    data = WindowDataset(train, recipe.windows, modalities=list(recipe.features), augment=augment, labelled=True)
    if not len(data):
        raise ValueError("no training window has a label; give recordings whose clips have labels")
    return data


def _validation(recipe: Recipe, val: Sequence[Recording]) -> WindowDataset | None:
    if not val:
        return None
    # Side by side: every token once, which is enough to choose an epoch and a fraction of the work of voting.
    windows = recipe.windows.model_copy(update={"hop_seconds": recipe.windows.seconds, "jitter": False})
    return WindowDataset(val, windows, modalities=list(recipe.features), labelled=True)


def _trainer(
    recipe: Recipe, out: Path, keeper: Keeper, device: str, progress: bool | None, epochs: int, devices: int, nodes: int
) -> lightning.Trainer:
    bar = sys.stderr.isatty() if progress is None else progress
    boards = TensorBoardLogger(out, name="", version="tensorboard") if recipe.train.tensorboard else False
    return lightning.Trainer(
        accelerator={"cuda": "gpu"}.get(device, device),
        devices=devices,
        num_nodes=nodes,
        # A head whose labels a batch lacks gets no gradient, which DDP otherwise takes for a mistake.
        strategy=DDPStrategy(find_unused_parameters=True) if devices * nodes > 1 else "auto",
        precision="bf16-mixed" if recipe.train.precision == "bf16" else "32-true",
        max_epochs=epochs,
        gradient_clip_val=recipe.train.clip or None,
        callbacks=[keeper, *([Bar()] if bar else [])],
        enable_progress_bar=bar,
        logger=boards,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        deterministic=None if device == "cpu" or not torch.cuda.is_available() else "warn",
        default_root_dir=out,
    )


@contextmanager
def _interruptible() -> Iterator[None]:
    """Lightning answers Ctrl-C with sys.exit and leaves SIGINT ignored; a library call lets the caller
    decide."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None


@contextmanager
def _quiet(threads: int) -> Iterator[None]:
    """The recipe's thread count, and none of Lightning's advice, for the time of a run."""
    before, talk = torch.get_num_threads(), logging.getLogger("lightning.pytorch")
    exact = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    level = talk.level
    torch.set_num_threads(threads)
    talk.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        torch.set_num_threads(before)
        talk.setLevel(level)
        torch.use_deterministic_algorithms(exact, warn_only=warned)
