"""Annotation formats of other programs, written from a Timeline and read as one: chosen by the suffix of the file.

docs/ANNOTATIONS.md states what each format holds and what reading decides.
"""

from __future__ import annotations

import csv
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.atomic import atomic_path
from mien.errors import OutputError

if TYPE_CHECKING:
    import polars as pl

    from mien.timeline.table import Timeline

#: Rows per second of a Timeline that is read from intervals. Our choice: a common frame rate, and finer than people
#: place the ends of an interval.
READ_HZ = 25.0


@dataclass(frozen=True, slots=True)
class AnnotationFormat:
    """One format. name: as `--format` takes it. suffix: of its files. module: has `dumps` and `loads`. program: who
    reads it."""

    name: str
    suffix: str
    module: str
    program: str


#: The formats, by name. A suffix that ends in another one (`.boris.csv`) comes before the Timeline's own `.csv`.
FORMATS: dict[str, AnnotationFormat] = {
    entry.name: entry
    for entry in (
        AnnotationFormat("eaf", ".eaf", "mien.timeline.formats.elan", "ELAN"),
        AnnotationFormat("textgrid", ".TextGrid", "mien.timeline.formats.textgrid", "Praat"),
        AnnotationFormat("vtt", ".vtt", "mien.timeline.formats.webvtt", "browsers and players (WebVTT)"),
        AnnotationFormat("srt", ".srt", "mien.timeline.formats.srt", "players (SubRip)"),
        AnnotationFormat("boris", ".boris", "mien.timeline.formats.boris_project", "BORIS (a project)"),
        AnnotationFormat("boris-events", ".boris.csv", "mien.timeline.formats.boris_events", "BORIS (tabular events)"),
        AnnotationFormat("labelstudio", ".labelstudio.json", "mien.timeline.formats.label_studio", "Label Studio"),
        AnnotationFormat("rttm", ".rttm", "mien.timeline.formats.rttm", "tools of speaker diarisation"),
    )
}
#: Columns that only an events table of BORIS has.
_BORIS_COLUMNS = {"Behavior", "Subject"}


def format_of(path: Path) -> AnnotationFormat | None:
    """The annotation format of a path, None for a Timeline's own formats and unknown suffixes.

    A `.json` file is read as Label Studio; a `.tsv` or `.csv` file with the columns of a BORIS events table is one.
    """
    name = path.name.lower()
    for entry in FORMATS.values():
        if name.endswith(entry.suffix.lower()):
            return entry
    if name.endswith(".json"):
        return FORMATS["labelstudio"]
    if name.endswith((".csv", ".tsv")) and path.is_file() and _is_boris_table(path):
        return FORMATS["boris-events"]
    return None


def _is_boris_table(path: Path) -> bool:
    """Whether one of the first lines names the columns of a BORIS table. Older exports begin with facts."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        heads = [line for line, _ in zip(file, range(30), strict=False)]
    try:
        return any(set(next(csv.reader([line], delimiter=d), [])) >= _BORIS_COLUMNS for line in heads for d in "\t,")
    except csv.Error:  # a field that is too long, which no table of BORIS has
        return False


def suffixes() -> list[str]:
    """Suffixes of the annotation formats."""
    return [entry.suffix for entry in FORMATS.values()]


def write(timeline: Timeline, path: Path) -> Path:
    """Writes a timeline as annotations, in the format of the suffix, UTF-8.

    Raises:
        OutputError: the suffix is of no format, or the file cannot be written.
    """
    name = path.name.lower()
    entry = next((f for f in FORMATS.values() if name.endswith(f.suffix.lower())), None)
    if entry is None:
        raise OutputError(
            f"{path}: a timeline cannot be written as {path.suffix or 'a file without a suffix'}",
            follows="Nothing was written.",
            remedy=f"End the name in {', '.join(('.csv', '.parquet', '.jsonl', *suffixes()))}.",
        )
    from mien.timeline.formats.annotations import from_timeline

    text = importlib.import_module(entry.module).dumps(from_timeline(timeline))
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode())
    return path


def read(
    path: Path,
    entry: AnnotationFormat,
    *,
    classes: Sequence[str] | None = None,
    rate_hz: float = READ_HZ,
    tiers: Sequence[str] | None = None,
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The table of a file of annotations, and the other arguments of `Timeline`.

    Args:
        classes: the class names; None takes those of the labels, see `annotations.choose_classes`.
        rate_hz: rows per second.
        tiers: names of the tiers, speakers or subjects to read; None reads all.

    Raises ValueError for a file that is not of its format; OSError.
    """
    from mien.timeline.formats.annotations import decode, to_table

    text = decode(path.read_bytes())
    try:
        annotations = importlib.import_module(entry.module).loads(text)
    except (csv.Error, AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"its structure is not that of {entry.program}: {error}") from error
    return to_table(annotations, classes=classes, rate_hz=rate_hz, tiers=tiers)
