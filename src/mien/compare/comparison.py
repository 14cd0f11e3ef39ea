"""One comparison as a record, JSON-able: what `mien compare` prints, writes and draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from mien.compare import agreement, events, groups
from mien.compare.recordings import (
    Baseline,
    Person,
    common_classes,
    matching_name,
    people,
    subtract_baseline,
    without_span,
)
from mien.errors import ConfigError
from mien.evaluation.bootstrap import DRAWS, FEW_GROUPS, LEVEL, Interval
from mien.labels import EXPRESSIONS, probability_column
from mien.timeline.table import Timeline

#: Bins of A's valence and arousal in the figure of the means of B.
_BINS = 8


@dataclass(frozen=True, slots=True)
class Options:
    """What is compared, and how.

    names: of A and B. rate_hz: moments per second. as_groups: A and B are groups of recordings, not two views of the
    same ones. paired: recordings of one name belong together. people: of A and of B, (recording, subject) -> person;
    groups are then of people, and pairs of the same person. subjects: A's subject -> B's. window: seconds around
    events.
    """

    names: tuple[str, str] = ("A", "B")
    rate_hz: float = 10.0
    as_groups: bool = False
    paired: bool = False
    people: tuple[Mapping[tuple[str, int], str], Mapping[tuple[str, int], str]] | None = None
    subjects: Mapping[int, int] = field(default_factory=dict)
    baseline: Baseline | None = None
    events: Sequence[events.Event] = ()
    window: tuple[float, float] = (-1.0, 3.0)
    attributes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def compare(a: Mapping[str, Timeline], b: Mapping[str, Timeline], options: Options) -> dict[str, Any]:
    """Compares timelines by recording.

    Args:
        a, b: recording -> timeline; b may be empty where only averages around events are wanted.

    Returns a record with `classes`, `names`, `notes`, and `agreement`, `groups`, `events`, each None if not asked for.

    Raises ConfigError: A and B share no recording, or no person of one, or one has no estimate, so nothing can be
    compared.
    """
    classes = common_classes([*a.values(), *b.values()])
    notes: list[str] = []
    sides = [_people(side, classes, options, name, notes) for side, name in zip((a, b), options.names, strict=True)]
    _check_people((a, b), sides, options)
    rest = [{key: [without_span(p, options.baseline) for p in own] for key, own in side.items()} for side in sides]
    record: dict[str, Any] = {
        "classes": list(classes),
        "names": list(options.names),
        "recordings": [len(a), len(b)],
        "rate_hz": options.rate_hz,
        "level": LEVEL,
        "draws": DRAWS,
        "agreement": None,
        "groups": None,
        "events": None,
        "notes": notes,
    }
    if b and options.as_groups:
        record["groups"] = _groups(rest[0], rest[1], classes, options, notes)
    elif b:
        notes += _unmatched_classes(a, b, options.names)
        record["agreement"] = _agreement(rest[0], rest[1], classes, options, notes)
    if options.events:
        record["events"] = _events(sides, classes, options, notes)
    cleaned: dict[str, Any] = _plain(record)
    return cleaned


def _people(
    side: Mapping[str, Timeline], classes: Sequence[str], options: Options, name: str, notes: list[str]
) -> dict[str, list[Person]]:
    """Each recording's people, with valence and arousal relative to the baseline if there is one."""
    found: dict[str, list[Person]] = {}
    for key, timeline in side.items():
        notes += [f"{name}, {key}: {note}" for note in timeline.notes if "of the annotations" in note]
        own = people(key, timeline, classes, options.rate_hz)
        if options.baseline is not None:
            shifted = [subtract_baseline(p, options.baseline, options.rate_hz) for p in own]
            lost = [str(p.subject) for p, s in zip(own, shifted, strict=True) if s is None]
            if lost:
                notes.append(f"{name}, {key}: no baseline of subject {', '.join(lost)}, who is left out")
            own = [s for s in shifted if s is not None]
        found[key] = own
    return found


