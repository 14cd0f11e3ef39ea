"""Labelled files of public corpora: recognition of the corpus by its layout, splits, and sex and age of the people."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mien.config import nearest
from mien.datasets import cremad, emodb, face_images, ferplus, named_clips
from mien.datasets.affwild2_layout import VIDEO_SUFFIXES
from mien.datasets.csv_folder import MEDIA_SUFFIXES
from mien.datasets.index import CORPORA, build_index
from mien.errors import ConfigError, CorpusError
from mien.labels import EXPRESSIONS, UNLABELLED

FERPLUS, CLASS_FOLDERS = "ferplus", "class-folders"
#: File names of corpora, without suffix. A folder is a corpus if more than half of its first files are named so.
_NAMES: dict[str, re.Pattern[str]] = {
    "ravdess": re.compile(r"\d\d(-\d\d){6}"),
    "crema-d": re.compile(r"\d{4}_[A-Z]{3}_[A-Z]{3}_(LO|MD|HI|XX?)"),
    "emodb": re.compile(r"\d\d[a-z]\d\d[A-Z][a-z]?"),
    "emovo": re.compile(r"[a-z]{3}-[fm][1-3]-[a-z]\d"),
    "tess": re.compile(r"(OAF?|YAF)_[A-Za-z]+_[A-Za-z]+"),
    "savee": re.compile(r"([A-Z]{2}_)?(a|d|f|h|n|sa|su)\d{1,2}"),
    "meld": re.compile(r"dia\d+_utt\d+"),
}
#: Corpora that can be scored, and other spellings of their names.
NAMES = (FERPLUS, *_NAMES, CLASS_FOLDERS)
_SPELLINGS = {"cremad": "crema-d", "fer+": FERPLUS, "fer2013": FERPLUS, "emo-db": "emodb"}
#: Corpus -> what the default models have learned from it, which makes their figures on it too high.
SEEN_IN_TRAINING = {
    "emodb": "the starter's voice, which fer and face-api use too, was trained on most of its speakers",
    "ferplus": "starter and fer were trained on its training images, and other splits may show the same people",
}
#: Files whose names are compared.
_LOOKED_AT = 200
#: Other names of class folders -> class.
_FOLDER_NAMES = {
    "angry": "Anger", "disgusted": "Disgust", "fearful": "Fear", "afraid": "Fear", "happy": "Happiness",
    "sad": "Sadness", "surprised": "Surprise", "contempt": "Other",
}  # fmt: skip
#: Folders of a split in class folders.
_SPLIT_FOLDERS = {"train": "train", "val": "val", "validation": "val", "valid": "val", "test": "test"}
#: Age of EMO-DB's speakers, as the corpus states it.
_EMODB_AGES = {
    "03": 31, "08": 34, "09": 21, "10": 32, "11": 26, "12": 30, "13": 32, "14": 35, "15": 25, "16": 31,
}  # fmt: skip
#: Age of the two actresses of TESS, as the corpus states it.
_TESS_AGES = {"OAF": 64, "YAF": 26}
#: First ages of the bands, and their names.
_BANDS = ((60, "60 and over"), (45, "45 to 59"), (30, "30 to 44"), (0, "under 30"))


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """One file with one expression.

    media: its path, or pixels `(height, width)` uint8 of an image that is no file. label: class index of EXPRESSIONS.
    subject: the person, "" where unknown. sex: `female`, `male` or "". age: years, or None.
    """

    id: str
    media: Path | np.ndarray
    label: int
    split: str = ""
    subject: str = ""
    sex: str = ""
    age: int | None = None

    @property
    def is_image(self) -> bool:
        """Whether it is a still image."""
        return isinstance(self.media, np.ndarray) or self.media.suffix.lower() in face_images.SUFFIXES

    @property
    def is_sound(self) -> bool:
        """Whether it is an audio file."""
        return isinstance(self.media, Path) and self.media.suffix.lower() in MEDIA_SUFFIXES - VIDEO_SUFFIXES

    @property
    def age_band(self) -> str:
        """Name of the age band, such as `30 to 44`; "" where the age is unknown."""
        return "" if self.age is None else next(name for first, name in _BANDS if self.age >= first)


@dataclass(frozen=True, slots=True)
class LabelledFiles:
    """Files of one split of a corpus. split: `train`, `val`, `test` or `all`."""

    corpus: str
    root: Path
    split: str
    files: tuple[LabelledFile, ...]

    @property
    def classes(self) -> list[int]:
        """Class indices that occur, sorted."""
        return sorted({file.label for file in self.files})

    @property
    def labels(self) -> np.ndarray:
        """Class index of each file, `(n,)`."""
        return np.array([file.label for file in self.files], np.int64)

    @property
    def groups(self) -> list[str]:
        """Subject of each file, or the file's id where no subject is known: the units of the intervals."""
        known = any(file.subject for file in self.files)
        return [file.subject or file.id if known else file.id for file in self.files]

    def sample(self, count: int | None, seed: int) -> LabelledFiles:
        """`count` random files in their order, or all if there are no more."""
        if count is None or count >= len(self.files):
            return self
        kept = np.sort(np.random.default_rng(seed).permutation(len(self.files))[:count])
        return replace(self, files=tuple(self.files[i] for i in kept))


