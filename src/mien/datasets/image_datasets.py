"""Labelled, unlabelled and validation images for recipes that train on single face images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, ValidationError

from mien import config
from mien.config import Count, Recipe, Section, Share
from mien.datasets import face_images
from mien.datasets.affwild2_layout import VIDEO_SUFFIXES
from mien.datasets.aligned_faces import load_aligned_faces
from mien.encoders.protocol import Crop
from mien.errors import ConfigError, MediaError
from mien.faces.align import align
from mien.faces.tracker import FaceTracker
from mien.labels import EXPRESSIONS, UNLABELLED
from mien.media.video import frames
from mien.records import ImageSet
from mien.synthetic.face_images import CROP_DOWN, CROP_MARGIN, render_faces

#: Frames a second of unlabelled videos that are searched for faces. Our choice: neighbouring frames are nearly equal.
VIDEO_HZ = 2.0


class ImageOptions(Section):
    """`corpus.options` of a recipe that trains on face images.

    labelled: labelled images of each class, sampled with the recipe's seed; None: all. unlabelled: folder of face
    images, and of videos in which faces are detected; None: all images of the corpus, their labels unused. size: side
    of the network's input, pixels. people: subjects of the synthetic corpus.

    align: detect the face in each image and align it with `margin` and `down` (`mien.faces.align.align`), as prediction
    does, for corpora whose faces are not aligned. room: surroundings of an aligned face that are kept for the
    augmentation, as a share of `size`. augment: views of labelled images, `weak` (`mien.data.image_augment`) or
    `capture` (`mien.data.capture_augment`). plurality: of `ferplus`, whether the class with the most votes is the label
    of an image; otherwise a class needs more than half of all votes. With `labelled` None, training also uses the soft
    labels of images without a majority.
    """

    labelled: Count | None = 40
    unlabelled: str | None = None
    size: Annotated[int, Field(ge=16)] = 112
    people: Count = 100
    align: bool = False
    margin: Annotated[float, Field(gt=-0.5)] = 0.0
    down: float = 0.0
    room: Share = 0.0
    augment: Literal["weak", "capture"] = "weak"
    plurality: bool = False


def load_image_sets(
    recipe: Recipe,
    root: Path | None,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[ImageSet, ImageSet, ImageSet | None]:
    """Load the labelled, unlabelled and validation images of a recipe; None without validation images.

    Args:
        root: the corpus's folder; not needed for `synthetic`.
        workers: processes that render the synthetic corpus, or align faces.
        progress: called with the number of aligned images and of all images of a split.

    Raises:
        ConfigError: an unknown corpus, wrong options, or a missing root.
        CorpusError: a file of the corpus cannot be read.
    """
    options = image_options(recipe)
    classes, name = recipe.corpus.labels, recipe.corpus.name
    val: ImageSet | None = None
    if name == "synthetic":
        if tuple(classes) != EXPRESSIONS:
            raise ConfigError(
                f"corpus.labels: the synthetic corpus has {', '.join(EXPRESSIONS)}, not {', '.join(classes)}",
                follows="Nothing was started.",
                remedy="Omit corpus.labels, or set it to these eight.",
            )
        size, seed = options.size, recipe.train.seed
        whole = render_faces("train", options.people, size=size, seed=seed, workers=workers)
        val = render_faces("val", max(1, options.people // 4), size=size, seed=seed, workers=workers)
    elif name in face_images.READERS:
        if root is None:
            raise ConfigError(
                f"{name} is read from a folder, and none is given",
                follows="Nothing was started.",
                remedy="Name its folder with --root DIR.",
            )
        whole = _load_split(name, root, "train", recipe, workers, progress)
        if name != "class-folders" or (root / "val").is_dir():
            val = _load_split(name, root, "val", recipe, workers, progress)
    else:
        known = ["synthetic", *face_images.READERS]
        raise ConfigError(
            f"corpus.name: {name!r} is not an image dataset{config.nearest(name, known)}",
            follows="Nothing was started.",
            remedy=f"Use one of {', '.join(known)}.",
        )
    labelled = sample_per_class(whole, options.labelled, recipe.train.seed)
    unlabelled = whole
    if options.unlabelled:
        unlabelled = load_unlabelled_faces(Path(options.unlabelled), options.size, *crop_framing(recipe))
    return labelled, unlabelled, val


def image_options(recipe: Recipe) -> ImageOptions:
    """`corpus.options` of an image recipe. Raises ConfigError with every problem."""
    try:
        return ImageOptions(**recipe.corpus.options)
    except ValidationError as error:
        raise config.refusal("corpus", config.explain(error, ImageOptions, "corpus.options")) from None


def _load_split(
    name: str, root: Path, split: str, recipe: Recipe, workers: int, progress: Callable[[int, int], None]
) -> ImageSet:
    options = image_options(recipe)
    reader = face_images.READERS[name]
    if options.plurality:
        if name != "ferplus":
            raise ConfigError(
                f"corpus.options.plurality: {name} has no votes",
                follows="Nothing was started.",
                remedy="Omit it; it is for ferplus.",
            )
        reader = partial(face_images.list_ferplus, plurality=True)
    listing = reader(root, split, recipe.corpus.labels)
    if not options.align or not listing:
        return face_images.load_images(listing, options.size)
    return load_aligned_faces(listing, wide_crop(options), workers=workers, progress=progress)[0]


def wide_crop(options: ImageOptions) -> Crop:
    """Crop of aligned faces with the surroundings that the augmentation reaches into."""
    return Crop(round(options.size * (1 + options.room)), (1 + options.margin) * (1 + options.room) - 1, options.down)


def sample_per_class(whole: ImageSet, count: int | None, seed: int) -> ImageSet:
    """Sample `count` labelled images of every class, or all of a class that has fewer; None: all labelled images,
    those with a soft label only included."""
    rng, sampled = np.random.default_rng(seed), []
    for c in np.unique(whole.labels[whole.labels >= 0]):
        sampled.append(rng.permutation(np.flatnonzero(whole.labels == c))[:count])
    if count is None:
        sampled.append(np.flatnonzero(whole.is_labelled & (whole.labels < 0)))
    return whole.take(np.concatenate(sampled)) if sampled else whole


#: Licence of a network that was trained on face images: mien does not know the licence of the images.
TRAINED_LICENCE = "as the images it was trained on allow"


def crop_framing(recipe: Recipe) -> tuple[float, float]:
    """Crop of the faces in a recipe's images: `margin` and `down` of `mien.faces.align.align`.

    Images of the synthetic corpus show brow to chin; corpora of aligned faces follow the five-point template, and faces
    that are aligned here the recipe's options.
    """
    if recipe.corpus.name == "synthetic":
        return CROP_MARGIN, CROP_DOWN
    return float(recipe.corpus.options.get("margin", 0.0)), float(recipe.corpus.options.get("down", 0.0))


def load_unlabelled_faces(folder: Path, size: int, margin: float = 0.0, down: float = 0.0) -> ImageSet:
    """Load a folder as unlabelled images: aligned faces of its videos, twice a second, and its image files in full.

    Videos that cannot be read are skipped. margin, down: of `mien.faces.align.align`, for the videos.

    Raises:
        ConfigError: the folder gives no image.
        CorpusError: an image file cannot be read.
    """
    faces: list[np.ndarray] = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES):
        tracker, next_s = FaceTracker(), 0.0
        try:
            for frame in frames(path):
                if frame.time_s >= next_s:
                    next_s += 1 / VIDEO_HZ
                    faces += [align(frame.image, face.mesh, size, margin, down) for face in tracker(frame)]
        except MediaError:
            continue  # there are many unlabelled videos, so a damaged one is skipped
    image_files = [
        face_images.ListedImage(p, UNLABELLED)
        for p in sorted(folder.rglob("*"))
        if p.suffix.lower() in face_images.SUFFIXES
    ]
    if image_files:
        faces += list(face_images.load_images(image_files, size).images)
    if not faces:
        raise ConfigError(
            f"corpus.options.unlabelled: {folder} holds no image, and no video with a face",
            follows="Nothing was started.",
            remedy="Name a folder of face images or videos.",
        )
    return ImageSet(np.stack(faces), np.full(len(faces), UNLABELLED))
