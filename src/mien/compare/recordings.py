"""Recordings of a comparison: timelines and annotations of a file or folder, on one clock, with one set of classes."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from mien.clock import row_durations
from mien.csv_rows import read_rows
from mien.errors import ConfigError, MediaError
from mien.labels import EXPRESSIONS, probability_column
from mien.timeline import formats
from mien.timeline.table import Timeline

#: Suffixes that are searched for in a folder.
SUFFIXES = (".csv", ".parquet", ".jsonl", ".tsv", *(s.lower() for s in formats.suffixes()))
#: Tables of mien that are no timeline of a recording.
_OTHER_TABLES = re.compile(r"(timelines|features|people)\.(csv|parquet|jsonl)", flags=re.I)
#: Names of files that say nothing about the recording: the folder's name does.
_GENERIC = re.compile(r"timelines?|annotations?", flags=re.I)


@dataclass(frozen=True, slots=True)
class Person:
    """One person of a recording at a fixed rate.

    Attributes:
        recording: name. subject: number.
        times: `(time,)` seconds, from 0.
        expression: `(time,)` class number, -1 without an estimate.
        values: `(time, 2)` valence and arousal, NaN without an estimate.
    """

    recording: str
    subject: int
    times: np.ndarray
    expression: np.ndarray
    values: np.ndarray


def load(path: Path, *, tiers: Sequence[str] | None = None) -> dict[str, Timeline]:
    """The timelines of a file, or of a folder, by name of the recording.

    The name is that of the file without suffixes, or of its folder for `timeline.csv`. Where a recording has several
    files, the one with probabilities is taken.

    Args:
        tiers: of annotations, see `Timeline.read`.

    Raises:
        MediaError: a file cannot be read, or the folder has none.
        ConfigError: two files have the name of one recording.
    """
    if not path.is_dir():
        return {recording_name(path): Timeline.read(path, tiers=tiers)}
    found: dict[str, Path] = {}
    for file in sorted(path.rglob("*")):
        name = file.name.lower()
        if not name.endswith(SUFFIXES) or name.startswith(".") or _OTHER_TABLES.fullmatch(name) or not file.is_file():
            continue
        key = recording_name(file)
        other = found.get(key)
        if other is None or (
            other.parent == file.parent and SUFFIXES.index(_suffix(file)) < SUFFIXES.index(_suffix(other))
        ):
            found[key] = file
        elif other.parent != file.parent:
            raise ConfigError(
                f"{file} and {other} are both called {key}",
                follows="Nothing was compared.",
                remedy="Give each recording one file, with a name of its own.",
            )
    if not found:
        raise MediaError(
            f"{path} holds no timelines and no annotations",
            follows="Nothing was compared.",
            remedy=f"Give a folder with files that end in {', '.join(SUFFIXES)}.",
        )
    return {key: Timeline.read(file, tiers=tiers) for key, file in found.items()}


def relabel(
    sides: Sequence[Mapping[str, Timeline]], labels: Mapping[str, str]
) -> tuple[list[dict[str, Timeline]], list[str]]:
    """The timelines with other names of classes, and a note on labels that no timeline has.

    labels: label -> class, "" to leave the label out.
    """
    known = common_classes(timeline for side in sides for timeline in side.values())
    columns = {probability_column(name) for name in known}
    unknown = [label for label in labels if probability_column(label) not in columns]
    notes = [f"--map: neither side has {', '.join(unknown)}; the labels are {', '.join(known)}"] if unknown else []
    return [{key: _relabelled(timeline, labels) for key, timeline in side.items()} for side in sides], notes


def recording_name(path: Path) -> str:
    """Name of the recording of a file: `mien-out/clip/timeline.csv` and `anna/clip.eaf` are of `clip`."""
    stem = path.name[: -len(_suffix(path))] if _suffix(path) else path.stem
    return path.absolute().parent.name if _GENERIC.fullmatch(stem) else stem


def matching_name(name: str, known: Container[str]) -> str:
    """Find the recording that a name in a user's table refers to, with or without the suffix of a file (`clip.mp4` for
    `clip`). Returns the name unchanged if no recording fits."""
    stem = recording_name(Path(name)) if name else name
    return stem if name not in known and stem in known else name


def _suffix(path: Path) -> str:
    """The longest of SUFFIXES at the end of a name, in small letters."""
    return max((s for s in SUFFIXES if path.name.lower().endswith(s)), key=len, default="")


def _relabelled(timeline: Timeline, labels: Mapping[str, str]) -> Timeline:
    """The timeline with other names of classes. Classes that become one keep the sum of their probabilities; rows of a
    class without a new name have no expression."""
    targets = {probability_column(old): new for old, new in labels.items()}
    names = [targets.get(probability_column(name), name) for name in timeline.classes]
    if tuple(names) == timeline.classes:
        return timeline
    classes = list(dict.fromkeys(name for name in names if name)) or ["Other"]
    rename = dict(zip(timeline.classes, names, strict=True))
    columns = {new: [probability_column(old) for old in timeline.classes if rename[old] == new] for new in classes}
    left_out = [old for old in timeline.classes if not rename[old]]
    gone = pl.col("expression").is_in(left_out).fill_null(False)
    table = timeline.table.with_columns(
        expression=pl.when(gone).then(None).otherwise(pl.col("expression").replace(rename)),
        **{f"new {new}": pl.sum_horizontal(own, ignore_nulls=False) for new, own in columns.items() if own},
    ).drop([probability_column(old) for old in timeline.classes])
    table = table.rename({f"new {new}": probability_column(new) for new, own in columns.items() if own})
    missing = [probability_column(new) for new, own in columns.items() if not own]
    table = table.with_columns(pl.lit(None, pl.Float32).alias(name) for name in missing)
    return Timeline(table, classes=classes, media=timeline.media, notes=timeline.notes, info=timeline.info)


def common_classes(timelines: Iterable[Timeline]) -> tuple[str, ...]:
    """The classes of all timelines: the standard ones in their order, then others, sorted. Names that differ in
    capitals alone are one."""
    names: dict[str, str] = {}
    for timeline in timelines:
        for name in timeline.classes:
            names.setdefault(probability_column(name), name)
    standard = [name for name in EXPRESSIONS if probability_column(name) in names]
    taken = {probability_column(name) for name in standard}
    return (*standard, *sorted(name for column, name in names.items() if column not in taken))


def people(recording: str, timeline: Timeline, classes: Sequence[str], rate_hz: float) -> list[Person]:
    """Each person of a timeline at `rate_hz`: each time has the row that covers it, a row lasting until the next one.

    classes: of the comparison, see `common_classes`.
    """
    index = {probability_column(name): i for i, name in enumerate(classes)}
    found = []
    for subject in timeline.subjects:
        rows = timeline.rows_of(subject)
        starts = rows["time_s"].to_numpy()
        lasts = row_durations(starts) if len(starts) > 1 else np.ones(1)
        count = int(np.floor((starts[-1] + lasts[-1]) * rate_hz + 1e-6))
        times = np.arange(max(1, count)) / rate_hz
        row = np.searchsorted(starts, times + 1e-6, side="right") - 1
        covered = (row >= 0) & (times < starts[row] + lasts[row] + 1e-6)
        number = np.array([index[probability_column(e)] if e else -1 for e in rows["expression"]])
        values = rows.select("valence", "arousal").cast(pl.Float64).fill_null(float("nan")).to_numpy()
        found.append(
            Person(
                recording,
                subject,
                times,
                np.where(covered, number[row], -1),
                np.where(covered[:, None], values[row], np.nan),
            )
        )
    return found


def read_people(table: Path, *sides: Path) -> tuple[dict[tuple[str, int], str], dict[tuple[str, int], str]]:
    """Who is who in A and B, from the people.csv of `mien people`: (recording, subject) -> person, of each.

    Args:
        table: its column `timeline` tells the sides apart, although recordings of both may have the same name.
        sides: files or folders of A and B.

    Raises:
        ConfigError: the table cannot be read, or is no people.csv.
    """
    rows = read_rows(table, "--people", follows="Nothing was compared.")
    columns = ("subject", "person", "timeline")
    if not rows or any(column not in rows[0] for column in columns):
        raise ConfigError(
            f"{table} has the columns {', '.join(rows[0]) if rows else 'none'}; it needs {', '.join(columns)}",
            follows="Nothing was compared.",
            remedy="Give the people.csv that mien people wrote.",
        )
    found: list[dict[tuple[str, int], str]] = []
    for side in (path.resolve() for path in sides):
        people = {}
        for row in rows:
            timeline = (table.parent / row["timeline"]).resolve()
            if row["person"] and row["subject"].isdecimal() and (timeline == side or side in timeline.parents):
                people[recording_name(timeline), int(row["subject"])] = row["person"]
        found.append(people)
    first, second = found
    return first, second


@dataclass(frozen=True, slots=True)
class Baseline:
    """What counts as a person's usual state: a span of each recording, or recordings of the same people.

    start_s, stop_s: span in seconds. timelines: by recording, or one for all under "". Exactly one of both is given.
    """

    start_s: float | None = None
    stop_s: float | None = None
    timelines: Mapping[str, Timeline] | None = None


def parse_baseline(text: str) -> Baseline:
    """A baseline as `--baseline` gives it: `0-10s`, or a file or folder of timelines.

    Raises ConfigError for neither; MediaError for a file that cannot be read.
    """
    if match := re.fullmatch(r"(\d+(?:\.\d*)?)-(\d+(?:\.\d*)?) ?s", text):
        start, stop = float(match[1]), float(match[2])
        if stop > start:
            return Baseline(start, stop)
    path = Path(text)
    if not path.exists():
        raise ConfigError(
            f"--baseline {text!r} is neither a span of seconds nor a file",
            follows="Nothing was compared.",
            remedy="Write a span as 0-10s, or give a timeline of the same person.",
        )
    timelines = load(path)
    return Baseline(timelines=timelines if path.is_dir() else {"": next(iter(timelines.values()))})


def subtract_baseline(person: Person, baseline: Baseline, rate_hz: float) -> Person | None:
    """The person with valence and arousal as differences from their baseline means; expressions stay.

    Returns None if the baseline has neither: the person cannot be compared. A timeline of one person is the baseline of
    every subject; of several, that of the same number.
    """
    if baseline.timelines is None:
        inside = (person.times >= (baseline.start_s or 0)) & (person.times < (baseline.stop_s or 0))
        reference = person.values[inside]
    else:
        timeline = baseline.timelines.get(person.recording) or baseline.timelines.get("")
        if timeline is None:
            return None
        others = people(person.recording, timeline, common_classes([timeline]), rate_hz)
        same = others if len(others) == 1 else [p for p in others if p.subject == person.subject]
        reference = np.concatenate([p.values for p in same]) if same else np.zeros((0, 2))
    known = np.isfinite(reference)
    if not known.any():
        return None
    means = np.array([reference[known[:, k], k].mean() if known[:, k].any() else np.nan for k in (0, 1)])
    return replace(person, values=person.values - means)


def without_span(person: Person, baseline: Baseline | None) -> Person:
    """The person without the span of the baseline, which would otherwise count as a reaction to what follows it."""
    if baseline is None or baseline.start_s is None or baseline.stop_s is None:
        return person
    outside = (person.times < baseline.start_s) | (person.times >= baseline.stop_s)
    values = np.where(outside[:, None], person.values, np.nan)
    return replace(person, expression=np.where(outside, person.expression, -1), values=values)
