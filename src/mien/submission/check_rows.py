"""Rows of a submission: fields, names and values, each fault with the mistake that it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np
import polars as pl

from mien.labels import EXPRESSIONS
from mien.submission.issues import LISTED, WARNING, Issue, Kind, quoted
from mien.submission.template import EXPR, FIELDS, HEADERS, VA, Template

_FIELDS = Kind(
    "wrong field count",
    "the row cannot be read",
    "EXPR: two fields, video/00001.jpg,3 (although the header names nine); VA: three, video/00001.jpg,0.1,-0.2",
)
_QUOTED = Kind(
    "quoted row", "a reader takes the quotes for part of the fields", "write without quotes (csv.QUOTE_NONE)"
)
_SEPARATOR = Kind("wrong separator", "the row is read as one field", "separate fields by commas")
_DECIMAL_COMMA = Kind("decimal comma", "one number is read as two fields", "write decimal points: 0.25")
_ONE_HOT = Kind(
    "one column a class",
    "the row cannot be read: a row has TWO fields although the header names nine",
    "write the number of the likeliest class: video/00001.jpg,3",
)
_SWAPPED = Kind("swapped columns", "the row names no frame", "write the name first, then the value")
_AGAIN = Kind("header again", "the row names no frame", "take out the headers of the parts that were joined")
_INDEX = Kind(
    "index column", "every field stands one column too far to the right", "leave the row numbers out: index=False"
)


def fields(text: pl.DataFrame, kind: str) -> tuple[pl.DataFrame, list[Issue]]:
    """Rows cut into fields.

    Args:
        text: `line` (from 1) and `row`, blank rows left out.

    Returns:
        The rows, read by force where need be: `line, name, value` (EXPR) or `line, name, value, value2` (VA), with
        null values where the fields could not be told apart; and faults. What is repaired here is a fault, but
        does not hide the faults behind it.
    """
    faults: list[Issue] = []
    for wrong, pattern, letter in ((_QUOTED, '"', ""), (_SEPARATOR, "^[^,]*[;\t][^,]*$", ",")):
        hit = text["row"].str.contains(pattern)
        if hit.any():
            rows = text.filter(hit)
            faults += wrong.listed(rows["line"].to_numpy(), map(quoted, rows["row"].head(LISTED)))
            clean = pl.col("row").str.replace_all("[;\t]" if letter else '"', letter)
            text = text.with_columns(row=pl.when(hit).then(clean).otherwise("row"))
    commas = FIELDS[kind] - 1
    bad = text["row"].str.count_matches(",", literal=True) != commas
    if not bad.any():
        return _unswapped(_cut(text, kind), faults)
    text, lost, more = _miscounted(text, bad, kind)
    return _unswapped(pl.concat([_cut(text, kind), lost], how="diagonal").sort("line"), faults + more)


def _cut(text: pl.DataFrame, kind: str) -> pl.DataFrame:
    parts = text["row"].str.split_exact(",", FIELDS[kind] - 1).struct.unnest()
    columns = ("name", "value", "value2")[: FIELDS[kind]]
    return pl.DataFrame([text["line"], *(parts.to_series(i).alias(c) for i, c in enumerate(columns))])


def _miscounted(text: pl.DataFrame, bad: pl.Series, kind: str) -> tuple[pl.DataFrame, pl.DataFrame, list[Issue]]:
    """All rows but those that could not be mended; of the latter `line` and `name`; and faults."""
    wanted = FIELDS[kind]
    kinds = [
        (_AGAIN, "(?i)^" + HEADERS[kind] + "$"),
        (_INDEX, rf"^\d+,[^,]*\.jpg(,[^,]*){{{wanted - 1}}}$"),
        (_DECIMAL_COMMA, r"\.jpg(,-?[01],\d+|,-?[01]){2}$" if kind == VA else "$^"),
        (_ONE_HOT, rf"^[^,]*(,[^,]*){{{len(EXPRESSIONS)}}}$" if kind == EXPR else "$^"),
        (_FIELDS, ""),
    ]
    faults: list[Issue] = []
    for wrong, rows in _by_kind(text.filter(bad), "row", kinds):
        shown = [f"{quoted(row)} has {_fields_of(row)}, not {wanted}" for row in rows["row"].head(LISTED)]
        faults += wrong.listed(rows["line"].to_numpy(), shown)
    index, header = (bad & text["row"].str.contains(kinds[i][1]) for i in (1, 0))
    lost = text.filter(bad & ~index & ~header).select("line", name=pl.col("row").str.replace(",.*$", ""))
    mended = text.with_columns(row=pl.when(index).then(pl.col("row").str.replace(r"^\d+,", "")).otherwise("row"))
    return mended.filter(~bad | index), lost, faults


def _fields_of(row: str) -> str:
    count = row.count(",") + 1
    return f"{count} field{'s' * (count != 1)}"


def _by_kind(
    table: pl.DataFrame, column: str, kinds: Iterable[tuple[Kind, str]]
) -> Iterator[tuple[Kind, pl.DataFrame]]:
    """Rows under the first kind whose pattern their `column` matches; kinds without rows are left out."""
    for kind, pattern in kinds:
        mine = table[column].str.contains(pattern)
        if mine.any():
            yield kind, table.filter(mine)
            table = table.filter(~mine)


def _unswapped(table: pl.DataFrame, faults: list[Issue]) -> tuple[pl.DataFrame, list[Issue]]:
    last = table.columns[-1]
    swapped = ~table["name"].str.contains("[/\\\\]") & table[last].str.contains("[/\\\\]").fill_null(False)
    if not swapped.any():
        return table, faults
    turned = table.filter(swapped)
    shown = [f"the value {quoted(value)} stands before the name" for value in turned["name"].head(LISTED)]
    faults = faults + _SWAPPED.listed(turned["line"].to_numpy(), shown)
    order = turned.select("line", last, *(c for c in table.columns[1:] if c != last))
    order.columns = table.columns
    return pl.concat([table.filter(~swapped), order]).sort("line"), faults


# --- values ------------------------------------------------------------------------------------------------

_CLASS = "a whole number from 0 (Neutral) to 7 (Other) belongs there"
_RANGE = "valence and arousal are two numbers in [-1, 1]"
_OUTSIDE = "class outside 0 to 7"
_SPACES = Kind("spaces", "strict readers take them for part of the value", "write no spaces between fields", WARNING)


_COMMON = {
    "missing value": (r"^$", "give every row a value: no frame is left out"),
    "NaN": (
        r"(?i)^[+-]?(nan|null|none|na|inf|infinity)$",
        "fill frames without a prediction before writing (write_expr and write_va do)",
    ),
}
_EXPR_WRONG = {
    **_COMMON,
    "unlabelled mark": (
        r"^-1(\.0*)?$",
        "-1 marks unlabelled frames in annotations; a prediction has to choose a class",
    ),
    "-5": (r"^-5(\.0*)?$", "-5 is a mark of VA annotations; a prediction has to choose a class"),
    _OUTSIDE: (
        r"^[+-]?\d+$",
        "classes count from 0: Neutral 0 ... Other 7; those of other corpora need mapping",
    ),
    "decimal class": (
        r"^[0-7]\.0*$",
        "write whole numbers: 2, not 2.0 (a column that held NaN becomes float: cast to int)",
    ),
    "class name": (
        "(?i)^(" + "|".join(EXPRESSIONS) + ")$",
        "write the number: " + ", ".join(f"{i} {n}" for i, n in enumerate(EXPRESSIONS)),
    ),
    "no class": (r"", "write one whole number"),
}
_VA_WRONG = {
    **_COMMON,
    "-5": (r"^-5(\.0*)?$", "-5 marks unlabelled frames in annotations; every frame of a submission needs a prediction"),
    "outside [-1, 1]": (r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$", "scale to [-1, 1]; cut overshoot"),
    "no number": (r"", "write a number with a decimal point"),
}


def values(table: pl.DataFrame, kind: str) -> tuple[np.ndarray, list[Issue]]:
    """Values as numbers, `(row, 1)` classes or `(row, 2)` valence and arousal, NaN where wrong; and faults."""
    numbers, faults = [], []
    labels = ("class",) if kind == EXPR else ("valence", "arousal")
    for column, label in zip(table.columns[2:], labels, strict=True):
        number = _numbers(table[column], kind)
        if len(where := np.flatnonzero(np.isnan(number) & table[column].is_not_null().to_numpy())):
            text = table[where].select("line", text=column)
            number[where], more = _looked_into(text, kind, label, zeros=bool((table[column] == "0").any()))
            faults += more
        numbers.append(number)
    return np.stack(numbers, axis=1), faults


def _numbers(text: pl.Series, kind: str) -> np.ndarray:
    """`(row,)` the number that stands there, NaN where none, or none that is allowed."""
    number = text.cast(pl.Float64, strict=False)
    good = text.str.contains("^[0-7]$") if kind == EXPR else number.is_between(-1, 1) & ~text.str.contains("_")
    return np.where(good.fill_null(False).to_numpy(), number.fill_null(np.nan).to_numpy(), np.nan)


def _looked_into(text: pl.DataFrame, kind: str, label: str, *, zeros: bool) -> tuple[np.ndarray, list[Issue]]:
    """Values that are not as they have to be: the number where only spaces are wrong, and faults. zeros: whether the
    file has any 0, which tells a wrong class from counting from 1."""
    number = _numbers(text["text"].str.strip_chars(), kind)
    spaced = text.filter(np.isfinite(number))
    shown = [f"{label} is {quoted(value)}" for value in spaced["text"].head(LISTED)]
    faults = _SPACES.listed(spaced["line"].to_numpy(), shown)
    wrong = text.filter(np.isnan(number)).with_columns(pl.col("text").str.strip_chars())
    kinds = [
        (Kind(name, _CLASS if kind == EXPR else _RANGE, remedy), pattern)
        for name, (pattern, remedy) in (_EXPR_WRONG if kind == EXPR else _VA_WRONG).items()
    ]
    for one, rows in _by_kind(wrong, "text", kinds):
        if not zeros and one.name == _OUTSIDE and (rows["text"] == str(len(EXPRESSIONS))).all():
            one = replace(one, remedy=f"are the classes counted from 1? Then take 1 from every row; {one.remedy}")
        shown = [f"{label} is {quoted(value)}" for value in rows["text"].head(LISTED)]
        faults += one.listed(rows["line"].to_numpy(), shown)
    return number, faults


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


def suspicions(values: np.ndarray, places: np.ndarray, lines: np.ndarray, sample: Template) -> list[Issue]:
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
) -> list[Issue]:
    faults = [kind.at(int(line_of[rows[0]]), what(clip, len(rows)), len(rows)) for clip, rows in found[:LISTED]]
    if len(found) > LISTED:
        rest = sum(len(rows) for _, rows in found[LISTED:])
        line = int(line_of[found[LISTED][1][0]])
        faults.append(kind.at(line, f"{kind.name}: {len(found) - LISTED} more clips like these", rest))
    return faults
