"""Label files of Aff-Wild2: EXPR and VA, one row for each frame.

EXPR: a header of the eight class names joined by commas, then one integer from -1 to 7 a line. VA: the header
`valence,arousal`, then two numbers in [-1, 1] a line, or -5 for unlabelled. Row i after the header, counting
from 1, is picture `0000i.jpg`; `mien.datasets.frame_times.FrameTimes.row_times` gives the rows their times.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mien.datasets.index_entries import ERROR, NOTE, Problem
from mien.labels import EXPRESSIONS, UNLABELLED, VA_UNLABELLED

EXPR_HEADER = ",".join(EXPRESSIONS)
VA_HEADER = "valence,arousal"
#: Up to this many problems of one kind in one file are listed one by one; the others are only counted.
_LISTED = 20


@dataclass
class LabelFile:
    """Contents of one label file.

    task: `expr` or `va`; `au` or "" where the header is another. values: `(row,)` int64 class index, -1 for
    unlabelled; or `(row, 2)` float64 valence and arousal in [-1, 1], NaN for unlabelled.
    """

    task: str
    values: np.ndarray
    problems: list[Problem]


def task_of_header(header: str) -> str:
    """Task of a label file or sample submission, from its first line: `expr`, `va` or `au`, else ""."""
    names = [part.strip().strip('"').lower() for part in header.lstrip("\ufeff").strip().split(",")]
    names = names[1:] if names[:1] == ["image_location"] else names
    if names == [name.lower() for name in EXPRESSIONS]:
        return "expr"
    if names == ["valence", "arousal"]:
        return "va"
    return "au" if names and all(name.startswith("au") and name[2:].isdigit() for name in names) else ""


def read_labels(path: Path, name: str = "") -> LabelFile:
    """Read one label file.

    A row that cannot be used becomes unlabelled and is listed as a problem. A file that cannot be read, or whose
    header is neither of the two, has no rows and one problem. Nothing is raised.

    Args:
        name: how problems call the file; default: its path.
    """
    name = name or str(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        return LabelFile("", np.zeros(0), [_file_error("unreadable labels", name, None, f"cannot be read ({error})")])
    task = task_of_header(lines[0])
    if task not in ("expr", "va"):
        what = f"the header is {lines[0][:90]!r}, neither {EXPR_HEADER!r} nor {VA_HEADER!r}"
        return LabelFile(task, np.zeros(0), [_file_error("wrong header", name, 1, what)])
    rows = lines[1:]
    while rows and not rows[-1].strip():
        rows.pop()
    if not rows:
        empty = _file_error("empty labels", name, 1, "a header and no rows")
        return LabelFile(task, np.zeros((0, 2) if task == "va" else 0), [empty])
    return _parse_expressions(rows, name) if task == "expr" else _parse_valence_arousal(rows, name)


def _parse_expressions(rows: list[str], name: str) -> LabelFile:
    values = np.full(len(rows), UNLABELLED, np.int64)
    bad: list[tuple[int, str]] = []
    for i, row in enumerate(rows):
        try:
            value = int(row)
        except ValueError:
            bad.append((i, f"{row.strip()[:40]!r} where an integer from -1 to 7 belongs"))
            continue
        if -1 <= value <= 7:
            values[i] = value
        else:
            bad.append((i, f"class {value} where an integer from -1 to 7 belongs"))
    return LabelFile("expr", values, _row_problems(ERROR, "bad label", name, bad))


def _parse_valence_arousal(rows: list[str], name: str) -> LabelFile:
    values = np.full((len(rows), 2), np.nan)
    bad: list[tuple[int, str]] = []
    half: list[tuple[int, str]] = []
    for i, row in enumerate(rows):
        try:
            valence, arousal = map(float, row.split(","))
        except ValueError:
            bad.append((i, f"{row.strip()[:40]!r} where two numbers and a comma belong"))
            continue
        unlabelled = (valence == VA_UNLABELLED) + (arousal == VA_UNLABELLED)
        if unlabelled == 1:
            half.append((i, f"{row.strip()!r}: one of the two is -5"))
        elif unlabelled == 0:
            if abs(valence) <= 1 and abs(arousal) <= 1:
                values[i] = valence, arousal
            else:
                bad.append((i, f"{row.strip()[:40]!r} is outside [-1, 1] and not -5"))
    problems = _row_problems(ERROR, "bad label", name, bad) + _row_problems(NOTE, "half label", name, half)
    return LabelFile("va", values, problems)


def _row_problems(severity: str, kind: str, name: str, rows: list[tuple[int, str]]) -> list[Problem]:
    rule = "the row counts as unlabelled"
    problems = [Problem(severity, kind, name, i + 2, what, rule) for i, what in rows[:_LISTED]]
    if len(rows) > _LISTED:
        more = f"and {len(rows) - _LISTED} more rows like these, the last at line {rows[-1][0] + 2}"
        problems.append(Problem(severity, kind, name, rows[_LISTED][0] + 2, more, rule))
    return problems


def _file_error(kind: str, name: str, line: int | None, what: str) -> Problem:
    return Problem(ERROR, kind, name, line, what, "the file is left out")