def load_files(
    text: str, split: str | None = None, *, progress: Callable[[int, int], None] | None = None
) -> LabelledFiles:
    """List the labelled files of a corpus.

    Args:
        text: the corpus's folder, or `CORPUS=FOLDER` where its layout does not tell the corpus.
        split: `train`, `val`, `test` or `all`; None takes the test split, else val, else all files.
        progress: called with (files looked at, files in total).

    Raises:
        ConfigError: the corpus is not known or not recognised, or the split has no file.
        CorpusError: the folder does not have the layout of the corpus.
    """
    name, root = _parse(text)
    if name == FERPLUS:
        files = _ferplus(root, split)
    elif name == CLASS_FOLDERS:
        files = _class_folders(root)
    else:
        files = _indexed(name, root, progress)
    splits = {file.split for file in files}
    chosen = split or next((s for s in ("test", "val") if s in splits), "all")
    kept = tuple(file for file in files if chosen in ("all", file.split))
    if not kept:
        raise ConfigError(
            f"{root} ({name}) has no labelled file in the split {chosen}; its splits are "
            f"{', '.join(sorted(filter(None, splits))) or 'none'}",
            follows="Nothing was scored.",
            remedy="Choose one of them with --split, or --split all.",
        )
    return LabelledFiles(name, root, chosen, kept)


def recognise(root: Path) -> str:
    """Name of the corpus in a folder, by its layout and file names.

    Raises:
        ConfigError: it is none of `NAMES`.
    """
    if ferplus.is_ferplus(root):
        return FERPLUS
    stems = [path.stem for path in _first_media(root)]
    for name, pattern in _NAMES.items():
        if 2 * sum(pattern.fullmatch(stem) is not None for stem in stems) > len(stems):
            return name
    if any(_class_of(folder.name) is not None for _, folder in _class_directories(root)):
        return CLASS_FOLDERS
    raise ConfigError(
        f"{root} is none of the known corpora ({', '.join(NAMES)}) by its folders and file names",
        follows="Nothing was scored.",
        remedy=f"Name the corpus, such as ravdess={root}, or sort the images into folders named after the classes.",
    )


def _parse(text: str) -> tuple[str, Path]:
    """Corpus and folder of `FOLDER` or `CORPUS=FOLDER`."""
    name, equals, folder = text.partition("=")
    root = Path(folder if equals and not Path(text).exists() else text).expanduser()
    given = name.lower() if equals and not Path(text).exists() else ""
    given = _SPELLINGS.get(given, given)
    if given and given not in NAMES:
        raise ConfigError(
            f"no corpus is called {name!r}{nearest(given, NAMES)}",
            follows="Nothing was scored.",
            remedy=f"Use one of {', '.join(NAMES)}, or the folder alone.",
        )
    if not root.is_dir():
        raise CorpusError(
            f"{root} {'is a file' if root.exists() else 'does not exist'}; a corpus is a folder",
            follows="Nothing was scored.",
            remedy="Check the path.",
        )
    return given or recognise(root), root


