"""Your own data: a folder of videos or sound files, and a table that says what they show.

The table is a CSV (comma, semicolon or tab; UTF-8) with a header. Columns, in any order:

| column | what it holds |
|---|---|
| `media` | the file, relative to the table's folder or to ROOT. Needed |
| `clip` | name of the clip; default: the file's name without suffix (with its folders, where two are alike) |
| `subject` | who it is: splits keep a subject together; default: unknown |
| `split` | `train`, `val` or `test`; default: none |
| `expression` | a class name, any you like; empty: unlabelled |
| `valence`, `arousal` | numbers in [-1, 1], both or neither; empty: unlabelled |
| `start_s`, `stop_s` | the row holds in this span only, seconds; default: the whole recording |
| `time_s` | the row holds at this moment (one row a frame or a sample), instead of a span |

Several rows of one clip add up. Nothing is guessed: an unknown column, an unknown split, a file that is not
there, a number out of range, two rows that contradict each other are problems with their line; the row is
left out. Where every class name is one of mien's eight, the classes are those eight; else they are the names
found, in order.
"""

from __future__ import annotations

import csv
import difflib
import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mien.datasets.affwild2_layout import VIDEO_SUFFIXES
from mien.datasets.frame_times import frame_times
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
#: Words that others use for these columns; they are suggested, not taken.
_OTHER_WORDS = {
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
#: Spans are given to training as samples at this rate. Our choice: finer than any token clock in use.
LABEL_RATE_HZ = 25.0
_UNLABELLED_ROW = "the row is left out"


@dataclass(frozen=True, slots=True)
class TableRow:
    """One line of the table. stop_s: infinite to the recording's end. An instant has start_s == stop_s."""

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
    """root: the folder. table: the CSV; default: the only .csv in ROOT, or none, which gives unlabelled
    clips.

    Raises CorpusError: no folder, no media, several tables and none named, a table without a `media` column.
    """
    root = Path(root)
    if not root.is_dir():
        raise CorpusError(f"{root} is not a folder", remedy="mien index folder ROOT [--table FILE.csv]")
    table = table or _only_table(root)
    rows, problems = read_table(table, root) if table else ([], [])
    by_clip: dict[str, list[TableRow]] = {}
    for row in rows:
        by_clip.setdefault(row.clip, []).append(row)
    named = {row.media for row in rows}
    media = {str(p.relative_to(root)): p for p in sorted(root.rglob("*")) if p.suffix.lower() in MEDIA_SUFFIXES}
    if not media and not named:
        raise CorpusError(f"{root} holds no media", remedy=f"known are: {', '.join(sorted(MEDIA_SUFFIXES))}")
    if not table:
        for clip, name in zip(_names(list(media)), media, strict=True):
            by_clip[clip] = [TableRow(0, clip, name, "", "", "", np.nan, np.nan, 0.0, np.inf)]
    elif unused := sorted(set(media) - named):
        what = f"{len(unused)} media files are in no row, such as {unused[0]!r}"
        problems.append(Problem(NOTE, "unused media", str(table), None, what, "they are not indexed"))
    entries = []
    for done, (clip, mine) in enumerate(sorted(by_clip.items()), 1):
        entry, more = _entry(root, table, clip, mine)
        problems += more
        if entry:
            entries.append(entry)
        if progress:
            progress(done, len(by_clip))
    found = Counter(row.expression for row in rows if row.expression)
    classes = EXPRESSIONS if set(found) <= set(EXPRESSIONS) else tuple(sorted(found))
    counts = {"table rows": {name: found[name] for name in classes if found[name]}} if found else {}
    return CorpusContents(entries, problems, classes, counts)


def labels(root: Path, entry: Entry, tasks: Sequence[str], classes: Sequence[str] = EXPRESSIONS) -> Labels | None:
    """A clip's labels: as given where the table names instants, else every 1/25 s over the recording."""
    rows = [row for row in read_table(root / entry.labels[tasks[0]], root)[0] if row.clip == entry.id]
    instants = all(row.start_s == row.stop_s for row in rows)
    if instants:
        rows = sorted(rows, key=lambda row: row.start_s)
        times = np.array([row.start_s for row in rows])
    else:
        times = (np.arange(max(1, round((entry.duration_s or 0.0) * LABEL_RATE_HZ))) + 0.5) / LABEL_RATE_HZ
    expression, affect = np.full(len(times), UNLABELLED, np.int64), np.full((len(times), 2), np.nan)
    for i, row in enumerate(rows):
        where = slice(i, i + 1) if instants else slice(*np.searchsorted(times, (row.start_s, row.stop_s)))
        if row.expression:
            expression[where] = list(classes).index(row.expression)
        if np.isfinite(row.valence):
            affect[where] = row.valence, row.arousal
    return Labels(times, expression, affect)


def read_table(path: Path, root: Path) -> tuple[list[TableRow], list[Problem]]:
    """The usable rows of a table and what is wrong with the others. Raises CorpusError where it cannot be a
    table."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path} is not UTF-8 (byte {error.start})",
            remedy=f"iconv -f latin1 -t utf-8 {path.name} > new.csv",
        ) from None
    except OSError as error:
        raise CorpusError(f"{path}: {error.strerror or error}", remedy="name the table with --table") from None
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
    problems = _header(path, [name.strip() for name in reader.fieldnames or []])
    rows = []
    media_of: dict[str, str] = {}
    records = []
    for cells in reader:
        whole = None not in cells and None not in cells.values()  # DictReader's marks of too many and too few
        texts = {k.strip(): (v or "").strip() for k, v in cells.items() if k is not None}
        records.append((reader.line_num, texts if whole else {"": "broken"}))
    names = [_resolved(record.get("media", ""), path, root) for _, record in records]
    defaults = dict(zip(sorted(set(names)), _names(sorted(set(names))), strict=True))
    for (line, record), name in zip(records, names, strict=True):
        try:
            row = _row(line, record, name, defaults[name])
            if media_of.setdefault(row.clip, row.media) != row.media:
                raise ValueError(f"clip {row.clip!r} is {media_of[row.clip]!r} above and {row.media!r} here")
            if not (root / row.media).is_file():
                raise ValueError(f"{record.get('media')!r} is not there" + _near(root / row.media))
        except ValueError as error:
            problems.append(Problem(ERROR, "bad row", str(path), line, str(error), _UNLABELLED_ROW))
            continue
        rows.append(row)
    return _consistent(rows, problems, path), problems


def _header(path: Path, names: list[str]) -> list[Problem]:
    if "media" not in names:
        words = [n for n in names if n.lower() in _OTHER_WORDS["media"]]
        raise CorpusError(
            f"{path}: no column 'media'; the header is {', '.join(names) or 'empty'}",
            follows="without it no row can be matched with a file",
            remedy=f"rename {words[0]!r} to 'media'" if words else f"columns are: {', '.join(COLUMNS)}",
        )
    problems = []
    for name in names:
        if name not in COLUMNS:
            near = [column for column, words in _OTHER_WORDS.items() if name.lower() in words]
            near = near or difflib.get_close_matches(name.lower(), COLUMNS, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            what = f"unknown column {name!r}"
            problems.append(Problem(WARNING, "unknown column", str(path), 1, what, f"{hint}it is not read"))
    return problems


def _row(line: int, record: dict[str, str], media: str, default: str) -> TableRow:
    if "" in record:
        raise ValueError("its number of cells is not that of the header (a comma inside a value needs quotes)")
    if not media:
        raise ValueError("no media")
    split = record.get("split", "").lower()
    if split and split not in SPLITS:
        near = difflib.get_close_matches(split, [*SPLITS, "validation", "training", "dev"], 1)
        hint = {"validation": "val", "dev": "val", "training": "train"}.get(near[0], near[0]) if near else ""
        raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}" + (f"; write {hint!r}" if hint else ""))
    valence, arousal = (_number(record, key, -1, 1) for key in ("valence", "arousal"))
    if np.isnan(valence) != np.isnan(arousal):
        raise ValueError("valence and arousal need each other; one of them is empty")
    if record.get("time_s"):
        if record.get("start_s") or record.get("stop_s"):
            raise ValueError("time_s and a span (start_s, stop_s) exclude each other")
        start = stop = _number(record, "time_s", 0, np.inf)
    else:
        start, stop = (_number(record, key, 0, np.inf) for key in ("start_s", "stop_s"))
        start, stop = (0.0 if np.isnan(start) else start), (np.inf if np.isnan(stop) else stop)
        if not start < stop:
            raise ValueError(f"start_s {start:g} is not before stop_s {stop:g}")
    clip = record.get("clip") or default
    subject, expression = record.get("subject", ""), record.get("expression", "")
    return TableRow(line, clip, media, subject, split, expression, valence, arousal, start, stop)


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


def _consistent(rows: list[TableRow], problems: list[Problem], path: Path) -> list[TableRow]:
    """Leaves out rows that contradict an earlier one of the same clip."""
    kept: dict[str, list[TableRow]] = {}
    for row in rows:
        mine = kept.setdefault(row.clip, [])
        fault = ""
        if mine and (row.split, row.subject) != (mine[0].split, mine[0].subject):
            old = mine[0]
            fault = f"clip {row.clip!r} has split {old.split!r}, subject {old.subject!r} at line {old.line}"
        elif mine and (row.start_s == row.stop_s) != (mine[0].start_s == mine[0].stop_s):
            fault = f"clip {row.clip!r} has spans and instants (see line {mine[0].line})"
        elif row.start_s < row.stop_s:
            over = next((m for m in mine if row.start_s < m.stop_s and m.start_s < row.stop_s), None)
            fault = f"its span meets that of line {over.line}" if over else ""
        if fault:
            problems.append(Problem(ERROR, "contradiction", str(path), row.line, fault, _UNLABELLED_ROW))
        else:
            mine.append(row)
    return [row for mine in kept.values() for row in mine]


def _entry(root: Path, table: Path | None, clip: str, rows: list[TableRow]) -> tuple[Entry | None, list[Problem]]:
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
    where = str(table.relative_to(root)) if table and table.is_relative_to(root) else str(table and table.resolve())
    return Entry(
        clip,
        rows[0].media,
        subject=rows[0].subject,
        splits=dict.fromkeys(tasks or ("expr",), rows[0].split) if rows[0].split else {},
        labels=dict.fromkeys(tasks, where),
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
            remedy="name one with --table",
        )
    return tables[0] if tables else None


def _resolved(name: str, table: Path, root: Path) -> str:
    """The file relative to root; a path beside the table wins."""
    if not name:
        return ""
    beside = table.parent / name
    path = beside if beside.is_file() else root / name
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path.resolve())


def _names(paths: list[str]) -> list[str]:
    """Clip names of files: the stem, or the path without suffix where stems repeat."""
    stems = Counter(Path(p).stem for p in paths)
    return [Path(p).stem if stems[Path(p).stem] == 1 else Path(p).with_suffix("").as_posix() for p in paths]


def _near(path: Path) -> str:
    names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, 1)
    return f"; did you mean {near[0]!r}?" if near else ""
