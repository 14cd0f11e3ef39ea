"""Submissions of action units, compound expressions and mimicry intensity: golden files, and every error by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from submission_support import CLIPS, VALID_EXPR, kinds, replace_line, rows_of, write

from mien.errors import ConfigError, OutputError
from mien.evaluation import predictions
from mien.evaluation.predictions import ClipPrediction
from mien.submission import read_sample, validate, write_au, write_ce, write_emi

AU_HEADER = "image_location,AU1,AU2,AU4,AU6,AU7,AU10,AU12,AU15,AU23,AU24,AU25,AU26"
CE_HEADER = (
    "image_location,Fearfully_Surprised,Happily_Surprised,Sadly_Surprised,Disgustedly_Surprised,Angrily_Surprised,"
    "Sadly_Fearful,Sadly_Angry"
)
EMI_HEADER = "Filename,Admiration,Amusement,Determination,Empathic Pain,Excitement,Joy"
ZEROS = ",".join("0" * 12)


def unit_row(number: int) -> str:
    return ",".join(str(int((number * 7 + i * i) % 5 == 0)) for i in range(12))


VALID_AU = [AU_HEADER, *(f"{name},{unit_row(i)}" for i, name in enumerate(rows_of(CLIPS)))]
VALID_CE = [CE_HEADER, *(f"{name},{i * i % 7}" for i, name in enumerate(rows_of(CLIPS)))]
VALID_EMI = [EMI_HEADER, *(f"{i:05d},0.{i + 1},0,0.5,0.25,1,0.{9 - i}" for i in range(8))]


@pytest.fixture
def au(tmp_path: Path) -> Path:
    return write(tmp_path / "CVPR_au_sample.txt", AU_HEADER, *(f"{name},{ZEROS}" for name in rows_of(CLIPS)))


@pytest.fixture
def ce(tmp_path: Path) -> Path:
    return write(tmp_path / "ce_sample.txt", CE_HEADER, *(f"{name},0" for name in rows_of(CLIPS)))


@pytest.fixture
def emi(tmp_path: Path) -> Path:
    return write(tmp_path / "test_split.csv", "Filename", *(f"{i:05d}" for i in range(8)))


def test_a_golden_file_of_action_units(tmp_path: Path) -> None:
    sample = write(tmp_path / "s.txt", AU_HEADER, *(f"v/{i:05d}.jpg,{ZEROS}" for i in range(1, 5)))
    scores = np.zeros((4, 12))
    scores[0, [0, 6]], scores[1], scores[3, 11] = (0.5, 0.49), np.nan, 0.9
    report = write_au(tmp_path / "au.txt", {"v": scores}, sample)
    assert (tmp_path / "au.txt").read_text() == (
        f"{AU_HEADER}\n"
        "v/00001.jpg,1,0,0,0,0,0,0,0,0,0,0,0\n"
        "v/00002.jpg,1,0,0,0,0,0,0,0,0,0,0,0\n"  # no evidence: the nearest frame, the earlier one
        "v/00003.jpg,0,0,0,0,0,0,0,0,0,0,0,0\n"
        "v/00004.jpg,0,0,0,0,0,0,0,0,0,0,0,1\n"
    )
    assert report.notes() == ["1 rows had no evidence: they take the nearest predicted frame of the clip"]


def test_a_golden_file_of_compound_expressions(tmp_path: Path) -> None:
    sample = write(tmp_path / "s.txt", CE_HEADER, *(f"v/{i:05d}.jpg,0" for i in range(1, 4)))
    write_ce(tmp_path / "ce.txt", {"v": np.eye(7)[[6, 2, 0]]}, sample)
    assert (tmp_path / "ce.txt").read_text() == f"{CE_HEADER}\nv/00001.jpg,6\nv/00002.jpg,2\nv/00003.jpg,0\n"
    assert validate(tmp_path / "ce.txt", sample) == []


def test_a_golden_file_of_mimicry_intensity(tmp_path: Path) -> None:
    sample = write(tmp_path / "s.csv", EMI_HEADER, "00000,,,,,,", "00002,,,,,,")
    values = {"00000": np.array([0.1, 0, 1 / 3, 0, 1, 0.5]), "00002": np.full(6, 0.25)}
    write_emi(tmp_path / "emi.csv", values, sample)
    assert (tmp_path / "emi.csv").read_text() == (
        f"{EMI_HEADER}\n00000,0.100000,0.000000,0.333333,0.000000,1.000000,0.500000\n"
        "00002,0.250000,0.250000,0.250000,0.250000,0.250000,0.250000\n"
    )
    assert validate(tmp_path / "emi.csv", sample) == []
    with pytest.raises(OutputError, match="1 of the sample's 2 clips were not predicted: '00002'"):
        write_emi(tmp_path / "x.csv", {"00000": values["00000"]}, sample)
    filled = write_emi(tmp_path / "x.csv", {"00000": values["00000"]}, sample, fill=True)
    assert filled.notes() == ["1 clips were not predicted at all (0 throughout): '00002'"]


def test_predictions_outside_the_range_are_refused(tmp_path: Path, au: Path, emi: Path) -> None:
    good = {clip: np.zeros((n, 12)) for clip, n in CLIPS.items()}
    for wrong, words in (
        ({**good, "video7": np.full((40, 12), -1.0)}, r"predictions of 'video7' hold -1 to -1 .*outside \[0, 1\]"),
        ({**good, "video7": np.zeros((40, 8))}, r"have shape \(40, 8\), not \(frames, 12\): AU1 ... AU26"),
    ):
        with pytest.raises(OutputError, match=words):
            write_au(tmp_path / "x.txt", wrong, au)
    with pytest.raises(ConfigError, match="is a sample of EMI, and AU is asked for"):
        write_au(tmp_path / "x.txt", good, emi)


def test_valid_files_have_no_issue(tmp_path: Path, au: Path, ce: Path, emi: Path) -> None:
    for lines, sample in ((VALID_AU, au), (VALID_CE, ce), (VALID_EMI, emi)):
        assert validate(write(tmp_path / "file.txt", *lines), sample) == []
    assert read_sample(emi).kind == "emi"
    assert read_sample(emi).clip_ids == [f"{i:05d}" for i in range(8)]


@pytest.mark.parametrize(
    ("line", "kind", "words"),
    [
        (f"video7/00002.jpg,-1,{ZEROS[2:]}", "unlabelled mark", "AU1 is '-1'"),
        (f"video7/00002.jpg,0.73,{ZEROS[2:]}", "score instead of decision", "AU1 is '0.73'"),
        (f"video7/00002.jpg,1.0,{ZEROS[2:]}", "decimal decision", "AU1 is '1.0'"),
        (f"video7/00002.jpg,3,{ZEROS[2:]}", "neither 0 nor 1", "AU1 is '3'"),
        (f"video7/00002.jpg,{ZEROS[2:]},NaN", "NaN", "AU26 is 'NaN'"),
        (f"video7/00002.jpg,{ZEROS[2:]},", "missing value", "AU26 is ''"),
        (f"video7/00002.jpg,{ZEROS[2:]}", "wrong field count", "has 12 fields, not 13"),
        ("video7/00002.jpg,3", "wrong field count", "has 2 fields, not 13"),
        (f"video7/2.jpg,{ZEROS}", "different zero padding", "'video7/2.jpg' is 'video7/00002.jpg'"),
    ],
)
def test_each_fault_of_action_units_is_named_with_its_line(
    line: str, kind: str, words: str, tmp_path: Path, au: Path
) -> None:
    issues = validate(write(tmp_path / "au.txt", *replace_line(3, line)(VALID_AU)), au)
    found = [issue for issue in issues if issue.kind == kind]
    assert [(issue.line, issue.severity) for issue in found] == [(3, "error")]
    assert words in found[0].what
    assert found[0].remedy


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda lines: replace_line(4, "00002,0.3,0,0.5,0.25,1.2,0.7")(lines), "outside [0, 1]"),
        (lambda lines: replace_line(4, "00002,0.3,0,0.5,0.25,0.7")(lines), "wrong field count"),
        (lambda lines: replace_line(4, "00002,0.3,0,0.5,high,0.2,0.7")(lines), "no number"),
        (lambda lines: replace_line(4, "00092,0.3,0,0.5,0.25,1,0.7")(lines), "unknown clip"),
        (lambda lines: [lines[0], *(line.lstrip("0") if line[4] != "0" else line for line in lines[1:])],
         "spelled differently"),
        (lambda lines: [lines[0], *(line.replace(",", ".mp4,", 1) for line in lines[1:])], "spelled differently"),
        (lambda lines: lines[:-1], "missing clip"),
        (lambda lines: lines[1:], "no header"),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], "wrong order"),
        (lambda lines: [*lines, lines[-1]], "duplicate row"),
    ],
)  # fmt: skip
def test_each_fault_of_mimicry_intensity_is_named(
    change: Callable[[list[str]], list[str]], kind: str, tmp_path: Path, emi: Path
) -> None:
    assert kind in kinds(validate(write(tmp_path / "emi.csv", *change(VALID_EMI)), emi))


def test_faults_of_compound_expressions_are_named(tmp_path: Path, ce: Path) -> None:
    for value, kind in (("7", "class outside 0 to 6"), ("Sadly Angry", "class name"), ("-1", "unlabelled mark")):
        issues = validate(write(tmp_path / "ce.txt", *replace_line(5, f"video7/00004.jpg,{value}")(VALID_CE)), ce)
        assert [(i.line, i.kind) for i in issues] == [(5, kind)]
    one_hot = replace_line(5, "video7/00004.jpg,0,0,1,0,0,0,0")(VALID_CE)
    assert kinds(validate(write(tmp_path / "ce.txt", *one_hot), ce)) >= {"one column a class"}


def test_a_file_of_another_challenge_is_one_issue(tmp_path: Path, au: Path, ce: Path) -> None:
    (issue,) = validate(write(tmp_path / "a.txt", *VALID_EXPR), au)
    assert issue.kind == "wrong challenge"
    assert "95 of 95 rows have 2 fields as EXPR rows do, and the sample is AU's" in issue.what
    headers = validate(write(tmp_path / "b.txt", *VALID_EXPR), ce)
    assert "this is the header of an EXPR file, and the sample is CE's" in headers[0].what


def test_submit_needs_scores_of_the_challenge(tmp_path: Path, au: Path, ce: Path, cli: Callable[..., Result]) -> None:
    rng = np.random.default_rng(0)

    def clips(**scores: int) -> list[ClipPrediction]:
        return [
            ClipPrediction(
                c, np.arange(n) / 30, rng.dirichlet(np.ones(8), n), np.zeros((n, 2)), np.full(n, -1),
                np.full((n, 2), np.nan), scores={task: rng.random((n, width)) for task, width in scores.items()},
            )
            for c, n in CLIPS.items()
        ]  # fmt: skip

    without = predictions.save(tmp_path / "without.parquet", clips())
    error = cli("submit", without, "--sample", au, "--out", tmp_path / "au.txt").exception
    assert isinstance(error, ConfigError)
    assert "the predictions of 'video7' hold no action units" in error.what
    assert "objective.action_units=1" in error.remedy
    having = predictions.save(tmp_path / "having.parquet", clips(au=12))
    for table, sample in ((having, au), (without, ce)):
        result = cli("submit", table, "--sample", sample, "--out", tmp_path / "out.txt")
        assert (result.exit_code, "no fault found" in result.output) == (0, True), result.output
    words = ("submit", having, "--sample", au, "--out", tmp_path / "o.txt", "--calibration", tmp_path / "c.json")
    assert "smooths expressions, valence and arousal, and the sample is AU's" in str(cli(*words).exception)
