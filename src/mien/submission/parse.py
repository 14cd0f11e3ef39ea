"""Lines and header of a submission file, with issues of encoding, line ends and header."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl

from mien.errors import ConfigError
from mien.submission.issues import MAX_LISTED, WARNING, Issue, IssueKind, quote
from mien.submission.template import HEADERS, PER_CLIP

_BOM = IssueKind(
    "byte-order mark",
    "The first column is then called '\\ufeffimage_location', which no reader looks for.",
    "Save as UTF-8 without a byte-order mark (in Python: encoding='utf-8', not 'utf-8-sig').",
)
_CRLF = IssueKind(
    "Windows line ends",
    "The last field of such a row ends in an invisible character.",
    "Write '\\n' line ends: open(path, 'w', newline='\\n'), or run dos2unix.",
)
_NOT_TEXT = IssueKind(
    "no text", "No row can be read.", "Send the plain text file in UTF-8, neither zipped nor a spreadsheet."
)
_EMPTY = IssueKind("empty", "There is nothing to score.", "Write the file again.")
_BLANK = IssueKind("blank line", "A reader takes it for a row without fields.", "Remove it.")
_LAST_BLANK = IssueKind("blank lines at the end", "Some readers take them for rows.", "Remove them.", WARNING)
#: Its fix depends on the challenge, so callers supply it.
WRONG_CHALLENGE = IssueKind("wrong challenge", "The rows cannot be scored as the challenge of the sample.", "")
_NAMES_MATTER = "Columns are found by these names."
_ONE_COLUMN = "A reader that honours quotes sees ONE column, named by the whole header, and one text per row."


def read_lines(path: Path) -> tuple[pl.Series, list[Issue]]:
    """Reads lines `(line,)` without line ends and without trailing blank lines, and the issues found.

    Raises ConfigError for a file that cannot be read.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"the submission {path} cannot be read: {error.strerror or error}",
            follows="Nothing was checked.",
            remedy="Use mien validate FILE --sample SAMPLE.",
        ) from None
    if not data.strip():
        return pl.Series([], dtype=pl.String), [_EMPTY.issue(None, f"the file is empty ({len(data)} bytes)")]
    issues = []
    if data.startswith(b"\xef\xbb\xbf"):
        issues.append(_BOM.issue(1, "the file begins with a byte-order mark (EF BB BF)"))
        data = data[3:]
    try:
        text = data.decode("utf-8")
        problem = "it holds NUL bytes" if "\0" in text else ""
    except UnicodeDecodeError as error:
        problem = f"byte {error.start:,} is not UTF-8 ({data[error.start : error.start + 4].hex(' ')})"
    if problem:
        kind = "a zip archive" if data.startswith(b"PK") else "not plain text"
        return pl.Series([], dtype=pl.String), [_NOT_TEXT.issue(None, f"the file is {kind}: {problem}")]
    return _split(text, issues)


def _split(text: str, issues: list[Issue]) -> tuple[pl.Series, list[Issue]]:
    if "\r" in text and "\n" not in text:
        issues.append(_CRLF.issue(1, "line ends are a carriage return alone: to most readers this is one line"))
        text = text.replace("\r", "\n")
    lines = text.split("\n")
    count = len(lines)
    while lines and not lines[-1].strip():
        lines.pop()
    if count - len(lines) > 1:
        last = count - len(lines) - 1
        issues.append(
            _LAST_BLANK.issue(len(lines) + 1, f"{last} blank line{'s' * (last > 1)} at the end of the file", last)
        )
    series = pl.Series("row", lines, dtype=pl.String)
    if "\r" in text:
        ends = series.str.ends_with("\r")
        rows = ends.arg_true().to_numpy()
        share = "every line" if ends.all() else f"{len(rows):,} of {len(series):,} lines"
        issues.append(_CRLF.issue(int(rows[0]) + 1 if len(rows) else None, f"{share} ends in CR LF", len(rows)))
        series = series.str.strip_chars_end("\r")
    blank = (series.str.strip_chars() == "").arg_true().to_numpy()
    return series, issues + _BLANK.issues(blank + 1, ["an empty line"] * MAX_LISTED)


def read_header(line: str, kind: str) -> tuple[bool, list[Issue]]:
    """Checks the first line: whether it is a header, and its issues."""
    wanted = HEADERS[kind]
    remedy = f"Make the first line exactly {wanted}."
    if line == wanted:
        return True, []
    numbers_only = r"^[^,]+(,[-+.\deE]+)+$" if kind in PER_CLIP else r"[/\\]\d+\.(jpg|png)"
    if re.search(numbers_only, line, re.IGNORECASE):
        what = f"there is no header: line 1 is the row {quote(line)}"
        return False, [Issue(1, what, "The first row is taken for the header and is lost.", remedy, "no header")]
    unquoted = line.replace('"', "").replace("'", "")
    names = [name.strip() for name in re.split("[,;\t]", unquoted)]
    challenge = next((k for k, text in HEADERS.items() if [n.lower() for n in names] == text.lower().split(",")), "")
    if challenge and challenge != kind:
        article = "an" if challenge[0] in "ae" else "a"
        what = f"this is the header of {article} {challenge.upper()} file, and the sample is {kind.upper()}'s"
        return True, [Issue(1, what, WRONG_CHALLENGE.follows, remedy, WRONG_CHALLENGE.name)]
    if challenge and line != unquoted:
        is_one_text = line.count('"') == 2
        problem = "the whole header is one quoted text" if is_one_text else "the names of the header are quoted"
        follows = _ONE_COLUMN if is_one_text else _NAMES_MATTER
        return True, [Issue(1, f"{problem}: {quote(line)}", follows, remedy, "quoted header")]
    return True, [_wrong_header(line, names, wanted, remedy)]


def _wrong_header(line: str, names: list[str], wanted: str, remedy: str) -> Issue:
    """Issue of a header without quotes that is not another challenge's."""
    lower, expected = [name.lower() for name in names], wanted.lower().split(",")
    if lower == expected:
        commas = (
            "names differ in case or have spaces around them" if "," in line else "names are not separated by commas"
        )
        return Issue(1, f"the header is {quote(line)}: {commas}", _NAMES_MATTER, remedy, "wrong header")
    if sorted(lower) == sorted(expected):
        name, right = next((n, r) for n, r in zip(names, wanted.split(","), strict=True) if n.lower() != r.lower())
        what = f"the columns are in another order: {name!r} stands where {right!r} belongs"
        follows = "The columns are read in the order of the sample."
        return Issue(1, what, follows, f"{remedy} Write the values in that order.", "swapped columns")
    if lower[1:] == expected and lower[0] in ("", "unnamed: 0", "index"):
        what = "the first column holds row numbers (a data frame's index)"
        follows = "Every field is one column too far to the right."
        return Issue(1, what, follows, "Omit row numbers: to_csv(..., index=False).", "index column")
    headers = [text.lower().split(",") for text in HEADERS.values()]
    if lower in [names[1:] for names in headers]:
        what = f"this is the header of annotation files, without {wanted.split(',')[0]}"
        return Issue(1, what, _NAMES_MATTER, remedy, "wrong header")
    return Issue(1, f"the header is {quote(line)}", _NAMES_MATTER, remedy, "wrong header")
