"""Aff-Wild2's label files: EXPR and VA, one row a frame, read strictly.

EXPR: a header of the eight class names joined by commas, then one integer a line, -1 to 7. VA: the header
`valence,arousal`, then two numbers a line in [-1, 1], or -5 for unlabelled. Row i after the header is frame i
(picture `0000i.jpg`), counting from 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mien.datasets.index_entries import ERROR, NOTE, Problem
from mien.labels import EXPRESSIONS, UNLABELLED, VA_UNLABELLED

EXPR_HEADER = ",".join(EXPRESSIONS)
VA_HEADER = "valence,arousal"
#: Problems of one kind in one file are listed one by one up to here, then counted.
_LISTED = 20


@dataclass
class LabelFile:
    """task: `expr` or `va`. values: `(row,)` int with -1 for unlabelled, or `(row, 2)` float with NaN."""

    task: str
    values: np.ndarray
    problems: list[Problem]


def task_of(header: str) -> str:
    """`expr`, `va`, or `au` by the first line of a label or sample file; "" where it is none of them."""
    names = [part.strip().strip('"').lower() for part in header.lstrip("\ufeff").strip().split(",")]
    names = names[1:] if names[:1] == ["image_location"] else names
    if names == [name.lower() for name in EXPRESSIONS]:
        return "expr"
    if names == ["valence", "arousal"]:
        return "va"
    return "au" if names and all(name.startswith("au") and name[2:].isdigit() for name in names) else ""


def read_labels(path: Path, shown: str = "") -> LabelFile:
    """Reads one label file. shown: its name in problems. A row that cannot be used is unlabelled and a
    problem.

    A file whose header is neither of the two gives no rows and an error that quotes the header.
    """
    shown = shown or str(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        return LabelFile("", np.zeros(0), [_error("unreadable labels", shown, None, f"cannot be read ({error})")])
    task = task_of(lines[0])
    if task not in ("expr", "va"):
        what = f"the header is {lines[0][:90]!r}, neither {EXPR_HEADER!r} nor {VA_HEADER!r}"
        return LabelFile(task, np.zeros(0), [_error("wrong header", shown, 1, what)])
    rows = lines[1:]
    while rows and not rows[-1].strip():
        rows.pop()
    if not rows:
        empty = _error("empty labels", shown, 1, "a header and no rows")
        return LabelFile(task, np.zeros((0, 2) if task == "va" else 0), [empty])
    return _expressions(rows, shown) if task == "expr" else _affects(rows, shown)


def _expressions(rows: list[str], shown: str) -> LabelFile:
    try:
        values = np.array(list(map(int, rows)), np.int64)
        bad = [(int(i), f"class {values[i]}") for i in np.flatnonzero((values < -1) | (values > 7))]
    except ValueError:
        values, bad = np.full(len(rows), UNLABELLED, np.int64), []
        for i, row in enumerate(rows):
            try:
                values[i] = int(row)
            except ValueError:
                bad.append((i, f"{row.strip()[:40]!r}"))
            else:
                if not -1 <= values[i] <= 7:
                    bad.append((i, f"class {values[i]}"))
    values[[i for i, _ in bad]] = UNLABELLED
    found = [(i, f"{what} where an integer from -1 to 7 belongs") for i, what in bad]
    return LabelFile("expr", values, _listed(ERROR, "bad label", shown, found))


def _affects(rows: list[str], shown: str) -> LabelFile:
    values = np.full((len(rows), 2), np.nan)
    bad: list[tuple[int, str]] = []
    half: list[tuple[int, str]] = []
    for i, row in enumerate(rows):
        try:
            valence, arousal = map(float, row.split(","))
        except ValueError:
            bad.append((i, f"{row.strip()[:40]!r} where two numbers and a comma belong"))
            continue
        marks = (valence == VA_UNLABELLED) + (arousal == VA_UNLABELLED)
        if marks == 1:
            half.append((i, f"{row.strip()!r}: one of the two is -5"))
        elif marks == 0:
            if abs(valence) <= 1 and abs(arousal) <= 1:
                values[i] = valence, arousal
            else:
                bad.append((i, f"{row.strip()[:40]!r} is outside [-1, 1] and not -5"))
    problems = _listed(ERROR, "bad label", shown, bad) + _listed(NOTE, "half label", shown, half)
    return LabelFile("va", values, problems)


def _listed(severity: str, kind: str, shown: str, found: list[tuple[int, str]]) -> list[Problem]:
    rule = "the row counts as unlabelled"
    problems = [Problem(severity, kind, shown, i + 2, what, rule) for i, what in found[:_LISTED]]
    if len(found) > _LISTED:
        more = f"and {len(found) - _LISTED} more rows like these, the last at line {found[-1][0] + 2}"
        problems.append(Problem(severity, kind, shown, found[_LISTED][0] + 2, more, rule))
    return problems


def _error(kind: str, shown: str, line: int | None, what: str) -> Problem:
    return Problem(ERROR, kind, shown, line, what, "the file is left out")
