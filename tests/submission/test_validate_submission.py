"""Validator of submissions: each common mistake is reported once, at its line."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from submission_support import (
    EXPR_HEADER,
    VA_HEADER,
    VALID_EXPR,
    VALID_VA,
    Change,
    change_rows,
    kinds,
    replace_line,
    rows_of,
    write,
)

from mien.labels import EXPRESSIONS
from mien.submission import ERROR, WARNING, Issue, validate, write_expr, write_va

#: Name -> change to a valid EXPR file, expected kind of issue, its first line, and part of its text.
EXPR_MISTAKES: dict[str, tuple[Change, str, int | None, str]] = {
    "quoted header": (lambda t: [f'"{t[0]}"', *t[1:]], "quoted header", 1, "the whole header is one quoted text"),
    "quoted names": (lambda t: [",".join(f'"{n}"' for n in t[0].split(",")), *t[1:]], "quoted header", 1, "names"),
    "no header": (lambda t: t[1:], "no header", 1, "line 1 is the row 'video7/00001.jpg,0'"),
    "class order": (
        replace_line(1, EXPR_HEADER.replace("Anger,Disgust", "Disgust,Anger")),
        "swapped columns",
        1,
        "'Disgust'",
    ),
    "annotation header": (replace_line(1, ",".join(EXPRESSIONS)), "wrong header", 1, "header of annotation files"),
    "two-field header": (
        replace_line(1, "image_location,expression"),
        "wrong header",
        1,
        "'image_location,expression'",
    ),
    "spaces in header": (replace_line(1, EXPR_HEADER.replace(",", ", ")), "wrong header", 1, "spaces around them"),
    "va header": (replace_line(1, VA_HEADER), "wrong challenge", 1, "the header of a VA file"),
    "missing row": (lambda t: t[:5] + t[6:], "missing rows", None, "'video7/00005.jpg' is missing"),
    "short clip": (lambda t: t[:39] + t[41:], "missing rows", None, "the end of clip 'video7'"),
    "missing clip": (
        lambda t: t[:41] + t[66:],
        "missing clip",
        None,
        "clip '10-60-1280x720_right' is missing (25 rows)",
    ),
    "duplicate": (lambda t: [*t, t[3]], "duplicate row", 97, "'video7/00003.jpg' again (first at line 4)"),
    "unknown clip": (lambda t: [*t, "vidoe7/00001.jpg,3"], "unknown clip", 97, "the sample has 'video7'"),
    "unknown frame": (lambda t: [*t, "video7/00041.jpg,3"], "unknown row", 97, "but not that frame"),
    "no name": (lambda t: [*t, "video7,3"], "no name", 97, "'video7' names no frame"),
    "two frames swapped": (lambda t: [*t[:4], t[5], t[4], *t[6:]], "wrong order", 6, "'video7/00004.jpg' comes after"),
    "clips in another order": (
        lambda t: [t[0], *t[41:], *t[1:41]],
        "wrong order",
        57,
        "the clip of 'video7/00001.jpg'",
    ),
    "8": (replace_line(7, "video7/00006.jpg,8"), "class outside 0 to 7", 7, "class is '8'"),
    "-1": (replace_line(7, "video7/00006.jpg,-1"), "unlabelled mark", 7, "class is '-1'"),
    "-5": (replace_line(7, "video7/00006.jpg,-5"), "-5", 7, "class is '-5'"),
    "2.0": (replace_line(7, "video7/00006.jpg,2.0"), "decimal class", 7, "class is '2.0'"),
    "2.5": (replace_line(7, "video7/00006.jpg,2.5"), "no class", 7, "class is '2.5'"),
    "class name": (replace_line(7, "video7/00006.jpg,Fear"), "class name", 7, "class is 'Fear'"),
    "no value": (replace_line(7, "video7/00006.jpg,"), "missing value", 7, "class is ''"),
    "NaN": (replace_line(7, "video7/00006.jpg,nan"), "NaN", 7, "class is 'nan'"),
    "one field": (replace_line(7, "video7/00006.jpg"), "wrong field count", 7, "has 1 field, not 2"),
    "three fields": (replace_line(7, "video7/00006.jpg,3,4"), "wrong field count", 7, "has 3 fields, not 2"),
    "a column a class": (
        change_rows(lambda r: r.split(",")[0] + ",0,0,1,0,0,0,0,0"),
        "one column a class",
        2,
        "9 fields",
    ),
    "swapped": (change_rows(lambda r: ",".join(r.split(",")[::-1])), "swapped columns", 2, "stands before the name"),
    "semicolons": (change_rows(lambda r: r.replace(",", ";")), "wrong separator", 2, "'video7/00001.jpg;0'"),
    "quoted rows": (change_rows(lambda r: f'"{r}"'), "quoted row", 2, "'\"video7/00001.jpg,0\"'"),
    "row numbers": (lambda t: [t[0], *(f"{i},{r}" for i, r in enumerate(t[1:]))], "index column", 2, "3 fields, not 2"),
    "header again": (lambda t: [*t[:41], t[0], *t[41:]], "header again", 42, "image_location"),
    "spaces": (change_rows(lambda r: r.replace(",", ", ")), "spaces", 2, "class is ' 0'"),
    "backslashes": (change_rows(lambda r: r.replace("/", "\\")), "backslashes", 2, "'video7\\\\00001.jpg'"),
    "no padding": (change_rows(lambda r: re.sub("/0+", "/", r)), "different zero padding", 2, "'video7/1.jpg'"),
    "six digits": (change_rows(lambda r: r.replace("/", "/0")), "different zero padding", 2, "'video7/000001.jpg'"),
    "folders": (
        change_rows(lambda r: "cropped_aligned/" + r),
        "folder before the name",
        2,
        "'cropped_aligned/video7/00001.jpg'",
    ),
    "./": (change_rows(lambda r: "./" + r), "folder before the name", 2, "'./video7/00001.jpg'"),
    "no .jpg": (change_rows(lambda r: r.replace(".jpg", "")), "no .jpg", 2, "'video7/00001'"),
    ".png": (change_rows(lambda r: r.replace(".jpg", ".png")), "other ending", 2, "'video7/00001.png'"),
    "space before name": (change_rows(lambda r: " " + r), "spaces in names", 2, "' video7/00001.jpg'"),
    "blank line": (lambda t: [*t[:9], "", *t[9:]], "blank line", 10, "an empty line"),
    "blank end": (lambda t: [*t, "", ""], "blank lines at the end", 97, "2 blank lines at the end"),
    "one class": (change_rows(lambda r: r.split(",")[0] + ",0"), "one value in the whole file", 2, "every row is 0"),
    "other sample": (change_rows(lambda r: "new_" + r), "wrong sample", 2, "not one of 95 names"),
}
VA_MISTAKES: dict[str, tuple[Change, str, int | None, str]] = {
    "-5": (replace_line(7, "video7/00006.jpg,-5,-5"), "-5", 7, "valence is '-5'"),
    "-5.0 in arousal": (replace_line(7, "video7/00006.jpg,0.1,-5.0"), "-5", 7, "arousal is '-5.0'"),
    "out of range": (replace_line(7, "video7/00006.jpg,0.1,1.2"), "outside [-1, 1]", 7, "arousal is '1.2'"),
    "NaN": (replace_line(7, "video7/00006.jpg,nan,0.1"), "NaN", 7, "valence is 'nan'"),
    "inf": (replace_line(7, "video7/00006.jpg,0.1,-inf"), "NaN", 7, "arousal is '-inf'"),
    "empty": (replace_line(7, "video7/00006.jpg,,0.1"), "missing value", 7, "valence is ''"),
    "words": (replace_line(7, "video7/00006.jpg,high,0.1"), "no number", 7, "valence is 'high'"),
    "one value": (replace_line(7, "video7/00006.jpg,0.5"), "wrong field count", 7, "has 2 fields, not 3"),
    "decimal commas": (
        replace_line(7, "video7/00006.jpg,0,25,-0,5"),
        "decimal comma",
        7,
        "'video7/00006.jpg,0,25,-0,5'",
    ),
    "swapped header": (
        replace_line(1, "image_location,arousal,valence"),
        "swapped columns",
        1,
        "'arousal' stands where 'valence'",
    ),
    "index header": (replace_line(1, "," + VA_HEADER), "index column", 1, "row numbers"),
    "values first": (
        change_rows(lambda r: "{1},{2},{0}".format(*r.split(","))),
        "swapped columns",
        2,
        "before the name",
    ),
}


@pytest.mark.parametrize("name", EXPR_MISTAKES)
def test_mistake_in_an_expr_file(tmp_path: Path, expr: Path, name: str) -> None:
    change, kind, line, words = EXPR_MISTAKES[name]
    found = validate(write(tmp_path / "file.txt", *change(VALID_EXPR)), expr)
    check(found, kind, line, words)


@pytest.mark.parametrize("name", VA_MISTAKES)
def test_mistake_in_a_va_file(tmp_path: Path, va: Path, name: str) -> None:
    change, kind, line, words = VA_MISTAKES[name]
    found = validate(write(tmp_path / "file.txt", *change(VALID_VA)), va)
    if name == "-5":  # both columns
        assert [f.what for f in found] == ["valence is '-5'", "arousal is '-5'"]
    check(found, kind, line, words)


def check(found: list[Issue], kind: str, line: int | None, words: str) -> None:
    assert kinds(found) == {kind}, found
    assert found[0].line == line
    assert words in found[0].what
    for issue in found:
        assert issue.follows.endswith(".")
        assert issue.remedy.endswith(".")


def test_valid_files_have_no_issues(tmp_path: Path, expr: Path, va: Path) -> None:
    assert validate(write(tmp_path / "e.txt", *VALID_EXPR), expr) == []
    assert validate(write(tmp_path / "v.txt", *VALID_VA), va) == []
    (tmp_path / "n.txt").write_text("\n".join(VALID_EXPR))  # no line end after the last row: fine
    assert validate(tmp_path / "n.txt", expr) == []


def test_quoted_header_and_rows_are_both_reported(tmp_path: Path, expr: Path) -> None:
    """As pandas writes a single column of whole rows: the header and the rows are quoted."""
    found = validate(write(tmp_path / "f.txt", *(f'"{line}"' for line in VALID_EXPR)), expr)
    assert kinds(found) == {"quoted header", "quoted row"}
    assert "ONE column" in found[0].follows


@pytest.mark.parametrize(("end", "words"), [(b"\r\n", "every line ends in CR LF"), (b"\r", "carriage return alone")])
def test_line_ends(tmp_path: Path, expr: Path, end: bytes, words: str) -> None:
    (tmp_path / "f.txt").write_bytes(end.join(line.encode() for line in VALID_EXPR) + end)
    found = validate(tmp_path / "f.txt", expr)
    assert kinds(found) == {"Windows line ends"}
    assert words in found[0].what


def test_mixed_line_ends_and_a_byte_order_mark(tmp_path: Path, expr: Path) -> None:
    text = "\n".join(VALID_EXPR[:10]) + "\r\n" + "\r\n".join(VALID_EXPR[10:])
    (tmp_path / "f.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    found = validate(tmp_path / "f.txt", expr)
    assert kinds(found) == {"Windows line ends", "byte-order mark"}
    lines = next(f for f in found if f.kind == "Windows line ends")
    assert (lines.line, lines.rows) == (10, 86)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"PK\x03\x04\xff\xfe rest", "a zip archive"),
        ("image_location".encode("utf-16"), "not plain text"),
        (b"image\0location", "NUL"),
        (b" \n\n", "is empty"),
    ],
)
def test_a_file_that_is_not_text(tmp_path: Path, expr: Path, data: bytes, words: str) -> None:
    (tmp_path / "f.txt").write_bytes(data)
    found = validate(tmp_path / "f.txt", expr)
    assert len(found) == 1
    assert words in found[0].what


@pytest.mark.parametrize("kind", ["expr", "va"])
def test_a_file_of_the_other_challenge_is_one_issue(tmp_path: Path, expr: Path, va: Path, kind: str) -> None:
    lines, sample = (VALID_VA, expr) if kind == "va" else (VALID_EXPR, va)
    found = validate(write(tmp_path / "f.txt", *lines), sample)
    assert len(found) == 1
    assert found[0].kind == "wrong challenge"
    fields = {"va": "3 fields as VA rows do, and the sample is EXPR's", "expr": "2 fields as EXPR rows do"}[kind]
    assert f"95 of 95 rows have {fields}" in found[0].what


def test_classes_counted_from_one_are_recognised(tmp_path: Path, expr: Path) -> None:
    shifted = [VALID_EXPR[0], *(f"{r.split(',')[0]},{i % 8 + 1}" for i, r in enumerate(VALID_EXPR[1:]))]
    found = validate(write(tmp_path / "f.txt", *shifted), expr)
    assert kinds(found) == {"class outside 0 to 7"}
    assert "counted from 1" in found[0].remedy


def test_repeated_issues_are_counted(tmp_path: Path, expr: Path) -> None:
    found = validate(write(tmp_path / "f.txt", *change_rows(lambda r: r.replace("/", "\\"))(VALID_EXPR)), expr)
    assert len(found) == 6
    assert sum(f.rows for f in found) == 95
    assert found[-1].what == "backslashes: 90 more rows like these, the last at line 96"


def test_several_mistakes_at_once_are_all_reported(tmp_path: Path, expr: Path) -> None:
    lines = [f'"{VALID_EXPR[0]}"', *VALID_EXPR[1:]]
    lines[3] = "video7\\00003.jpg, 9"
    lines[5] = "video7/5.jpg,Happiness"
    del lines[50]
    found = validate(write(tmp_path / "f.txt", *lines), expr)
    assert kinds(found) == {
        "quoted header", "backslashes", "class outside 0 to 7", "different zero padding", "class name", "missing rows"
    }  # fmt: skip
    assert [f.line for f in found if f.kind == "class outside 0 to 7"] == [4]


def test_padding_is_suspicious_only_where_values_changed_before(tmp_path: Path) -> None:
    clips = {"long": 400, "calm": 400}
    sample = write(tmp_path / "s.txt", VA_HEADER, *(f"{n},0,0" for n in rows_of(clips)))
    rng = np.random.default_rng(0)
    values = {"long": rng.uniform(-1, 1, (400, 2)), "calm": np.repeat(rng.uniform(-1, 1, (8, 2)), 50, axis=0)}
    values["long"][370:] = values["long"][369]
    write_va(tmp_path / "out.txt", values, sample)
    found = validate(tmp_path / "out.txt", sample)
    assert [(f.kind, f.severity, f.line, f.rows) for f in found] == [("padded with the last value", WARNING, 371, 31)]
    values["calm"][:] = 0.25
    write_va(tmp_path / "out.txt", values, sample)
    assert "all 400 rows of clip 'calm' have one value" in [f.what for f in validate(tmp_path / "out.txt", sample)]


def test_long_runs_of_a_class_are_not_padding(tmp_path: Path) -> None:
    """Run lengths drawn geometrically, as of unsmoothed and of smoothed predictions: no warning in 120 clips."""
    rng = np.random.default_rng(0)
    clips = {f"c{i}": 600 for i in range(120)}
    sample = write(tmp_path / "s.txt", EXPR_HEADER, *(f"{n},0" for n in rows_of(clips)))
    change = {c: rng.random(600) < (0.3 if i % 2 else 0.05) for i, c in enumerate(clips)}
    predictions = {c: np.cumsum(change[c]) % 8 for c in clips}
    write_expr(tmp_path / "out.txt", predictions, sample)
    assert validate(tmp_path / "out.txt", sample) == []


# --- agreement with a strict reader -----------------------------------------------------------------------------------

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def is_valid(text: str, names: list[str], header: str) -> bool:
    """Strict reader of the format, row by row, which allows spaces around values."""
    if "\r" in text:
        return False
    lines = text.split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines or lines[0] != header or [line.split(",")[0] for line in lines[1:]] != names:
        return False
    if header == EXPR_HEADER:
        return all(re.fullmatch(r"[^,]*,\s*[0-7]\s*", line) for line in lines[1:])
    values = [line.split(",")[1:] for line in lines[1:]]
    return all(len(v) == 2 and all(NUMBER.fullmatch(n.strip()) and abs(float(n)) <= 1 for n in v) for v in values)


PIECES = st.sampled_from(
    [
        "",
        ",",
        "0",
        "1",
        "8",
        "-",
        ".",
        "5",
        "e",
        '"',
        " ",
        "\t",
        ";",
        "/",
        "\\",
        "\r",
        "\n",
        "nan",
        ".jpg",
        "video7",
        "é",
    ]
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_validate_agrees_with_a_strict_reader(tmp_path: Path, data: st.DataObject) -> None:
    header, good = data.draw(st.sampled_from([(EXPR_HEADER, VALID_EXPR[:4]), (VA_HEADER, VALID_VA[:4])]))
    names = [line.split(",")[0] for line in good[1:]]
    sample = write(tmp_path / "s.txt", *good)
    text = "\n".join(good) + "\n"
    for _ in range(data.draw(st.integers(0, 3))):
        a = data.draw(st.integers(0, len(text)))
        b = data.draw(st.integers(a, min(len(text), a + 4)))
        text = text[:a] + data.draw(PIECES) + text[b:]
    (tmp_path / "f.txt").write_bytes(text.encode())
    found = validate(tmp_path / "f.txt", sample)
    assert any(f.severity == ERROR for f in found) != is_valid(text, names, header), found
    lines = text.replace("\r", "\n").count("\n") + 1
    assert all(f.line is None or 1 <= f.line <= lines for f in found)
