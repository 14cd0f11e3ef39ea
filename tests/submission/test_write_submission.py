"""Writer of submissions and the sample file: rows, order, filling, and errors."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from submission_support import CLIPS, EXPR_HEADER, VA_HEADER, affect_of, classes_of, rows_of, write

from mien.errors import ConfigError, OutputError
from mien.submission import ERROR, read_sample, validate, write_expr, write_va


def test_expr_file_has_the_rows_of_the_sample_in_its_order_without_quotes(tmp_path: Path, expr: Path) -> None:
    predictions = classes_of(CLIPS)
    report = write_expr(tmp_path / "out.txt", dict(reversed(predictions.items())), expr)
    lines = (tmp_path / "out.txt").read_bytes().decode().split("\n")
    assert lines[0] == EXPR_HEADER
    assert lines.pop() == ""
    expected = [int(c) for clip in CLIPS for c in predictions[clip]]
    assert lines[1:] == [f"{name},{c}" for name, c in zip(rows_of(CLIPS), expected, strict=True)]
    assert (report.rows, report.clips, report.notes()) == (95, 3, [])
    assert validate(tmp_path / "out.txt", expr) == []


def test_va_file_has_six_decimals(tmp_path: Path, va: Path) -> None:
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


def test_a_frame_without_evidence_takes_the_nearest_prediction(tmp_path: Path, expr: Path, va: Path) -> None:
    probabilities = {clip: np.eye(8)[np.full(n, 2)] for clip, n in CLIPS.items()}
    probabilities["video7"][10] = np.eye(8)[5]
    probabilities["video7"][11:17] = np.nan
    affect = {clip: np.full((n, 2), 0.5) for clip, n in CLIPS.items()}
    affect["video7"][10] = -0.5
    affect["video7"][11:16, 1] = (
        np.nan
    )  # arousal alone is missing; five frames, so the middle one is equally near to both sides
    report = write_expr(tmp_path / "e.txt", probabilities, expr)
    write_va(tmp_path / "v.txt", affect, va)
    written = [line.split(",")[1] for line in (tmp_path / "e.txt").read_text().splitlines()[11:18]]
    assert written == ["5", "5", "5", "5", "2", "2", "2"]
    assert (report.without_evidence, report.beyond) == (6, 0)
    assert "6 rows had no evidence" in report.notes()[0]
    written = [line.split(",")[1] for line in (tmp_path / "v.txt").read_text().splitlines()[11:18]]
    assert written == ["-0.500000"] * 4 + ["0.500000"] * 3


def test_a_clip_without_any_evidence_is_neutral(tmp_path: Path, expr: Path, va: Path) -> None:
    write_expr(tmp_path / "e.txt", {**classes_of(CLIPS), "video7": np.full(40, -1)}, expr)
    write_va(tmp_path / "v.txt", {**affect_of(CLIPS), "video7": np.full((40, 2), np.nan)}, va)
    assert (tmp_path / "e.txt").read_text().splitlines()[1:41] == [f"video7/{i:05d}.jpg,0" for i in range(1, 41)]
    assert (tmp_path / "v.txt").read_text().splitlines()[40] == "video7/00040.jpg,0.000000,0.000000"


def test_up_to_two_missing_rows_are_filled_and_surplus_frames_left_out(tmp_path: Path, expr: Path) -> None:
    predictions = classes_of(CLIPS)
    predictions["video7"] = predictions["video7"][:38]
    predictions["10-60-1280x720"] = np.append(predictions["10-60-1280x720"], [1] * 7)
    predictions["unused"] = np.zeros(3, int)
    report = write_expr(tmp_path / "out.txt", predictions, expr)
    lines = (tmp_path / "out.txt").read_text().splitlines()
    assert {line.split(",")[1] for line in lines[38:41]} == {str(predictions["video7"][37])}
    assert (report.beyond, report.longer, report.unused) == (2, {"10-60-1280x720": 7}, ["unused"])
    words = " ".join(report.notes())
    for part in ("2 rows lie beyond", "'10-60-1280x720', 7", "not in the sample: 'unused'"):
        assert part in words


def test_a_short_or_missing_clip_is_an_error_without_fill(tmp_path: Path, expr: Path) -> None:
    predictions = classes_of(CLIPS)
    predictions["video7"] = predictions["video7"][:37]
    del predictions["10-60-1280x720"]
    with pytest.raises(OutputError) as caught:
        write_expr(tmp_path / "out.txt", predictions, expr)
    assert "1 of the sample's 3 clips were not predicted: '10-60-1280x720'" in caught.value.what
    assert "1 clips are predicted more than 2 rows short: 'video7' by 3" in caught.value.what
    assert caught.value.follows == "Nothing was written."
    assert "--fill" in caught.value.remedy
    assert not (tmp_path / "out.txt").exists()
    report = write_expr(tmp_path / "out.txt", predictions, expr, fill=True)
    assert (report.beyond, report.unpredicted) == (3, ["10-60-1280x720"])
    assert (tmp_path / "out.txt").read_text().splitlines()[-1] == "10-60-1280x720/00030.jpg,0"


@pytest.mark.parametrize(
    ("predictions", "words"),
    [
        (np.full(40, 8), "hold class 8 (40 frames); classes are 0 to 7"),
        (np.full(40, 2.0), "are float64 of shape (40,), neither (frames,) int nor (frames, 8)"),
        (np.zeros((40, 7)), "shape (40, 7)"),
    ],
)
def test_predictions_that_are_not_classes_are_an_error(
    tmp_path: Path, expr: Path, predictions: np.ndarray, words: str
) -> None:
    (tmp_path / "out.txt").write_text("an earlier file")
    with pytest.raises(OutputError, match=re.escape(words)):
        write_expr(tmp_path / "out.txt", {**classes_of(CLIPS), "video7": predictions}, expr)
    assert (tmp_path / "out.txt").read_text() == "an earlier file"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["CVPR_expr_test_set_sample.txt", "out.txt"]


def test_minus_five_is_an_error(tmp_path: Path, va: Path) -> None:
    with pytest.raises(OutputError, match=r"hold -5, -5 \(40 frames\), outside") as caught:
        write_va(tmp_path / "out.txt", {**affect_of(CLIPS), "video7": np.full((40, 2), -5.0)}, va)
    assert "never -5" in caught.value.remedy


def test_the_sample_of_the_other_challenge_is_an_error(tmp_path: Path, expr: Path, va: Path) -> None:
    with pytest.raises(ConfigError, match="is a sample of VA, and EXPR is asked for"):
        write_expr(tmp_path / "out.txt", classes_of(CLIPS), va)
    with pytest.raises(ConfigError, match="is a sample of EXPR, and VA is asked for"):
        validate(expr, expr, "va")


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_predictions_give_a_valid_file(tmp_path: Path, data: st.DataObject) -> None:
    names = st.text("abz_-0189", min_size=1, max_size=6)
    clips = data.draw(st.dictionaries(names, st.integers(1, 12), min_size=1, max_size=4))
    rows = data.draw(st.permutations(rows_of(clips)))  # a sample may have any order
    sample = write(tmp_path / "sample.txt", EXPR_HEADER, *(f"{row},0" for row in rows))
    predictions = {c: data.draw(st.lists(st.integers(-1, 7), max_size=n + 3)) for c, n in clips.items()}
    write_expr(tmp_path / "out.txt", {c: np.array(v, int) for c, v in predictions.items()}, sample, fill=True)
    assert [f for f in validate(tmp_path / "out.txt", sample) if f.severity == ERROR] == []
    for line in (tmp_path / "out.txt").read_text().splitlines()[1:]:
        match = re.fullmatch(r"(.+)/(\d+)\.jpg,(\d)", line)
        assert match
        clip, frame, value = match.groups()
        if int(frame) <= len(predictions[clip]) and predictions[clip][int(frame) - 1] >= 0:
            assert int(value) == predictions[clip][int(frame) - 1]
        else:
            assert int(value) in ({v for v in predictions[clip] if v >= 0} or {0})


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
        (["a,b", "v/00001.jpg,0"], "which is the header of no challenge"),
        ([EXPR_HEADER], "has a header and no rows"),
        (
            [EXPR_HEADER, "v/00001.jpg,0", "v00002.jpg,0"],
            "does not name a frame (video/00001.jpg) in line 3: 'v00002.jpg'",
        ),
        ([EXPR_HEADER, "v/00001.jpg,0", "v/00001.jpg,0"], "'v/00001.jpg' more than once"),
        ([""], "is empty"),
    ],
)
def test_an_invalid_sample_is_an_error(tmp_path: Path, lines: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        read_sample(write(tmp_path / "s.txt", *lines))
    assert "Nothing was written or checked." in caught.value.follows
    assert caught.value.remedy.endswith(".")
    with pytest.raises(ConfigError, match="does not exist"):
        read_sample(tmp_path / "missing.txt")
