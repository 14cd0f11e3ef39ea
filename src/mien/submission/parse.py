"""A submission file as lines of text, and what is wrong with it before any row is looked at."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl

from mien.errors import ConfigError
from mien.labels import EXPRESSIONS
from mien.submission.issues import LISTED, WARNING, Issue, Kind, quoted
from mien.submission.template import EXPR, HEADERS, LOCATION, VA

_BOM = Kind(
    "byte-order mark",
    "the first column is then called '\\ufeffimage_location', which no reader looks for",
    "save as UTF-8 without a byte-order mark (in Python: encoding='utf-8', not 'utf-8-sig')",
)
_CRLF = Kind(
    "Windows line ends",
    "the last field of such a row ends in an invisible character",
    "write '\\n' line ends: open(path, 'w', newline='\\n'), or run dos2unix",
)
_NOT_TEXT = Kind("no text", "no row can be read", "send the plain text file: not zipped, not a spreadsheet, UTF-8")
_EMPTY = Kind("empty", "there is nothing to score", "write the file again")
_BLANK = Kind("blank line", "a reader takes it for a row without fields", "take it out")
_LAST_BLANK = Kind("blank lines at the end", "some readers take them for rows", "take them out", WARNING)

WRONG_CHALLENGE = Kind("wrong challenge", "the rows cannot be scored as what the sample asks for", "")
_LOOKED_UP = "columns are looked up by these names"
_ONE_COLUMN = "a reader that honours quotes sees ONE column whose name holds all the names, and each row as one text"


def read_lines(path: Path) -> tuple[pl.Series, list[Issue]]:
    """`(line,)` text of every line without its line end, trailing blank lines left out; and faults of the file.

    Raises ConfigError where there is no such file.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"the submission {path} cannot be read: {error.strerror or error}",
            follows="nothing was checked",
            remedy="mien validate FILE --sample SAMPLE",
        ) from None
    if not data.strip():
        return pl.Series([], dtype=pl.String), [_EMPTY.at(None, f"the file is empty ({len(data)} bytes)")]
    faults = []
    if data.startswith(b"\xef\xbb\xbf"):
        faults.append(_BOM.at(1, "the file begins with a byte-order mark (EF BB BF)"))
        data = data[3:]
    try:
        text = data.decode("utf-8")
        said = "it holds NUL bytes" if "\0" in text else ""
    except UnicodeDecodeError as error:
        said = f"byte {error.start:,} is not UTF-8 ({data[error.start : error.start + 4].hex(' ')})"
    if said:
        kind = "a zip archive" if data.startswith(b"PK") else "not plain text"
        return pl.Series([], dtype=pl.String), [_NOT_TEXT.at(None, f"the file is {kind}: {said}")]
    return _split(text, faults)


def _split(text: str, faults: list[Issue]) -> tuple[pl.Series, list[Issue]]:
    if "\r" in text and "\n" not in text:
        faults.append(_CRLF.at(1, "line ends are a carriage return alone: to most readers this is one line"))
        text = text.replace("\r", "\n")
    lines = text.split("\n")
    count = len(lines)
    while lines and not lines[-1].strip():
        lines.pop()
    if count - len(lines) > 1:
        last = count - len(lines) - 1
        faults.append(
            _LAST_BLANK.at(len(lines) + 1, f"{last} blank line{'s' * (last > 1)} at the end of the file", last)
        )
    series = pl.Series("row", lines, dtype=pl.String)
    if "\r" in text:
        ends = series.str.ends_with("\r")
        rows = ends.arg_true().to_numpy()
        share = "every line" if ends.all() else f"{len(rows):,} of {len(series):,} lines"
        faults.append(_CRLF.at(int(rows[0]) + 1 if len(rows) else None, f"{share} ends in CR LF", len(rows)))
        series = series.str.strip_chars_end("\r")
    blank = (series.str.strip_chars() == "").arg_true().to_numpy()
    return series, faults + _BLANK.listed(blank + 1, ["an empty line"] * LISTED)


def read_header(line: str, kind: str) -> tuple[bool, list[Issue]]:
    """Whether the first line is a header at all, and what is wrong with it."""
    wanted = HEADERS[kind]
    remedy = f"the first line has to be exactly {wanted}"
    if line == wanted:
        return True, []
    if re.search(r"[/\\]\d+\.(jpg|png)", line, re.IGNORECASE):
        what = f"there is no header: line 1 is the row {quoted(line)}"
        return False, [Issue(1, what, "the first row is taken for the header and is lost", remedy, "no header")]
    bare = line.replace('"', "").replace("'", "")
    names = [name.strip() for name in re.split("[,;\t]", bare)]
    found = next((k for k, text in HEADERS.items() if [n.lower() for n in names] == text.lower().split(",")), "")
    if found and found != kind:
        article = {EXPR: "an EXPR", VA: "a VA"}[found]
        what = f"this is the header of {article} file, and the sample is {kind.upper()}'s"
        return True, [Issue(1, what, WRONG_CHALLENGE.follows, remedy, WRONG_CHALLENGE.name)]
    if found and line != bare:
        whole = line.count('"') == 2
        said = "the whole header is one quoted text" if whole else "the names of the header are quoted"
        return True, [
            Issue(1, f"{said}: {quoted(line)}", _ONE_COLUMN if whole else _LOOKED_UP, remedy, "quoted header")
        ]
    return True, [_unlike(line, names, wanted, remedy)]


def _unlike(line: str, names: list[str], wanted: str, remedy: str) -> Issue:
    """The fault of a header that is not quoted, and of the right challenge if of any."""
    lower, expected = [name.lower() for name in names], wanted.lower().split(",")
    if lower == expected:
        commas = (
            "names differ in case or have spaces around them" if "," in line else "names are not separated by commas"
        )
        return Issue(1, f"the header is {quoted(line)}: {commas}", _LOOKED_UP, remedy, "wrong header")
    if sorted(lower) == sorted(expected):
        name, right = next((n, r) for n, r in zip(names, wanted.split(","), strict=True) if n.lower() != r.lower())
        what = f"the columns are in another order: {name!r} stands where {right!r} belongs"
        follows = "the columns are read in the order of the sample"
        return Issue(1, what, follows, f"{remedy}, and the values in that order", "swapped columns")
    if lower[1:] == expected and lower[0] in ("", "unnamed: 0", "index"):
        what = "the first column holds row numbers (a data frame's index)"
        follows = "every field stands one column too far to the right"
        return Issue(1, what, follows, "leave them out: to_csv(..., index=False)", "index column")
    if lower in ([n.lower() for n in EXPRESSIONS], ["valence", "arousal"]):
        what = f"this is the header of annotation files, without {LOCATION}"
        return Issue(1, what, _LOOKED_UP, remedy, "wrong header")
    return Issue(1, f"the header is {quoted(line)}", _LOOKED_UP, remedy, "wrong header")