def _check_people(
    given: Sequence[Mapping[str, Timeline]], sides: Sequence[Mapping[str, list[Person]]], options: Options
) -> None:
    """Check that each side that was given has at least one person. Raises ConfigError."""
    for name, timelines, side in zip(options.names, given, sides, strict=True):
        if not timelines or any(side.values()):
            continue
        if not any(len(timeline) for timeline in timelines.values()):
            raise ConfigError(
                f"{name} has no rows: {_some(timelines)}",
                follows="Nothing was compared.",
                remedy="Give timelines or annotations that are not empty; --tier may have left out all of them.",
            )
        raise ConfigError(
            f"--baseline holds no valence or arousal of anybody in {name}",
            follows="Nothing was compared.",
            remedy="Choose a span in which people are seen or heard, or another timeline of theirs.",
        )


def _unmatched_classes(a: Mapping[str, Timeline], b: Mapping[str, Timeline], names: Sequence[str]) -> list[str]:
    """A note on the classes that occur in one side and are no class of the other, which never agree.

    None if they are all of the standard eight: a person need not see all of them.
    """
    known = [{probability_column(c) for timeline in side.values() for c in timeline.classes} for side in (a, b)]
    lost = [
        (label, name)
        for name, side, others in zip(names, (a, b), reversed(known), strict=True)
        for label in sorted({c for t in side.values() for c in t.table["expression"].drop_nulls().unique()})
        if probability_column(label) not in others
    ]
    if all(label in EXPRESSIONS for label, _ in lost):
        return []
    found = _some(f"{label} of {name}" for label, name in lost)
    remedy = "--map LABEL=CLASS counts a label as another class"
    return [f"classes that the other side lacks, and that never agree: {found}; {remedy}"]


def _agreement(
    a: Mapping[str, list[Person]],
    b: Mapping[str, list[Person]],
    classes: Sequence[str],
    options: Options,
    notes: list[str],
) -> dict[str, Any]:
    shared = [key for key in a if key in b]
    if not shared and len(a) == len(b) == 1:  # two files of one recording may have different names
        shared = [next(iter(a))]
        b = {shared[0]: next(iter(b.values()))}
    if not shared:
        raise ConfigError(
            f"A and B share no recording: A has {_some(a)}; B has {_some(b)}",
            follows="Nothing was compared.",
            remedy="Name the files of one recording alike (clip.eaf, clip/timeline.csv), or compare groups: --groups.",
        )
    for name, side in zip(options.names, (a, b), strict=True):
        if lost := [key for key in side if key not in shared]:
            notes.append(f"only in {name}, and left out: {_some(lost)}")
    pairs = {key: agreement.pair_people(a[key], b[key], options.subjects) for key in shared}
    for key, found in pairs.items():
        missing = len({p.subject for p in a[key]}) + len({p.subject for p in b[key]}) - 2 * len(found)
        if missing and (found or len(shared) > 1):
            notes.append(f"{key}: {missing} of the people are in one of both alone, and left out")
    if not any(pairs.values()):
        key = shared[0]
        raise ConfigError(
            f"A and B share no person: in {key}, A has the subjects {[p.subject for p in a[key]]} and B "
            f"{[p.subject for p in b[key]]}",
            follows="Nothing was compared.",
            remedy="Say who is who: --person 0=1 pairs A's subject 0 with B's subject 1.",
        )
    parts = [agreement.statistics_of(key, found, len(classes)) for key, found in pairs.items()]
    parts = [part for part in parts if part.counted]
    if not parts:
        raise ConfigError(
            "A and B have no moment at which both have an estimate",
            follows="Nothing was compared.",
            remedy="Compare timelines of the same recordings, with the same kind of estimate.",
        )
    if 1 < len(parts) < FEW_GROUPS:
        notes.append(_too_narrow(f"{len(parts)} recordings"))
    if len(parts) == 1:
        notes.append("one recording gives no intervals: its moments are not independent of each other")
    named = {part.recording for part in parts}
    attributes = {matching_name(key, named): values for key, values in options.attributes.items()}
    unknown = [part.recording for part in parts if part.recording not in attributes]
    if attributes and unknown:
        notes.append(f"without attributes, and left out of that section: {_some(unknown)}")
    confusion = np.sum([part.confusion for part in parts], axis=0)
    scores = agreement.score(parts)
    return {
        "scores": [
            {"key": key, "name": name.replace("{a}", options.names[0]), **_interval(scores[key])}
            for key, name in agreement.SCORES.items()
            if math.isfinite(scores[key].value)
        ],
        "confusion": confusion.tolist(),
        "recordings": agreement.by_recording(parts),
        "curves": [
            {"name": name, "points": _binned([pair for found in pairs.values() for pair in found], k)}
            for k, name in enumerate(("valence", "arousal"))
        ],
        "attributes": [
            {
                **entry,
                "values": [
                    {**v, "scores": {key: _interval(i) for key, i in v["scores"].items()}} for v in entry["values"]
                ],
            }
            for entry in agreement.by_attribute(parts, attributes)
        ],
    }


