"""Annotations: labelled intervals of people, which every annotation format holds in some form.

From a Timeline: one interval for each stretch of an expression, the mean valence and arousal of each second, and the
speech of each person. Back: rows at a fixed rate, each with the labels of the intervals that cover its time.
"""

from __future__ import annotations

import codecs
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mien.clock import median_step, row_durations
from mien.labels import EXPRESSIONS, probability_column
from mien.timeline.columns import schema
from mien.timeline.subject_rows import subject_rows

if TYPE_CHECKING:
    from mien.timeline.table import Timeline

#: What an interval states: a class, a number in [-1, 1], or that the person speaks.
EXPRESSION, VALENCE, AROUSAL, SPEECH = "expression", "valence", "arousal", "speech"
KINDS = (EXPRESSION, VALENCE, AROUSAL, SPEECH)
#: Name of the person in intervals of speech that no subject could be given.
UNKNOWN = "unknown"
#: Seconds that the only row of a still picture lasts, because no format shows an interval without length. Our choice.
STILL_S = 1.0
#: Seconds over which valence and arousal are averaged. Our choice: few enough intervals to read.
VALUE_STEP_S = 1.0
#: More labels than this are words of a transcript rather than classes. Our choice.
MAX_LABELS = 64
#: Half the resolution of formats that count milliseconds.
_HALF_MS = 0.0005 + 1e-9
_SUBJECT = re.compile(r"(?:subject|person|speaker)?[ _-]?0*(\d{1,6})", flags=re.I)


@dataclass(frozen=True, slots=True)
class Annotation:
    """One interval. kind: one of KINDS. person: name. start_s, stop_s: seconds, equal for a point. label: its text."""

    kind: str
    person: str
    start_s: float
    stop_s: float
    label: str


@dataclass(frozen=True, slots=True)
class Annotations:
    """The intervals of one recording, sorted by person, kind and time.

    Attributes:
        stop_s: end of the recording in seconds, at least that of the last interval.
        media: path of the recording, "" if unknown.
        frame_rate_hz: of the pictures, None without pictures.
        notes: what reading decided.
    """

    items: tuple[Annotation, ...]
    stop_s: float = 0.0
    media: str = ""
    frame_rate_hz: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def people(self) -> list[str]:
        """Names in order of appearance among the intervals."""
        return list(dict.fromkeys(item.person for item in self.items))

    def tiers(self) -> dict[tuple[str, str], list[Annotation]]:
        """Intervals by (kind, person), in order of appearance."""
        found: dict[tuple[str, str], list[Annotation]] = {}
        for item in self.items:
            found.setdefault((item.kind, item.person), []).append(item)
        return found


def tier_name(kind: str, person: str) -> str:
    """Name of a tier as mien writes it: `expression@subject_0`, with the person after @ as usual in ELAN."""
    return f"{kind}@{person}"


def parse_tier(name: str, participant: str = "") -> tuple[str, str]:
    """Kind and person of a tier. Names of `tier_name` are taken apart. In names that people chose, the words valence
    and arousal give the kind, and any other tier holds expressions; the person is the participant, else the tier."""
    kind, at, person = name.partition("@")
    if at and kind.strip().lower() in KINDS:
        return kind.strip().lower(), person.strip() or participant or name
    kind = next((k for k in (VALENCE, AROUSAL) if k in name.lower()), EXPRESSION)
    rest = re.sub(rf"[ _.-]*{kind}[ _.-]*", "", name, flags=re.I) if kind != EXPRESSION else name
    return kind, participant or rest or "subject_0"


