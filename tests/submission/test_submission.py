"""Submissions: what is written passes its own check, and each public fault is found, once, at its line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from click.testing import Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from mien.cli import submission_commands
from mien.datasets.frame_times import FrameTimes
from mien.datasets.index import Index
from mien.datasets.index_entries import Entry
from mien.errors import ConfigError, OutputError
from mien.evaluation import predictions
from mien.evaluation.calibration import Calibration
from mien.evaluation.predictions import ClipPrediction
from mien.labels import EXPRESSIONS
from mien.records import Stream
from mien.store import FeatureStore
from mien.submission import ERROR, WARNING, Issue, read_sample, validate, write_expr, write_va

EXPR_HEADER = "image_location,Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other"
VA_HEADER = "image_location,valence,arousal"
CLIPS = {"video7": 40, "10-60-1280x720_right": 25, "10-60-1280x720": 30}


def rows_of(clips: dict[str, int]) -> list[str]:
    return [f"{clip}/{i:05d}.jpg" for clip, n in clips.items() for i in range(1, n + 1)]


def write(path: Path, *lines: str) -> Path:
    path.write_bytes(("\n".join(lines) + "\n").encode())
    return path


@pytest.fixture
def expr(tmp_path: Path) -> Path:
    return write(tmp_path / "CVPR_expr_test_set_sample.txt", EXPR_HEADER, *(f"{name},0" for name in rows_of(CLIPS)))


@pytest.fixture
def va(tmp_path: Path) -> Path:
    return write(tmp_path / "CVPR_va_test_set_sample.txt", VA_HEADER, *(f"{name},0,0" for name in rows_of(CLIPS)))


def classes_of(clips: dict[str, int], seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {clip: rng.integers(0, 8, n) for clip, n in clips.items()}


def affect_of(clips: dict[str, int], seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {clip: rng.uniform(-1, 1, (n, 2)) for clip, n in clips.items()}


def kinds(faults: list[Issue]) -> set[str]:
    return {fault.kind for fault in faults}


# --- writing -----------------------------------------------------------------------------------------------


def test_writes_the_samples_rows_in_its_order_without_quotes(tmp_path: Path, expr: Path) -> None:
    predictions = classes_of(CLIPS)
    report = write_expr(tmp_path / "out.txt", dict(reversed(predictions.items())), expr)
    lines = (tmp_path / "out.txt").read_bytes().decode().split("\n")
    assert lines[0] == EXPR_HEADER
    assert lines.pop() == ""
    said = [int(c) for clip in CLIPS for c in predictions[clip]]
    assert lines[1:] == [f"{name},{c}" for name, c in zip(rows_of(CLIPS), said, strict=True)]
    assert (report.rows, report.clips, report.notes()) == (95, 3, [])
    assert validate(tmp_path / "out.txt", expr) == []


def test_writes_valence_and_arousal_to_six_decimals(tmp_path: Path, va: Path) -> None:
    predictions = affect_of(CLIPS)
    predictions["video7"][0] = (1.00005, -1e-9)  # rounding only
    predictions["video7"][1] = (-0.25, 1e-5)
    write_va(tmp_path / "out.txt", predictions, va)
    lines = (tmp_path / "out.txt").read_text().splitlines()
    assert lines[:3] == [VA_HEADER, "video7/00001.jpg,1.000000,0.000000", "video7/00002.jpg,-0.250000,0.000010"]
    written = np.array([list(map(float, line.split(",")[1:])) for line in lines[1:]])
    wanted = np.clip(np.concatenate([predictions[clip] for clip in CLIPS]), -1, 1)
    assert np.abs(written - wanted).max() <= 5.1e-7
    assert validate(tmp_path / "out.txt", va) == []


def test_probabilities_and_their_classes_write_the_same_file(tmp_path: Path, expr: Path) -> None:
    rng = np.random.default_rng(1)
    probabilities = {clip: rng.dirichlet(np.ones(8), n) for clip, n in CLIPS.items()}
    write_expr(tmp_path / "p.txt", probabilities, expr)
    write_expr(tmp_path / "c.txt", {clip: p.argmax(1) for clip, p in probabilities.items()}, expr)
    assert (tmp_path / "p.txt").read_bytes() == (tmp_path / "c.txt").read_bytes()


def test_the_nearest_predicted_frame_speaks_for_one_without_evidence(tmp_path: Path, expr: Path, va: Path) -> None:
    probabilities = {clip: np.eye(8)[np.full(n, 2)] for clip, n in CLIPS.items()}
    probabilities["video7"][10] = np.eye(8)[5]
    probabilities["video7"][11:17] = np.nan
    affect = {clip: np.full((n, 2), 0.5) for clip, n in CLIPS.items()}
    affect["video7"][10] = -0.5
    affect["video7"][11:16, 1] = np.nan  # half an answer is none; five frames, so one is as near to both sides
    report = write_expr(tmp_path / "e.txt", probabilities, expr)
    write_va(tmp_path / "v.txt", affect, va)
    said = [line.split(",")[1] for line in (tmp_path / "e.txt").read_text().splitlines()[11:18]]
    assert said == ["5", "5", "5", "5", "2", "2", "2"]
    assert (report.without_evidence, report.beyond) == (6, 0)
    assert "6 rows had no evidence" in report.notes()[0]
    said = [line.split(",")[1] for line in (tmp_path / "v.txt").read_text().splitlines()[11:18]]
    assert said == ["-0.500000"] * 4 + ["0.500000"] * 3


def test_a_clip_without_any_evidence_is_neutral(tmp_path: Path, expr: Path, va: Path) -> None:
    write_expr(tmp_path / "e.txt", {**classes_of(CLIPS), "video7": np.full(40, -1)}, expr)
    write_va(tmp_path / "v.txt", {**affect_of(CLIPS), "video7": np.full((40, 2), np.nan)}, va)
    assert (tmp_path / "e.txt").read_text().splitlines()[1:41] == [f"video7/{i:05d}.jpg,0" for i in range(1, 41)]
    assert (tmp_path / "v.txt").read_text().splitlines()[40] == "video7/00040.jpg,0.000000,0.000000"


def test_up_to_two_rows_short_is_usual_and_longer_is_left_out(tmp_path: Path, expr: Path) -> None:
    predictions = classes_of(CLIPS)
    predictions["video7"] = predictions["video7"][:38]
    predictions["10-60-1280x720"] = np.append(predictions["10-60-1280x720"], [1] * 7)
    predictions["elsewhere"] = np.zeros(3, int)
    report = write_expr(tmp_path / "out.txt", predictions, expr)
    lines = (tmp_path / "out.txt").read_text().splitlines()
    assert {line.split(",")[1] for line in lines[38:41]} == {str(predictions["video7"][37])}
    assert (report.beyond, report.longer, report.unused) == (2, {"10-60-1280x720": 7}, ["elsewhere"])
    words = " ".join(report.notes())
    for part in ("2 rows lie beyond", "'10-60-1280x720', 7", "not in the sample: 'elsewhere'"):
        assert part in words


def test_a_short_or_missing_clip_is_refused_unless_filled(tmp_path: Path, expr: Path) -> None:
    predictions = classes_of(CLIPS)
    predictions["video7"] = predictions["video7"][:37]
    del predictions["10-60-1280x720"]
    with pytest.raises(OutputError) as caught:
        write_expr(tmp_path / "out.txt", predictions, expr)
    assert "1 of the sample's 3 clips were not predicted: '10-60-1280x720'" in caught.value.what
    assert "1 clips are predicted more than 2 rows short: 'video7' by 3" in caught.value.what
    assert caught.value.follows == "nothing was written"
    assert "--fill" in caught.value.remedy
    assert not (tmp_path / "out.txt").exists()
    report = write_expr(tmp_path / "out.txt", predictions, expr, fill=True)
    assert (report.beyond, report.unpredicted) == (3, ["10-60-1280x720"])
    assert (tmp_path / "out.txt").read_text().splitlines()[-1] == "10-60-1280x720/00030.jpg,0"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (np.full(40, 8), "hold class 8 (40 frames); classes are 0 to 7"),
        (np.full(40, 2.0), "are float64 of shape (40,), neither (frames,) int nor (frames, 8)"),
        (np.zeros((40, 7)), "shape (40, 7)"),
    ],
)
def test_predictions_that_are_no_classes(tmp_path: Path, expr: Path, said: np.ndarray, words: str) -> None:
    (tmp_path / "out.txt").write_text("what stood there before")
    with pytest.raises(OutputError, match=re.escape(words)):
        write_expr(tmp_path / "out.txt", {**classes_of(CLIPS), "video7": said}, expr)
    assert (tmp_path / "out.txt").read_text() == "what stood there before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["CVPR_expr_test_set_sample.txt", "out.txt"]


def test_minus_five_is_not_written(tmp_path: Path, va: Path) -> None:
    with pytest.raises(OutputError, match=r"hold -5, -5 \(40 frames\), outside") as caught:
        write_va(tmp_path / "out.txt", {**affect_of(CLIPS), "video7": np.full((40, 2), -5.0)}, va)
    assert "never -5" in caught.value.remedy


def test_the_other_sample_is_refused(tmp_path: Path, expr: Path, va: Path) -> None:
    with pytest.raises(ConfigError, match="is a sample of VA, and EXPR is asked for"):
        write_expr(tmp_path / "out.txt", classes_of(CLIPS), va)
    with pytest.raises(ConfigError, match="is a sample of EXPR, and VA is asked for"):
        validate(expr, expr, "va")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_is_predicted_the_file_is_valid(tmp_path: Path, data: st.DataObject) -> None:
    names = st.text("abz_-0189", min_size=1, max_size=6)
    clips = data.draw(st.dictionaries(names, st.integers(1, 12), min_size=1, max_size=4))
    rows = data.draw(st.permutations(rows_of(clips)))  # a sample may have any order, clips in pieces too
    sample = write(tmp_path / "sample.txt", EXPR_HEADER, *(f"{row},0" for row in rows))
    said = {c: data.draw(st.lists(st.integers(-1, 7), max_size=n + 3)) for c, n in clips.items()}
    write_expr(tmp_path / "out.txt", {c: np.array(v, int) for c, v in said.items()}, sample, fill=True)
    assert [f for f in validate(tmp_path / "out.txt", sample) if f.severity == ERROR] == []
    for line in (tmp_path / "out.txt").read_text().splitlines()[1:]:
        clip, frame, value = re.fullmatch(r"(.+)/(\d+)\.jpg,(\d)", line).groups()  # type: ignore[union-attr]
        if int(frame) <= len(said[clip]) and said[clip][int(frame) - 1] >= 0:
            assert int(value) == said[clip][int(frame) - 1]
        else:
            assert int(value) in ({v for v in said[clip] if v >= 0} or {0})


# --- the sample --------------------------------------------------------------------------------------------


def test_a_sample_may_have_a_quoted_header_and_windows_line_ends(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_bytes(
        b'\xef\xbb\xbf"image_location,valence,arousal"\r\nv/00001.jpg,0,0\r\nv/00002.jpg,,\r\n'
    )
    sample = read_sample(tmp_path / "s.txt")
    assert (sample.kind, sample.names.to_list(), sample.frames.tolist()) == (
        "va",
        ["v/00001.jpg", "v/00002.jpg"],
        [1, 2],
    )


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["a,b", "v/00001.jpg,0"], "neither the header of EXPR nor that of VA"),
        ([EXPR_HEADER], "has a header and no rows"),
        ([EXPR_HEADER, "v/00001.jpg,0", "v00002.jpg,0"], "line 3: 'v00002.jpg' does not name a frame"),
        ([EXPR_HEADER, "v/00001.jpg,0", "v/00001.jpg,0"], "'v/00001.jpg' more than once"),
        ([""], "is empty"),
    ],
)
def test_what_is_no_sample(tmp_path: Path, lines: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        read_sample(write(tmp_path / "s.txt", *lines))
    with pytest.raises(ConfigError, match="is not there"):
        read_sample(tmp_path / "nowhere.txt")


# --- validating: each fault of public submissions ------------------------------------------------------------

GOOD_EXPR = [EXPR_HEADER, *(f"{name},{i % 7 * (i % 3) % 8}" for i, name in enumerate(rows_of(CLIPS)))]
GOOD_VA = [VA_HEADER, *(f"{name},{i / 100:.3f},{-i / 200:.4f}" for i, name in enumerate(rows_of(CLIPS)))]

Damage = Callable[[list[str]], list[str]]


def each(change: Callable[[str], str]) -> Damage:
    return lambda lines: [lines[0], *map(change, lines[1:])]


def one(line: int, text: str) -> Damage:
    return lambda lines: [*lines[: line - 1], text, *lines[line:]]


#: name -> (what is done to a good EXPR file, the one kind found, its first line, words of it)
EXPR_FAULTS: dict[str, tuple[Damage, str, int | None, str]] = {
    "quoted header": (lambda t: [f'"{t[0]}"', *t[1:]], "quoted header", 1, "the whole header is one quoted text"),
    "quoted names": (lambda t: [",".join(f'"{n}"' for n in t[0].split(",")), *t[1:]], "quoted header", 1, "names"),
    "no header": (lambda t: t[1:], "no header", 1, "line 1 is the row 'video7/00001.jpg,0'"),
    "class order": (one(1, EXPR_HEADER.replace("Anger,Disgust", "Disgust,Anger")), "swapped columns", 1, "'Disgust'"),
    "annotation header": (one(1, ",".join(EXPRESSIONS)), "wrong header", 1, "header of annotation files"),
    "two-field header": (one(1, "image_location,expression"), "wrong header", 1, "'image_location,expression'"),
    "spaces in header": (one(1, EXPR_HEADER.replace(",", ", ")), "wrong header", 1, "spaces around them"),
    "va header": (one(1, VA_HEADER), "wrong challenge", 1, "the header of a VA file"),
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
    "8": (one(7, "video7/00006.jpg,8"), "class outside 0 to 7", 7, "class is '8'"),
    "-1": (one(7, "video7/00006.jpg,-1"), "unlabelled mark", 7, "class is '-1'"),
    "-5": (one(7, "video7/00006.jpg,-5"), "-5", 7, "class is '-5'"),
    "2.0": (one(7, "video7/00006.jpg,2.0"), "decimal class", 7, "class is '2.0'"),
    "2.5": (one(7, "video7/00006.jpg,2.5"), "no class", 7, "class is '2.5'"),
    "class name": (one(7, "video7/00006.jpg,Fear"), "class name", 7, "class is 'Fear'"),
    "no value": (one(7, "video7/00006.jpg,"), "missing value", 7, "class is ''"),
    "NaN": (one(7, "video7/00006.jpg,nan"), "NaN", 7, "class is 'nan'"),
    "one field": (one(7, "video7/00006.jpg"), "wrong field count", 7, "has 1 field, not 2"),
    "three fields": (one(7, "video7/00006.jpg,3,4"), "wrong field count", 7, "has 3 fields, not 2"),
    "a column a class": (each(lambda r: r.split(",")[0] + ",0,0,1,0,0,0,0,0"), "one column a class", 2, "9 fields"),
    "swapped": (each(lambda r: ",".join(r.split(",")[::-1])), "swapped columns", 2, "stands before the name"),
    "semicolons": (each(lambda r: r.replace(",", ";")), "wrong separator", 2, "'video7/00001.jpg;0'"),
    "quoted rows": (each(lambda r: f'"{r}"'), "quoted row", 2, "'\"video7/00001.jpg,0\"'"),
    "row numbers": (lambda t: [t[0], *(f"{i},{r}" for i, r in enumerate(t[1:]))], "index column", 2, "3 fields, not 2"),
    "header again": (lambda t: [*t[:41], t[0], *t[41:]], "header again", 42, "image_location"),
    "spaces": (each(lambda r: r.replace(",", ", ")), "spaces", 2, "class is ' 0'"),
    "backslashes": (each(lambda r: r.replace("/", "\\")), "backslashes", 2, "'video7\\\\00001.jpg'"),
    "no padding": (each(lambda r: re.sub("/0+", "/", r)), "different zero padding", 2, "'video7/1.jpg'"),
    "six digits": (each(lambda r: r.replace("/", "/0")), "different zero padding", 2, "'video7/000001.jpg'"),
    "folders": (
        each(lambda r: "cropped_aligned/" + r),
        "folder before the name",
        2,
        "'cropped_aligned/video7/00001.jpg'",
    ),
    "./": (each(lambda r: "./" + r), "folder before the name", 2, "'./video7/00001.jpg'"),
    "no .jpg": (each(lambda r: r.replace(".jpg", "")), "no .jpg", 2, "'video7/00001'"),
    ".png": (each(lambda r: r.replace(".jpg", ".png")), "other ending", 2, "'video7/00001.png'"),
    "space before name": (each(lambda r: " " + r), "spaces in names", 2, "' video7/00001.jpg'"),
    "blank line": (lambda t: [*t[:9], "", *t[9:]], "blank line", 10, "an empty line"),
    "blank end": (lambda t: [*t, "", ""], "blank lines at the end", 97, "2 blank lines at the end"),
    "one class": (each(lambda r: r.split(",")[0] + ",0"), "one value in the whole file", 2, "every row says 0"),
    "other sample": (each(lambda r: "new_" + r), "wrong sample", 2, "not one of 95 names"),
}
VA_FAULTS: dict[str, tuple[Damage, str, int | None, str]] = {
    "-5": (one(7, "video7/00006.jpg,-5,-5"), "-5", 7, "valence is '-5'"),
    "-5.0 in arousal": (one(7, "video7/00006.jpg,0.1,-5.0"), "-5", 7, "arousal is '-5.0'"),
    "out of range": (one(7, "video7/00006.jpg,0.1,1.2"), "outside [-1, 1]", 7, "arousal is '1.2'"),
    "NaN": (one(7, "video7/00006.jpg,nan,0.1"), "NaN", 7, "valence is 'nan'"),
    "inf": (one(7, "video7/00006.jpg,0.1,-inf"), "NaN", 7, "arousal is '-inf'"),
    "empty": (one(7, "video7/00006.jpg,,0.1"), "missing value", 7, "valence is ''"),
    "words": (one(7, "video7/00006.jpg,high,0.1"), "no number", 7, "valence is 'high'"),
    "one value": (one(7, "video7/00006.jpg,0.5"), "wrong field count", 7, "has 2 fields, not 3"),
    "decimal commas": (one(7, "video7/00006.jpg,0,25,-0,5"), "decimal comma", 7, "'video7/00006.jpg,0,25,-0,5'"),
    "swapped header": (
        one(1, "image_location,arousal,valence"),
        "swapped columns",
        1,
        "'arousal' stands where 'valence'",
    ),
    "index header": (one(1, "," + VA_HEADER), "index column", 1, "row numbers"),
    "values first": (each(lambda r: "{1},{2},{0}".format(*r.split(","))), "swapped columns", 2, "before the name"),
}


@pytest.mark.parametrize("name", EXPR_FAULTS)
def test_expr_fault(tmp_path: Path, expr: Path, name: str) -> None:
    damage, kind, line, words = EXPR_FAULTS[name]
    found = validate(write(tmp_path / "file.txt", *damage(GOOD_EXPR)), expr)
    check(found, kind, line, words)


@pytest.mark.parametrize("name", VA_FAULTS)
def test_va_fault(tmp_path: Path, va: Path, name: str) -> None:
    damage, kind, line, words = VA_FAULTS[name]
    found = validate(write(tmp_path / "file.txt", *damage(GOOD_VA)), va)
    if name == "-5":  # both columns
        assert [f.what for f in found] == ["valence is '-5'", "arousal is '-5'"]
    check(found, kind, line, words)


def check(found: list[Issue], kind: str, line: int | None, words: str) -> None:
    assert kinds(found) == {kind}, found
    assert found[0].line == line
    assert words in found[0].what
    for fault in found:
        assert fault.follows
        assert fault.remedy


def test_the_good_files_are_good(tmp_path: Path, expr: Path, va: Path) -> None:
    assert validate(write(tmp_path / "e.txt", *GOOD_EXPR), expr) == []
    assert validate(write(tmp_path / "v.txt", *GOOD_VA), va) == []
    (tmp_path / "n.txt").write_text("\n".join(GOOD_EXPR))  # no line end after the last row: fine
    assert validate(tmp_path / "n.txt", expr) == []


def test_a_data_frame_with_one_column_of_all_names(tmp_path: Path, expr: Path) -> None:
    """What pandas writes where header and rows are each one string: both are quoted, and both are said."""
    found = validate(write(tmp_path / "f.txt", *(f'"{line}"' for line in GOOD_EXPR)), expr)
    assert kinds(found) == {"quoted header", "quoted row"}
    assert "ONE column" in found[0].follows


@pytest.mark.parametrize(("end", "words"), [(b"\r\n", "every line ends in CR LF"), (b"\r", "carriage return alone")])
def test_line_ends(tmp_path: Path, expr: Path, end: bytes, words: str) -> None:
    (tmp_path / "f.txt").write_bytes(end.join(line.encode() for line in GOOD_EXPR) + end)
    found = validate(tmp_path / "f.txt", expr)
    assert kinds(found) == {"Windows line ends"}
    assert words in found[0].what


def test_mixed_line_ends_and_a_byte_order_mark(tmp_path: Path, expr: Path) -> None:
    text = "\n".join(GOOD_EXPR[:10]) + "\r\n" + "\r\n".join(GOOD_EXPR[10:])
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
def test_what_is_no_text(tmp_path: Path, expr: Path, data: bytes, words: str) -> None:
    (tmp_path / "f.txt").write_bytes(data)
    found = validate(tmp_path / "f.txt", expr)
    assert len(found) == 1
    assert words in found[0].what


@pytest.mark.parametrize("kind", ["expr", "va"])
def test_one_challenge_given_as_the_other(tmp_path: Path, expr: Path, va: Path, kind: str) -> None:
    lines, sample = (GOOD_VA, expr) if kind == "va" else (GOOD_EXPR, va)
    found = validate(write(tmp_path / "f.txt", *lines), sample)
    assert len(found) == 1
    assert found[0].kind == "wrong challenge"
    fields = {"va": "3 fields as VA rows do, and the sample is EXPR's", "expr": "2 fields as EXPR rows do"}[kind]
    assert f"95 of 95 rows have {fields}" in found[0].what


def test_counting_from_one_is_guessed(tmp_path: Path, expr: Path) -> None:
    shifted = [GOOD_EXPR[0], *(f"{r.split(',')[0]},{i % 8 + 1}" for i, r in enumerate(GOOD_EXPR[1:]))]
    found = validate(write(tmp_path / "f.txt", *shifted), expr)
    assert kinds(found) == {"class outside 0 to 7"}
    assert "counted from 1" in found[0].remedy


def test_a_million_faults_take_six_lines(tmp_path: Path, expr: Path) -> None:
    found = validate(write(tmp_path / "f.txt", *each(lambda r: r.replace("/", "\\"))(GOOD_EXPR)), expr)
    assert len(found) == 6
    assert sum(f.rows for f in found) == 95
    assert found[-1].what == "backslashes: 90 more rows like these, the last at line 96"


def test_several_faults_at_once_are_all_told_errors_first(tmp_path: Path, expr: Path) -> None:
    lines = [f'"{GOOD_EXPR[0]}"', *GOOD_EXPR[1:]]
    lines[3] = "video7\\00003.jpg, 9"
    lines[5] = "video7/5.jpg,Happiness"
    del lines[50]
    found = validate(write(tmp_path / "f.txt", *lines), expr)
    assert kinds(found) == {
        "quoted header", "backslashes", "class outside 0 to 7", "different zero padding", "class name", "missing rows"
    }  # fmt: skip
    assert [f.line for f in found if f.kind == "class outside 0 to 7"] == [4]


def test_padding_with_the_last_value_is_suspicious_only_where_values_used_to_move(tmp_path: Path) -> None:
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


def test_long_runs_of_a_class_are_not_taken_for_padding(tmp_path: Path) -> None:
    """Run lengths drawn geometrically, as of unsmoothed and of smoothed predictions: no warning in 120 clips."""
    rng = np.random.default_rng(0)
    clips = {f"c{i}": 600 for i in range(120)}
    sample = write(tmp_path / "s.txt", EXPR_HEADER, *(f"{n},0" for n in rows_of(clips)))
    change = {c: rng.random(600) < (0.3 if i % 2 else 0.05) for i, c in enumerate(clips)}
    predictions = {c: np.cumsum(change[c]) % 8 for c in clips}
    write_expr(tmp_path / "out.txt", predictions, sample)
    assert validate(tmp_path / "out.txt", sample) == []


# --- nothing slips through -----------------------------------------------------------------------------------

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def flawless(text: str, names: list[str], header: str) -> bool:
    """The format read row by row, spaces around values forgiven: what the validator has to agree with."""
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


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_an_error_is_found_exactly_where_a_strict_reader_finds_one(tmp_path: Path, data: st.DataObject) -> None:
    header, good = data.draw(st.sampled_from([(EXPR_HEADER, GOOD_EXPR[:4]), (VA_HEADER, GOOD_VA[:4])]))
    names = [line.split(",")[0] for line in good[1:]]
    sample = write(tmp_path / "s.txt", *good)
    text = "\n".join(good) + "\n"
    for _ in range(data.draw(st.integers(0, 3))):
        a = data.draw(st.integers(0, len(text)))
        b = data.draw(st.integers(a, min(len(text), a + 4)))
        text = text[:a] + data.draw(PIECES) + text[b:]
    (tmp_path / "f.txt").write_bytes(text.encode())
    found = validate(tmp_path / "f.txt", sample)
    assert any(f.severity == ERROR for f in found) != flawless(text, names, header), found
    lines = text.replace("\r", "\n").count("\n") + 1
    assert all(f.line is None or 1 <= f.line <= lines for f in found)


# --- the command line ----------------------------------------------------------------------------------------


@pytest.fixture
def cli() -> Callable[..., Result]:
    app = typer.Typer()
    submission_commands.register(app)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def test_validate_prints_faults_and_exits_by_their_severity(
    tmp_path: Path, expr: Path, cli: Callable[..., Result]
) -> None:
    good = cli("validate", write(tmp_path / "good.txt", *GOOD_EXPR), "--sample", expr)
    assert (good.exit_code, "no fault found" in good.output) == (0, True)
    blank = cli("validate", write(tmp_path / "blank.txt", *GOOD_EXPR, "", ""), "--sample", expr)
    assert (blank.exit_code, "1 kind of warning" in blank.output) == (0, True)
    bad = write(tmp_path / "bad.txt", *each(lambda r: r.replace("/", "\\"))(GOOD_EXPR))
    found = cli("validate", bad, "--sample", expr)
    assert found.exit_code == 1
    for words in (
        "error  backslashes  95 rows",
        "line 2: 'video7\\\\00001.jpg' is",
        "try  write / in names",
        "1 kind of error",
    ):
        assert words in found.output
    listed = json.loads(cli("validate", bad, "--sample", expr, "--json").output)
    assert listed[0]["line"] == 2
    assert listed[0]["kind"] == "backslashes"


def test_validate_refuses_what_it_cannot_check(tmp_path: Path, expr: Path, cli: Callable[..., Result]) -> None:
    lost = cli("validate", tmp_path / "nowhere.txt", "--sample", expr).exception
    assert isinstance(lost, ConfigError)
    assert "cannot be read: No such file" in lost.what
    assert lost.exit_code == 2
    assert isinstance(cli("validate", expr, "--sample", expr, "--kind", "au").exception, ConfigError)


def test_submit_from_a_table_of_predictions(tmp_path: Path, va: Path, cli: Callable[..., Result]) -> None:
    said = affect_of(CLIPS)
    clips = [
        ClipPrediction(c, np.arange(n) / 30, np.full((n, 8), 1 / 8), said[c], np.full(n, -1), np.full((n, 2), np.nan))
        for c, n in CLIPS.items()
    ]
    table = predictions.save(tmp_path / "test.parquet", clips)
    done = cli("submit", table, "--sample", va, "--out", tmp_path / "va.txt")
    assert done.exit_code == 0, done.output
    assert "95 rows of 3 clips" in done.output
    golden = write_va(tmp_path / "golden.txt", {c: v.astype(np.float32) for c, v in said.items()}, va)
    assert (tmp_path / "va.txt").read_bytes() == golden.path.read_bytes()
    Calibration(affect_radius_s=0.2).save(tmp_path / "c.json")
    smooth = cli(
        "submit", table, "--sample", va, "--out", tmp_path / "s.txt", "--calibration", tmp_path / "c.json", "--json"
    )
    assert json.loads(smooth.output)["rows"] == 95
    assert (tmp_path / "s.txt").read_bytes() != golden.path.read_bytes()
    other = predictions.save(tmp_path / "other.parquet", clips, [*EXPRESSIONS[:6], "Other", "Surprise"])
    assert "the classes of these predictions" in str(
        cli("submit", other, "--sample", va, "--out", tmp_path / "x.txt").exception
    )


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A run with random weights, an index of the clips, and a store in which one clip has no voice."""
    from tiny_checkpoint import save_tiny

    from mien.encoders import face_geometry
    from mien.encoders.voice_prosody import ProsodyExtractor

    run = save_tiny(tmp_path / "run")
    store = FeatureStore(tmp_path / "features")
    entries = []
    for number, (clip, rows) in enumerate(CLIPS.items()):
        frames = rows - (0, 1, 2)[number]  # label rows may exceed frames by two
        times = FrameTimes(np.arange(frames) / 25)
        entries.append(Entry(clip, f"{clip}.mp4", subject=clip, splits={"expr": "test"}, rows=rows, times=times))
        rng = np.random.default_rng(number)
        for name, dim, rate in (
            (face_geometry.NAME, face_geometry.DIM, 25),
            (ProsodyExtractor.NAME, ProsodyExtractor.DIM, 10),
        ):
            if name == ProsodyExtractor.NAME and number == 1:
                continue
            n = max(1, round(frames / 25 * rate))
            stream = Stream(rng.normal(size=(n, dim)).astype(np.float32), (np.arange(n) + 0.5) / rate, np.ones(n, bool))
            store.write(name, clip, stream, provenance={"made": "here"})
    Index("aff-wild2", tmp_path, entries).save(tmp_path / "index.jsonl")
    return run, tmp_path / "index.jsonl", store.root


