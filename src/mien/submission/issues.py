"""What is wrong with a submission file, line by line, without a million lines of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

ERROR, WARNING = "error", "warning"
#: Rows of one kind that are listed one by one; the others of that kind are counted in one more fault.
LISTED = 5
#: Characters of a row that are quoted.
_QUOTED = 90


@dataclass(frozen=True, slots=True)
class Issue:
    """One thing that is wrong, or looks wrong, with a file.

    line: of the file, from 1, or None where it has no line. what, follows, remedy: as in MienError. kind: a few
    words, the same for all faults of a kind. severity: `error`, or `warning` for what may be meant. rows: how many
    rows this fault speaks of.
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
class Kind:
    """What all faults of a kind share."""

    name: str
    follows: str
    remedy: str
    severity: str = ERROR

    def at(self, line: int | None, what: str, rows: int = 1) -> Issue:
        return Issue(line, what, self.follows, self.remedy, self.name, self.severity, rows)

    def listed(self, lines: np.ndarray, what: Iterable[str]) -> list[Issue]:
        """One fault for each of the first few faulty rows, and one that counts the others.

        Args:
            lines: `(row,)` their line numbers, in order.
            what: says what is wrong with each, for the first LISTED at least.
        """
        found = [self.at(int(line), text) for line, text in zip(lines[:LISTED], what, strict=False)]
        if len(lines) > LISTED:
            more = len(lines) - LISTED
            text = f"{self.name}: {more:,} more row{'s' * (more > 1)} like these, the last at line {int(lines[-1]):,}"
            found.append(self.at(int(lines[LISTED]), text, more))
        return found


def quoted(text: str) -> str:
    """A row as it stands in the file, short enough to print, with invisible characters made visible."""
    shown = repr(text[:_QUOTED])
    return shown + "…" if len(text) > _QUOTED else shown