def decode(data: bytes) -> str:
    """Text of a file: UTF-8, or UTF-16 with a byte order mark, as Praat writes it. Raises ValueError for others."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 text (byte {error.start})") from None


def clean(label: str) -> str:
    """The label on one line, without control characters."""
    letters = (" " if unicodedata.category(c) in ("Cc", "Zl", "Zp", "Cs", "Cn") else c for c in label)
    return " ".join("".join(letters).split())


# --- out of a timeline -----------------------------------------------------------------------------------------


def from_timeline(timeline: Timeline) -> Annotations:
    """The intervals of a timeline. Time without an estimate has none."""
    items: list[Annotation] = []
    stop, frame_rate = 0.0, None
    several = len(timeline.subjects) > 1
    stretches = {summary.subject: summary.stretches for summary in timeline.summaries()}
    unknown: list[tuple[float, float]] = []
    for subject in timeline.subjects:
        rows = timeline.rows_of(subject)
        times = rows["time_s"].to_numpy()
        ends = times + (row_durations(times) if len(times) > 1 else STILL_S)
        stop = max(stop, float(ends[-1]))
        if rows["frame"].null_count() == 0 and (step := median_step(times)) > 0:
            frame_rate = round(1 / step, 6)
        person = f"subject_{subject}"
        for s in stretches[subject]:
            items.append(Annotation(EXPRESSION, person, s.start_s, max(s.stop_s, s.start_s + 1e-3), s.expression))
        if len(times) == 1:
            items = [replace(i, stop_s=i.start_s + STILL_S) if i.person == person else i for i in items]
        for kind in (VALENCE, AROUSAL):
            items += _value_intervals(kind, person, times, ends, rows[kind])
        speech = rows["speech"].fill_null("").to_numpy()
        own = (speech == "own") | ((speech == "shared") & (not several))
        items += [Annotation(SPEECH, person, a, b, SPEECH) for a, b in runs(own, times, ends)]
        if several:
            unknown += runs(speech == "shared", times, ends)
    items += [Annotation(SPEECH, UNKNOWN, a, b, SPEECH) for a, b in _union(unknown)]
    return Annotations(tuple(items), stop, timeline.media, frame_rate)


def runs(mask: np.ndarray, times: np.ndarray, ends: np.ndarray) -> list[tuple[float, float]]:
    """Start and end in seconds of each run of True in `(row,)`."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(float(times[a]), float(ends[b - 1])) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _value_intervals(
    kind: str, person: str, times: np.ndarray, ends: np.ndarray, column: pl.Series
) -> list[Annotation]:
    """Means over each VALUE_STEP_S of the recording in which there is a value."""
    values = column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    known = np.isfinite(values)
    if not known.any():
        return []
    step = np.floor(np.round(times / VALUE_STEP_S, 6)).astype(int)
    first = int(step[0])  # times may begin late
    lasts = (ends - times)[known]
    weights = np.bincount(step[known] - first, lasts)
    sums = np.bincount(step[known] - first, lasts * values[known])
    found = []
    for number in np.flatnonzero(weights):
        start = max((first + number) * VALUE_STEP_S, float(times[0]))
        stop = min((first + number + 1) * VALUE_STEP_S, float(ends[-1]))
        found.append(Annotation(kind, person, start, stop, f"{sums[number] / weights[number]:.3f}"))
    return found


