"""Dataset reader for your own data: a folder of videos or sound files, and a CSV table of labels.

The table has a header and is separated by commas, semicolons or tabs (UTF-8). Columns, in any order:

| column | content |
|---|---|
| `media` | the file, relative to the table's folder or to ROOT. Required |
| `clip` | name of the clip; default: the file name without suffix (with its folders, where two are alike) |
| `subject` | identifier of the person: splits keep a subject together; default: unknown |
| `split` | `train`, `val` or `test`; default: none |
| `expression` | a class name, any you like; empty: unlabelled |
| `valence`, `arousal` | numbers in [-1, 1], both or neither; empty: unlabelled |
| `start_s`, `stop_s` | the span that the row labels, seconds; default: the whole recording |
| `time_s` | the moment that the row labels (one row for each frame or sample), instead of a span |

Several rows of one clip are combined. Nothing is guessed: an unknown column, an unknown split, a missing file, a number
out of range, or two contradicting rows are problems with their line, and the row is left out. If every class name is
one of mien's eight, the classes are those eight; otherwise they are the names in the table, sorted.
"""

from __future__ import annotations

import csv
import difflib
import io
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mien.datasets.affwild2_layout import VIDEO_SUFFIXES
from mien.datasets.frame_times import frame_times, label_times
from mien.datasets.index_entries import ERROR, NOTE, WARNING, CorpusContents, Entry, Problem, Stamp
from mien.errors import CorpusError, MediaError
from mien.labels import EXPRESSIONS, UNLABELLED
from mien.media.probe import probe
from mien.records import Labels

