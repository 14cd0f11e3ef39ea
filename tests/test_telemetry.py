"""Usage reports of libraries: nothing is written outside the output folder, and no network is needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mien import hub, telemetry
from mien.synthetic.demo_clip import render_demo_clip

CODE = """
import mien
timeline = mien.load("starter").predict({clip!r})
assert len(timeline)
timeline.write({out!r})
"""


def bare_environment(home: Path) -> dict[str, str]:
    """Only what Python needs: ONNX Runtime reports nothing where a variable of a CI service, such as `CI`, is set."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ}
    return kept | {"HOME": str(home)}


def can_unshare() -> bool:
    tool = shutil.which("unshare")
    return tool is not None and subprocess.run([tool, "-rn", "true"], capture_output=True, check=False).returncode == 0


def test_usage_reports_are_switched_off_and_a_choice_of_the_user_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in telemetry.OFF:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DO_NOT_TRACK", "0")
    telemetry.switch_off()
    assert os.environ["DO_NOT_TRACK"] == "0"
    assert all(os.environ[name] == value for name, value in telemetry.OFF.items() if name != "DO_NOT_TRACK")


def test_onnx_runtime_writes_nothing_once_mien_is_imported(tmp_path: Path) -> None:
    """Without mien it writes a device id and a database below the cache folder, or this test shows nothing."""
    network = Path(telemetry.__file__).parent / "starter" / "network.onnx"
    session = f"import onnxruntime; onnxruntime.InferenceSession({str(network)!r}, providers=['CPUExecutionProvider'])"
    for code, writes in ((session, True), (f"import mien; {session}", False)):
        home = tmp_path / str(writes)
        home.mkdir()
        subprocess.run([sys.executable, "-c", code], env=bare_environment(home), check=True)
        assert bool([path for path in home.rglob("*") if path.is_file()]) == writes


@pytest.mark.parametrize(("first", "threads"), [("mien", "1"), ("numpy", "None")])
def test_openblas_has_one_thread_where_mien_is_imported_before_numpy(tmp_path: Path, first: str, threads: str) -> None:
    code = f"import {first}, mien, os; print(os.environ.get('OPENBLAS_NUM_THREADS'))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=bare_environment(tmp_path), check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == threads


@pytest.mark.skipif(not can_unshare(), reason="unshare cannot make a network namespace here")
@pytest.mark.skipif(not hub.available("blazeface"), reason="the face networks are not here: mien hub pull blazeface")
def test_prediction_without_any_network_leaves_only_its_output(tmp_path: Path) -> None:
    clip, home, out = tmp_path / "clip.mp4", tmp_path / "home", tmp_path / "out" / "timeline.csv"
    render_demo_clip(clip, seconds=1.0)
    home.mkdir()
    out.parent.mkdir()
    environment = bare_environment(home) | {"MIEN_CACHE": str(hub.cache_dir())}
    before = set(tmp_path.rglob("*"))
    code = CODE.format(clip=str(clip), out=str(out))
    subprocess.run(["unshare", "-rn", sys.executable, "-c", code], env=environment, check=True, cwd=tmp_path)
    assert set(tmp_path.rglob("*")) - before == {out}
