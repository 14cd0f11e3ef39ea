"""Label files of Aff-Wild2: EXPR, VA and AU, and of compound expressions (CE); one row for each frame.

EXPR: a header of the eight class names joined by commas, then one integer from -1 to 7 a line. VA: the header
`valence,arousal`, then two numbers in [-1, 1] a line, or -5 for unlabelled. AU: the header `AU1,AU2,...,AU26` of
twelve names, then twelve numbers a line, 1 (active), 0 or -1 (not annotated). CE: a header of the seven compound names,
then one integer from -1 to 6 a line; the challenge publishes no such labels, so this form follows EXPR (our choice).
Row i after the header, counting from 1, is picture `0000i.jpg`; `mien.datasets.frame_times.FrameTimes.row_times` gives
the rows their times.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mien.datasets.index_entries import ERROR, NOTE, Problem
from mien.labels import ACTION_UNITS, COMPOUND_EXPRESSIONS, EXPRESSIONS, SCORE_TASKS, UNLABELLED, VA_UNLABELLED

EXPR_HEADER = ",".join(EXPRESSIONS)
VA_HEADER = "valence,arousal"
AU_HEADER = ",".join(ACTION_UNITS)
#: Names in the header of compound expressions, as in the challenge's files.
CE_NAMES = tuple(name.replace(" ", "_") for name in COMPOUND_EXPRESSIONS)
#: Up to this many problems of one kind in one file are listed one by one; the others are only counted.
_LISTED = 20


@dataclass
class LabelFile:
    """Contents of one label file.

    task: `expr`, `va`, `au` or `ce`, "" where the header is another. values: of `expr`, `(row,)` int64 class index, -1
    for unlabelled; of `va`, `(row, 2)` float64 valence and arousal in [-1, 1]; of `au` and `ce`, `(row, columns)`
    float64 0 or 1 (of `ce`, one of them is 1); NaN for unlabelled.
    """

    task: str
    values: np.ndarray
    problems: list[Problem]


def task_of_header(header: str) -> str:
    """Task of a label file or sample submission, from its first line: `expr`, `va`, `au` or `ce`, else ""."""
    names = [part.strip().strip('"').lower() for part in header.lstrip("\ufeff").strip().split(",")]
    names = names[1:] if names[:1] == ["image_location"] else names
    if names == [name.lower() for name in EXPRESSIONS]:
        return "expr"
    if names == ["valence", "arousal"]:
        return "va"
    if names == [name.lower() for name in ACTION_UNITS]:
        return "au"
    return "ce" if [name.replace(" ", "_") for name in names] == [name.lower() for name in CE_NAMES] else ""


def read_labels(path: Path, name: str = "") -> LabelFile:
    """Read one label file.

    A row that cannot be used becomes unlabelled and is listed as a problem. A file that cannot be read, or whose
    header is none of the four, has no rows and one problem. Nothing is raised.

    Args:
        name: how problems call the file; default: its path.
    """
    name = name or str(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        return LabelFile("", np.zeros(0), [_file_error("unreadable labels", name, None, f"cannot be read ({error})")])
    task = task_of_header(lines[0])
    if not task:
        what = f"the header is {lines[0][:90]!r}, none of {EXPR_HEADER!r}, {VA_HEADER!r} and {AU_HEADER!r}"
        return LabelFile(task, np.zeros(0), [_file_error("wrong header", name, 1, what)])
    rows = lines[1:]
    while rows and not rows[-1].strip():
        rows.pop()
    if not rows:
        empty = _file_error("empty labels", name, 1, "a header and no rows")
        columns = 2 if task == "va" else len(SCORE_TASKS[task].columns) if task in SCORE_TASKS else 0
        return LabelFile(task, np.zeros((0, columns) if columns else 0), [empty])
    if task == "ce":
        return _parse_compounds(rows, name)
    parse = {"expr": _parse_expressions, "va": _parse_valence_arousal, "au": _parse_action_units}[task]
    return parse(rows, name)


def _parse_compounds(rows: list[str], name: str) -> LabelFile:
    read = _parse_expressions(rows, name, len(CE_NAMES))
    values = np.eye(len(CE_NAMES))[np.maximum(read.values, 0)]
    values[read.values == UNLABELLED] = np.nan
    return LabelFile("ce", values, read.problems)


def _parse_action_units(rows: list[str], name: str) -> LabelFile:
    commas = len(ACTION_UNITS) - 1
    try:  # a file without faults, at once: millions of rows take seconds instead of a minute
        units = np.array(",".join(rows).split(","), np.float64).reshape(len(rows), -1)
        if all(row.count(",") == commas for row in rows) and np.isin(units, (-1, 0, 1)).all():
            return LabelFile("au", np.where(units == UNLABELLED, np.nan, units), [])
    except ValueError:
        pass
    values = np.full((len(rows), len(ACTION_UNITS)), np.nan)
    bad: list[tuple[int, str]] = []
    for i, row in enumerate(rows):
        try:
            numbers = [float(text) for text in row.split(",")]
        except ValueError:
            numbers = []
        if len(numbers) != len(ACTION_UNITS):
            bad.append((i, f"{row.strip()[:40]!r} where {len(ACTION_UNITS)} numbers and commas belong"))
        elif not set(numbers) <= {-1.0, 0.0, 1.0}:
            bad.append((i, f"{row.strip()[:40]!r} holds a value that is not 1, 0 or -1"))
        else:
            values[i] = [np.nan if number == UNLABELLED else number for number in numbers]
    return LabelFile("au", values, _row_problems(ERROR, "bad label", name, bad))


def _parse_expressions(rows: list[str], name: str, classes: int = len(EXPRESSIONS)) -> LabelFile:
    values = np.full(len(rows), UNLABELLED, np.int64)
    bad: list[tuple[int, str]] = []
    for i, row in enumerate(rows):
        try:
            value = int(row)
        except ValueError:
            bad.append((i, f"{row.strip()[:40]!r} where an integer from -1 to {classes - 1} belongs"))
            continue
        if -1 <= value < classes:
            values[i] = value
        else:
            bad.append((i, f"class {value} where an integer from -1 to {classes - 1} belongs"))
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
