"""Fields and values of submission rows: parsing, issues, and warnings about suspicious values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl

from mien.submission.issues import MAX_LISTED, WARNING, Issue, IssueKind, quote, split_by_kind
from mien.submission.template import AU, EMI, EXAMPLES, FIELDS, HEADERS, NAMES, ONE_CLASS, VA, Template

# --- fields --------------------------------------------------------------------------------------------------

_NOT_A_ROW = "The row names no frame."
#: Its fix depends on the challenge.
_FIELD_COUNT = IssueKind("wrong field count", "The row cannot be read.", "")
_QUOTED = IssueKind(
    "quoted row", "A reader takes the quotes for part of the fields.", "Write without quotes (csv.QUOTE_NONE)."
)
_SEPARATOR = IssueKind("wrong separator", "The row is read as one field.", "Separate fields by commas.")
_DECIMAL_COMMA = IssueKind("decimal comma", "One number is read as two fields.", "Write decimal points: 0.25.")
_ONE_HOT = IssueKind(
    "one column a class",
    "The row cannot be read: a row has TWO fields although the header names all classes.",
    "Write the number of the most probable class: video/00001.jpg,3.",
)
_SWAPPED = IssueKind("swapped columns", _NOT_A_ROW, "Write the name first, then the value.")
_REPEATED_HEADER = IssueKind("header again", _NOT_A_ROW, "Remove the headers of files that were concatenated.")
_ROW_NUMBERS = IssueKind(
    "index column", "Every field is one column too far to the right.", "Omit row numbers: to_csv(..., index=False)."
)


def parse_fields(text: pl.DataFrame, kind: str) -> tuple[pl.DataFrame, list[Issue]]:
    """Splits rows into fields. Repairs what it reports where possible, so that later checks still see the row.

    Args:
        text: columns `line` (from 1) and `row`, without blank rows.

    Returns:
        `line, name, value, value2, ...`, a value for each field after the name, with null values where a row cannot be
        split; and the issues.
    """
    issues: list[Issue] = []
    for wrong, pattern, separator in ((_QUOTED, '"', ""), (_SEPARATOR, "^[^,]*[;\t][^,]*$", ",")):
        is_wrong = text["row"].str.contains(pattern)
        if is_wrong.any():
            rows = text.filter(is_wrong)
            issues += wrong.issues(rows["line"].to_numpy(), map(quote, rows["row"].head(MAX_LISTED)))
            repaired = pl.col("row").str.replace_all("[;\t]" if separator else '"', separator)
            text = text.with_columns(row=pl.when(is_wrong).then(repaired).otherwise("row"))
    commas = FIELDS[kind] - 1
    is_miscounted = text["row"].str.count_matches(",", literal=True) != commas
    if not is_miscounted.any():
        return _repair_swapped(_split_fields(text, kind), issues)
    text, lost, more = _repair_miscounted(text, is_miscounted, kind)
    table = pl.concat([_split_fields(text, kind), lost], how="diagonal").sort("line")
    return _repair_swapped(table, issues + more)


def _split_fields(text: pl.DataFrame, kind: str) -> pl.DataFrame:
    parts = text["row"].str.split_exact(",", FIELDS[kind] - 1).struct.unnest()
    columns = ["name", "value", *(f"value{i}" for i in range(2, FIELDS[kind]))]
    return pl.DataFrame([text["line"], *(parts.to_series(i).alias(c) for i, c in enumerate(columns))])


def _repair_miscounted(
    text: pl.DataFrame, is_miscounted: pl.Series, kind: str
) -> tuple[pl.DataFrame, pl.DataFrame, list[Issue]]:
    """Rows that can be split; `line` and `name` of those that cannot; and the issues. Drops repeated headers."""
    wanted = FIELDS[kind]
    patterns = {
        _REPEATED_HEADER: "(?i)^" + HEADERS[kind] + "$",
        _ROW_NUMBERS: rf"^\d+,[^,]*\.jpg(,[^,]*){{{wanted - 1}}}$",
        _DECIMAL_COMMA: r"\.jpg(,-?[01],\d+|,-?[01]){2}$" if kind == VA else "$^",
        _ONE_HOT: rf"^[^,]*(,[^,]*){{{len(NAMES[kind])}}}$" if kind in ONE_CLASS else "$^",
        replace(_FIELD_COUNT, remedy=_field_count_remedy(kind)): "",
    }
    issues: list[Issue] = []
    for wrong, rows in split_by_kind(text.filter(is_miscounted), "row", patterns.items()):
        problems = [f"{quote(row)} has {_count_fields(row)}, not {wanted}" for row in rows["row"].head(MAX_LISTED)]
        issues += wrong.issues(rows["line"].to_numpy(), problems)
    has_number = is_miscounted & text["row"].str.contains(patterns[_ROW_NUMBERS])
    is_header = is_miscounted & text["row"].str.contains(patterns[_REPEATED_HEADER])
    is_lost = is_miscounted & ~has_number & ~is_header
    lost = text.filter(is_lost).select("line", name=pl.col("row").str.replace(",.*$", ""))
    without_number = pl.col("row").str.replace(r"^\d+,", "")
    repaired = text.with_columns(row=pl.when(has_number).then(without_number).otherwise("row"))
    return repaired.filter(~is_miscounted | has_number), lost, issues


def _field_count_remedy(kind: str) -> str:
    though = f" (although the header names {1 + len(NAMES[kind])})" if kind in ONE_CLASS else ""
    return f"Write {FIELDS[kind]} fields{though}: {EXAMPLES[kind]}."


def _count_fields(row: str) -> str:
    count = row.count(",") + 1
    return f"{count} field{'s' * (count != 1)}"


def _repair_swapped(table: pl.DataFrame, issues: list[Issue]) -> tuple[pl.DataFrame, list[Issue]]:
    last = table.columns[-1]
    is_swapped = ~table["name"].str.contains("[/\\\\]") & table[last].str.contains("[/\\\\]").fill_null(False)
    if not is_swapped.any():
        return table, issues
    swapped = table.filter(is_swapped)
    problems = [f"the value {quote(value)} stands before the name" for value in swapped["name"].head(MAX_LISTED)]
    issues = issues + _SWAPPED.issues(swapped["line"].to_numpy(), problems)
    repaired = swapped.select("line", last, *(c for c in table.columns[1:] if c != last))
    repaired.columns = table.columns
    return pl.concat([table.filter(~is_swapped), repaired]).sort("line"), issues


# --- values --------------------------------------------------------------------------------------------------

#: Consequence of a wrong value.
_FOLLOWS = {
    **{
        kind: f"The value must be a whole number from 0 ({names[0]}) to {len(names) - 1} ({names[-1]})."
        for kind, names in NAMES.items()
        if kind in ONE_CLASS
    },
    VA: "Valence and arousal must be two numbers in [-1, 1].",
    AU: "Each of the twelve values must be 0 or 1.",
    EMI: "Each of the six values must be a number in [0, 1].",
}
_SPACES = IssueKind(
    "spaces", "Strict readers take them for part of the value.", "Write no spaces between fields.", WARNING
)
_COMMON = {
    "missing value": (r"^$", "Give every row a value; no frame may be left out."),
    "NaN": (
        r"(?i)^[+-]?(nan|null|none|na|inf|infinity)$",
        "Fill frames without a prediction before writing, as write_expr and write_va do.",
    ),
}
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_NO_NUMBER = {"no number": (r"", "Write a number with a decimal point.")}


def _wrong_classes(kind: str) -> dict[str, tuple[str, str]]:
    names = NAMES[kind]
    last = len(names) - 1
    return {
        **_COMMON,
        "unlabelled mark": (
            r"^-1(\.0*)?$",
            "Choose a class: -1 marks unlabelled frames in annotations.",
        ),
        "-5": (r"^-5(\.0*)?$", "Choose a class: -5 is a mark of VA annotations."),
        _outside(kind): (
            r"^[+-]?\d+$",
            f"Count classes from 0, {names[0]} 0 ... {names[-1]} {last}, and map classes of other corpora.",
        ),
        "decimal class": (
            rf"^[0-{last}]\.0*$",
            "Write whole numbers, 2 instead of 2.0: a column that held NaN is float, so cast it to int.",
        ),
        "class name": (
            "(?i)^(" + "|".join(name.replace("_", "[_ ]") for name in names) + ")$",
            "Write the number: " + ", ".join(f"{i} {n}" for i, n in enumerate(names)) + ".",
        ),
        "no class": (r"", "Write one whole number."),
    }


def _outside(kind: str) -> str:
    return f"class outside 0 to {len(NAMES[kind]) - 1}"


_VA_WRONG = {
    **_COMMON,
    "-5": (r"^-5(\.0*)?$", "Give every frame a prediction: -5 marks unlabelled frames in annotations."),
    "outside [-1, 1]": (_NUMBER, "Scale to [-1, 1] and clip."),
    **_NO_NUMBER,
}
_AU_WRONG = {
    **_COMMON,
    "unlabelled mark": (r"^-1(\.0*)?$", "Write 0 or 1: -1 marks frames that are not annotated."),
    "decimal decision": (r"^[01]\.0*$", "Write whole numbers, 1 instead of 1.0: cast the column to int."),
    "score instead of decision": (
        r"^0?\.\d+([eE][+-]?\d+)?$",
        "Write 1 where the unit is active and 0 elsewhere, such as (score >= 0.5).astype(int).",
    ),
    "neither 0 nor 1": (r"", "Write 1 where the unit is active and 0 elsewhere; intensities are not asked for."),
}
_EMI_WRONG = {**_COMMON, "outside [0, 1]": (_NUMBER, "Scale to [0, 1] and clip."), **_NO_NUMBER}
#: Kind of a wrong value, by challenge: regular expression of the value, and fix; the first match counts.
_WRONG = {**{kind: _wrong_classes(kind) for kind in ONE_CLASS}, VA: _VA_WRONG, AU: _AU_WRONG, EMI: _EMI_WRONG}


def parse_values(table: pl.DataFrame, kind: str) -> tuple[np.ndarray, list[Issue]]:
    """Parses the value columns of `parse_fields`.

    Returns `(row, 1)` classes, or `(row, values)` numbers, as float, NaN for wrong values; and the issues.
    """
    numbers, issues = [], []
    labels = ("class",) if kind in ONE_CLASS else NAMES[kind]
    for column, label in zip(table.columns[2:], labels, strict=True):
        number = _numbers(table[column], kind)
        wrong = np.flatnonzero(np.isnan(number) & table[column].is_not_null().to_numpy())
        if len(wrong):
            text = table[wrong].select("line", text=column)
            number[wrong], more = _wrong_values(text, kind, label, has_zeros=bool((table[column] == "0").any()))
            issues += more
        numbers.append(number)
    return np.stack(numbers, axis=1), issues


def _numbers(text: pl.Series, kind: str) -> np.ndarray:
    """Numbers `(row,)` of texts, NaN where there is none or it is not allowed."""
    number = text.cast(pl.Float64, strict=False)
    if kind in ONE_CLASS or kind == AU:
        good = text.str.contains("^[01]$" if kind == AU else f"^[0-{len(NAMES[kind]) - 1}]$")
    else:
        good = number.is_between(-1 if kind == VA else 0, 1) & ~text.str.contains("_")
    return np.where(good.fill_null(False).to_numpy(), number.fill_null(np.nan).to_numpy(), np.nan)


def _wrong_values(text: pl.DataFrame, kind: str, label: str, *, has_zeros: bool) -> tuple[np.ndarray, list[Issue]]:
    """Numbers of values with spaces around them, NaN for the others; and the issues.

    has_zeros: whether the file has any class 0, which tells a wrong class from counting from 1.
    """
    number = _numbers(text["text"].str.strip_chars(), kind)
    spaced = text.filter(np.isfinite(number))
    issues = _SPACES.issues(spaced["line"].to_numpy(), _problems(label, spaced))
    wrong = text.filter(np.isnan(number)).with_columns(pl.col("text").str.strip_chars())
    patterns = [(IssueKind(name, _FOLLOWS[kind], remedy), pattern) for name, (pattern, remedy) in _WRONG[kind].items()]
    for issue_kind, rows in split_by_kind(wrong, "text", patterns):
        is_outside = kind in ONE_CLASS and issue_kind.name == _outside(kind)
        if is_outside and not has_zeros and (rows["text"] == str(len(NAMES[kind]))).all():
            hint = "If the classes are counted from 1, subtract 1 from every row."
            issue_kind = replace(issue_kind, remedy=f"{hint} {issue_kind.remedy}")
        issues += issue_kind.issues(rows["line"].to_numpy(), _problems(label, rows))
    return number, issues


def _problems(label: str, rows: pl.DataFrame) -> list[str]:
    return [f"{label} is {quote(value)}" for value in rows["text"].head(MAX_LISTED)]


# --- suspicious values ---------------------------------------------------------------------------------------

_PADDED = IssueKind(
    "padded with the last value",
    "Short predictions padded with their last value are scored as predictions.",
    "Check that the clip was decoded and predicted to its end.",
    WARNING,
)
_CONSTANT = IssueKind(
    "one value throughout",
    "A prediction that never changes scores a CCC of 0.",
    "Check that the clip was predicted.",
    WARNING,
)
_ALL_SAME = IssueKind(
    "one value in the whole file",
    "The sample file itself and an empty prediction look like this.",
    "Check the file.",
    WARNING,
)
#: A constant tail is suspicious if the clip changed at least _MIN_CHANGES times before it, and if at the own rate of
#: changes of the clip such a tail occurs less than once in _ONCE_IN clips. Our choice.
_MIN_CHANGES, _ONCE_IN = 20, 1e6
#: Rows from which a clip with one VA value is reported. Our choice.
_MIN_CONSTANT_ROWS = 30


def suspicious_values(values: np.ndarray, positions: np.ndarray, lines: np.ndarray, sample: Template) -> list[Issue]:
    """Warns of values that look like padding or a missing prediction.

    Args:
        values: `(row, k)` numbers, NaN for wrong ones. positions: `(row,)` index in the sample, -1 for unknown rows.
        lines: `(row,)` line numbers.
    """
    good = np.flatnonzero((positions >= 0) & np.isfinite(values).all(axis=1))
    if len(good) > 1 and (values[good] == values[good[0]]).all():
        value = ", ".join(f"{v:g}" for v in values[good[0]])
        return [_ALL_SAME.issue(int(lines[good[0]]), f"every row is {value}", len(good))]
    full = np.full((len(sample), values.shape[1]), np.nan)
    line_of = np.full(len(sample), -1)
    full[positions[good]], line_of[positions[good]] = values[good], lines[good]
    padded: list[tuple[int | None, str, int]] = []
    constant: list[tuple[int | None, str, int]] = []
    for clip, rows in sample.rows_of.items():
        rows = rows[line_of[rows] >= 0]
        changes = np.flatnonzero((full[rows[1:]] != full[rows[:-1]]).any(axis=1)) + 1
        if not len(changes):
            if sample.kind == VA and len(rows) >= _MIN_CONSTANT_ROWS:
                what = f"all {len(rows):,} rows of clip {clip!r} have one value"
                constant.append((int(line_of[rows[0]]), what, len(rows)))
            continue
        tail = int(len(rows) - changes[-1])
        rate = len(changes) / changes[-1]
        if len(changes) >= _MIN_CHANGES and (tail - 1) * -np.log1p(-min(rate, 0.999)) > np.log(_ONCE_IN):
            what = f"the last {tail:,} rows of clip {clip!r} repeat one value"
            padded.append((int(line_of[rows[changes[-1]]]), what, tail))
    return _PADDED.group_issues(padded, "clips") + _CONSTANT.group_issues(constant, "clips")
