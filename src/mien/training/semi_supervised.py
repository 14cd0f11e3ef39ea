"""Train a system over single images, some of them labelled: from a recipe and image sets to a checkpoint folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from mien import config, models
from mien.config import Recipe
from mien.data import image_augment, mix_seeds
from mien.data.capture_augment import capture, centre
from mien.datasets.image_datasets import image_options
from mien.encoders.pretrained import WeightSource, fetch
from mien.encoders.registry import NETWORKS
from mien.errors import ConfigError
from mien.evaluation import metrics
from mien.layers.system import ImageSystem, System
from mien.memory import keep_freed_memory
from mien.records import ImageBatch, ImageSet
from mien.training.callbacks import EpochCallback
from mien.training.fit import is_finished, run_training
from mien.training.loop import reproducible

#: Unlabelled images for each labelled one in a batch.
RATIO = 4


def fit_images(
    recipe: Recipe,
    labelled: ImageSet,
    unlabelled: ImageSet | None,
    val: ImageSet | None,
    out: Path,
    *,
    steps: int = 2000,
    ratio: int | None = None,
    flip: bool = True,
    epoch_steps: int = 100,
    resume: bool = False,
    device: str = "cpu",
    progress: bool = False,
    on_epoch: EpochCallback | None = None,
) -> Path:
    """Train an image system by a recipe for `steps` steps; returns `out`, a checkpoint folder.

    Args:
        labelled: images with labels, or soft labels; drawn as `train.balance` says: 1 makes every class as likely, 0
            every image. They may be larger than the input, see `mien.data.capture_augment`.
        unlabelled: images whose labels, if any, only measure the pseudo-labels; None uses `labelled`.
        val: scored after the last step (macro F1, accuracy).
        ratio: unlabelled images for each labelled one in a batch; by default 4, or 0 for systems that use none.
        flip: whether a mirrored image keeps its class.
        epoch_steps: steps between two reports and two saves for resuming.
        resume: go on with the unfinished run in `out`; a finished one is returned as it is.
        device, progress, on_epoch: as in `mien.training.fit.fit`.

    Raises ConfigError for images of another size than the recipe's, no labelled image, or an unfinished run in `out`
    that was not asked for or does not fit.
    """
    if resume and is_finished(out):
        return out
    recipe, labelled = _fit_to_images(recipe, labelled)
    keep_freed_memory()
    with reproducible(recipe.train.threads):
        torch.manual_seed(recipe.train.seed)
        system = models.build(_with_local_source(recipe))
        system = system.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a step in .146 s, not .202
        system.prepare({}, {}, torch.from_numpy(labelled.soft_labels(len(recipe.corpus.labels)).sum(axis=0)))
        others = unlabelled if unlabelled is not None else labelled
        if ratio is None:
            ratio = RATIO if _uses_unlabelled(recipe) else 0
        data = ImageData(recipe, labelled, others, val, steps, ratio, flip, epoch_steps)
        run = run_training(
            system, data, recipe, out, resume=resume, device=device, progress=progress, on_epoch=on_epoch
        )
        run.close()
    return out


def steps_of(recipe: Recipe, labelled: ImageSet, unlabelled: ImageSet) -> int:
    """Steps of a recipe's epochs. An epoch passes all labelled images; for systems that use unlabelled images a quarter
    of those, and 100 steps at least (our choice)."""
    per_step = recipe.train.batch * recipe.train.accumulate
    if not _uses_unlabelled(recipe):
        return max(1, recipe.train.epochs * max(1, len(labelled) // per_step))
    return max(1, recipe.train.epochs * max(100, len(unlabelled) // (RATIO * per_step)))


def _uses_unlabelled(recipe: Recipe) -> bool:
    return cast(type[ImageSystem], models.system_class(recipe)).uses_unlabelled


def _with_local_source(recipe: Recipe) -> Recipe:
    """The recipe with the folder of the pretrained weights that `model.source` names, found as an encoder's are.

    Raises ConfigError and ArtefactError as `mien.encoders.pretrained.fetch` does.
    """
    source = recipe.model.options.get("source")
    if not source:
        return recipe
    known = next((n for n in NETWORKS.values() if n.source == source), None)
    facts = (known.size, known.licence) if known is not None else ()
    return config.changed(recipe, model={"source": str(fetch(WeightSource(source, *facts)).folder)})


def _fit_to_images(recipe: Recipe, labelled: ImageSet) -> tuple[Recipe, ImageSet]:
    """The recipe with the size of the images and every default written out, and the images that have labels."""
    name, feature = next(iter(recipe.features.items()))
    size, options = labelled.images.shape[1], image_options(recipe)
    fits = feature.dim in (None, size) or (options.augment == "capture" and (feature.dim or 0) < size)
    if not fits:
        raise ConfigError(
            f"features.{name}.dim is {feature.dim}, the images are {size} pixels wide",
            follows="Nothing was started.",
            remedy=f"Set features.{name}.dim={size}, or give images of {feature.dim} pixels.",
        )
    size = feature.dim or size
    known = np.flatnonzero(labelled.is_labelled)
    if not len(known):
        raise ConfigError("no image has a label", follows="Nothing was started.", remedy="Give labelled images.")
    labelled, classes = labelled.take(known), len(recipe.corpus.labels)
    if labelled.soft is not None and labelled.soft.shape[1] != classes:
        raise ConfigError(
            f"the soft labels of the images have {labelled.soft.shape[1]} classes; corpus.labels has {classes}",
            follows="Nothing was started.",
            remedy="Give soft labels over the classes of corpus.labels, in their order.",
        )
    features = {name: feature.model_dump() | {"dim": size}}
    recipe = models.complete(config.changed(recipe, features=features))
    return recipe, labelled


class ImageData:
    """Labelled and unlabelled images as `mien.training.loop.TrainingData`. A batch follows from the seed and its number
    alone."""

    counted = "images"

    def __init__(
        self, recipe: Recipe, labelled: ImageSet, unlabelled: ImageSet, val: ImageSet | None, steps: int, ratio: int,
        flip: bool, epoch_steps: int,
    ) -> None:  # fmt: skip
        self.settings, self.classes = recipe.train, len(recipe.corpus.labels)
        self.labelled, self.unlabelled, self.val = labelled, unlabelled, val
        self.ratio, self.flip, self.epoch_steps = ratio, flip, epoch_steps
        self.size = len(labelled) + len(unlabelled)
        self.total_steps = steps
        self.epochs = -(-steps // epoch_steps)
        self.side = next(iter(recipe.features.values())).dim or labelled.images.shape[1]
        self.augment = image_options(recipe).augment
        self._chances = self._draw_chances()

    def batches(self, epoch: int, part: tuple[int, int]) -> Iterator[ImageBatch]:
        """The batches of steps `epoch * epoch_steps` and on. Images are trained in one process: part is not used."""
        first, last = epoch * self.epoch_steps, min((epoch + 1) * self.epoch_steps, self.total_steps)
        for number in range(first * self.settings.accumulate, last * self.settings.accumulate):
            batch = self._draw(np.random.default_rng([self.settings.seed, number]))
            torch.manual_seed(mix_seeds(self.settings.seed, number))  # of dropout in this step
            yield batch

    def validate(self, system: System[Any], epoch: int) -> dict[str, float]:
        """`val_macro_f1` over the classes that occur, and `val_accuracy`, after the last epoch."""
        if self.val is None or epoch + 1 < self.epochs:
            return {}
        device = next(system.parameters()).device
        val = self.val.take(self.val.labels >= 0)
        parts = np.array_split(centre(val.images, self.side), max(1, len(val) // 256))
        predicted = np.concatenate([system(as_tensor(part).to(device)).argmax(dim=1).cpu().numpy() for part in parts])
        present = np.unique(val.labels).tolist()
        return {
            "val_macro_f1": float(metrics.macro_f1(val.labels, predicted, classes=self.classes, over=present)),
            "val_accuracy": float(metrics.accuracy(val.labels, predicted)),
        }

    def _draw_chances(self) -> np.ndarray:
        """Chance `(n,)` of each labelled image to be drawn; a soft label alone counts as its likeliest class."""
        soft, hard = self.labelled.soft_labels(self.classes), self.labelled.labels
        drawn_as = np.where(hard >= 0, hard, soft.argmax(axis=1))
        share = (1 / np.bincount(drawn_as)[drawn_as]) ** self.settings.balance
        chances: np.ndarray = share / share.sum()
        return chances

    def _draw(self, rng: np.random.Generator) -> ImageBatch:
        labelled, unlabelled = self.labelled, self.unlabelled
        picked = rng.choice(len(labelled), self.settings.batch, p=self._chances)
        places = rng.integers(0, len(unlabelled), self.settings.batch * self.ratio)
        images = unlabelled.images[places]
        if self.augment == "capture":
            views = capture(labelled.images[picked], self.side, rng, flip=self.flip)
        else:
            views = as_tensor(image_augment.weak(labelled.images[picked], rng, flip=self.flip))
        first = second = strong = torch.zeros(0, 3, *images.shape[1:3], dtype=torch.uint8)
        if self.ratio:
            first, second = (as_tensor(image_augment.weak(images, rng, flip=self.flip)) for _ in range(2))
            strong = as_tensor(image_augment.strong(images, rng, flip=self.flip))
        return ImageBatch(
            views,
            torch.from_numpy(labelled.labels[picked].astype(np.int64)),
            (first, second),
            strong,
            torch.from_numpy(unlabelled.labels[places].astype(np.int64)),
            _valence_arousal(labelled.valence_arousal, picked),
            None if labelled.soft is None else torch.from_numpy(labelled.soft[picked].astype(np.float32)),
        )


def as_tensor(images: np.ndarray) -> Tensor:
    """`(n, size, size, 3)` uint8 -> `(n, 3, size, size)` uint8, channels last in memory."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)


def _valence_arousal(values: np.ndarray | None, picked: np.ndarray) -> Tensor:
    if values is None:
        return torch.full((len(picked), 2), torch.nan)
    return torch.from_numpy(values[picked].astype(np.float32))
