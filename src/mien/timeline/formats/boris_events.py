"""BORIS tabular events (.boris.csv): one row for the start and one for the end of each interval.

BORIS exports such a table with "Observations > Export events". Columns follow version 8. The aggregated table, with one
row for each interval, is read too. Friard and Gamba 2016, Methods in Ecology and Evolution 7.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

from mien.timeline.formats.annotations import EXPRESSION, SPEECH, Annotation, Annotations

COLUMNS = (
    *("Observation id", "Observation date", "Description", "Observation duration", "Observation type", "Source"),
    *("Time offset (s)", "Media duration (s)", "FPS (frame/s)", "Subject"),
    *("Observation duration by subject by observation", "Behavior", "Behavioral category", "Behavior type", "Time"),
    *("Media file name", "Image index", "Image file path", "Comment"),
)
#: Subject of events that concern nobody in particular.
NO_SUBJECT = "No focal subject"
_START, _STOP, _POINT = "START", "STOP", "POINT"


def events_of(annotations: Annotations) -> list[tuple[float, str, Annotation]]:
    """Time, START or STOP and interval of each event by time; where one interval ends and another starts, the end
    comes first. Valence and arousal are numbers, which BORIS has no place for."""
    chosen = [i for i in annotations.items if i.kind in (EXPRESSION, SPEECH)]
    events = [(round(i.start_s, 3), _START, i) for i in chosen] + [(round(i.stop_s, 3), _STOP, i) for i in chosen]
    return sorted(events, key=lambda event: (event[0], event[1] == _START))


def dumps(annotations: Annotations) -> str:
    """The text of a table of events, separated by commas."""
    output = io.StringIO()
    writer = csv.DictWriter(output, COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    stop, rate = f"{annotations.stop_s:.3f}", annotations.frame_rate_hz
    for time, kind, item in events_of(annotations):
        writer.writerow(
            {
                "Observation id": Path(annotations.media).stem or "recording",
                "Observation duration": stop,
                "Observation type": "Media file(s)",
                "Source": annotations.media,
                "Time offset (s)": "0.0",
                "Media duration (s)": stop,
                "FPS (frame/s)": f"{rate:.3f}" if rate else "NA",
                "Subject": item.person,
                "Behavior": item.label,
                "Behavioral category": item.kind,
                "Behavior type": kind,
                "Time": f"{time:.3f}",
                "Media file name": annotations.media,
                "Image index": round(time * rate) if rate else "NA",
            }
        )
    return output.getvalue()


def loads(text: str) -> Annotations:
    """The intervals of a table of events or of aggregated events, separated by commas or tabs.

    Raises ValueError: it has not the columns of either, several observations, a start without an end, or a time that is
    no number.
    """
    rows = _rows(text)
    observations = {row["Observation id"] for row in rows if row.get("Observation id")}
    if len(observations) > 1:
        raise ValueError(
            f"it holds {len(observations)} observations ({', '.join(sorted(observations)[:3])}); export one"
        )
    media = next((row[c] for row in rows for c in ("Media file name", "Media file path") if row.get(c)), "")
    durations = [_seconds(row, c) for row in rows[:1] for c in ("Media duration (s)",) if row.get(c, "NA") != "NA"]
    if rows and "Start (s)" in rows[0]:
        items = [_interval(row, _seconds(row, "Start (s)"), _seconds(row, "Stop (s)", "Start (s)")) for row in rows]
    else:
        items = pair((_seconds(row, "Time"), _status(row), _interval(row, 0.0, 0.0)) for row in rows)
    return Annotations(tuple(items), max([*durations, *(i.stop_s for i in items)], default=0.0), media)


def pair(events: Iterable[tuple[float, str, Annotation]]) -> list[Annotation]:
    """Intervals of starts and ends. A status of "" is a start or an end by turns, as in a project of BORIS.

    Raises ValueError for an end without a start, or a start without an end."""
    open_: dict[tuple[str, str], float] = {}
    items = []
    for time, status, about in sorted(events, key=lambda event: (event[0], event[1] == _START)):
        key = about.person, about.label
        if status == _POINT:
            items.append(Annotation(about.kind, about.person, time, time, about.label))
        elif status == _STOP or (status == "" and key in open_):
            if key not in open_:
                raise ValueError(f"{about.label!r} of {about.person} ends at {time:g} s without a start")
            items.append(Annotation(about.kind, about.person, open_.pop(key), time, about.label))
        elif key in open_:
            raise ValueError(f"{about.label!r} of {about.person} starts at {open_[key]:g} s and again at {time:g} s")
        else:
            open_[key] = time
    if open_:
        (person, label), time = min(open_.items(), key=lambda item: item[1])
        raise ValueError(f"{label!r} of {person} starts at {time:g} s and has no end")
    return sorted(items, key=lambda i: (i.person, i.start_s))


def kind_of(behavior: str, category: str) -> str:
    """Speech or expression, by a behaviour's name and category."""
    return SPEECH if SPEECH in (behavior.strip().lower(), category.strip().lower()) else EXPRESSION


def _rows(text: str) -> list[dict[str, str]]:
    lines = text.splitlines()
    for number, line in enumerate(lines[:30]):
        for delimiter in "\t,":
            names = next(csv.reader([line], delimiter=delimiter), [])
            if {"Behavior", "Subject"} <= set(names) and {"Time", "Start (s)"} & set(names):
                reader = csv.DictReader(lines[number:], delimiter=delimiter, restval="")
                return [row for row in reader if row["Behavior"]]
    raise ValueError("it has no line with the columns Subject, Behavior and Time (or Start (s))")


def _status(row: Mapping[str, str]) -> str:
    status = (row.get("Behavior type") or row.get("Status") or "").strip().upper()
    if status not in (_START, _STOP, _POINT):
        raise ValueError(
            f"the row of {row['Behavior']!r} at {row['Time']} has the type {status!r}, not START, STOP, POINT"
        )
    return status


def _seconds(row: Mapping[str, str], column: str, otherwise: str = "") -> float:
    value = row[column]
    if otherwise and value in ("", "NA"):
        value = row[otherwise]
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(
            f"{column} of {row['Behavior']!r} is {value!r}, not seconds; export times as seconds"
        ) from None


def _interval(row: Mapping[str, str], start: float, stop: float) -> Annotation:
    kind = kind_of(row["Behavior"], row.get("Behavioral category") or "")
    return Annotation(kind, row["Subject"].strip() or NO_SUBJECT, start, stop, row["Behavior"].strip())
