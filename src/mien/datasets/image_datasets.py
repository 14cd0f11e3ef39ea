"""The pictures a recipe of single faces trains on: a corpus with labels, of which some are used, and unlabelled
faces."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, ValidationError

from mien import config
from mien.config import Count, Recipe, Section
from mien.datasets import face_images
from mien.datasets.affwild2_layout import VIDEO_SUFFIXES
from mien.errors import ConfigError, MediaError
from mien.faces.align import align
from mien.faces.tracker import FaceTracker
from mien.labels import EXPRESSIONS, UNLABELLED
from mien.media.video import frames
from mien.records import ImageSet
from mien.synthetic.face_images import DOWN, MARGIN, stills

#: Faces a second taken of unlabelled videos.
VIDEO_HZ = 2.0


class ImageOptions(Section):
    """`corpus.options`: labelled, a class, drawn with the recipe's seed (None: all); unlabelled, a folder of pictures
    or videos, whose faces are found (None: the rest of the corpus); size, of the pictures; people, of the synthetic
    corpus."""

    labelled: Count | None = 40
    unlabelled: str | None = None
    size: Annotated[int, Field(ge=16)] = 112
    people: Count = 100


def gather_pictures(
    recipe: Recipe, root: Path | None, *, workers: int = 1
) -> tuple[ImageSet, ImageSet, ImageSet | None]:
    """Labelled, unlabelled and validation pictures. Raises ConfigError for an unknown corpus, wrong options, or a root
    that is missing; CorpusError for what cannot be read."""
    try:
        options = ImageOptions(**recipe.corpus.options)
    except ValidationError as error:
        raise config.refusal("corpus", config.explain(error, ImageOptions, "corpus.options")) from None
    classes, name = recipe.corpus.labels, recipe.corpus.name
    val: ImageSet | None
    if name == "synthetic":
        if tuple(classes) != EXPRESSIONS:
            raise ConfigError(
                f"the synthetic corpus plays {', '.join(EXPRESSIONS)}", remedy="set corpus.labels to these"
            )
        size, seed = options.size, recipe.train.seed
        whole = stills("train", options.people, size=size, seed=seed, workers=workers)
        val = stills("val", max(1, options.people // 4), size=size, seed=seed, workers=workers)
    elif name in face_images.READERS:
        if root is None:
            raise ConfigError(f"{name} lies on disk", follows="nothing was started", remedy="say where: --root DIR")
        whole = face_images.load(face_images.READERS[name](root, "train", classes), options.size)
        listing = face_images.READERS[name](root, "val", classes)
        val = face_images.load(listing, options.size) if name != "class-folders" or (root / "val").is_dir() else None
    else:
        known = ["synthetic", *face_images.READERS]
        raise ConfigError(
            f"corpus.name: {name!r} has no single pictures{config.nearest(name, known)}", remedy=", ".join(known)
        )
    labelled = drawn(whole, options.labelled, recipe.train.seed)
    unlabelled = videos(Path(options.unlabelled), options.size, *framing(recipe)) if options.unlabelled else whole
    return labelled, unlabelled, val


def drawn(whole: ImageSet, each: int | None, seed: int) -> ImageSet:
    """`each` labelled pictures of every class (all it has, where it has fewer); None: all."""
    rng, kept = np.random.default_rng(seed), []
    for c in np.unique(whole.labels[whole.labels >= 0]):
        places = rng.permutation(np.flatnonzero(whole.labels == c))
        kept.append(places[:each])
    return whole.take(np.concatenate(kept)) if kept else whole


def framing(recipe: Recipe) -> tuple[float, float]:
    """How faces lie in the recipe's pictures: margin and down of `mien.faces.align.align`. The synthetic corpus's
    run from brow to chin; corpora of aligned faces follow the five-point template."""
    return (MARGIN, DOWN) if recipe.corpus.name == "synthetic" else (0.0, 0.0)


def videos(folder: Path, size: int, margin: float = 0.0, down: float = 0.0) -> ImageSet:
    """Aligned faces of a folder of videos, two a second, or the pictures that lie in it as they are."""
    found: list[np.ndarray] = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES):
        reader, due = FaceTracker(), 0.0
        try:
            for frame in frames(path):
                if frame.time_s >= due:
                    due += 1 / VIDEO_HZ
                    found += [align(frame.image, face.mesh, size, margin, down) for face in reader(frame)]
        except MediaError:
            continue  # one broken video of many unlabelled ones teaches nothing and costs nothing
    still = [(p, UNLABELLED) for p in sorted(folder.rglob("*")) if p.suffix.lower() in face_images.SUFFIXES]
    if still:
        found += list(face_images.load(still, size).images)
    if not found:
        raise ConfigError(f"{folder} holds no face: no video or picture with one", follows="nothing was started")
    return ImageSet(np.stack(found), np.full(len(found), UNLABELLED))
