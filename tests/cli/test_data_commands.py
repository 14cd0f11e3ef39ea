"""`mien index`, `mien extract` and `mien store` through the command line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import typer
from typer.testing import CliRunner, Result

from mien.cli import extract_commands
from mien.cli.main import Group
from mien.extract import ExtractionProgress

Run = Callable[[str], Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Result]:
    """Run a command line in a folder that holds m/a.wav, m/b.wav and m/labels.csv."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parent)  # toy_voice.py
    (tmp_path / "m").mkdir()
    for name, level in (("a", 0.1), ("b", 0.5)):
        soundfile.write(tmp_path / f"m/{name}.wav", np.full(8000, level), 16000, subtype="FLOAT")
    (tmp_path / "m/labels.csv").write_text("media,subject,expression\na.wav,x,Anger\nb.wav,y,Fear\nc.wav,z,Fear\n")
    app = typer.Typer(cls=Group)
    extract_commands.register(app)

    def invoke(line: str) -> Result:
        return CliRunner().invoke(app, line.split())

    return invoke


EXTRACT = "extract index.jsonl --encoder toy_voice:Loud --store s"


def test_index_extract_and_store_commands_on_a_folder(run: Run, tmp_path: Path) -> None:
    done = run("index folder m")
    assert done.exit_code == 0, done.output
    assert "error: m/labels.csv:4: 'c.wav' does not exist; did you mean" in done.stdout
    assert "2 clips in index.jsonl" in done.stdout
    done = run(EXTRACT)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("2 files computed in 0 s, 0 already stored")
    assert json.loads(run(EXTRACT + " --json").stdout)["there"] == 2
    done = run(EXTRACT.replace("Loud", "Loud=2"))
    assert done.exit_code == 2
    assert "version: the file has '1', '2' is requested" in done.stderr
    (row,) = json.loads(run("store ls s --json").stdout)
    assert (row["encoder"], row["clips"], row["rows"], row["valid_rows"], row["dtype"]) == ("loud", 2, 10, 8, "float16")
    shown = run("store ls s").stdout
    assert "80.0 %" in shown
    assert "float16" in shown
    assert run("store verify s").stdout == "2 files, 0 of them damaged\n"
    path = tmp_path / "s/loud/b.safetensors"
    os.truncate(path, 50)
    done = run("store verify s")
    assert done.exit_code == 1
    assert "b.safetensors has 50 bytes, fewer than its header" in done.stdout
    assert "1 broken" in run("store ls s").stdout
    assert "1 files would be removed" in run("store gc s --broken --dry-run").stdout
    assert path.exists()
    run("store gc s --broken")
    assert not path.exists()
    assert json.loads(run(EXTRACT + " --json").stdout)["made"] == 1


def test_gc_by_index_removes_features_of_other_clips(run: Run, tmp_path: Path) -> None:
    run("index folder m")
    run(EXTRACT)
    (tmp_path / "m/labels.csv").write_text("media\na.wav\n")
    run("index folder m")
    assert "b.safetensors: its clip is not in the index" in run("store gc s --index index.jsonl").stdout
    assert [p.name for p in (tmp_path / "s/loud").iterdir()] == ["a.safetensors"]


def test_a_failed_clip_exits_with_1_and_its_reason(run: Run, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "m/b.wav", np.full(8000, 0.95), 16000, subtype="FLOAT")
    run("index folder m")
    done = run(EXTRACT)
    assert done.exit_code == 1
    assert "failed: b (loud): ValueError: too loud" in done.stderr
    assert "1 files computed in 0 s, 0 already stored, 1 failed, listed in s/failures.jsonl" in done.stdout


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("index affwild m", "Did you mean 'aff-wild2'?"),
        ("index folder m --split val", "--split 'val' is not NAME=SHARE"),
        ("extract index.jsonl --encoder toy_voice:Quiet --store s", "has no attribute 'Quiet'"),
        ("extract nowhere.jsonl --encoder toy_voice:Loud --store s", "nowhere.jsonl: No such file"),
        ("store ls nowhere", "nowhere is not a folder"),
    ],
)
def test_usage_errors_exit_with_2_and_a_remedy(run: Run, line: str, expected: str) -> None:
    run("index folder m")
    done = run(line)
    assert done.exit_code == 2, done.output
    assert expected in done.stderr
    assert "try" in done.stderr


def test_index_splits_by_subject(run: Run) -> None:
    summary = json.loads(run("index folder m --split val=0.5 --json").stdout)
    assert summary["expr splits"] == "train 1, val 1"


def test_progress_text_has_rate_and_time_left() -> None:
    state = ExtractionProgress(clips=12, total=548, failed=1, media_s=600, media_total_s=36_000, elapsed_s=120)
    assert (
        extract_commands.progress_text(state)
        == "12 of 548 clips, 6.0 clips/min, 5.0× real time, 1 h 58 min left, 1 failed"
    )
    start = ExtractionProgress(clips=0, total=5, failed=0, media_s=0, media_total_s=10, elapsed_s=0)
    assert extract_commands.progress_text(start) == "0 of 5 clips, 0.0 clips/min, 0.0× real time"