def test_submit_from_a_run_and_stored_features(
    tmp_path: Path, expr: Path, va: Path, stored: tuple[Path, Path, Path], cli: Callable[..., Result]
) -> None:
    run, index, store = stored
    for sample in (expr, va):
        words = ["submit", run, "--sample", sample, "--out", tmp_path / "out.txt", "--index", index, "--store", store]
        done = cli(*words, "--device", "cpu")
        assert done.exit_code == 0, done.output
        assert "3 rows lie beyond the last predicted frame" in done.output
        assert [f for f in validate(tmp_path / "out.txt", sample) if f.severity == ERROR] == []
    plain = (tmp_path / "out.txt").read_bytes()
    Calibration(affect_radius_s=0.5).save(run / "calibration.json")  # a run's own is used without asking
    assert cli(*words).exit_code == 0
    assert (tmp_path / "out.txt").read_bytes() != plain


def test_submit_says_what_it_lacks(
    tmp_path: Path, expr: Path, stored: tuple[Path, Path, Path], cli: Callable[..., Result]
) -> None:
    run, index, store = stored
    lost = cli("submit", run, "--sample", expr, "--out", tmp_path / "out.txt", "--index", index).exception
    assert isinstance(lost, ConfigError)
    assert "--store is needed" in lost.what
    for path in store.rglob("video7.safetensors"):
        path.unlink()
    words = ["submit", run, "--sample", expr, "--out", tmp_path / "out.txt", "--index", index, "--store", store]
    lost = cli(*words).exception
    assert isinstance(lost, OutputError)
    assert "1 of the sample's 3 clips were not predicted: 'video7'" in lost.what
    assert not (tmp_path / "out.txt").exists()
    filled = cli(*words, "--fill")
    assert "1 clips were not predicted at all (Neutral): 'video7'" in filled.output
