"""Checks a submission file against the official sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from mien.submission.check_coverage import match
from mien.submission.check_rows import fields, suspicions, values
from mien.submission.issues import ERROR, Issue, Kind
from mien.submission.parse import WRONG_CHALLENGE, read_header, read_lines
from mien.submission.template import EXPR, FIELDS, VA, read_sample

#: Share of rows of the other challenge above which the file is taken to be of that challenge.
_NEARLY_ALL = 0.9
_NO_ROWS = Kind("no rows", "there is nothing to score", "write a row for every row of the sample")


def validate(path: Path, sample: Path, kind: str | None = None) -> list[Issue]:
    """Every fault of a submission file: errors first, each kind's first rows one by one and the others counted.

    An empty list means: the exact header, the sample's rows in the sample's order, each with a class from 0 to 7
    (EXPR) or two numbers in [-1, 1] (VA), and nothing that looks unmeant. Names are compared with the sample's
    after the usual misspellings are undone (each a fault), so that one mistake is not reported as a million.

    Args:
        kind: `expr` or `va`; None takes the sample's.

    Raises:
        ConfigError: no such file, or the sample is no sample (see `read_sample`).
    """
    asked = read_sample(sample, kind)
    kind = asked.kind
    lines, faults = read_lines(path)
    if not len(lines):
        return faults
    there, more = read_header(lines[0], kind)
    faults += more
    first = int(there)
    text = pl.DataFrame({"line": np.arange(first + 1, len(lines) + 1), "row": lines[first:]})
    text = text.filter(pl.col("row").str.strip_chars() != "")
    if text.is_empty():
        return [*faults, _NO_ROWS.at(None, "a header and no rows")]
    if other := _other_kind(text, kind):
        return _sorted([f for f in faults if f.kind != other.kind] + [other])
    table, more = fields(text, kind)
    faults += more
    if table.is_empty():
        return _sorted(faults)
    line = table["line"].to_numpy()
    places, more = match(table["name"], line, asked)
    faults += more
    numbers, more = values(table, kind)
    faults += more
    return _sorted(faults + suspicions(numbers, places, line, asked))


def _other_kind(text: pl.DataFrame, kind: str) -> Issue | None:
    """One fault, where nearly all rows are such as the other challenge has: listing each would help nobody."""
    other = VA if kind == EXPR else EXPR
    row = text["row"].str.replace(r"^\d+,", "")  # a column of row numbers would make EXPR rows look like VA's
    like = (row.str.count_matches(",", literal=True) == FIELDS[other] - 1).sum()
    if like <= _NEARLY_ALL * len(text):
        return None
    what = f"{like:,} of {len(text):,} rows have {FIELDS[other]} fields as {other.upper()} rows do, and the sample is "
    remedy = f"give the sample of {other.upper()}, or send the {kind.upper()} file"
    line = int(text["line"][0])
    return Issue(line, f"{what}{kind.upper()}'s", WRONG_CHALLENGE.follows, remedy, WRONG_CHALLENGE.name, rows=int(like))


def _sorted(faults: list[Issue]) -> list[Issue]:
    """Errors before warnings; within them kinds by their first line, those of one kind together."""
    first: dict[str, int] = {}
    for fault in faults:
        first[fault.kind] = min(first.get(fault.kind, 1 << 62), fault.line if fault.line is not None else 1 << 61)
    return sorted(faults, key=lambda f: (f.severity != ERROR, first[f.kind], f.kind))
