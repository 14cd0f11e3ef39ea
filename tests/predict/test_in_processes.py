"""Several recordings at once: real processes, some of which are killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

import mien
from mien import hub
from mien.cli.main import app
from mien.errors import ConfigError, MediaError
from mien.predict import Predictor
from mien.predict.in_processes import run

pytestmark = pytest.mark.skipif(
    not all(hub.available(name) for name in hub.NEEDED), reason="the starter's networks are not here: mien hub pull"
)


def write_silence(path: Path) -> Path:
    soundfile.write(path, np.zeros(16000, np.float32), 16000)
    return path


def half(predictor: Predictor, number: int) -> float:
    assert predictor.one_thread
    if number < 0:
        raise MediaError(f"{number} is negative")
    return number / 2


def die_once(predictor: Predictor, marker: Path) -> str:
    if marker.suffix == ".always" or not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return marker.name


def test_results_and_errors_come_with_the_index_of_their_item() -> None:
    results = dict(run(half, [3, -1, 5], {"model": "starter"}, 2))
    assert results[0] == 1.5
    assert results[2] == 2.5
    assert isinstance(results[1], MediaError)
    assert results[1].what == "-1 is negative"


def test_an_item_whose_process_is_killed_is_tried_again_and_then_an_error(tmp_path: Path) -> None:
    done = tmp_path / "done"
    done.touch()
    results = dict(run(die_once, [tmp_path / "once", tmp_path / "x.always", done], {"model": "starter"}, 2))
    assert results[0] == "once"
    assert isinstance(results[1], MediaError)
    assert "ended twice" in results[1].what
    assert results[2] == "done"


def test_several_recordings_equal_one_by_one(tmp_path: Path) -> None:
    silence = write_silence(tmp_path / "silence.wav")
    paths = [silence, tmp_path / "missing.wav"]
    results = dict(mien.predict_many(paths, workers=2, voice=True))
    alone = mien.load("starter").predict(silence)
    assert results[silence].table.equals(alone.table)
    assert results[silence].notes == alone.notes
    assert isinstance(results[tmp_path / "missing.wav"], MediaError)
    with pytest.raises(ConfigError):
        list(mien.predict_many(paths, model=tmp_path / "no-model"))


def test_the_command_line_writes_the_same_files_with_workers(tmp_path: Path) -> None:
    media = tmp_path / "media"
    media.mkdir()
    first = write_silence(media / "a.wav")
    shutil.copy(first, media / "b.wav")
    (media / "broken.wav").write_bytes(b"RIFF")
    records = []
    for workers in ("1", "2"):
        out = tmp_path / workers
        done = CliRunner().invoke(app, ["predict", str(media), "--out", str(out), "--workers", workers, "--json"])
        assert done.exit_code == 1, done.output
        record = json.loads(done.stdout)
        assert [Path(item["media"]).name for item in record["failed"]] == ["broken.wav"]
        records.append({Path(item["media"]).name: item["rows"] for item in record["results"]})
        assert (out / "timelines.csv").read_text().count("\n") == 1 + sum(records[-1].values())
    assert records[0] == records[1]
    assert len(records[0]) == 2


SCRIPT = """
import mien

print("the script runs", flush=True)
for path, result in mien.predict_many(["gone.mp4"], workers=1):
    print(path, result.what)
"""
GUARDED = """
import mien

def show(done, total):
    pass

if __name__ == "__main__":
    for path, result in mien.predict_many(["gone.mp4"], workers=1, progress=show):
        print(path, result.what)
"""


@pytest.mark.parametrize(("script", "lines"), [(SCRIPT, ["the script runs"]), (GUARDED, [])])
def test_a_script_is_run_once_and_may_define_what_is_passed(script: str, lines: list[str], tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(script)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [*lines, "gone.mp4 gone.mp4 does not exist."]
    assert "Traceback" not in done.stderr