def _binned(pairs: Sequence[tuple[Person, Person]], k: int) -> list[dict[str, float]]:
    """Mean and quartiles of B's values in bins of A's values, the bins equally filled."""
    xs, ys = [], []
    for a, b in pairs:
        n = min(len(a.times), len(b.times))
        x, y = a.values[:n, k], b.values[:n, k]
        known = np.isfinite(x) & np.isfinite(y)
        xs.append(x[known])
        ys.append(y[known])
    x, y = np.concatenate(xs), np.concatenate(ys)
    if len(x) < 2 or np.ptp(x) == 0:
        return []
    edges = np.unique(np.quantile(x, np.linspace(0, 1, _BINS + 1)))
    number = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)
    return [
        {
            "x": float(x[number == i].mean()),
            "y": float(y[number == i].mean()),
            "low": float(np.quantile(y[number == i], 0.25)),
            "high": float(np.quantile(y[number == i], 0.75)),
        }
        for i in range(len(edges) - 1)
        if (number == i).any()
    ]


def _groups(
    a: Mapping[str, list[Person]],
    b: Mapping[str, list[Person]],
    classes: Sequence[str],
    options: Options,
    notes: list[str],
) -> dict[str, Any]:
    if options.people is not None:
        sides = [
            _by_person(side, names, title, notes)
            for side, names, title in zip((a, b), options.people, options.names, strict=True)
        ]
        a, b = sides
    values = [{key: groups.measures(own, classes, options.rate_hz) for key, own in side.items()} for side in (a, b)]
    for name, own in zip(options.names, values, strict=True):
        if not any(own.values()):
            raise ConfigError(
                f"{name} has no estimate in any recording: {_some(own)}",
                follows="Nothing was compared.",
                remedy="Give timelines that have estimates, and a --baseline that is shorter than the recordings.",
            )
    contrasts = groups.contrast_groups(values[0], values[1], paired=options.paired)
    unit, units = ("recording", "recordings") if options.people is None else ("person", "people")
    if options.paired and not set(a) & set(b):
        raise ConfigError(
            f"--paired needs {units} of the same name in both: A has {_some(a)}; B has {_some(b)}",
            follows="Nothing was compared.",
            remedy="Name the two recordings of a person alike, say who is who with --people, or omit --paired.",
        )
    if options.people is not None and not options.paired and (both := sorted(set(a) & set(b))):
        notes.append(f"in both groups, which are then not independent: {_some(both)}; --paired compares within people")
    if min(len(a), len(b)) < 2:
        notes.append(f"a group of one {unit} has no variance: there is no test and no effect size")
    elif notice := _few(len(set(a) & set(b)) if options.paired else (len(a), len(b)), units):
        notes.append(notice)
    record = {"paired": options.paired, "unit": unit, "permutations": groups.DRAWS}
    return record | {"contrasts": [asdict(c) for c in contrasts]}


