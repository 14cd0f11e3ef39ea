"""Readers of face image datasets: class folders, RAF-DB and AffectNet, loaded as arrays of one size.

    class folders: <root>/<class>/*.jpg, or <root>/<split>/<class>/*.jpg
    RAF-DB:        EmoLabel/list_patition_label.txt (the corpus's spelling) and Image/aligned/<name>_aligned.jpg
    AffectNet:     <split>_set/images/<id>.jpg and <split>_set/annotations/<id>_exp.npy
    FER+:          see `mien.datasets.ferplus`

Sources: Li, Deng, Du 2017, RAF-DB (CVPR); Mollahosseini, Hasani, Mahoor 2017, AffectNet (arXiv:1708.03985). RAF-DB and
AffectNet need an agreement, so their readers follow the published descriptions and are tested on generated files only.
AffectNet's eighth class, Contempt, is left out, because `EXPRESSIONS` has no such class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from mien.datasets import ferplus
from mien.errors import CorpusError
from mien.labels import UNLABELLED
from mien.records import ImageSet

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
#: Class names by the number in the label files: RAF-DB counts from 1, AffectNet from 0.
RAFDB = ("", "Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger", "Neutral")
AFFECTNET = ("Neutral", "Happiness", "Sadness", "Surprise", "Fear", "Disgust", "Anger")
#: Image files or pixels `(height, width, 3)` uint8 RGB, each with its class index or -1.
Listing = list[tuple[Path | np.ndarray, int]]


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
        listing += [(p, label) for p in sorted(folder.rglob("*")) if p.suffix.lower() in SUFFIXES]
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
            listing.append((file, classes.index(RAFDB[int(code)])))
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
            listing.append((file, classes.index(AFFECTNET[code])))
    return listing


#: `corpus.name` of a recipe -> lists the images of (root, split, classes).
READERS: dict[str, Callable[[Path, str, Sequence[str]], Listing]] = {
    "class-folders": list_class_folders,
    "rafdb": list_rafdb,
    "affectnet": list_affectnet,
    "ferplus": lambda root, split, classes: ferplus.list_votes(root, split, classes)[0],
}
#: Corpora with soft labels: lists images as `READERS`, with soft labels `(n, classes)` whose rows sum to 1.
SOFT_READERS: dict[str, Callable[[Path, str, Sequence[str]], tuple[Listing, np.ndarray]]] = {
    "ferplus": ferplus.list_votes,
}


def load_images(listing: Sequence[tuple[Path, int]] | Listing, size: int) -> ImageSet:
    """Load images as `(n, size, size, 3)` uint8 RGB, each in full on a black square.

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
    for row, (source, _) in zip(images, listing, strict=True):
        row[:] = pad_to_square(read_image(source), size)
    return ImageSet(images, np.array([label for _, label in listing]))


def read_image(source: Path | np.ndarray) -> np.ndarray:
    """Pixels `(height, width, 3)` uint8 RGB of an image of a listing. Raises CorpusError for an unreadable file."""
    if isinstance(source, np.ndarray):
        return source
    image = cv2.imread(str(source), cv2.IMREAD_COLOR)
    if image is None:
        raise CorpusError(
            f"{source} cannot be read as an image",
            follows="Nothing was loaded.",
            remedy="Remove it from the corpus, or copy it again.",
        )
    return np.ascontiguousarray(image[..., ::-1])


def pad_to_square(image: np.ndarray, size: int) -> np.ndarray:
    """Scale an image `(height, width, 3)` uint8 into the centre of a black square `(size, size, 3)`."""
    height, width = image.shape[:2]
    scale = size / max(height, width)
    new = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(np.ascontiguousarray(image), new, interpolation=cv2.INTER_AREA)
    out = np.zeros((size, size, 3), np.uint8)
    y, x = (size - new[1]) // 2, (size - new[0]) // 2
    out[y : y + new[1], x : x + new[0]] = small
    return out
