"""Averages around events: valence, arousal and the share of each class before and after a stimulus."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mien.compare.recordings import Person
from mien.csv_rows import read_rows
from mien.errors import ConfigError
from mien.evaluation.bootstrap import Interval, intervals

#: Seconds between two points of a curve. Our choice: shorter than an expression's onset.
STEP_S = 0.2


@dataclass(frozen=True, slots=True)
class Event:
    """recording: name, "" for every recording. time_s: seconds. name: kind of event. subject: number, None for all."""

    recording: str
    time_s: float
    name: str
    subject: int | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """Average around the events of one name.

    offsets_s: `(point,)` seconds from the event. values: for each offset, the mean and its interval over `units`
    (recordings, or events where there is one recording). count: of events.
    """

    event: str
    measure: str
    offsets_s: np.ndarray
    values: Sequence[Interval]
    count: int
    units: str


def read_events(path: Path) -> list[Event]:
    """Events of a CSV with the column `time_s` and, if wanted, `recording`, `event` and `subject`.

    Raises ConfigError: no such file, no event, no column `time_s`, or a time that is no number.
    """
    rows = read_rows(path, "--events", follows="Nothing was compared.")
    if not rows:
        raise ConfigError(
            f"--events {path} has no event below its header",
            follows="Nothing was compared.",
            remedy="Give a CSV with the columns recording,time_s,event, and a row for each event.",
        )
    if "time_s" not in rows[0]:
        raise ConfigError(
            f"{path} has the columns {', '.join(rows[0])}, and none is time_s",
            follows="Nothing was compared.",
            remedy="Give a CSV with the columns recording,time_s,event.",
        )
    events = []
    for number, row in enumerate(rows, 2):
        try:
            subject = int(row["subject"]) if row.get("subject") else None
            events.append(
                Event(row.get("recording", ""), _seconds(row["time_s"]), row.get("event") or "event", subject)
            )
        except ValueError as error:
            raise ConfigError(
                f"{path}:{number}: {error}",
                follows="Nothing was compared.",
                remedy="Write time_s in seconds, such as 12.4, and subject as a number.",
            ) from None
    return events


def curves(
    people: Sequence[Person], events: Sequence[Event], classes: Sequence[str], window: tuple[float, float]
) -> list[Curve]:
    """The average around each kind of event, of valence, arousal and the share of each class that occurs.

    Args:
        window: first and last offset in seconds. Moments without an estimate are left out of a mean.

    Intervals are over recordings, the mean of whose events counts; with one recording, over events. Events around which
    nobody has an estimate do not count, see `without_estimate`.
    """
    offsets = _offsets(window)
    found = []
    for name in dict.fromkeys(event.name for event in events):
        cut: list[tuple[str, np.ndarray]] = []
        for event in (e for e in events if e.name == name):
            for person in people:
                if _concerns(event, person):
                    values = _around(person, event.time_s + offsets, len(classes))
                    if np.isfinite(values).any():
                        cut.append((person.recording, values))
        if not cut:
            continue
        recordings = list(dict.fromkeys(recording for recording, _ in cut))
        units = "recordings" if len(recordings) > 1 else "events"
        groups = (
            [[c for r, c in cut if r == key] for key in recordings] if len(recordings) > 1 else [[c] for _, c in cut]
        )
        statistics = np.stack([_mean_and_weight(np.stack(group)) for group in groups])  # (unit, 2, offset, measure)
        for k, measure in enumerate(("valence", "arousal", *(f"share of {c}" for c in classes))):
            own = statistics[..., k]
            if not own[:, 1].any() or (k > 1 and not own[:, 0].any()):
                continue
            found.append(Curve(name, measure, offsets, _intervals(own), len(cut), units))
    return found


def without_estimate(
    people: Sequence[Person], events: Sequence[Event], classes: Sequence[str], window: tuple[float, float]
) -> list[Event]:
    """The events in whose window nobody has an estimate, such as those after the end of a recording."""
    offsets = _offsets(window)

    def is_seen(event: Event, person: Person) -> bool:
        times = event.time_s + offsets
        return _concerns(event, person) and bool(np.isfinite(_around(person, times, len(classes))).any())

    return [event for event in events if not any(is_seen(event, person) for person in people)]


def _seconds(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"time_s is {text}")
    return value


def _offsets(window: tuple[float, float]) -> np.ndarray:
    """`(point,)` seconds from the event, `STEP_S` apart."""
    return np.round(np.arange(round(window[0] / STEP_S), round(window[1] / STEP_S) + 1) * STEP_S, 6)


def _concerns(event: Event, person: Person) -> bool:
    return event.recording in ("", person.recording) and event.subject in (None, person.subject)


def _around(person: Person, times: np.ndarray, classes: int) -> np.ndarray:
    """`(time, 2 + classes)` valence, arousal and the class as 0 and 1, NaN without an estimate or outside."""
    out = np.full((len(times), 2 + classes), np.nan)
    rate = 1 / (person.times[1] - person.times[0]) if len(person.times) > 1 else 1.0
    index = np.floor(times * rate + 1e-6).astype(int)
    inside = (index >= 0) & (index < len(person.times))
    out[inside, :2] = person.values[index[inside]]
    number = np.full(len(times), -1)
    number[inside] = person.expression[index[inside]]
    out[number >= 0, 2:] = np.eye(classes)[number[number >= 0]]
    return out


def _mean_and_weight(cuts: np.ndarray) -> np.ndarray:
    """`(2, offset, measure)`: mean over the events `(event, offset, measure)` of a unit, 0 without any; 1 or 0, whether
    there is one."""
    known = np.isfinite(cuts)
    count = known.sum(axis=0)
    mean = np.where(known, cuts, 0).sum(axis=0) / np.maximum(count, 1)
    return np.stack([mean, (count > 0).astype(float)])


def _intervals(statistics: np.ndarray) -> list[Interval]:
    """Means with intervals at each offset. statistics: `(unit, 2, offset)`."""

    def scores(sums: np.ndarray) -> Mapping[str, np.ndarray]:
        with np.errstate(invalid="ignore", divide="ignore"):
            means = sums[..., 0, :] / sums[..., 1, :]
        return {str(i): means[..., i] for i in range(means.shape[-1])}

    return [*intervals(statistics, scores).values()]
