"""Reader of FER2013 and FER+: grey face images of 48 x 48 pixels, FER+ with the votes of ten raters.

    folders:  FER2013Train|FER2013Valid|FER2013Test/<name>.png, each folder with label.csv, whose rows are the name, the
              box "(0, 0, 48, 48)", and the votes
    Kaggle:   fer2013.csv (emotion,pixels,Usage), which holds the images as numbers
    Kaggle with votes: fer2013.csv, and fer2013new.csv (Usage,Image name, and the votes) with its rows in the same order

The votes are those for neutral, happiness, surprise, sadness, anger, disgust, fear, contempt, unknown, and no face.
They become soft labels over mien's classes: the shares of the votes, without those for no face. Contempt and unknown
count as Other, because mien has no such class. The hard label is the class with more than half of all votes; other
images are unlabelled, unless the class with most votes is asked for. Images for which no class has more votes than `no
face` are left out, and so are images that FER+ removed (fer2013new.csv has no name for them). fer2013.csv alone has one
label for each image, and no class Other.

`read` and `labels` make clips of the folder layout, one for each image with a hard label (`mien.datasets.index`). They
have no soft labels; recipes on images use them (`mien.datasets.face_images`).

Splits `train`, `val` and `test` are Training, PublicTest and PrivateTest.

Sources: Goodfellow et al. 2013, Challenges in Representation Learning (arXiv 1307.0414), FER2013; Barsoum, Zhang,
Canton Ferrer, Zhang 2016, Training Deep Networks for Facial Expression Recognition with Crowd-Sourced Label
Distribution (arXiv 1608.01041), FER+.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mien.datasets.index_entries import ERROR, NOTE, CorpusContents, Entry, Problem, Stamp
from mien.errors import CorpusError
from mien.labels import (
    ANGER,
    DISGUST,
    EXPRESSIONS,
    FEAR,
    HAPPINESS,
    NEUTRAL,
    OTHER,
    SADNESS,
    SURPRISE,
    UNLABELLED,
)
from mien.records import Labels

#: Class of the votes of FER+, in their order; the tenth vote is for no face.
VOTES = (NEUTRAL, HAPPINESS, SURPRISE, SADNESS, ANGER, DISGUST, FEAR, OTHER, OTHER)
#: Class of the numbers in fer2013.csv.
KAGGLE = (ANGER, DISGUST, FEAR, HAPPINESS, SADNESS, SURPRISE, NEUTRAL)
#: Split -> folder, and value of the column Usage.
FOLDERS = {"train": "FER2013Train", "val": "FER2013Valid", "test": "FER2013Test"}
USAGES = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}
IMAGES, NEW_LABELS, LABELS = "fer2013.csv", "fer2013new.csv", "label.csv"
#: `labels`: whether a class needs more than half of all votes, or the most.
OPTIONS: dict[str, tuple[str, ...]] = {"labels": ("majority", "plurality")}
#: Side of the images, pixels.
SIDE = 48
_VOTE_COLUMNS = len(VOTES) + 1
_LAYOUT = f"Name the folder that holds {', '.join(FOLDERS.values())}, or {IMAGES}."


@dataclass(frozen=True, slots=True)
class FaceImage:
    """One image of FER2013.

    name: its file name, or `fer0000000` with the row of fer2013.csv. image: its file, or pixels `(48, 48)` uint8.
    label: class index of EXPRESSIONS, or -1. soft: `(8,)`, sums to 1; None without votes.
    """

    name: str
    image: Path | np.ndarray
    label: int
    soft: np.ndarray | None


def read_images(root: Path, split: str, *, plurality: bool = False) -> list[FaceImage]:
    """Read the images of a split with their labels, in the order of the label file. PNG files are not opened.

    Args:
        split: `train`, `val` or `test`.
        plurality: whether the class with the most votes is the hard label, the first of equals in the order of
            EXPRESSIONS; otherwise it needs more than half of all votes.

    Raises:
        CorpusError: `root` has neither layout, lacks the split, or has a row that cannot be read.
    """
    if (root / FOLDERS[split]).is_dir():
        return list(_read_folder(root / FOLDERS[split], plurality))
    if (root / IMAGES).is_file():
        return list(_read_table(root, split, plurality))
    present = [name for name in FOLDERS.values() if (root / name).is_dir()]
    raise CorpusError(
        f"{root} has no {FOLDERS[split]} (split {split}); it has {', '.join(present)}"
        if present
        else f"{root} is not FER2013 or FER+: it holds neither {FOLDERS[split]} nor {IMAGES}",
        follows="Nothing was loaded.",
        remedy=f"Copy {FOLDERS[split]} into this folder, or use another split." if present else _LAYOUT,
    )


def read(
    root: Path, *, options: Mapping[str, str] | None = None, progress: Callable[[int, int], None] | None = None
) -> CorpusContents:
    """List the images of the folder layout that have a hard label, one clip each. The people are unknown.

    Args:
        options: `labels`: `majority` (default), or `plurality`, which also uses images on which fewer than half of the
            raters agree.
        progress: called with (images done, images in total of a split).

    Raises:
        CorpusError: `root` has another layout, such as fer2013.csv, which holds no image files; or a row cannot be
            read.
    """
    root = Path(root)
    splits = [split for split, name in FOLDERS.items() if (root / name).is_dir()]
    if not splits and (root / IMAGES).is_file():
        raise CorpusError(
            f"{root / IMAGES} holds images as numbers; an index lists image files",
            follows="Nothing was indexed.",
            remedy=f"Train on single images: mien train dynamic_threshold --root {root} corpus.name=ferplus",
        )
    if not splits:
        raise CorpusError(
            f"{root} is not FER+: it holds none of {', '.join(FOLDERS.values())}",
            follows="Nothing was indexed.",
            remedy=f"Name the folder that holds {FOLDERS['train']}.",
        )
    plurality = (options or {}).get("labels") == "plurality"
    entries: list[Entry] = []
    problems: list[Problem] = []
    for split in splits:
        images = read_images(root, split, plurality=plurality)
        unlabelled = sum(image.label == UNLABELLED for image in images)
        if unlabelled:
            what, rule = (
                f"{unlabelled} images have no majority",
                "they are left out; --option labels=plurality adds them",
            )
            problems.append(Problem(NOTE, "no majority", f"{FOLDERS[split]}/{LABELS}", None, what, rule))
        for done, image in enumerate(images, 1):
            if image.label != UNLABELLED:
                _add_entry(root, split, image, entries, problems)
            if progress:
                progress(done, len(images))
    counts = Counter(EXPRESSIONS[int(entry.labels["expr"])] for entry in entries)
    return CorpusContents(entries, problems, counts={"images": {k: counts[k] for k in EXPRESSIONS if counts[k]}})


def labels(root: Path, entry: Entry, tasks: Sequence[str], classes: Sequence[str] = EXPRESSIONS) -> Labels:
    """Labels of an image: its class at time 0, and no valence or arousal (NaN)."""
    return Labels(np.zeros(1), np.array([int(entry.labels["expr"])]), np.full((1, 2), np.nan))


def _add_entry(root: Path, split: str, image: FaceImage, entries: list[Entry], problems: list[Problem]) -> None:
    """Add the entry of an image, or the problem that its file is missing."""
    file = f"{FOLDERS[split]}/{image.name}"
    try:
        stamp = Stamp.of(root / file)
    except OSError as error:
        what = error.strerror or str(error)
        problems.append(Problem(ERROR, "unreadable media", file, None, what, "the clip is left out"))
        return
    entries.append(
        Entry(
            Path(image.name).stem, file, splits={"expr": split}, labels={"expr": image.label}, rows=1, stamp=stamp,
            duration_s=0.0, has_video=True,
        )
    )  # fmt: skip


def is_ferplus(root: Path) -> bool:
    """Whether a folder has one of the layouts."""
    return (root / IMAGES).is_file() or any((root / name / LABELS).is_file() for name in FOLDERS.values())


def splits_in(root: Path) -> list[str]:
    """Splits that a folder has; fer2013.csv has all three."""
    folders = [split for split, name in FOLDERS.items() if (root / name / LABELS).is_file()]
    return folders or (list(USAGES) if (root / IMAGES).is_file() else [])


def soft_label(votes: Sequence[int] | np.ndarray) -> np.ndarray | None:
    """Soft label `(8,)` of ten votes; None if the image is left out: no class has more votes than `no face`."""
    counts = np.bincount(VOTES, weights=np.asarray(votes[:-1], float), minlength=len(EXPRESSIONS))
    if counts.max() <= votes[-1]:
        return None
    shares: np.ndarray = counts / counts.sum()
    return shares.astype(np.float32)


def hard_label(votes: Sequence[int] | np.ndarray, *, plurality: bool = False) -> int:
    """Class of ten votes with more than half of all of them, or with `plurality` the most; -1 if there is none."""
    counts = np.bincount(VOTES, weights=np.asarray(votes[:-1], float), minlength=len(EXPRESSIONS))
    best = int(counts.argmax())
    return best if plurality or 2 * counts[best] > sum(votes) else UNLABELLED


def _read_folder(folder: Path, plurality: bool) -> Iterator[FaceImage]:
    """The images of one split of the folder layout."""
    path = folder / LABELS
    for line, row in _rows(path):
        if len(row) != 2 + _VOTE_COLUMNS:
            raise _bad_row(path, line, row, f"it has {len(row)} columns, not {2 + _VOTE_COLUMNS}")
        votes = _votes(path, line, row)
        soft = soft_label(votes)
        if soft is not None:
            yield FaceImage(row[0], folder / row[0], hard_label(votes, plurality=plurality), soft)


def _read_table(root: Path, split: str, plurality: bool) -> Iterator[FaceImage]:
    """The images of one split of fer2013.csv, with the votes of fer2013new.csv where it exists."""
    path = root / IMAGES
    votes_of = _read_votes(root / NEW_LABELS)
    count = 0
    for number, (line, row) in enumerate(_rows(path, header="emotion")):
        count = number + 1
        if len(row) != 3 or not row[0].strip().isdigit() or int(row[0]) >= len(KAGGLE):
            raise _bad_row(path, line, row, "it is not emotion (0 to 6), pixels and Usage")
        if votes_of is not None and number >= len(votes_of):
            break
        if row[2].strip() != USAGES[split]:
            continue
        label, soft = KAGGLE[int(row[0])], None
        if votes_of is not None:
            votes = votes_of[number]
            soft = None if votes is None else soft_label(votes)
            if votes is None or soft is None:
                continue
            label = hard_label(votes, plurality=plurality)
        yield FaceImage(f"fer{number:07d}", _pixels(path, line, row[1]), label, soft)
    if votes_of is not None and count != len(votes_of):
        raise CorpusError(
            f"{root / NEW_LABELS} has {len(votes_of)} rows and {IMAGES} {'more' if count > len(votes_of) else count}; "
            "the rows belong together in their order",
            follows="Nothing was loaded.",
            remedy=f"Use the published {NEW_LABELS}, or remove it to use the labels of {IMAGES}.",
        )


def _read_votes(path: Path) -> list[tuple[int, ...] | None] | None:
    """Votes of each row of fer2013new.csv, None for an image that FER+ removed; None if there is no such file."""
    if not path.is_file():
        return None
    votes: list[tuple[int, ...] | None] = []
    for line, row in _rows(path, header="Usage"):
        if len(row) != 2 + _VOTE_COLUMNS:
            raise _bad_row(path, line, row, f"it has {len(row)} columns, not {2 + _VOTE_COLUMNS}")
        votes.append(_votes(path, line, row) if row[1].strip() else None)
    return votes


def _rows(path: Path, header: str = "") -> Iterator[tuple[int, list[str]]]:
    """Lines (from 1) and rows of a CSV file, without the header, if its first cell is `header`, and empty rows."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            for row in reader:
                if row and not (reader.line_num == 1 and header and row[0].strip() == header):
                    yield reader.line_num, row
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else error
        raise CorpusError(f"{path}: {what}", follows="Nothing was loaded.", remedy="Copy the file again.") from None


def _votes(path: Path, line: int, row: list[str]) -> tuple[int, ...]:
    cells = [cell.strip() for cell in row[2:]]
    if not all(cell.isdigit() for cell in cells):
        raise _bad_row(path, line, row, "a number of votes is not a whole number")
    return tuple(map(int, cells))


def _pixels(path: Path, line: int, text: str) -> np.ndarray:
    """Pixels `(48, 48)` uint8 of a row of fer2013.csv."""
    try:
        values = np.array(text.split(), np.int64)
    except (ValueError, OverflowError):
        values = np.zeros(0, np.int64)
    if len(values) != SIDE * SIDE or values.min() < 0 or values.max() > 255:
        raise _bad_row(path, line, [text], f"pixels is not {SIDE * SIDE} numbers from 0 to 255")
    return values.astype(np.uint8).reshape(SIDE, SIDE)


def _bad_row(path: Path, line: int, row: list[str], what: str) -> CorpusError:
    text = ",".join(row)
    return CorpusError(
        f"{path}:{line}: {text[:60] + '...' if len(text) > 60 else text!r}: {what}",
        follows="Nothing was loaded.",
        remedy="Copy the file of the corpus again.",
    )
