"""Dataset reader for FER2013 and its crowd-sourced labels FER+.

Sources: Goodfellow et al. 2013, Challenges in Representation Learning (arXiv 1307.0414), 35,887 grey faces of 48 x 48
pixels; Barsoum, Zhang, Canton Ferrer, Zhang 2016, Training Deep Networks for Facial Expression Recognition with
Crowd-Sourced Label Distribution (arXiv 1608.01041), ten votes for each. The root holds one of

* `FER2013Train/`, `FER2013Valid/`, `FER2013Test/` with PNG files and `label.csv`: file, box, ten votes;
* `fer2013.csv` (emotion, pixels, Usage) with `fer2013new.csv` beside it (Usage, Image name, ten votes), in equal order;
* `fer2013.csv` alone, with FER2013's own labels, one class for each image.

Votes become soft labels over the classes. Contempt and unknown count as Other where that is a class, and are left out
otherwise. Images for which most voters saw no face, or without votes for any class, are left out.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mien.errors import CorpusError
from mien.labels import UNLABELLED

#: Splits: the folder of FER+, and `Usage` in the CSV files.
FOLDERS = {"train": "FER2013Train", "val": "FER2013Valid", "test": "FER2013Test"}
USAGES = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}
#: The class of each vote; None counts towards no class.
VOTES: tuple[str | None, ...] = (
    "Neutral", "Happiness", "Surprise", "Sadness", "Anger", "Disgust", "Fear", "Other", "Other", None,
)  # fmt: skip
#: FER2013's own labels by number.
FER2013 = ("Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise", "Neutral")
SIDE = 48


@dataclass(frozen=True, slots=True)
class VotedImage:
    """A face image. source: its file, or its pixels `(48, 48, 3)` uint8. votes: `(10,)` votes in the order of `VOTES`,
    or a single vote for an image with FER2013's label."""

    source: Path | np.ndarray
    votes: np.ndarray


def list_votes(
    root: Path, split: str, classes: Sequence[str]
) -> tuple[list[tuple[Path | np.ndarray, int]], np.ndarray]:
    """List the images of a split with their labels.

    Returns:
        Image files or pixels, each with the class that has more than half of all ten votes, -1 without one; and soft
        labels `(n, classes)`, whose rows sum to 1.

    Raises:
        CorpusError: `root` has none of the layouts, the split is missing, or a line cannot be read.
    """
    listing: list[tuple[Path | np.ndarray, int]] = []
    soft = []
    columns = [classes.index(name) if name in classes else -1 for name in VOTES]
    for image in _images(Path(root), split):
        shares = np.zeros(len(classes) + 1)  # the last one collects votes that count towards no class
        np.add.at(shares, columns, image.votes)
        total = image.votes.sum()
        if image.votes[-1] * 2 > total or not shares[:-1].sum():
            continue
        best = int(shares[:-1].argmax())
        listing.append((image.source, best if shares[best] * 2 > total else UNLABELLED))
        soft.append(shares[:-1] / shares[:-1].sum())
    return listing, np.array(soft, np.float32).reshape(-1, len(classes))


def _images(root: Path, split: str) -> Iterator[VotedImage]:
    if (root / FOLDERS["train"]).is_dir() or (root / FOLDERS.get(split, split)).is_dir():
        yield from _folder(root, split)
    elif (root / "fer2013.csv").is_file():
        yield from _csv(root, split)
    else:
        raise CorpusError(
            f"{root} holds neither {FOLDERS['train']}/label.csv nor fer2013.csv",
            follows="Nothing was loaded.",
            remedy="Set --root to the folder of FER+ (FER2013Train, FER2013Valid, FER2013Test) or of fer2013.csv.",
        )


def _folder(root: Path, split: str) -> Iterator[VotedImage]:
    folder = root / FOLDERS[split]
    for number, row in _rows(folder / "label.csv"):
        votes = _numbers(row[2:12], folder / "label.csv", number)
        if len(votes) != len(VOTES):
            raise _bad_line(folder / "label.csv", number, f"{len(votes)} votes instead of {len(VOTES)}")
        yield VotedImage(folder / row[0], votes)


def _csv(root: Path, split: str) -> Iterator[VotedImage]:
    path, voted = root / "fer2013.csv", root / "fer2013new.csv"
    votes_of = [row for _, row in _rows(voted)][1:] if voted.is_file() else None
    for number, row in _rows(path):
        if number == 1 and not row[0].isdigit():
            continue
        index = number - 2
        if len(row) < 3 or row[2] != USAGES[split]:
            continue
        pixels = _numbers(row[1].split(), path, number)
        if len(pixels) != SIDE**2:
            raise _bad_line(path, number, f"{len(pixels)} pixels instead of {SIDE**2}")
        image = np.repeat(pixels.reshape(SIDE, SIDE, 1).astype(np.uint8), 3, axis=2)
        if votes_of is None:
            votes = np.zeros(len(VOTES))
            votes[VOTES.index(FER2013[int(row[0])])] = 1
        elif index >= len(votes_of) or votes_of[index][0] != row[2]:
            raise _bad_line(voted, number, f"it does not belong to line {number} of {path.name}")
        elif not votes_of[index][1]:
            continue  # FER+ leaves out images without a face
        else:
            votes = _numbers(votes_of[index][2:12], voted, number)
        yield VotedImage(image, votes)


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Lines of a CSV file with their numbers, from 1; empty lines are left out. Raises CorpusError."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.reader(file), 1):
                if row:
                    yield number, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(
            f"{path} cannot be read: {error}",
            follows="Nothing was loaded.",
            remedy="Copy the corpus again, or set --root to another folder.",
        ) from None


def _numbers(texts: Sequence[str], path: Path, number: int) -> np.ndarray:
    try:
        values = np.array([float(text) for text in texts])
    except ValueError:
        raise _bad_line(path, number, "a value is no number") from None
    if (values < 0).any():
        raise _bad_line(path, number, "a value is negative")
    return values


def _bad_line(path: Path, number: int, what: str) -> CorpusError:
    return CorpusError(f"{path}:{number}: {what}", follows="Nothing was loaded.", remedy="Copy the file again.")
