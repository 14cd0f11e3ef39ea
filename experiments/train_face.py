"""Train the face network of the starter on FER+: `python -m experiments.train_face --ferplus DIR --out RUN`.

Every twelfth training image is held out for calibration and fusion (`held_out`). Aligned faces are kept beside the run,
so that an interrupted training goes on without aligning again.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mien import checkpoint, config, models, onnx_export
from mien.data.capture_augment import centre
from mien.datasets.aligned_faces import load_aligned_faces
from mien.datasets.face_images import labelled_set, list_ferplus
from mien.datasets.image_datasets import image_options, wide_crop
from mien.records import ImageSet
from mien.training.semi_supervised import fit_images, steps_of

RECIPE = "face_expression"
#: One training image in so many is held out.
HELD_OUT_EVERY = 12
#: Training faces that set the scales of the network in 8 bits.
CALIBRATION = 512


def load_faces(
    root: Path, split: str, cache: Path, recipe: config.Recipe, *, workers: int = 1, log: Callable[[str], None] = print
) -> ImageSet:
    """Aligned FER+ faces of a split with soft labels; read from `cache` (a folder) if they are there."""
    listing = list_ferplus(root, split, recipe.corpus.labels)
    crop = wide_crop(image_options(recipe))
    file = cache / f"ferplus_{split}_{crop.size}_{crop.margin:.3f}_{crop.down:.3f}.npy"
    if not file.is_file():
        log(f"aligning {len(listing)} faces ({split})")
        faces, found = load_aligned_faces(listing, crop, workers=workers)
        log(f"a face was found in {found.mean():.1%}")
        cache.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial.npy")
        np.save(partial, faces.images[..., 0])  # FER+ is grey
        partial.rename(file)
    grey = np.load(file, allow_pickle=False)
    return labelled_set(np.repeat(grey[..., None], 3, axis=3), listing)


def held_out(images: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Training images without every twelfth, and those."""
    is_held = np.arange(len(images)) % HELD_OUT_EVERY == 0
    return images.take(~is_held), images.take(is_held)


def halve_and_export(run: Path) -> checkpoint.Checkpoint:
    """Save the weights of a trained run as float16, export its network to ONNX, and return the run."""
    trained = checkpoint.load(run)
    checkpoint.save(run, trained.model, trained.recipe, metrics=trained.metrics, half=True)
    onnx_export.export(run)
    return trained


def train_face(
    out: Path,
    *,
    root: Path,
    cache: Path,
    overrides: list[str] | None = None,
    workers: int = 1,
    log: Callable[[str], None] = print,
) -> Path:
    """Train the face network into `out`; an unfinished run goes on. Returns `out`, a checkpoint with its ONNX network.

    Args:
        root: folder of FER+. cache: folder of aligned faces. overrides: of the recipe. workers: processes that align.
    """
    recipe = config.load(RECIPE, overrides or [], check=models.problems)
    if (out / "network.onnx").is_file():
        return out
    train, _ = held_out(load_faces(root, "train", cache, recipe, workers=workers, log=log))
    val = load_faces(root, "val", cache, recipe, workers=workers, log=log)
    steps = steps_of(recipe, train, train)
    log(f"training the face network on {len(train)} faces, {steps} steps")

    def on_epoch(epoch: int, report: dict[str, float]) -> None:
        if epoch % 3 == 1 or "val_macro_f1" in report:
            log(f"  step {report['step']:.0f}, loss {report['loss']:.3f} {report.get('val_macro_f1', '')}")

    fit_images(
        recipe, train, None, val, out, steps=steps, ratio=0, epoch_steps=max(1, steps // recipe.train.epochs),
        resume=out.exists(), on_epoch=on_epoch,
    )  # fmt: skip
    trained = halve_and_export(out)
    some = np.random.default_rng(0).choice(len(train), CALIBRATION, replace=False)
    size = next(iter(trained.recipe.features.values())).dim or 0
    agreement = onnx_export.export_int8(out, centre(train.images[np.sort(some)], size))
    log(f"in 8 bits {agreement:.1%} of the training faces keep their class")
    return out


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override of the recipe")
    parser.add_argument("--ferplus", type=Path, required=True, help="folder of FER+")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--cache", type=Path, help="folder of the aligned faces; by default OUT-faces")
    options = parser.parse_args()
    cache = options.cache or options.out.with_name(options.out.name + "-faces")
    train_face(options.out, root=options.ferplus, cache=cache, overrides=options.overrides, workers=os.cpu_count() or 1)


if __name__ == "__main__":
    main()