def _first_media(root: Path) -> Iterable[Path]:
    """The first sound and video files under a folder, in the order of the file system, which is fast."""
    found = 0
    for folder, _, names in os.walk(root):
        for name in names:
            if named_clips.is_media(Path(name)):
                yield Path(folder, name)
                found += 1
                if found == _LOOKED_AT:
                    return


def _ferplus(root: Path, split: str | None) -> list[LabelledFile]:
    """Images with a majority, of the splits that may be scored: reading fer2013.csv in full takes a minute."""
    present = ferplus.splits_in(root)
    wanted = [split] if split in present else present
    if split is None:
        wanted = next(([s] for s in ("test", "val") if s in present), present)
    return [
        LabelledFile(image.name, image.image, image.label, split=name)
        for name in wanted
        for image in ferplus.read_images(root, name)
        if image.label != UNLABELLED
    ]


def _indexed(name: str, root: Path, progress: Callable[[int, int], None] | None) -> list[LabelledFile]:
    index = build_index(name, root, progress=progress)
    assert name in CORPORA
    people = _cremad_people(root) if name == "crema-d" else {}
    files = []
    for entry in index.entries:
        if entry.media is None:
            continue
        sex, age = people.get(entry.subject) or _person(name, entry.subject)
        label, split = int(entry.labels["expr"]), entry.splits.get("expr", "")
        files.append(LabelledFile(entry.id, root / entry.media, label, split, entry.subject, sex, age))
    return files


def _person(corpus: str, subject: str) -> tuple[str, int | None]:
    """Sex and age of a subject, as the corpus states them."""
    if corpus == "ravdess":
        return ("male" if int(subject) % 2 else "female"), None
    if corpus == "emodb":
        return ("male" if subject in emodb.MEN else "female"), _EMODB_AGES.get(subject)
    if corpus == "emovo":
        return {"f": "female", "m": "male"}.get(subject[:1].lower(), ""), None
    if corpus == "tess":
        return "female", _TESS_AGES.get(subject)
    return ("male", None) if corpus == "savee" else ("", None)


def _cremad_people(root: Path) -> dict[str, tuple[str, int | None]]:
    """Actor -> sex and age of CREMA-D's table; empty where it is missing."""
    try:
        rows = named_clips.read_csv(root / cremad.DEMOGRAPHICS, ("ActorID", "Age", "Sex"))
    except CorpusError:
        return {}
    sexes = ("female", "male")
    return {
        row["ActorID"]: (
            row["Sex"].lower() if row["Sex"].lower() in sexes else "",
            int(row["Age"]) if row["Age"].isdigit() else None,
        )
        for _, row in rows
    }


def _class_of(folder: str) -> int | None:
    """Class index of a folder's name, or None."""
    name = _FOLDER_NAMES.get(folder.lower(), folder)
    return next((i for i, known in enumerate(EXPRESSIONS) if known.lower() == name.lower()), None)


def _class_directories(root: Path) -> list[tuple[str, Path]]:
    """(split, folder) of all folders below the root, or below its folders of splits."""
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    splits = [(_SPLIT_FOLDERS[path.name.lower()], path) for path in folders if path.name.lower() in _SPLIT_FOLDERS]
    if not splits:
        return [("", path) for path in folders]
    return [(split, path) for split, base in splits for path in sorted(base.iterdir()) if path.is_dir()]


def _class_folders(root: Path) -> list[LabelledFile]:
    """Files in folders named after classes. Raises CorpusError for a folder that is named after none."""
    files: list[LabelledFile] = []
    for split, folder in _class_directories(root):
        label = _class_of(folder.name)
        if label is None:
            raise CorpusError(
                f"{folder} is not named after a class; the classes are {', '.join(EXPRESSIONS)}",
                follows="Nothing was scored.",
                remedy="Rename the folder, or move it elsewhere.",
            )
        files += [
            LabelledFile(path.relative_to(root).as_posix(), path, label, split)
            for path in sorted(folder.rglob("*"))
            if path.suffix.lower() in face_images.SUFFIXES or named_clips.is_media(path)
        ]
    return files


def class_names(classes: Sequence[int]) -> list[str]:
    """Names of class indices."""
    return [EXPRESSIONS[i] for i in classes]
