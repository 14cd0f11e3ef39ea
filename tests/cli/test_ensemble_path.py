"""Ensembles and folds through the command line, on a small corpus."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from mien import ensemble_folder
from mien.evaluation import predictions
from tests.cli.test_corpus_path import SMALL, mien, mien_ok, work  # noqa: F401 (a fixture)
from tests.tiny_checkpoint import save_tiny


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("members")
    return [save_tiny(folder / "first", seed=1), save_tiny(folder / "second", seed=2)]


def test_ensemble_fits_weights_and_its_folder_predicts_and_submits(
    work: Path,  # noqa: F811
    runs: list[Path],
    tmp_path: Path,
) -> None:
    stored = ("--index", work / "index.jsonl", "--store", work / "features")
    both = tmp_path / "both"
    output = mien_ok("ensemble", *runs, *stored, "--split", "train", "--out", both, "--device", "cpu", "--json")
    result = json.loads(output[output.index("{") :])
    assert result["scores"]["macro_f1"] >= result["scores"]["macro_f1_equal_weights"]
    assert "clips of the split train" in result["fitted_on"]
    folder = ensemble_folder.read(both)
    assert folder.weights == pytest.approx([m["weight"] for m in result["members"]])
    clip = next((work / "root").rglob("*.mp4"))
    weights = ",".join(map(str, folder.weights))
    models = ("--model", runs[0], "--model", runs[1], "--weights", weights)
    mien_ok("predict", clip, "--model", both, "--format", "parquet", "--out", tmp_path / "by-folder", "--device", "cpu")
    mien_ok("predict", clip, *models, "--format", "parquet", "--out", tmp_path / "by-names", "--device", "cpu")
    tables = [pl.read_parquet(next((tmp_path / n).rglob("timeline.parquet"))) for n in ("by-folder", "by-names")]
    assert tables[0].equals(tables[1])
    single = [
        mien_ok("predict", clip, "--model", r, "--format", "parquet", "--out", tmp_path / r.name, "--device", "cpu")
        for r in runs
    ]
    assert len(single) == 2
    a, b = (pl.read_parquet(next((tmp_path / r.name).rglob("timeline.parquet")))["p_happiness"] for r in runs)
    mean = folder.weights[0] * a + folder.weights[1] * b
    assert (tables[0]["p_happiness"] - mean).abs().max() < 1e-5
    report = ("--store", work / "features", "--out", tmp_path / "report", "--device", "cpu")
    mien_ok("evaluate", both, work / "index.jsonl", "--split", "train", *report)
    record = json.loads((tmp_path / "report" / "evaluation.json").read_text())
    score = next(s["value"] for s in record["scores"] if s["key"] == "macro_f1")
    assert score == pytest.approx(result["scores"]["macro_f1"]), "the score of the fit is that of the evaluation"
    refused = mien("evaluate", both, work / "index.jsonl", *report, "--robustness")
    assert refused.exit_code == 2
    assert "both is an ensemble" in refused.output
    sample = work / "root" / "EXPR_sample.txt"
    options = (*stored, "--sample", sample, "--device", "cpu")
    mien_ok("submit", both, *options, "--out", tmp_path / "a.txt")
    mien_ok("submit", *runs, "--weights", weights, *options, "--out", tmp_path / "b.txt")
    assert (tmp_path / "a.txt").read_bytes() == (tmp_path / "b.txt").read_bytes()
    mien_ok("validate", tmp_path / "a.txt", "--sample", sample)


def test_wrong_use_of_ensembles_writes_nothing(
    work: Path,  # noqa: F811
    runs: list[Path],
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    stored = ("--index", work / "index.jsonl", "--store", work / "features")
    sample = work / "root" / "EXPR_sample.txt"
    table = predictions.save(tmp_path / "t.parquet", [])
    cases = {
        "needs two checkpoints or more": ("ensemble", runs[0], "--out", out),
        "3 weights for 2 members": ("ensemble", *runs, "--weights", "1,2,3", "--out", out),
        "--store is missing": ("ensemble", *runs, *stored[:2], "--out", out),
        "--weights gives the weights": ("ensemble", *runs, *stored, "--weights", "1,1", "--out", out),
        "no labelled clip in the split 'dev'": ("ensemble", *runs, *stored, "--split", "dev", "--out", out),
        "no such checkpoint": ("ensemble", runs[0], tmp_path / "nowhere", "--out", out),
        "corrects the unsmoothed predictions of one model, and an average of several": (
            *("submit", *runs, *stored, "--sample", sample, "--calibration", table, "--out", out),
        ),
        "is a table of predictions, and other runs are folders": (
            *("submit", runs[0], table, *stored, "--sample", sample, "--out", out),
        ),
        "weights were given for a single checkpoint": (
            *("submit", runs[0], *stored, "--sample", sample, "--weights", "1", "--out", out),
        ),
        "the clips to divide are missing": ("train", "synthetic", "--folds", 2, "--out", out),
        "is trained on single images": ("train", "dynamic_threshold", "--folds", 2, *stored, "--out", out),
        "2 processes would share each fold": (
            *("train", "synthetic", "--folds", 2, *stored, "--devices", 2, "--out", out),
        ),
        "--folds 99: the clips are of": ("train", "synthetic", *SMALL, "--folds", 99, *stored, "--out", out),
    }
    for message, words in cases.items():
        result = mien(*words)
        assert result.exit_code == 2, (message, result.output)
        assert message in " ".join(result.output.split()), result.output
        assert not out.exists(), message


def test_submit_averages_tables(work: Path, runs: list[Path], tmp_path: Path) -> None:  # noqa: F811
    tables = []
    for run in runs:
        options = ("--store", work / "features", "--no-calibrate", "--out", tmp_path / run.name, "--device", "cpu")
        mien_ok("evaluate", run, work / "index.jsonl", *options)
        tables.append(tmp_path / run.name / "predictions.parquet")
    sample = ("--sample", work / "root" / "EXPR_sample.txt", "--fill")
    mien_ok("submit", *tables, "--weights", "1,0", *sample, "--out", tmp_path / "first.txt")
    mien_ok("submit", tables[0], *sample, "--out", tmp_path / "alone.txt")
    assert (tmp_path / "first.txt").read_bytes() == (tmp_path / "alone.txt").read_bytes()


def test_train_on_folds_reports_and_predicts(work: Path, tmp_path: Path) -> None:  # noqa: F811
    stored = ("--index", work / "index.jsonl", "--store", work / "features", "--device", "cpu")
    out = tmp_path / "folds"
    output = mien_ok("train", "synthetic", *SMALL, "--folds", 2, *stored, "--out", out)
    assert "fold 1/2: " in output
    assert "held out" in output
    assert "macro F1" in output
    record = json.loads((out / "report" / "evaluation.json").read_text())
    assert record["split"] == "out-of-fold"
    again = mien_ok("train", "synthetic", *SMALL, "--folds", 2, *stored, "--resume", out, "--json")
    assert json.loads(again[again.index("{") :])["scores"] == record["scores"]
    clip = next((work / "root").rglob("*.mp4"))
    mien_ok("predict", clip, "--model", out, "--out", tmp_path / "seen", "--format", "parquet")
    table = pl.read_parquet(next((tmp_path / "seen").rglob("timeline.parquet")))
    assert table["expression"].null_count() < len(table)
