"""Extraction in worker processes and on Ray: same files, crashes, full disks and kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mien.datasets.index import build_index
from mien.errors import ConfigError, OutputError
from mien.extract import extract
from mien.store import FeatureStore
from tests.extract.media_files import (
    LOUD,
    SCENE,
    draw_squares,
    stored_bytes,
    write_clip,
    write_tones,
)

SCRIPT = Path(__file__).with_name("extract_in_workers.py")
#: A process takes about a second of a free core to start, and much longer on a busy machine.
STARTS_PROCESSES = pytest.mark.timeout(400)


@STARTS_PROCESSES
def test_two_processes_write_the_same_files_as_one(tmp_path: Path) -> None:
    media = write_tones(tmp_path / "m", {f"c{i}": i / 10 for i in range(6)})
    write_clip(tmp_path / "m/v.mp4", [draw_squares((8 * i, (200, 0, 0))) for i in range(12)], sound=0.3)
    index = build_index("folder", media)
    extract(index, [LOUD, SCENE], tmp_path / "one", workers=0)
    report = extract(index, [LOUD, SCENE], tmp_path / "two", workers=2)
    assert (report.made, report.failures) == (14, [])
    assert stored_bytes(tmp_path / "one") == stored_bytes(tmp_path / "two")


@STARTS_PROCESSES
def test_a_clip_that_kills_its_process_is_a_failure_and_other_clips_are_encoded(tmp_path: Path) -> None:
    index = build_index("folder", write_tones(tmp_path / "m", {"a": 0.1, "bad": 0.95, "c": 0.2, "d": 0.3}))
    report = extract(index, [LOUD + "=deadly"], tmp_path / "s", workers=1)
    assert [(f.clip, f.error) for f in report.failures] == [("bad", "WorkerError")]
    assert "a worker process ended (signal 9)" in report.failures[0].what
    assert list(FeatureStore(tmp_path / "s").open("loud")) == ["a", "c", "d"]
    assert not list((tmp_path / "s").rglob("*.part*"))


@STARTS_PROCESSES
def test_a_full_disk_ends_the_run_and_leaves_no_partial_file(tmp_path: Path) -> None:
    media = write_tones(tmp_path / "m", {"a": 0.1, "b": 0.2}, seconds=200)
    with pytest.raises(OutputError, match=r"File too large.*\n.*\nFree some space"):
        extract(build_index("folder", media), [LOUD + "=full"], tmp_path / "s", workers=1)
    assert not any(p.is_file() for p in (tmp_path / "s").rglob("*"))


@STARTS_PROCESSES
def test_an_error_while_a_worker_creates_encoders_is_raised(tmp_path: Path) -> None:
    index = build_index("folder", write_tones(tmp_path / "m", {"a": 0.1}))
    with pytest.raises(ConfigError, match="no encoder 'x'"):
        extract(index, ["x"], tmp_path / "s", workers=1)


@STARTS_PROCESSES
@pytest.mark.parametrize("kill_workers", [True, False], ids=["with workers", "parent only"])
def test_after_a_kill_complete_files_stay_and_the_next_run_finishes(tmp_path: Path, kill_workers: bool) -> None:
    media, store = write_tones(tmp_path / "m", {f"c{i:02d}": i / 100 for i in range(24)}), tmp_path / "s"
    index = build_index("folder", media)
    index.save(tmp_path / "i.jsonl")
    args = [sys.executable, SCRIPT, tmp_path / "i.jsonl", store]
    process = subprocess.Popen(args, start_new_session=True, env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])})
    folder = store / "loud"
    deadline = time.monotonic() + 300
    while len(list(folder.glob("[!.]*.safetensors"))) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    if kill_workers:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    while not kill_workers and live_processes(process.pid):  # the workers end when the pipe breaks
        assert time.monotonic() < deadline
        time.sleep(0.05)
    complete = stored_bytes(store)
    assert 3 <= len(complete) < 24
    assert not list(FeatureStore(store).verify())
    report = extract(index, [LOUD], store, workers=0)
    assert (report.there, report.made) == (len(complete), 24 - len(complete))
    assert {k: v for k, v in stored_bytes(store).items() if k in complete} == complete
    assert not list(FeatureStore(store).verify())
    assert not list(store.rglob("*.part*"))


def live_processes(group: int) -> list[int]:
    """Live processes of a process group; none where there is no /proc."""
    live: list[int] = []
    if not Path("/proc").is_dir():
        return live
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[2]) == group and fields[0] != "Z":
                live.append(int(entry.name))
    return live


@STARTS_PROCESSES
def test_ray_writes_the_same_files(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is an extra: pip install 'mien[ray]'")
    media = write_tones(tmp_path / "m", {f"c{i}": i / 10 for i in range(6)} | {"bad": 0.95})
    index = build_index("folder", media)
    extract(index, [LOUD + "=nan"], tmp_path / "one", workers=0)
    report = extract(index, [LOUD + "=nan"], tmp_path / "ray", workers=2, ray="auto")
    assert report.made == 6
    assert [f.clip for f in report.failures] == ["bad"]
    assert stored_bytes(tmp_path / "one") == stored_bytes(tmp_path / "ray")
