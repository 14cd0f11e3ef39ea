"""Dataset reader for Hume-Vidmimic2, the corpus of the challenge Emotional Mimicry Intensity (EMI).

Source: Kollias et al. 2024, The 6th ABAW Competition (arXiv:2402.19344). Videos of people who mimic others, each
labelled as a whole with six intensities. Layout:

* `train_split.csv`, `valid_split.csv` (or `val_split.csv`) and `test_split.csv`, anywhere under the root, with the
  column `Filename` and, but for the test set, `Admiration, Amusement, Determination, Empathic Pain, Excitement, Joy`.
* A media file for each row, found by its stem (`00042.mp4` for `00042` or `00042.mp4`), in any folder.

Published intensities are at most 1; a value outside [0, 1] leaves the row unlabelled (our choice). The corpus does not
name its subjects, so each clip is one of its own.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mien.datasets.affwild2_layout import VIDEO_SUFFIXES
from mien.datasets.frame_times import frame_times, label_times
from mien.datasets.index_entries import ERROR, WARNING, CorpusContents, Entry, Problem, Stamp
from mien.errors import CorpusError, MediaError
from mien.labels import EXPRESSIONS, MIMICRY, UNLABELLED
from mien.media.probe import probe
from mien.records import Labels

#: File name of a table -> split.
TABLES = {
    "train_split.csv": "train",
    "valid_split.csv": "val",
    "val_split.csv": "val",
    "test_split.csv": "test",
}
TASK = "emi"
_SUFFIXES = VIDEO_SUFFIXES | {".wav", ".flac", ".mp3", ".m4a"}


def read(root: Path, *, progress: Callable[[int, int], None] | None = None) -> CorpusContents:
    """List the clips of the tables, and the rows and files that cannot be used.

    Args:
        progress: called with (clips probed, clips in total).

    Raises:
        CorpusError: `root` is no folder or holds no table, or a table has no column `Filename`.
    """
    root = Path(root)
    tables = sorted(p for p in root.rglob("*.csv") if p.name.lower() in TABLES) if root.is_dir() else []
    if not tables:
        raise CorpusError(
            f"{root} holds no table of Hume-Vidmimic2 ({', '.join(TABLES)})"
            if root.is_dir()
            else f"{root} is not a folder",
            follows="Nothing was indexed.",
            remedy="Run `mien index vidmimic2 ROOT`, where ROOT is the folder above the tables and the videos.",
        )
    files: dict[str, Path] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in _SUFFIXES:
            known = files.get(path.stem)
            # a video comes before the sound of the same clip
            if known is None or (known.suffix.lower() not in VIDEO_SUFFIXES and path.suffix.lower() in VIDEO_SUFFIXES):
                files[path.stem] = path
    problems: list[Problem] = []
    splits: dict[str, tuple[str, str]] = {}
    for table in tables:
        location = str(table.relative_to(root))
        for line, name, what in _check_rows(table):
            if what:
                problems.append(Problem(ERROR, "bad label", location, line, what, "the clip is unlabelled"))
            if name in splits:
                what = f"{name!r} is listed again (first in {splits[name][1]})"
                problems.append(Problem(WARNING, "listed twice", location, line, what, "the first counts"))
            elif name not in files:
                what = f"no media file for {name!r}"
                problems.append(Problem(ERROR, "no recording", location, line, what, "the clip is left out"))
            else:
                splits[name] = (TABLES[table.name.lower()], location)
    entries: list[Entry] = []
    with ThreadPoolExecutor(4) as pool:  # reading containers waits for the disk most of the time
        results = pool.map(
            lambda item: _make_entry(root, item[0], item[1][0], item[1][1], files[item[0]]), splits.items()
        )
        for count, result in enumerate(results, 1):
            if isinstance(result, Problem):
                problems.append(result)
            else:
                entries.append(result)
            if progress:
                progress(count, len(splits))
    return CorpusContents(entries, problems, EXPRESSIONS, {})


def labels(root: Path, entry: Entry, tasks: Sequence[str], classes: Sequence[str] = EXPRESSIONS) -> Labels | None:
    """Read a clip's intensities, repeated every 1/25 s over its length; None for a clip without usable ones.

    Raises CorpusError if the table can no longer be read.
    """
    if TASK not in tasks:
        return None
    for _, name, _, values in _rows(root / str(entry.labels[TASK])):
        if name == entry.id and values is not None:
            times = label_times(entry.duration_s or 0.0)
            n = len(times)
            nothing = np.full(n, UNLABELLED, np.int64), np.full((n, 2), np.nan)
            return Labels(times, *nothing, {TASK: np.tile(values, (n, 1))})
    return None


def _make_entry(root: Path, clip: str, split: str, table: str, path: Path) -> Entry | Problem:
    try:
        info = probe(path)
        times = frame_times(path, info.origin) if info.kind == "video" else None
    except MediaError as error:
        where = str(path.relative_to(root))
        return Problem(ERROR, "unreadable media", where, None, error.what, "the clip is left out")
    ends = [end for end in (info.audio_stop_s, info.video_stop_s, info.duration_s) if end is not None]
    return Entry(
        clip,
        path.relative_to(root).as_posix(),
        subject=clip,
        splits={TASK: split},
        labels={} if split == "test" else {TASK: table},
        stamp=Stamp.of(path),
        duration_s=max(ends, default=0.0),
        has_audio=info.has_audio,
        has_video=info.has_video,
        times=times,
    )


def _check_rows(table: Path) -> list[tuple[int, str, str]]:
    """(line, clip, problem of its intensities or "") of each row."""
    is_test = TABLES[table.name.lower()] == "test"
    return [(line, name, "" if is_test else what) for line, name, what, _ in _rows(table)]


def _rows(table: Path) -> list[tuple[int, str, str, np.ndarray | None]]:
    """(line, clip, problem or "", intensities `(6,)` or None) of each row of a table."""
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            header, records = list(reader.fieldnames or []), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(
            f"{table} cannot be read: {error}", follows="Nothing was read.", remedy="Copy the table again."
        ) from None
    if "Filename" not in header:
        raise CorpusError(
            f"{table} has no column 'Filename'; its header is {', '.join(header) or 'empty'}",
            follows="Without it no row can be matched with a file.",
            remedy=f"Give the table of the corpus: Filename, {', '.join(MIMICRY)}.",
        )
    rows = []
    for line, record in enumerate(records, 2):
        name = (record["Filename"] or "").strip()
        name = name.removesuffix(Path(name).suffix) if Path(name).suffix.lower() in _SUFFIXES else name
        try:
            values = np.array([float(record.get(column) or "") for column in MIMICRY])
            what = "" if ((values >= 0) & (values <= 1)).all() else f"{name!r}: an intensity is outside [0, 1]"
        except ValueError:
            values, what = np.full(6, np.nan), f"{name!r}: an intensity is missing or is not a number"
        rows.append((line, name, what, None if what else values))
    return rows
