"""Issues of a submission file: errors and warnings by line, with repeated ones counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

ERROR, WARNING = "error", "warning"
#: Rows of one kind that are listed one by one; one more issue counts the others.
MAX_LISTED = 5
#: Characters of a row that are quoted.
_MAX_QUOTED = 90


@dataclass(frozen=True, slots=True)
class Issue:
    """Error or warning about a file.

    Attributes:
        line: line number from 1, or None for an issue without a line.
        what, follows, remedy: problem, consequence and fix, as in `MienError`.
        kind: name of the kind, equal for all issues of a kind.
        severity: `error`, or `warning` for what may be intended.
        rows: number of rows with this issue.
    """

    line: int | None
    what: str
    follows: str
    remedy: str
    kind: str
    severity: str = ERROR
    rows: int = 1

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line is not None else ""
        return f"{where}{self.what}"


@dataclass(frozen=True, slots=True)
class IssueKind:
    """Kind of issue: its name, consequence, fix and severity."""

    name: str
    follows: str
    remedy: str
    severity: str = ERROR

    def issue(self, line: int | None, what: str, rows: int = 1) -> Issue:
        """Issue of this kind at a line."""
        return Issue(line, what, self.follows, self.remedy, self.name, self.severity, rows)

    def issues(self, lines: np.ndarray, what: Iterable[str]) -> list[Issue]:
        """One issue for each of the first MAX_LISTED rows, and one that counts the others.

        Args:
            lines: `(row,)` line numbers, increasing.
            what: problem of each row, at least for the first MAX_LISTED.
        """
        issues = [self.issue(int(line), text) for line, text in zip(lines[:MAX_LISTED], what, strict=False)]
        if len(lines) > MAX_LISTED:
            more = len(lines) - MAX_LISTED
            text = f"{self.name}: {more:,} more row{'s' * (more > 1)} like these, the last at line {int(lines[-1]):,}"
            issues.append(self.issue(int(lines[MAX_LISTED]), text, more))
        return issues

    def group_issues(self, groups: Sequence[tuple[int | None, str, int]], unit: str) -> list[Issue]:
        """One issue for each of the first MAX_LISTED groups of rows, and one that counts the others.

        Args:
            groups: (line, problem, number of rows) of each.
            unit: plural name of the groups.
        """
        issues = [self.issue(*group) for group in groups[:MAX_LISTED]]
        if rest := groups[MAX_LISTED:]:
            rows = sum(count for _, _, count in rest)
            issues.append(self.issue(rest[0][0], f"{self.name}: {len(rest):,} more {unit} ({rows:,} rows)", rows))
        return issues


def split_by_kind(
    table: pl.DataFrame, column: str, patterns: Iterable[tuple[IssueKind, str]]
) -> Iterator[tuple[IssueKind, pl.DataFrame]]:
    """Splits rows by the first kind whose regular expression matches their `column`; kinds without rows are skipped."""
    for kind, pattern in patterns:
        is_match = table[column].str.contains(pattern)
        if is_match.any():
            yield kind, table.filter(is_match)
            table = table.filter(~is_match)


def quote(text: str) -> str:
    """Quoted text of a row, shortened, with invisible characters escaped."""
    shown = repr(text[:_MAX_QUOTED])
    return shown + "…" if len(text) > _MAX_QUOTED else shown
