"""Corpora of single faces: class folders, RAF-DB and AffectNet as they are handed out, as arrays of one size.

    folder/<class>/*.jpg, or folder/<split>/<class>/*.jpg
    RAF-DB:    EmoLabel/list_patition_label.txt (their spelling) and Image/aligned/<name>_aligned.jpg
    AffectNet: <split>_set/images/<id>.jpg and <split>_set/annotations/<id>_exp.npy

The two corpora are under agreements and are not here: their readers follow their published descriptions, and tests
plant files in these layouts. AffectNet's eighth class, Contempt, is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from mien.errors import CorpusError
from mien.labels import EXPRESSIONS, UNLABELLED
from mien.records import ImageSet

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
#: RAF-DB counts from 1, AffectNet from 0.
RAFDB = ("", "Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger", "Neutral")
AFFECTNET = ("Neutral", "Happiness", "Sadness", "Surprise", "Fear", "Disgust", "Anger")
Listing = list[tuple[Path, int]]


def class_folders(root: Path, split: str, classes: Sequence[str]) -> Listing:
    """Pictures by the name of their folder; a folder called `unlabelled` holds those without a class."""
    base = root / split if (root / split).is_dir() else root
    found: Listing = []
    for folder in sorted(p for p in base.iterdir() if p.is_dir()):
        name = next((c for c in classes if c.lower() == folder.name.lower()), None)
        if name is None and folder.name != "unlabelled":
            raise CorpusError(
                f"{folder} is named after no class; they are {', '.join(classes)}",
                remedy="name corpus.labels after the folders, or move it away",
            )
        label = classes.index(name) if name is not None else UNLABELLED
        found += [(p, label) for p in sorted(folder.rglob("*")) if p.suffix.lower() in SUFFIXES]
    return found


def rafdb(root: Path, split: str, classes: Sequence[str]) -> Listing:
    """Its basic expressions; the test part serves as `val` and `test`."""
    path = root / "EmoLabel" / "list_patition_label.txt"
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise CorpusError(f"{path}: {error.strerror}", remedy="ROOT is RAF-DB's folder `basic`") from None
    part, found = "train" if split == "train" else "test", []
    for number, line in enumerate(lines, 1):
        name, _, code = line.partition(" ")
        if code.strip() not in "1234567" or not code.strip():
            raise CorpusError(f"{path}:{number}: {line!r} is not NAME CLASS with a class of 1 to 7")
        if name.startswith(part) and RAFDB[int(code)] in classes:
            file = root / "Image" / "aligned" / f"{Path(name).stem}_aligned.jpg"
            found.append((file, classes.index(RAFDB[int(code)])))
    return found


def affectnet(root: Path, split: str, classes: Sequence[str]) -> Listing:
    """`train_set`, `val_set`."""
    base = root / f"{'train' if split == 'train' else 'val'}_set"
    if not (base / "annotations").is_dir():
        raise CorpusError(f"{base} has no annotations", remedy="ROOT holds train_set and val_set")
    found = []
    for path in sorted((base / "annotations").glob("*_exp.npy")):
        code = int(np.load(path, allow_pickle=False))
        if code < len(AFFECTNET) and AFFECTNET[code] in classes:
            found.append(
                (base / "images" / f"{path.name.removesuffix('_exp.npy')}.jpg", classes.index(AFFECTNET[code]))
            )
    return found


READERS: dict[str, Callable[[Path, str, Sequence[str]], Listing]] = {
    "class-folders": class_folders,
    "rafdb": rafdb,
    "affectnet": affectnet,
}


def load(listing: Listing, size: int) -> ImageSet:
    """The pictures of a listing, squared (black beside) and resized. Raises CorpusError naming one that cannot be
    read, or if there is none."""
    if not listing:
        raise CorpusError("not one picture was found", remedy="check the root and the names of the classes")
    images = np.zeros((len(listing), size, size, 3), np.uint8)
    for row, (path, _) in zip(images, listing, strict=True):
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            raise CorpusError(f"{path} is no picture that can be read", remedy="remove it from the corpus")
        row[:] = squared(image[..., ::-1], size)
    return ImageSet(images, np.array([label for _, label in listing]))


def squared(image: np.ndarray, size: int) -> np.ndarray:
    """The whole picture in a black square of `size`."""
    height, width = image.shape[:2]
    scale = size / max(height, width)
    new = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(np.ascontiguousarray(image), new, interpolation=cv2.INTER_AREA)
    out = np.zeros((size, size, 3), np.uint8)
    y, x = (size - new[1]) // 2, (size - new[0]) // 2
    out[y : y + new[1], x : x + new[0]] = small
    return out


def names() -> tuple[str, ...]:
    """Class names of the corpora of seven expressions, in Aff-Wild2's order without Other."""
    return EXPRESSIONS[:7]
