"""What is allowed in a submission but is seldom meant."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mien.challenge.faults import LISTED, WARNING, Fault, Kind
from mien.challenge.sample import VA, Sample

_PADDED = Kind(
    "padded with the last value",
    "short predictions padded with their last value score as if they were predictions",
    "look whether the clip was decoded and predicted to its end",
    WARNING,
)
_CONSTANT = Kind(
    "one value throughout",
    "a prediction that never changes scores a CCC of 0",
    "look whether the clip was predicted",
    WARNING,
)
_ALL_SAME = Kind(
    "one value in the whole file",
    "this is what the sample file itself, or an empty prediction, looks like",
    "check the file",
    WARNING,
)
#: A tail is suspicious when the clip changed at least so often before it, and when a tail as long would turn up less
#: often than once in so many clips if changes came at the clip's own rate. Our choice.
_CHANGES, _ONCE_IN = 20, 1e6
#: Rows from which a clip of one VA value is worth a word.
_LONG = 30


def suspicions(values: np.ndarray, places: np.ndarray, lines: np.ndarray, sample: Sample) -> list[Fault]:
    """Warnings from the values `(row, k)` of rows at `places` of the sample, NaN where wrong."""
    good = np.flatnonzero((places >= 0) & np.isfinite(values).all(axis=1))
    if len(good) > 1 and (values[good] == values[good[0]]).all():
        said = ", ".join(f"{v:g}" for v in values[good[0]])
        return [_ALL_SAME.at(int(lines[good[0]]), f"every row says {said}", len(good))]
    full = np.full((len(sample), values.shape[1]), np.nan)
    line_of = np.full(len(sample), -1)
    full[places[good]], line_of[places[good]] = values[good], lines[good]
    padded, constant = [], []
    for clip, rows in sample.rows_of.items():
        rows = rows[line_of[rows] >= 0]
        changes = np.flatnonzero((full[rows[1:]] != full[rows[:-1]]).any(axis=1)) + 1
        if not len(changes):
            if sample.kind == VA and len(rows) >= _LONG:
                constant.append((clip, rows))
            continue
        tail = len(rows) - changes[-1]
        rate = len(changes) / changes[-1]
        if len(changes) >= _CHANGES and (tail - 1) * -np.log1p(-min(rate, 0.999)) > np.log(_ONCE_IN):
            padded.append((clip, rows[changes[-1] :]))
    found = _each(_PADDED, padded, line_of, lambda clip, n: f"the last {n:,} rows of clip {clip!r} repeat one value")
    return found + _each(
        _CONSTANT, constant, line_of, lambda clip, n: f"all {n:,} rows of clip {clip!r} have one value"
    )


def _each(
    kind: Kind, found: list[tuple[str, np.ndarray]], line_of: np.ndarray, what: Callable[[str, int], str]
) -> list[Fault]:
    faults = [kind.at(int(line_of[rows[0]]), what(clip, len(rows)), len(rows)) for clip, rows in found[:LISTED]]
    if len(found) > LISTED:
        rest = sum(len(rows) for _, rows in found[LISTED:])
        line = int(line_of[found[LISTED][1][0]])
        faults.append(kind.at(line, f"{kind.name}: {len(found) - LISTED} more clips like these", rest))
    return faults
