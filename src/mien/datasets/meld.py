"""Dataset reader for MELD, the Multimodal EmotionLines Dataset.

Source: Poria, Hazarika, Majumder, Naik, Cambria, Mihalcea 2019, MELD: A Multimodal Multi-Party Dataset for Emotion
Recognition in Conversations, ACL. Utterances of a television series. The root holds, at any depth:

* `train_sent_emo.csv`, `dev_sent_emo.csv`, `test_sent_emo.csv` with the columns `Dialogue_ID`, `Utterance_ID`,
  `Speaker` and `Emotion`: one row for each utterance.
* `train_splits/dia0_utt0.mp4`, `dev_splits_complete/`, `output_repeated_splits_test/`: one video for each row.

The splits are those of the corpus. Main characters speak in all three, so they do not measure unseen speakers. A label
belongs to the speaker; other people can be in the picture.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from mien.datasets.index_entries import ERROR, NOTE, CorpusContents, Problem
from mien.datasets.named_clips import (
    LEFT_OUT,
    NamedClip,
    clip_labels,
    index_clips,
    list_media,
    misnamed,
    read_csv,
    without_duplicates,
)
from mien.errors import CorpusError
from mien.labels import ANGER, DISGUST, FEAR, HAPPINESS, NEUTRAL, SADNESS, SURPRISE

#: Emotion of the tables -> class.
EMOTIONS: dict[str, int] = {
    "neutral": NEUTRAL,
    "anger": ANGER,
    "disgust": DISGUST,
    "fear": FEAR,
    "joy": HAPPINESS,
    "sadness": SADNESS,
    "surprise": SURPRISE,
}
#: Split -> table and folder of videos.
SPLITS: dict[str, tuple[str, str]] = {
    "train": ("train_sent_emo.csv", "train_splits"),
    "val": ("dev_sent_emo.csv", "dev_splits_complete"),
    "test": ("test_sent_emo.csv", "output_repeated_splits_test"),
}
_COLUMNS = ("Dialogue_ID", "Utterance_ID", "Speaker", "Emotion")
_NAME = re.compile(r"dia(\d+)_utt(\d+)")
_ROW_LEFT_OUT = "the row is left out"

labels = clip_labels


def read(root: Path, *, progress: Callable[[int, int], None] | None = None) -> CorpusContents:
    """List the utterances of the tables, and rows, tables and videos that cannot be used.

    The id of a clip is its split and the name of its video, such as `train_dia0_utt0`: names repeat across splits.

    Args:
        progress: called with (clips probed, clips in total).

    Raises:
        CorpusError: `root` is no folder, holds no media file, or none of the three tables.
    """
    root = Path(root)
    example = ", ".join(table for table, _ in SPLITS.values()) + " and the folders of videos"
    files = list_media(root, "MELD", example)
    tables = {split: min(root.rglob(table), key=_depth, default=None) for split, (table, _) in SPLITS.items()}
    if not any(tables.values()):
        raise CorpusError(
            f"{root} holds none of the tables {', '.join(table for table, _ in SPLITS.values())}",
            follows="Nothing was indexed.",
            remedy=f"Name the folder that holds {example}.",
        )
    videos, problems = _find_videos(files)
    clips: list[NamedClip] = []
    for split, table in tables.items():
        if table is None:
            what = "the table is missing"
            problems.append(Problem(ERROR, "no table", SPLITS[split][0], None, what, f"no clip is {split}"))
            continue
        clips += _read_table(root, table, split, videos[split], problems)
    return index_clips(root, clips, problems, progress=progress)


def _depth(path: Path) -> tuple[int, str]:
    return len(path.parts), str(path)


def _find_videos(files: Sequence[str]) -> tuple[dict[str, dict[str, str]], list[Problem]]:
    """Split -> name -> video, and a problem for each media file that is none."""
    split_of = {folder: split for split, (_, folder) in SPLITS.items()}
    found: dict[str, dict[str, list[str]]] = {split: {} for split in SPLITS}
    problems = []
    for file in files:
        path = PurePosixPath(file)
        split = split_of.get(path.parent.name)
        if split is None:
            problems.append(misnamed(file, f"its folder is none of {', '.join(split_of)}"))
        elif not _NAME.fullmatch(path.stem):
            problems.append(misnamed(file, "the name is not diaNUMBER_uttNUMBER, such as dia0_utt0"))
        else:
            found[split].setdefault(path.stem, []).append(file)
    videos = {}
    for split, by_name in found.items():
        videos[split], duplicates = without_duplicates(by_name)
        problems += duplicates
    return videos, problems


def _read_table(
    root: Path, table: Path, split: str, videos: dict[str, str], problems: list[Problem]
) -> list[NamedClip]:
    """Clips of a table; adds a problem for each row and video that cannot be used."""
    file = table.relative_to(root).as_posix()
    try:
        rows = read_csv(table, _COLUMNS)
    except CorpusError as error:
        problems.append(Problem(ERROR, "bad table", file, None, error.what, f"no clip is {split}"))
        return []
    clips: dict[str, NamedClip] = {}
    named: set[str] = set()
    for line, row in rows:
        name = f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}"
        emotion = row["Emotion"].lower()
        what = ""
        if not _NAME.fullmatch(name):
            what = f"Dialogue_ID {row['Dialogue_ID']!r} or Utterance_ID {row['Utterance_ID']!r} is not a number"
        elif emotion not in EMOTIONS:
            what = f"emotion {row['Emotion']!r} is none of {', '.join(EMOTIONS)}"
        elif name in clips:
            what = f"{name} has an earlier row"
        elif name not in videos:
            what = f"there is no video {SPLITS[split][1]}/{name}.mp4"
        named.add(name)
        if what:
            problems.append(Problem(ERROR, "bad row", file, line, what, _ROW_LEFT_OUT))
            continue
        clips[name] = NamedClip(f"{split}_{name}", (videos[name],), row["Speaker"], EMOTIONS[emotion], split=split)
    for name in sorted(set(videos) - named):
        problems.append(Problem(NOTE, "no label", videos[name], None, f"{file} has no row for it", LEFT_OUT))
    return list(clips.values())
