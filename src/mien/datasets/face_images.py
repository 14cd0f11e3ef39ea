"""Readers of face image datasets: class folders, RAF-DB, AffectNet and FER+, loaded as arrays of one size.

    class folders: <root>/<class>/*.jpg, or <root>/<split>/<class>/*.jpg
    RAF-DB:        EmoLabel/list_patition_label.txt (the corpus's spelling) and Image/aligned/<name>_aligned.jpg
    AffectNet:     <split>_set/images/<id>.jpg and <split>_set/annotations/<id>_exp.npy
    FER+:          label.csv beside the images, or fer2013.csv (`mien.datasets.ferplus`); votes give soft labels

Sources: Li, Deng, Du 2017, RAF-DB (CVPR); Mollahosseini, Hasani, Mahoor 2017, AffectNet (arXiv:1708.03985). RAF-DB and
AffectNet need an agreement, so their readers follow the published descriptions and are tested on generated files only.
AffectNet's eighth class, Contempt, is left out unless it is among the classes asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from mien.datasets import ferplus
from mien.errors import CorpusError
from mien.labels import EXPRESSIONS, UNLABELLED
from mien.records import ImageSet

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
#: Class names by the number in the label files: RAF-DB counts from 1, AffectNet from 0.
RAFDB = ("", "Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger", "Neutral")
AFFECTNET = ("Neutral", "Happiness", "Sadness", "Surprise", "Fear", "Disgust", "Anger", "Contempt")


class ListedImage(NamedTuple):
    """One image of a dataset.

    source: its file, or pixels `(height, width)` or `(height, width, 3)` uint8 RGB. label: class index or -1. soft:
    `(classes,)`, sums to 1; None without soft labels.
    """

    source: Path | np.ndarray
    label: int
    soft: np.ndarray | None = None


Listing = list[ListedImage]


def list_class_folders(root: Path, split: str, classes: Sequence[str]) -> Listing:
    """List images by class folder; a folder called `unlabelled` holds images without a class.

    Raises:
        CorpusError: a folder is named after no class.
    """
    base = root / split if (root / split).is_dir() else root
    listing: Listing = []
    for folder in sorted(p for p in base.iterdir() if p.is_dir()):
        name = next((c for c in classes if c.lower() == folder.name.lower()), None)
        if name is None and folder.name != "unlabelled":
            raise CorpusError(
                f"{folder} is not named after a class; the classes are {', '.join(classes)}",
                follows="Nothing was loaded.",
                remedy="Set corpus.labels to the names of the folders, or move this folder away.",
            )
        label = classes.index(name) if name is not None else UNLABELLED
        listing += [ListedImage(p, label) for p in sorted(folder.rglob("*")) if p.suffix.lower() in SUFFIXES]
    return listing


def list_rafdb(root: Path, split: str, classes: Sequence[str]) -> Listing:
    """List RAF-DB's images of basic expressions. Its test set serves as both `val` and `test`.

    Raises:
        CorpusError: the label file cannot be read, or a line of it is not a name and a class from 1 to 7.
    """
    path = root / "EmoLabel" / "list_patition_label.txt"
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise CorpusError(
            f"{path}: {error.strerror}", follows="Nothing was loaded.", remedy="Set --root to RAF-DB's folder `basic`."
        ) from None
    prefix = "train" if split == "train" else "test"
    listing: Listing = []
    for number, line in enumerate(lines, 1):
        name, _, code = line.partition(" ")
        if code.strip() not in "1234567" or not code.strip():
            raise CorpusError(
                f"{path}:{number}: {line!r} is not NAME CLASS with a class of 1 to 7",
                follows="Nothing was loaded.",
                remedy="Copy the label file again.",
            )
        if name.startswith(prefix) and RAFDB[int(code)] in classes:
            file = root / "Image" / "aligned" / f"{Path(name).stem}_aligned.jpg"
            listing.append(ListedImage(file, classes.index(RAFDB[int(code)])))
    return listing


def list_affectnet(root: Path, split: str, classes: Sequence[str]) -> Listing:
    """List AffectNet's images of `train_set`, or of `val_set` for every other split.

    Raises:
        CorpusError: the folder of annotations is missing.
    """
    base = root / f"{'train' if split == 'train' else 'val'}_set"
    if not (base / "annotations").is_dir():
        raise CorpusError(
            f"{base} has no annotations",
            follows="Nothing was loaded.",
            remedy="Set --root to the folder that holds train_set and val_set.",
        )
    listing: Listing = []
    for path in sorted((base / "annotations").glob("*_exp.npy")):
        code = int(np.load(path, allow_pickle=False))
        if code < len(AFFECTNET) and AFFECTNET[code] in classes:
            file = base / "images" / f"{path.name.removesuffix('_exp.npy')}.jpg"
            listing.append(ListedImage(file, classes.index(AFFECTNET[code])))
    return listing


def list_ferplus(root: Path, split: str, classes: Sequence[str], *, plurality: bool = False) -> Listing:
    """List the images of FER+ or FER2013 with hard and soft labels over `classes`; see `mien.datasets.ferplus`.

    An image whose hard label is none of `classes` is left out, and so is one without votes for any of them. The shares
    of votes for other classes are left out of the soft labels.

    Args:
        plurality: as `mien.datasets.ferplus.read_images`.

    Raises:
        CorpusError: `root` has not the layout, lacks the split, or has a row that cannot be read.
    """
    listing: Listing = []
    columns = [EXPRESSIONS.index(name) if name in EXPRESSIONS else -1 for name in classes]
    for item in ferplus.read_images(root, split, plurality=plurality):
        if item.label not in columns and item.label != UNLABELLED:
            continue
        label = columns.index(item.label) if item.label != UNLABELLED else UNLABELLED
        soft = None
        if item.soft is not None:
            soft = np.array([item.soft[column] if column >= 0 else 0.0 for column in columns], np.float32)
            if not soft.sum():
                continue
            soft /= soft.sum()
        listing.append(ListedImage(item.image, label, soft))
    return listing


#: `corpus.name` of a recipe -> lists the images of (root, split, classes).
READERS: dict[str, Callable[[Path, str, Sequence[str]], Listing]] = {
    "class-folders": list_class_folders,
    "rafdb": list_rafdb,
    "affectnet": list_affectnet,
    "ferplus": list_ferplus,
}


def load_images(listing: Listing, size: int) -> ImageSet:
    """Load images as `(n, size, size, 3)` uint8 RGB, each scaled to fit `size` in full, on black where it is no square.

    Grey images have three equal channels. An image of `size` x `size` pixels is loaded unchanged.

    Raises:
        CorpusError: the listing is empty, or an image cannot be read.
    """
    if not listing:
        raise CorpusError(
            "no image was found",
            follows="Nothing was loaded.",
            remedy="Check --root and the class names in corpus.labels.",
        )
    images = np.zeros((len(listing), size, size, 3), np.uint8)
    for row, item in zip(images, listing, strict=True):
        row[:] = pad_to_square(read_image(item.source), size)
    return labelled_set(images, listing)


def labelled_set(images: np.ndarray, listing: Listing) -> ImageSet:
    """Images `(n, size, size, 3)` uint8 with the labels of the listing that they were read from."""
    labels = np.array([item.label for item in listing])
    classes = next((len(item.soft) for item in listing if item.soft is not None), None)
    soft = None
    if classes is not None:
        unknown = np.zeros(classes, np.float32)
        soft = np.stack([unknown if item.soft is None else item.soft for item in listing])
    return ImageSet(images, labels, soft=soft)


def read_image(source: Path | np.ndarray) -> np.ndarray:
    """Read an image: `(height, width, 3)` uint8 RGB, of a file or of pixels (`ListedImage.source`).

    Raises:
        CorpusError: the file cannot be read as an image.
    """
    if isinstance(source, np.ndarray):
        return source if source.ndim == 3 else np.repeat(source[..., None], 3, axis=2)
    image = cv2.imread(str(source), cv2.IMREAD_COLOR)
    if image is None:
        state = "cannot be read as an image" if source.is_file() else "is missing"
        raise CorpusError(
            f"{source} {state}",
            follows="Nothing was loaded.",
            remedy="Remove it from the corpus, or copy it again.",
        )
    rgb: np.ndarray = image[..., ::-1]
    return rgb


def pad_to_square(image: np.ndarray, size: int) -> np.ndarray:
    """Scale an image `(height, width, 3)` uint8 into the centre of a black square `(size, size, 3)`."""
    height, width = image.shape[:2]
    scale = size / max(height, width)
    new = max(1, round(width * scale)), max(1, round(height * scale))
    # The area filter repeats pixels where it enlarges, which gives blocks.
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(np.ascontiguousarray(image), new, interpolation=method)
    out = np.zeros((size, size, 3), np.uint8)
    y, x = (size - new[1]) // 2, (size - new[0]) // 2
    out[y : y + new[1], x : x + new[0]] = small
    return out
