"""Commands `mien validate` and `mien submit`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from submission_support import CLIPS, VALID_EXPR, affect_of, change_rows, write

from mien.datasets.frame_times import FrameTimes
from mien.datasets.index import Index
from mien.datasets.index_entries import Entry
from mien.errors import ConfigError, OutputError
from mien.evaluation import predictions, saved_calibration
from mien.evaluation.calibration import Calibration, Smoothing
from mien.evaluation.predictions import ClipPrediction
from mien.labels import EXPRESSIONS
from mien.records import Stream
from mien.store import FeatureStore
from mien.submission import ERROR, validate, write_va
from tests.earlier_version import without_digests


def test_validate_command_prints_issues_and_exits_by_severity(
    tmp_path: Path, expr: Path, cli: Callable[..., Result]
) -> None:
    good = cli("validate", write(tmp_path / "good.txt", *VALID_EXPR), "--sample", expr)
    assert (good.exit_code, "no fault found" in good.output) == (0, True)
    blank = cli("validate", write(tmp_path / "blank.txt", *VALID_EXPR, "", ""), "--sample", expr)
    assert (blank.exit_code, "1 kind of warning" in blank.output) == (0, True)
    bad = write(tmp_path / "bad.txt", *change_rows(lambda r: r.replace("/", "\\"))(VALID_EXPR))
    found = cli("validate", bad, "--sample", expr)
    assert found.exit_code == 1
    for words in (
        "error  backslashes  95 rows",
        "line 2: 'video7\\\\00001.jpg' is",
        "Write / in names",
        "1 kind of error",
    ):
        assert words in found.output
    listed = json.loads(cli("validate", bad, "--sample", expr, "--json").output)
    assert listed[0]["line"] == 2
    assert listed[0]["kind"] == "backslashes"


def test_validate_command_needs_a_file_and_a_known_kind(tmp_path: Path, expr: Path, cli: Callable[..., Result]) -> None:
    error = cli("validate", tmp_path / "missing.txt", "--sample", expr).exception
    assert isinstance(error, ConfigError)
    assert "cannot be read: No such file" in error.what
    assert error.exit_code == 2
    assert isinstance(cli("validate", expr, "--sample", expr, "--kind", "faces").exception, ConfigError)


def test_submit_command_from_a_table_of_predictions(tmp_path: Path, va: Path, cli: Callable[..., Result]) -> None:
    affect = affect_of(CLIPS)
    clips = [
        ClipPrediction(c, np.arange(n) / 30, np.full((n, 8), 1 / 8), affect[c], np.full(n, -1), np.full((n, 2), np.nan))
        for c, n in CLIPS.items()
    ]
    table = predictions.save(tmp_path / "test.parquet", clips)
    result = cli("submit", table, "--sample", va, "--out", tmp_path / "va.txt")
    assert result.exit_code == 0, result.output
    assert "95 rows of 3 clips" in result.output
    golden = write_va(tmp_path / "golden.txt", {c: v.astype(np.float32) for c, v in affect.items()}, va)
    assert (tmp_path / "va.txt").read_bytes() == golden.path.read_bytes()
    report = cli("submit", table, "--sample", va, "--out", tmp_path / "s.txt", "--json")
    assert json.loads(report.output)["rows"] == 95
    Calibration(valence=Smoothing("mean", 0.4)).save(tmp_path / "c.json")
    refused = cli("submit", table, "--sample", va, "--out", tmp_path / "c.txt", "--calibration", tmp_path / "c.json")
    assert "a table holds smoothed predictions" in str(refused.exception)
    other = predictions.save(tmp_path / "other.parquet", clips, [*EXPRESSIONS[:6], "Other", "Surprise"])
    assert "the classes of these predictions" in str(
        cli("submit", other, "--sample", va, "--out", tmp_path / "x.txt").exception
    )


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A run with random weights, an index of the clips, and a feature store in which one clip has no voice."""
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
            store.write(name, clip, stream, provenance={"source": "test"})
    Index("aff-wild2", tmp_path, entries).save(tmp_path / "index.jsonl")
    return run, tmp_path / "index.jsonl", store.root


def test_submit_command_from_a_run_and_stored_features(
    tmp_path: Path, expr: Path, va: Path, stored: tuple[Path, Path, Path], cli: Callable[..., Result]
) -> None:
    run, index, store = stored
    for sample in (expr, va):
        words = ["submit", run, "--sample", sample, "--out", tmp_path / "out.txt", "--index", index, "--store", store]
        result = cli(*words, "--device", "cpu")
        assert result.exit_code == 0, result.output
        assert "3 rows lie beyond the last predicted frame" in result.output
        assert [f for f in validate(tmp_path / "out.txt", sample) if f.severity == ERROR] == []
    plain = (tmp_path / "out.txt").read_bytes()
    smoothing = Smoothing("mean", 1.0)
    saved_calibration.save(Calibration(valence=smoothing, arousal=smoothing), run, "3 clips")  # used by default
    assert cli(*words).exit_code == 0
    assert (tmp_path / "out.txt").read_bytes() != plain
    about = json.loads((run / "checkpoint.json").read_text())
    calibration = (run / "calibration.json").read_text().replace(about["sha256"], "0" * 64)
    (run / "calibration.json").write_text(calibration)
    error = cli(*words).exception
    assert isinstance(error, ConfigError)
    assert "calibration.json is not the file that checkpoint.json describes" in error.what
    without_digests(run)
    error = cli(*words).exception
    assert isinstance(error, ConfigError)
    assert "was fitted for other weights than those of" in error.what


def test_submit_command_names_missing_options_and_clips(
    tmp_path: Path, expr: Path, stored: tuple[Path, Path, Path], cli: Callable[..., Result]
) -> None:
    run, index, store = stored
    error = cli("submit", run, "--sample", expr, "--out", tmp_path / "out.txt", "--index", index).exception
    assert isinstance(error, ConfigError)
    assert "--store is missing" in error.what
    for path in store.rglob("video7.safetensors"):
        path.unlink()
    words = ["submit", run, "--sample", expr, "--out", tmp_path / "out.txt", "--index", index, "--store", store]
    error = cli(*words).exception
    assert isinstance(error, OutputError)
    assert "1 of the sample's 3 clips were not predicted: 'video7'" in error.what
    assert not (tmp_path / "out.txt").exists()
    filled = cli(*words, "--fill")
    assert "1 clips were not predicted at all (Neutral): 'video7'" in filled.output