def _union(intervals: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for start, stop in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(stop, merged[-1][1])
        else:
            merged.append((start, stop))
    return merged


# --- into a table ----------------------------------------------------------------------------------------------


def to_table(
    annotations: Annotations,
    *,
    classes: Sequence[str] | None,
    rate_hz: float,
    tiers: Sequence[str] | None = None,
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The table of a Timeline, and its classes, media and notes.

    A row has the label of the interval that covers its time; of several, the one that starts last. An interval between
    two rows gets the row nearest to its start. Labelled rows have probability 1; the others have no estimate. Evidence
    is `voice` where the person is said to speak, else `none`: what the annotator saw is not known.

    Raises ValueError: a label is no number where one is needed, no class, or there are too many different ones; there
    is no tier of a name; `rate_hz` is not positive.
    """
    if not rate_hz > 0:
        raise ValueError(f"rows per second must be more than 0; got {rate_hz:g}")
    items = _chosen(annotations, tiers)
    numbers = number_people(dict.fromkeys(i.person for i in items if i.person != UNKNOWN))
    labels = [clean(i.label) for i in items if i.kind == EXPRESSION]
    classes, class_of = choose_classes(labels, classes)
    last_point = max((i.start_s + 1 / rate_hz for i in items if i.stop_s <= i.start_s), default=0.0)
    stop = max([annotations.stop_s, last_point, *(i.stop_s for i in items)], default=0.0)
    times = np.arange(max(1, math.ceil(round((stop - _HALF_MS) * rate_hz, 6)))) / rate_hz
    names = {number: name for name, number in numbers.items()}
    notes = [*annotations.notes]
    notes += [
        f"subject {n} is {name!r} of the annotations" for n, name in sorted(names.items()) if not _is_number(name)
    ]
    spoken = {p: _covered([i for i in items if i.kind == SPEECH and i.person == p], times) for p in numbers}
    parts = [
        _person_rows(number, [i for i in items if i.person == person], times, classes, class_of)
        for number, person in sorted(names.items())
    ]
    for index, person in enumerate(names[n] for n in sorted(names)):
        others = np.any([spoken[p] for p in spoken if p != person], axis=0) if len(spoken) > 1 else np.zeros(1, bool)
        parts[index] = _with_speech(parts[index], spoken[person], np.broadcast_to(others, times.shape))
    table = pl.concat(parts) if parts else pl.DataFrame(schema=schema(classes))
    return table, {"classes": classes, "media": annotations.media, "notes": notes}


def _chosen(annotations: Annotations, tiers: Sequence[str] | None) -> list[Annotation]:
    if tiers is None:
        return list(annotations.items)
    wanted = [name.casefold() for name in tiers]
    names = {name for i in annotations.items for name in (i.person, tier_name(i.kind, i.person))}
    for name in tiers:
        if name.casefold() not in {n.casefold() for n in names}:
            raise ValueError(f"it has no tier or person {name!r}; it has {', '.join(sorted(names)) or 'none'}")
    return [i for i in annotations.items if {i.person.casefold(), tier_name(i.kind, i.person).casefold()} & {*wanted}]


def _is_number(name: str) -> bool:
    return _SUBJECT.fullmatch(name.strip()) is not None


def number_people(people: Iterable[str]) -> dict[str, int]:
    """Subject number of each person: that of names such as `subject_3`, `SPEAKER_03` or `3`; others get the lowest free
    ones in order."""
    people = list(people)
    numbers: dict[str, int] = {}
    for name in people:
        match = _SUBJECT.fullmatch(name.strip())
        if match and int(match[1]) not in numbers.values():
            numbers[name] = int(match[1])
    for name in people:
        if name not in numbers:
            numbers[name] = next(n for n in range(len(people) + 1) if n not in numbers.values())
    return numbers


def choose_classes(labels: Sequence[str], classes: Sequence[str] | None) -> tuple[tuple[str, ...], dict[str, int]]:
    """Class names, and the class number of each label.

    Labels are compared without regard to capitals, and spaces count as underscores. Without `classes`: the eight
    standard ones if no label is another; else the standard ones that occur, in their order, and then the others,
    sorted.

    Raises ValueError for a label that is none of `classes`, or more than MAX_LABELS different labels.
    """
    given = list(EXPRESSIONS if classes is None else classes)
    known = {probability_column(name): name for name in given}
    other: dict[str, str] = {}
    for label in labels:
        if (column := probability_column(label)) not in known:
            other.setdefault(column, label)
    if classes is not None and other:
        raise ValueError(f"it has the label {min(other.values())!r}, which is none of the classes {', '.join(given)}")
    if len(other) > MAX_LABELS:
        raise ValueError(
            f"it has {len(other)} labels that are no class, so it seems to hold words rather than expressions; "
            "give a transcript to `mien turns` instead"
        )
    if other:
        used = {probability_column(label) for label in labels}
        given = [name for name in given if probability_column(name) in used] + sorted(other.values())
    index = {probability_column(name): i for i, name in enumerate(given)}
    return tuple(given), {label: index[probability_column(label)] for label in labels}


def _person_rows(
    subject: int, items: Sequence[Annotation], times: np.ndarray, classes: Sequence[str], class_of: dict[str, int]
) -> pl.DataFrame:
    label, values = np.full(len(times), -1), np.full((len(times), 2), np.nan)
    for item in sorted(items, key=lambda i: i.start_s):
        rows = _rows_of(item, times)
        if item.kind == EXPRESSION:
            label[rows] = class_of[clean(item.label)]
        elif item.kind in (VALENCE, AROUSAL):
            values[rows, (VALENCE, AROUSAL).index(item.kind)] = _number(item)
    probabilities = np.where(label[:, None] >= 0, np.eye(len(classes))[label], np.nan)
    nobody = np.zeros(len(times), bool)
    table = subject_rows(
        subject, times, probabilities=probabilities, valence_arousal=values, voice=nobody, classes=classes
    )
    # `subject_rows` keeps valence and arousal only beside an expression; people may annotate one without the other.
    columns = [pl.Series(name, values[:, k], dtype=pl.Float32) for k, name in enumerate((VALENCE, AROUSAL))]
    return table.with_columns(columns).with_columns(pl.col(VALENCE, AROUSAL).fill_nan(None))


def _with_speech(table: pl.DataFrame, own: np.ndarray, others: np.ndarray) -> pl.DataFrame:
    speech = [*np.where(own, "own", np.where(others, "other", ""))]
    return table.with_columns(
        pl.Series("speech", [str(s) or None for s in speech], dtype=pl.String),
        pl.Series("evidence", np.where(own, "voice", "none").tolist(), dtype=pl.String),
    )


def _covered(items: Sequence[Annotation], times: np.ndarray) -> np.ndarray:
    covered = np.zeros(len(times), bool)
    for item in items:
        covered[_rows_of(item, times)] = True
    return covered


def _rows_of(item: Annotation, times: np.ndarray) -> slice:
    """Rows whose time lies in `[start, stop)`, at least one. Formats round to milliseconds, which must move no row."""
    first = int(np.searchsorted(times, item.start_s - _HALF_MS))
    last = int(np.searchsorted(times, item.stop_s - _HALF_MS))
    if last <= first:
        first = min(int(np.abs(times - item.start_s).argmin()), len(times) - 1)
        last = first + 1
    return slice(first, last)


def _number(item: Annotation) -> float:
    """The value of an interval of valence or arousal. Raises ValueError unless it is a number in [-1, 1]."""
    try:
        value = float(item.label.strip().replace("\N{MINUS SIGN}", "-").replace(",", "."))
    except ValueError:
        value = math.nan
    if not -1 <= value <= 1:
        raise ValueError(
            f"{item.kind} of {item.person} at {item.start_s:g} s is {item.label!r}; it must be a number from -1 to 1"
        )
    return value
