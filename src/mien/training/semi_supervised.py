"""Training on pictures, some of them labelled: one loop for systems whose `objective` takes `Views`.

A step's pictures and their views follow from seed and step alone, and everything else (student, teacher, thresholds,
optimiser) is written every `save_every` steps: an interrupted run that is resumed ends in the same weights, bit for bit
on one CPU thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mien import checkpoint, config, memory, models
from mien.config import Recipe
from mien.data import image_augment, mixed_seed
from mien.errors import ConfigError
from mien.evaluation import metrics
from mien.models.dynamic_threshold import Views
from mien.records import ImageSet
from mien.training import resume as unfinished
from mien.training.optim import rate
from mien.training.resume import RunState

#: Told after each round of `report_every` steps: the step and the means of the logs.
Told = Callable[[int, dict[str, float]], None]


def fit_pictures(
    recipe: Recipe,
    labelled: ImageSet,
    unlabelled: ImageSet | None,
    val: ImageSet | None,
    out: Path,
    *,
    steps: int = 2000,
    ratio: int = 4,
    flip: bool = True,
    resume: bool = False,
    save_every: int = 200,
    report_every: int = 100,
    told: Told | None = None,
    stop_at: int | None = None,
) -> Path:
    """Trains what the recipe describes for `steps` steps; returns `out`, a checkpoint folder.

    Args:
        labelled: drawn so that every class is as likely. unlabelled: labels in it are used to measure pseudo-labels and
            for nothing else; None: the labelled ones. val: scored at the end (macro F1, accuracy).
        ratio: unlabelled pictures a labelled one, 0 for systems that look at none. flip: whether a mirrored picture
        keeps its class. stop_at: leave after this step with the run unfinished (for tests).

    Raises ConfigError for pictures of another size than the recipe's, no labelled picture, or an unfinished run in
    `out` that may not or cannot go on. resume: a finished run is returned as it is.
    """
    if resume and not (out / unfinished.FILE).exists() and (out / checkpoint.ABOUT).exists():
        return out
    name, feature = next(iter(recipe.features.items()))
    size = labelled.images.shape[1]
    if feature.dim not in (None, size):
        raise ConfigError(f"features.{name}.dim is {feature.dim}, the pictures are {size} wide", remedy="make them one")
    known = np.flatnonzero(labelled.labels >= 0)
    if not len(known):
        raise ConfigError("no picture has a label", follows="nothing was started")
    labelled = labelled.take(known)
    features = {name: feature.model_dump() | {"dim": size}}
    recipe = models.complete(config.changed(recipe, features=features))
    settings, others = recipe.train, unlabelled if unlabelled is not None else labelled
    torch.set_num_threads(settings.threads)
    memory.keep_freed_memory()
    torch.manual_seed(settings.seed)
    model: Any = models.build(recipe).train()
    model = model.to(memory_format=torch.channels_last)  # a step in .146 s instead of .202
    model.prepare({}, {}, torch.from_numpy(np.bincount(labelled.labels, minlength=len(recipe.corpus.labels))))
    optimiser = torch.optim.AdamW(model.parameter_groups(settings.weight_decay), lr=settings.lr)
    state = RunState(config.dump(recipe), len(labelled) + len(others), unit="steps", of="pictures")
    if found := unfinished.earlier(out, state, resume):
        unfinished.restore(model, optimiser, found)
        state = found[0]
    history = state.history
    sums: dict[str, tuple[float, int]] = {}
    for step in range(state.epochs, steps):
        batch = _drawn(labelled, others, settings.batch, ratio, flip, np.random.default_rng([settings.seed, step]))
        torch.manual_seed(mixed_seed(settings.seed, step))
        factor = rate(step, steps, settings.warmup, settings.schedule)
        for group in optimiser.param_groups:
            group["lr"] = settings.lr * factor * group["scale"]
        loss, logs = model.objective(batch)
        optimiser.zero_grad()
        loss.backward()
        learning = [p for g in optimiser.param_groups for p in g["params"] if g["depth"] < model.thawed()]
        for parameter in (p for g in optimiser.param_groups for p in g["params"] if g["depth"] >= model.thawed()):
            parameter.grad = None
        if settings.clip:
            torch.nn.utils.clip_grad_norm_(learning, settings.clip)
        optimiser.step()
        model.after_step()
        for key, value in logs.items():
            if math.isfinite(number := float(value)):  # the quality of no pseudo-label at all is unknown
                total, seen = sums.get(key, (0.0, 0))
                sums[key] = total + number, seen + 1
        if (step + 1) % report_every == 0 or step + 1 == steps:
            row = {"step": step + 1, **{k: total / seen for k, (total, seen) in sums.items()}}
            if hasattr(model, "thresholds"):
                each = zip(recipe.corpus.labels, model.thresholds(), strict=True)
                row |= {f"threshold {c}": float(t) for c, t in each}
            history.append(row)
            sums = {}
            if told:
                told(step + 1, row)
        if (step + 1) % save_every == 0 and not sums:
            state.epochs = step + 1
            unfinished.write(out, model, optimiser, state)
        if stop_at == step + 1:
            return out
    scores = score(model, val, len(recipe.corpus.labels)) if val is not None else {}
    checkpoint.save(out, model, recipe, metrics={**scores, "steps": steps, "history": history})
    (out / unfinished.FILE).unlink(missing_ok=True)
    return out


@torch.inference_mode()
def score(model: Any, pictures: ImageSet, classes: int) -> dict[str, float]:
    """`val_macro_f1` (over the classes that occur) and `val_accuracy` of the teacher."""
    was = model.training
    model.eval()
    parts = np.array_split(pictures.images, max(1, len(pictures) // 256))
    said = np.concatenate([model(as_tensor(part)).argmax(dim=1).numpy() for part in parts])
    model.train(was)
    present = np.unique(pictures.labels).tolist()
    return {
        "val_macro_f1": float(metrics.macro_f1(pictures.labels, said, classes=classes, over=present)),
        "val_accuracy": float(metrics.accuracy(pictures.labels, said)),
    }


def as_tensor(images: np.ndarray) -> Tensor:
    """`(n, size, size, 3)` uint8 -> `(n, 3, size, size)`, what picture systems take."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)  # in memory colours come last


def _drawn(labelled: ImageSet, others: ImageSet, batch: int, ratio: int, flip: bool, rng: np.random.Generator) -> Views:
    counts = np.bincount(labelled.labels)
    share = 1 / counts[labelled.labels]
    picked = rng.choice(len(labelled), batch, p=share / share.sum())
    places = rng.integers(0, len(others), batch * ratio)
    images = others.images[places]
    learnt = as_tensor(image_augment.weak(labelled.images[picked], rng, flip=flip))
    one = two = strong = torch.zeros(0, 3, *images.shape[1:3], dtype=torch.uint8)
    if ratio:
        one, two = (as_tensor(image_augment.weak(images, rng, flip=flip)) for _ in range(2))
        strong = as_tensor(image_augment.strong(images, rng, flip=flip))
    return Views(
        learnt,
        torch.from_numpy(labelled.labels[picked].astype(np.int64)),
        (one, two),
        strong,
        torch.from_numpy(others.labels[places].astype(np.int64)),
        _affect(labelled.valence_arousal, picked, batch),
    )


def _affect(affect: np.ndarray | None, picked: np.ndarray, batch: int) -> Tensor:
    if affect is None:
        return torch.full((batch, 2), torch.nan)
    return torch.from_numpy(affect[picked].astype(np.float32))
