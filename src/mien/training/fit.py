"""Train a system over feature streams: from a recipe and recordings to a checkpoint folder."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from mien import checkpoint, config, models
from mien.config import Recipe
from mien.data import Augment, WindowDataset, WindowSampler, collate, input_statistics, speaking_windows, window_weights
from mien.errors import ConfigError
from mien.evaluation import metrics
from mien.folder_lock import lock_folder
from mien.labels import SCORE_TASKS
from mien.layers.system import Measure, System
from mien.memory import keep_freed_memory
from mien.mouth_filter import mask_streams
from mien.records import Batch, Recording
from mien.training import resume as unfinished
from mien.training.callbacks import Callback, EpochCallback, KeepBest, ProgressBar, Report
from mien.training.loop import TrainingData, TrainingLoop, make_fabric, reproducible
from mien.training.resume import RunState
from mien.training.score_validation import ScoreValidation
from mien.training.trained_inputs import TrainedInputs

log = logging.getLogger("mien")
#: Metrics that a fusion can maximise, over the classes that occur.
MEASURES: dict[str, Measure] = {
    "macro_f1": lambda y, p, n: metrics.macro_f1(y, p, classes=n, over=np.unique(y).tolist()),
    "accuracy": lambda y, p, n: metrics.accuracy(y, p),
}


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
    on_epoch: EpochCallback | None = None,
    stages: Mapping[str, Path] | None = None,
) -> Path:
    """Train a system by a recipe; returns `out`, a checkpoint folder (`mien.checkpoint.load`).

    The weights of the epoch with the highest validation macro F1 are kept (if there is none, highest CCC, then highest
    score of a score task; the last epoch's without validation recordings). Same recipe, recordings and threads give the
    same weights, to the bit on a CPU, also when the run was interrupted after any epoch and resumed.

    Args:
        train, val: labelled recordings; `val` may be empty.
        resume: go on with the unfinished run in `out`; a finished one is returned as it is.
        augment: modality -> change of training batches, see `mien.data.Augment`.
        device: `auto`, `cpu` or `cuda`.
        devices, nodes: processes on this machine, and machines. Each process takes its part of every batch, and
            gradients are averaged (DDP): the weights equal those of one process up to rounding where each part has
            as many labels, and draws of dropout and augmentation differ. The calling script is started once for
            each process; on several machines, start it on each with MASTER_ADDR and NODE_RANK set, or with torchrun.
        progress: show a progress bar; by default if standard error is a terminal. The log has a line per epoch.
        on_epoch: called after each epoch with its number from 1 and its report.
        stages: encoder name -> checkpoint that computed its features, where they are no registered encoder's. Stages
            that are not named are looked for beside `out` and in `runs`. They are copied into `out`, so that it can
            predict recordings.

    Raises:
        ConfigError: the recipe does not fit the recordings, the unfinished run in `out`, or a stage of `stages`.
        ValueError: nothing in `train` is labelled.
    """
    if resume and is_finished(out):
        return out
    _check_processes(recipe, devices * nodes)
    recipe = _completed(recipe, train)
    inputs = TrainedInputs.of(recipe, train, out, stages or {})
    keep_freed_memory()
    with reproducible(recipe.train.threads):
        torch.manual_seed(recipe.train.seed)
        system = models.build(recipe)
        windows = _training_windows(recipe, train, augment)
        statistics = input_statistics(windows, len(recipe.corpus.labels), balance=recipe.train.balance)
        system.prepare(statistics.mean, statistics.deviation, statistics.counts)
        system.prepare_scores(windows.score_means())
        if system.uses_prompts:
            _set_prompts(system, recipe)
        data = WindowData(recipe, windows, _validation_windows(recipe, val))
        run = run_training(
            system, data, recipe, out, resume=resume, device=device, devices=devices, nodes=nodes,
            progress=progress, on_epoch=on_epoch, files=inputs.files(),
        )  # fmt: skip
        scores = _fit_late_stage(run, recipe, data) if run.writes and system.has_late_stage else {}
        if run.writes:
            inputs.copy_stages(out)
        run.close(**scores)
    return out


def run_training(
    system: System[Any],
    data: TrainingData,
    recipe: Recipe,
    out: Path,
    *,
    resume: bool,
    device: str = "cpu",
    devices: int = 1,
    nodes: int = 1,
    progress: bool | None = None,
    on_epoch: EpochCallback | None = None,
    keep: type[KeepBest] = KeepBest,
    files: Mapping[str, bytes] | None = None,
) -> KeepBest:
    """Run the training loop with its callbacks; returns the `keep` callback, which the caller closes.

    The run is marked as unfinished before the first epoch, so that a checkpoint that it saves is known as that of an
    unfinished run.
    files: further files of the checkpoint, by name.

    Raises ConfigError as `mien.training.resume.find` does; BusyError while another process trains into `out`.
    """
    state = RunState(config.dump(recipe), data.size, data.counted)
    saved = unfinished.find(out, state, resume)
    state = saved.state if saved else state
    fabric = make_fabric(device, recipe.train, devices, nodes)
    fabric.launch()
    first = fabric.global_rank == 0
    best = keep(recipe, out, state, data.epochs, writes=first, files=files)
    callbacks: list[Callback] = [best]
    if first:
        callbacks.append(Report(recipe, out, state, data.epochs, on_epoch))
    shown = first and (sys.stderr.isatty() if progress is None else progress)
    bar = ProgressBar(state, data.total_steps) if shown else None
    with _lock(out) if first else nullcontext(), bar or nullcontext():
        callbacks += [bar] if bar else []
        loop = TrainingLoop(system, data, recipe.train, fabric, state, saved=saved, callbacks=callbacks)
        if first and saved is None:
            unfinished.begin(out, state)
        try:
            loop.run()
        except BaseException:
            if first and not state.epochs:
                (out / unfinished.FILE).unlink(missing_ok=True)
            raise
    return best


def _lock(out: Path) -> AbstractContextManager[None]:
    return lock_folder(
        out, writer="another training", remedy="Wait until it has ended, or choose another folder with --out."
    )


def is_finished(out: Path) -> bool:
    """Whether `out` holds the checkpoint of a completed run."""
    return not (out / unfinished.FILE).exists() and not checkpoint.missing_files(out)


class WindowData:
    """Training and validation windows as `mien.training.loop.TrainingData`. Validation windows do not
    overlap: this suffices to choose an epoch and costs a fraction of voting."""

    counted = "training windows"

    def __init__(self, recipe: Recipe, windows: WindowDataset, validation: WindowDataset | None) -> None:
        self.settings, self.windows, self.validation = recipe.train, windows, validation
        self.classes = len(recipe.corpus.labels)
        self.weights = window_weights(windows.class_counts(self.classes), recipe.train.balance)
        self.size = len(windows)
        self.epochs = recipe.train.epochs
        batches = -(-len(windows) // recipe.train.batch)
        self.total_steps = self.epochs * -(-batches // recipe.train.accumulate)

    def batches(self, epoch: int, part: tuple[int, int]) -> Iterator[Batch]:
        """Batches drawn from seed and epoch, see `mien.data.WindowSampler`."""
        sampler = WindowSampler(
            self.weights,
            batch=self.settings.batch,
            seed=self.settings.seed,
            epoch=epoch,
            balance=self.settings.balance,
            part=part,
        )
        yield from self._loader(self.windows, sampler)

    def validate(self, system: System[Any], epoch: int) -> dict[str, float]:
        """`val_macro_f1` over the classes that occur, `val_ccc`, the mean of valence's and arousal's, `val_au_f1` and
        `val_emi_pearson` (over windows), on labelled tokens of windows with evidence. What the system does not predict
        has no measure.

        Raises ConfigError if no validation window has a label of what the system predicts."""
        if self.validation is None:
            return {}
        order = torch.arange(len(self.validation)).split(max(64, self.settings.batch))
        device = next(system.parameters()).device
        parts, has_labels = [], False
        scores = ScoreValidation(system.score_tasks)
        for batch in self._loader(self.validation, [chunk.tolist() for chunk in order]):
            batch = batch.to(device)
            out = system(batch.values, batch.valid)
            assert batch.expression is not None
            assert batch.valence_arousal is not None
            has_labels = has_labels or bool(
                (system.predicts_expression and (batch.expression >= 0).any())
                or (system.predicts_valence_arousal and torch.isfinite(batch.valence_arousal).all(dim=-1).any())
            )
            scores.add(out, batch)
            kept = out.evidence[:, None].expand(batch.expression.shape)
            columns = (out.logits.argmax(-1), batch.expression, out.valence_arousal, batch.valence_arousal)
            parts.append(tuple(column[kept].float().cpu().numpy() for column in columns))
        predicted, labels, affect, truth = (np.concatenate(column) for column in zip(*parts, strict=True))
        report = {}
        present = np.unique(labels[labels >= 0]).astype(int).tolist()
        if present and system.predicts_expression:
            report["val_macro_f1"] = metrics.macro_f1(
                labels.astype(int), predicted.astype(int), classes=self.classes, over=present
            )
        if np.isfinite(truth).all(axis=1).any() and system.predicts_valence_arousal:
            report["val_ccc"] = metrics.va_score(truth, affect)
        report |= scores.report()
        if not has_labels and not scores.report():
            kinds = [("expression", system.predicts_expression), ("valence-arousal", system.predicts_valence_arousal)]
            kinds += [(SCORE_TASKS[task].title, True) for task in system.score_tasks]
            wanted = " or ".join(kind for kind, is_predicted in kinds if is_predicted)
            raise ConfigError(
                f"no validation window has a label that the system predicts ({wanted})",
                follows="The best epoch could not be chosen, and nothing was saved.",
                remedy="Choose clips with such labels for validation, or train without validation clips.",
            )
        return report

    def _loader(self, data: WindowDataset, batches: Any) -> DataLoader[Batch]:
        return DataLoader(
            data,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=self.settings.workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(0),  # otherwise each loader draws from the global generator
        )


def _check_processes(recipe: Recipe, processes: int) -> None:
    if processes > recipe.train.batch:
        raise ConfigError(
            f"train.batch is {recipe.train.batch} windows, and {processes} processes share it",
            follows="Nothing was started.",
            remedy="Set a larger train.batch, or use fewer processes.",
        )


def _completed(recipe: Recipe, train: Sequence[Recording]) -> Recipe:
    """The recipe with feature widths taken from the recordings and every default written out."""
    widths: dict[str, int] = {}
    for recording in train:
        for name, stream in recording.streams.items():
            widths.setdefault(name, stream.dim)
    problems = []
    recipe = _without_unused_filter(recipe, widths)
    features = recipe.model_dump()["features"]
    for name, feature in features.items():
        if name not in widths:
            problems.append(f"features.{name}: no training recording has a {name} stream; they have {sorted(widths)}")
        elif feature["dim"] not in (None, widths[name]):
            problems.append(f"features.{name}.dim: {feature['dim']}, but the recordings have {widths[name]} values")
        else:
            feature["dim"] = widths[name]
    problems += models.problems(recipe.model_dump())
    if problems:
        raise config.refusal("recipe", problems)
    return models.complete(config.changed(recipe, features=features))


def _without_unused_filter(recipe: Recipe, widths: Mapping[str, int]) -> Recipe:
    """The recipe without its mouth filter if no training recording has the opening of the mouth. Logs a warning."""
    if recipe.mouth_filter is None or recipe.mouth_filter.mouth in widths:
        return recipe
    log.warning(
        "no training recording has the feature %s: the voice is not filtered by the opening of the mouth",
        recipe.mouth_filter.mouth,
    )
    features = {name: feature.model_dump() for name, feature in recipe.inputs.items()}
    return config.read(
        recipe.model_dump() | {"features": features, "mouth_filter": None}, origin="recipe", check=models.problems
    )


def _set_prompts(system: System[Any], recipe: Recipe) -> None:
    """Embed the recipe's class prompts with its text encoder, if it names one."""
    name = recipe.objective.get("text")
    if not name:
        return
    from mien.encoders.registry import create, format_spec

    encoder: Any = create(format_spec(name, recipe.objective.get("text_options", {})))
    prompt = recipe.objective["prompt"]
    embeddings = encoder.encode_prompts([prompt.format(label=label.lower()) for label in recipe.corpus.labels])
    width = int(recipe.model.options["text_dim"])
    if embeddings.shape[1] != width:
        raise ConfigError(
            f"the text encoder {name} gives {embeddings.shape[1]} values; model.text_dim is {width}",
            follows="Nothing was trained.",
            remedy=f"Set model.text_dim={embeddings.shape[1]}.",
        )
    system.set_prompts(torch.from_numpy(embeddings))


def _fit_late_stage(run: KeepBest, recipe: Recipe, data: WindowData) -> dict[str, float]:
    """Fit classical models to the training windows, and the fusion to the validation windows (to the training
    windows if there are none), with the best weights; save the checkpoint again. Returns the fusion's metrics."""
    system = checkpoint.load(run.out).model

    def batches(windows: WindowDataset) -> Iterator[Batch]:
        order = torch.arange(len(windows)).split(64)
        return (collate(windows.__getitems__(part.tolist())) for part in order)

    system.fit_classical(batches(data.windows))
    scores = system.fit_fusion(batches(data.validation or data.windows), MEASURES)
    checkpoint.save(run.out, system, recipe, metrics=run.metrics(), files=run.files)
    return dict(scores)


def _training_windows(
    recipe: Recipe, train: Sequence[Recording], augment: Mapping[str, Augment] | None
) -> WindowDataset:
    recordings, given = _masked(recipe, train), recipe.mouth_filter
    data = WindowDataset(
        recordings,
        recipe.windows,
        modalities=list(recipe.inputs),
        augment=augment,
        labelled=True,
        scores=models.score_tasks(recipe),
    )
    if not len(data):
        raise ValueError("no training window has a label; give recordings whose clips have labels")
    if given is not None and given.use == "windows":
        count = len(data)
        data.keep(speaking_windows(data, recordings, recipe.windows.rate_hz, mouth=given.mouth, opening=given.opening))
        log.info("%d of %d training windows are kept: the mouth is open and visible in them", len(data), count)
        if not len(data):
            raise ConfigError(
                f"in none of the {count} labelled training windows is the mouth open above {given.opening:g} "
                "for a quarter of the time and visible for four fifths",
                follows="Nothing was trained.",
                remedy="Set a lower mouth_filter.opening, or mouth_filter.use=none to use every window.",
            )
    return data


def _validation_windows(recipe: Recipe, val: Sequence[Recording]) -> WindowDataset | None:
    if not val:
        return None
    windows = recipe.windows.model_copy(update={"hop_seconds": recipe.windows.seconds, "jitter": False})
    return WindowDataset(
        _masked(recipe, val), windows, modalities=list(recipe.inputs), labelled=True, scores=models.score_tasks(recipe)
    )


def _masked(recipe: Recipe, recordings: Sequence[Recording]) -> Sequence[Recording]:
    """The recordings with the voice masked as prediction masks it (`mien.mouth_filter`)."""
    mask = checkpoint.voice_mask(recipe)
    if mask is None:
        return recordings
    return [replace(recording, streams=mask_streams(recording.streams, mask)) for recording in recordings]