COLUMNS = (
    "media",
    "clip",
    "subject",
    "split",
    "expression",
    "valence",
    "arousal",
    "start_s",
    "stop_s",
    "time_s",
)
#: Column names of other tools: suggested in the problem text, never read as the column.
_SYNONYMS = {
    "media": ("file", "filename", "path", "video", "audio", "filepath", "name"),
    "expression": ("label", "emotion", "class", "category"),
    "subject": ("speaker", "person", "actor", "participant", "id"),
    "split": ("set", "fold", "partition", "subset"),
    "start_s": ("start", "begin", "onset", "from"),
    "stop_s": ("stop", "end", "offset", "to"),
    "time_s": ("time", "timestamp", "frame"),
}
SPLITS = ("train", "val", "test")
MEDIA_SUFFIXES = VIDEO_SUFFIXES | {".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus", ".aac"}
_ROW_LEFT_OUT = "the row is left out"


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One row of the table. It labels [start_s, stop_s) seconds; stop_s is infinite for the rest of the recording.
    A moment has start_s == stop_s. valence, arousal: in [-1, 1], NaN where unlabelled. line: in the file, from 1."""

    line: int
    clip: str
    media: str
    subject: str
    split: str
    expression: str
    valence: float
    arousal: float
    start_s: float
    stop_s: float


def read(
    root: Path, *, table: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> CorpusContents:
    """List the clips of a folder and the problems of its table.

    Args:
        root: the folder of media files.
        table: the CSV of labels; default: the only .csv file in `root`. Without one, every media file is an
            unlabelled clip.
        progress: called with (clips probed, clips in total).

    Raises:
        CorpusError: no folder, no media, several tables and none named, or a table that cannot be read or has no
            `media` column.
    """
    root = Path(root)
    if not root.is_dir():
        raise CorpusError(
            f"{root} is not a folder",
            follows="Nothing was indexed.",
            remedy="Run `mien index folder ROOT [--table FILE.csv]`.",
        )
    table = table or _only_table(root)
    rows, problems = read_table(table, root) if table else ([], [])
    by_clip: dict[str, list[LabelRow]] = {}
    for row in rows:
        by_clip.setdefault(row.clip, []).append(row)
    listed = {row.media for row in rows}
    media = {str(p.relative_to(root)): p for p in sorted(root.rglob("*")) if p.suffix.lower() in MEDIA_SUFFIXES}
    if not media and not listed:
        raise CorpusError(
            f"{root} holds no media",
            follows="Nothing was indexed.",
            remedy=f"Name a folder with files that end in {', '.join(sorted(MEDIA_SUFFIXES))}.",
        )
    if not table:
        for clip, name in zip(_clip_names(list(media)), media, strict=True):
            by_clip[clip] = [LabelRow(0, clip, name, "", "", "", np.nan, np.nan, 0.0, np.inf)]
    elif unused := sorted(set(media) - listed):
        what = f"{len(unused)} media files are in no row, such as {unused[0]!r}"
        problems.append(Problem(NOTE, "unused media", str(table), None, what, "they are not indexed"))
    entries = []
    for count, (clip, clip_rows) in enumerate(sorted(by_clip.items()), 1):
        entry, clip_problems = _make_entry(root, table, clip, clip_rows)
        problems += clip_problems
        if entry:
            entries.append(entry)
        if progress:
            progress(count, len(by_clip))
    per_class = Counter(row.expression for row in rows if row.expression)
    classes = EXPRESSIONS if set(per_class) <= set(EXPRESSIONS) else tuple(sorted(per_class))
    counts = {"table rows": {name: per_class[name] for name in classes if per_class[name]}} if per_class else {}
    return CorpusContents(entries, problems, classes, counts)


def labels(root: Path, entry: Entry, tasks: Sequence[str], classes: Sequence[str] = EXPRESSIONS) -> Labels | None:
    """Read a clip's labels: at the moments that the table names, or every 1/25 s over the recording for spans.

    All columns are returned, whichever tasks are asked for: one table holds one split for each clip. Raises CorpusError
    where the table can no longer be read.
    """
    rows = [row for row in read_table(root / str(entry.labels[tasks[0]]), root)[0] if row.clip == entry.id]
    moments = all(row.start_s == row.stop_s for row in rows)
    if moments:
        rows = sorted(rows, key=lambda row: row.start_s)
        times = np.array([row.start_s for row in rows])
    else:
        times = label_times(entry.duration_s or 0.0)
    expression, valence_arousal = np.full(len(times), UNLABELLED, np.int64), np.full((len(times), 2), np.nan)
    for i, row in enumerate(rows):
        span = slice(i, i + 1) if moments else slice(*np.searchsorted(times, (row.start_s, row.stop_s)))
        if row.expression:
            expression[span] = list(classes).index(row.expression)
        if np.isfinite(row.valence):
            valence_arousal[span] = row.valence, row.arousal
    return Labels(times, expression, valence_arousal)


def read_table(path: Path, root: Path) -> tuple[list[LabelRow], list[Problem]]:
    """Read the usable rows of a table, and the problems of the others.

    Raises:
        CorpusError: the file cannot be read, is not UTF-8, or has no `media` column.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path} is not UTF-8 (byte {error.start})",
            follows="Nothing was read.",
            remedy=f"Convert it: iconv -f latin1 -t utf-8 {path.name} > new.csv",
        ) from None
    except OSError as error:
        raise CorpusError(
            f"{path}: {error.strerror or error}", follows="Nothing was read.", remedy="Name the table with --table."
        ) from None
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
    try:
        header_names, lines = reader.fieldnames or [], [(reader.line_num, cells) for cells in reader]
    except csv.Error as error:  # such as a cell of more than 131,072 letters
        raise CorpusError(
            f"{path}:{reader.line_num + 1}: cannot be read as a table: {error}",
            follows="Nothing was read.",
            remedy="Correct that line: a quote may be missing.",
        ) from None
    problems = _check_header(path, [name.strip() for name in header_names])
    records = []
    for line, cells in lines:
        complete = None not in cells and None not in cells.values()  # DictReader's marks of too many and too few
        texts = {k.strip(): (v or "").strip() for k, v in cells.items() if k is not None}
        records.append((line, texts if complete else {"": "broken"}))
    names = [_relative_media(record.get("media", ""), path, root) for _, record in records]
    defaults = dict(zip(sorted(set(names)), _clip_names(sorted(set(names))), strict=True))
    rows = []
    media_of: dict[str, str] = {}
    for (line, record), name in zip(records, names, strict=True):
        try:
            row = _parse_row(line, record, name, defaults[name])
            if media_of.setdefault(row.clip, row.media) != row.media:
                raise ValueError(f"clip {row.clip!r} is {media_of[row.clip]!r} above and {row.media!r} here")
            if not os.path.isfile(root / row.media):
                raise ValueError(f"{record.get('media')!r} does not exist" + _nearest_name(root / row.media))
        except ValueError as error:
            problems.append(Problem(ERROR, "bad row", str(path), line, str(error), _ROW_LEFT_OUT))
            continue
        rows.append(row)
    return _drop_contradictions(rows, problems, path), problems


