"""Validation of a submission file against the official sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from mien.submission.check_coverage import match_rows
from mien.submission.check_rows import parse_fields, parse_values, suspicious_values
from mien.submission.issues import ERROR, Issue, IssueKind
from mien.submission.parse import WRONG_CHALLENGE, read_header, read_lines
from mien.submission.template import FIELDS, PER_CLIP, read_sample

#: A file with a larger share of rows in the other challenge's format is taken for that challenge. Our choice.
_NEARLY_ALL = 0.9
_NO_ROWS = IssueKind("no rows", "There is nothing to score.", "Write a row for every row of the sample.")


def validate(path: Path, sample: Path, kind: str | None = None) -> list[Issue]:
    """Lists all issues of a submission file, errors first.

    An empty list means: the exact header, the sample's rows in the sample's order, each with a class from 0 to 7 (EXPR)
    or 0 to 6 (CE), two numbers in [-1, 1] (VA), twelve 0 or 1 (AU) or six numbers in [0, 1] (EMI), and no suspicious
    values. Each kind of issue lists its first rows and counts the
    others. Misspelt names are repaired (and reported) before they are compared with the sample, so that one mistake is
    not reported for every row.

    Args:
        kind: key of `template.HEADERS`; None takes the sample's.

    Raises:
        ConfigError: the file is missing, or the sample is invalid (see `read_sample`).
    """
    template = read_sample(sample, kind)
    kind = template.kind
    lines, issues = read_lines(path)
    if not len(lines):
        return issues
    has_header, more = read_header(lines[0], kind)
    issues += more
    first = int(has_header)
    text = pl.DataFrame({"line": np.arange(first + 1, len(lines) + 1), "row": lines[first:]})
    text = text.filter(pl.col("row").str.strip_chars() != "")
    if text.is_empty():
        return [*issues, _NO_ROWS.issue(None, "a header and no rows")]
    if other := _other_challenge(text, kind):
        return _sort([issue for issue in issues if issue.kind != other.kind] + [other])
    table, more = parse_fields(text, kind)
    issues += more
    if table.is_empty():
        return _sort(issues)
    line = table["line"].to_numpy()
    positions, more = match_rows(table["name"], line, template)
    issues += more
    numbers, more = parse_values(table, kind)
    issues += more
    return _sort(issues + suspicious_values(numbers, positions, line, template))


def _other_challenge(text: pl.DataFrame, kind: str) -> Issue | None:
    """One issue for a file of another challenge, instead of one for each row."""
    # a column of row numbers would make EXPR rows look like VA's
    row = text["row"] if kind in PER_CLIP else text["row"].str.replace(r"^\d+,", "")
    fields = row.str.count_matches(",", literal=True) + 1
    counts = {other: int((fields == FIELDS[other]).sum()) for other in FIELDS if FIELDS[other] != FIELDS[kind]}
    other, count = max(counts.items(), key=lambda item: item[1])  # the first of equals: EXPR before CE
    if count <= _NEARLY_ALL * len(text):
        return None
    what = (
        f"{count:,} of {len(text):,} rows have {FIELDS[other]} fields as {other.upper()} rows do, and the sample is "
        f"{kind.upper()}'s"
    )
    remedy = f"Give the sample of {other.upper()}, or send the {kind.upper()} file."
    line = int(text["line"][0])
    return Issue(line, what, WRONG_CHALLENGE.follows, remedy, WRONG_CHALLENGE.name, rows=count)


def _sort(issues: list[Issue]) -> list[Issue]:
    """Errors before warnings, then kinds by their first line, issues of one kind together."""
    first_line: dict[str, int] = {}
    for issue in issues:
        line = issue.line if issue.line is not None else 1 << 61
        first_line[issue.kind] = min(first_line.get(issue.kind, 1 << 62), line)
    return sorted(issues, key=lambda issue: (issue.severity != ERROR, first_line[issue.kind], issue.kind))