def _few(sizes: int | tuple[int, int], units: str) -> str:
    """A note on few pairs, or groups of few recordings or people; "" for enough. The smallest p of a two-sided
    permutation test is two in all permutations."""
    if isinstance(sizes, int):
        smallest, what, least = 2 / 2**sizes, f"{sizes} pairs of {units}", sizes
    else:
        smallest, what, least = 2 / math.comb(sum(sizes), sizes[0]), f"{sizes[0]} and {sizes[1]} {units}", min(sizes)
    if least >= FEW_GROUPS:
        return ""
    p = f", and p cannot be below {smallest:.3f} before correction" if smallest > 0.01 else ""
    return _too_narrow(what) + p


def _too_narrow(what: str) -> str:
    return f"with {what}, intervals are too narrow ({FEW_GROUPS} and more are enough)"


def _by_person(
    side: Mapping[str, list[Person]], names: Mapping[tuple[str, int], str], title: str, notes: list[str]
) -> dict[str, list[Person]]:
    """The appearances of each person, by name. Those of nobody known are left out, with a note."""
    found: dict[str, list[Person]] = {}
    unknown = []
    for key, own in side.items():
        for person in own:
            name = names.get((key, person.subject))
            if name is None:
                unknown.append(f"{key} {person.subject}")
            else:
                found.setdefault(name, []).append(person)
    if unknown:
        notes.append(f"{title}: without a name in --people, and left out: {_some(unknown)}")
    if not found:
        raise ConfigError(
            f"--people names nobody in {title}: it has {_some(side)}",
            follows="Nothing was compared.",
            remedy="Give the people.csv that mien people wrote for these folders of results.",
        )
    return dict(sorted(found.items()))


def _events(
    sides: Sequence[Mapping[str, list[Person]]], classes: Sequence[str], options: Options, notes: list[str]
) -> list[dict[str, Any]]:
    known = {key for side in sides for key in side}
    wanted = [replace(e, recording=matching_name(e.recording, known)) for e in options.events]
    if lost := {e.recording for e in wanted if e.recording and e.recording not in known}:
        notes.append(f"events of recordings that are not here, and left out: {_some(sorted(lost))}")
        wanted = [e for e in wanted if e.recording not in lost]
    everybody = [person for side in sides for own in side.values() for person in own]
    if empty := events.without_estimate(everybody, wanted, classes, options.window):
        notes.append(f"events around which nobody has an estimate, and left out: {_some(map(_event, empty))}")
    found = []
    for name, side in zip(options.names, sides, strict=True):
        if not side:
            continue
        everyone = [person for own in side.values() for person in own]
        for curve in events.curves(everyone, wanted, classes, options.window):
            found.append(
                {
                    "of": name,
                    "event": curve.event,
                    "measure": curve.measure,
                    "count": curve.count,
                    "units": curve.units,
                    "points": [
                        {"offset_s": float(t), **_interval(value)}
                        for t, value in zip(curve.offsets_s, curve.values, strict=True)
                    ],
                }
            )
    if not found:
        raise ConfigError(
            f"none of the {len(options.events)} events lies in a recording of A or B where somebody has an estimate",
            follows="Nothing was compared.",
            remedy=f"Write the names of the recordings ({_some(sorted(known))}) in the column recording, and their "
            "seconds in time_s.",
        )
    return found


def _event(event: events.Event) -> str:
    return f"{event.name} at {event.time_s:g} s" + (f" of {event.recording}" if event.recording else "")


def _interval(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def _some(names: Any) -> str:
    names = list(names)
    return ", ".join(map(str, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "none"


def _plain(value: Any) -> Any:
    """The value with None for numbers that are not finite, as JSON needs it."""
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