def _check_header(path: Path, names: list[str]) -> list[Problem]:
    if "media" not in names:
        synonyms = [n for n in names if n.lower() in _SYNONYMS["media"]]
        raise CorpusError(
            f"{path}: no column 'media'; the header is {', '.join(names) or 'empty'}",
            follows="Without it no row can be matched with a file.",
            remedy=f"Rename {synonyms[0]!r} to 'media'." if synonyms else f"Use the columns {', '.join(COLUMNS)}.",
        )
    problems = []
    for name in names:
        if name not in COLUMNS:
            near = [column for column, words in _SYNONYMS.items() if name.lower() in words]
            near = near or difflib.get_close_matches(name.lower(), COLUMNS, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            what = f"unknown column {name!r}"
            problems.append(Problem(WARNING, "unknown column", str(path), 1, what, f"{hint}it is not read"))
    return problems


def _parse_row(line: int, record: dict[str, str], media: str, default_clip: str) -> LabelRow:
    if "" in record:
        raise ValueError("its number of cells is not that of the header (a comma inside a value needs quotes)")
    if not media:
        raise ValueError("no media file is named")
    split = record.get("split", "").lower()
    if split and split not in SPLITS:
        near = difflib.get_close_matches(split, [*SPLITS, "validation", "training", "dev"], 1)
        hint = {"validation": "val", "dev": "val", "training": "train"}.get(near[0], near[0]) if near else ""
        raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}" + (f"; write {hint!r}" if hint else ""))
    valence, arousal = (_number(record, key, -1, 1) for key in ("valence", "arousal"))
    if np.isnan(valence) != np.isnan(arousal):
        raise ValueError("only one of valence and arousal is given")
    if record.get("time_s"):
        if record.get("start_s") or record.get("stop_s"):
            raise ValueError("time_s and a span (start_s, stop_s) exclude each other")
        start = stop = _number(record, "time_s", 0, np.inf)
    else:
        start, stop = (_number(record, key, 0, np.inf) for key in ("start_s", "stop_s"))
        start, stop = (0.0 if np.isnan(start) else start), (np.inf if np.isnan(stop) else stop)
        if not start < stop:
            raise ValueError(f"start_s {start:g} is not before stop_s {stop:g}")
    clip = record.get("clip") or default_clip
    subject, expression = record.get("subject", ""), record.get("expression", "")
    return LabelRow(line, clip, media, subject, split, expression, valence, arousal, start, stop)


def _number(record: dict[str, str], key: str, low: float, high: float) -> float:
    text = record.get(key, "")
    if not text:
        return np.nan
    try:
        value = float(text)
    except ValueError:
        comma = " (write a point for the decimal comma)" if "," in text else ""
        raise ValueError(f"{key} {text!r} is not a number{comma}") from None
    if not low <= value <= high:
        raise ValueError(f"{key} {text} is outside [{low:g}, {high:g}]")
    return value


def _drop_contradictions(rows: list[LabelRow], problems: list[Problem], path: Path) -> list[LabelRow]:
    """Leave out rows that contradict an earlier one of the same clip, and add a problem for each."""
    accepted: dict[str, list[LabelRow]] = {}
    for row in rows:
        earlier = accepted.setdefault(row.clip, [])
        if what := _contradiction(row, earlier):
            problems.append(Problem(ERROR, "contradiction", str(path), row.line, what, _ROW_LEFT_OUT))
        else:
            earlier.append(row)
    return [row for clip_rows in accepted.values() for row in clip_rows]


def _contradiction(row: LabelRow, earlier: list[LabelRow]) -> str:
    if not earlier:
        return ""
    first = earlier[0]
    if (row.split, row.subject) != (first.split, first.subject):
        return f"clip {row.clip!r} has split {first.split!r}, subject {first.subject!r} at line {first.line}"
    if (row.start_s == row.stop_s) != (first.start_s == first.stop_s):
        return f"clip {row.clip!r} has spans and moments (see line {first.line})"
    if row.start_s < row.stop_s:
        overlap = next((e for e in earlier if row.start_s < e.stop_s and e.start_s < row.stop_s), None)
        return f"its span overlaps that of line {overlap.line}" if overlap else ""
    return ""


def _make_entry(root: Path, table: Path | None, clip: str, rows: list[LabelRow]) -> tuple[Entry | None, list[Problem]]:
    path = root / rows[0].media
    try:
        info = probe(path)
        times = frame_times(path, info.origin) if info.kind == "video" else None
    except MediaError as error:
        return None, [Problem(ERROR, "unreadable media", rows[0].media, None, error.what, "the clip is left out")]
    ends = [info.audio_stop_s, info.video_stop_s, info.duration_s]
    ends += [float(times.seconds[-1]) + times.step_s] if times and len(times) else []
    duration = max((end for end in ends if end is not None), default=0.0)
    problems = []
    for row in rows:
        if row.start_s > duration:
            what = f"{row.start_s:g} s is after the end ({duration:.2f} s)"
            problems.append(Problem(WARNING, "beyond the end", str(table), row.line, what, "it has no effect"))
    tasks = []
    if table:
        tasks = ["expr"] * any(row.expression for row in rows) + ["va"] * any(np.isfinite(row.valence) for row in rows)
    location = str(table.relative_to(root)) if table and table.is_relative_to(root) else str(table and table.resolve())
    return Entry(
        clip,
        rows[0].media,
        subject=rows[0].subject,
        splits=dict.fromkeys(tasks or ("expr",), rows[0].split) if rows[0].split else {},
        labels=dict.fromkeys(tasks, location),
        stamp=Stamp.of(path),
        duration_s=duration,
        has_audio=info.has_audio,
        has_video=info.has_video,
        times=times,
    ), problems


def _only_table(root: Path) -> Path | None:
    tables = sorted(root.glob("*.csv"))
    if len(tables) > 1:
        raise CorpusError(
            f"{root} holds {len(tables)} tables: {', '.join(t.name for t in tables)}",
            follows="Nothing was indexed.",
            remedy="Name one with --table.",
        )
    return tables[0] if tables else None


def _relative_media(name: str, table: Path, root: Path) -> str:
    """Path of a media file relative to `root`; a file beside the table comes before one in `root`."""
    if not name:
        return ""
    beside = table.parent / name
    path = beside if os.path.isfile(beside) else root / name
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path.resolve())


def _clip_names(paths: list[str]) -> list[str]:
    """Clip names of files: the stem, or the path without suffix where two files have the same stem."""
    stems = Counter(Path(p).stem for p in paths)
    return [Path(p).stem if stems[Path(p).stem] == 1 else Path(p).with_suffix("").as_posix() for p in paths]


def _nearest_name(path: Path) -> str:
    names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, 1)
    return f"; did you mean {near[0]!r}?" if near else ""
