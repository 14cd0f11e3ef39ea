"""bench/fuzz.py: 300 damaged inputs find nothing, and what is a finding is kept and replayed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "bench"))

import fuzz  # noqa: E402
from fuzz_mutations import mutate  # noqa: E402


def run_fuzz(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "bench/fuzz.py", *map(str, words)], cwd=ROOT, capture_output=True, text=True)


def check_run(kind: str, count: int, error: str, tmp_path: Path) -> None:
    done = run_fuzz("--only", kind, "--count", count, "--seed", 1, "--out", tmp_path / "findings")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{count} inputs" in done.stdout
    assert "0 findings" in done.stdout
    assert ": read" in done.stdout
    assert error in done.stdout
    assert not (tmp_path / "findings").exists()


def test_200_damaged_media_find_nothing(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (shared / "hub").is_dir():
        pytest.skip(f"the networks are not here: {shared} has no hub/")
    monkeypatch.setenv("MIEN_HUB", str(shared / "hub"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    check_run("media", 200, "media: MediaError", tmp_path)


def test_100_damaged_files_of_mien_find_nothing(tmp_path: Path) -> None:
    check_run("own", 100, "own files: ConfigError", tmp_path)


def test_the_same_number_gives_the_same_input() -> None:
    data, other = bytes(range(256)) * 8, b"another input" * 20
    for number in range(50):
        made = [mutate(data, other, np.random.default_rng([3, number]), is_text=True) for _ in range(2)]
        assert made[0] == made[1]
    kinds = {mutate(data, other, np.random.default_rng([4, number]), is_text=True) for number in range(50)}
    assert len(kinds) == 50


@pytest.mark.parametrize(
    ("answer", "is_finding"),
    [
        ({"outcome": "MediaError", "seconds": 1.0, "mb": 300.0, "trace": ""}, False),
        ({"outcome": "read", "seconds": 11.0, "mb": 300.0, "trace": ""}, True),
        ({"outcome": "read", "seconds": 1.0, "mb": 601.0, "trace": ""}, True),
        ({"outcome": "! ValueError", "seconds": 0.0, "mb": 300.0, "trace": "ValueError: x"}, True),
        ({"outcome": "! process ended with -11", "seconds": 0.0, "mb": 0.0, "trace": ""}, True),
    ],
)
def test_what_is_a_finding_is_kept(tmp_path: Path, answer: dict, is_finding: bool) -> None:
    folder = tmp_path / "000007_media-wav"
    folder.mkdir()
    (folder / "clip.wav").write_bytes(b"damaged")
    record = fuzz.Record(tmp_path / "kept")
    record.add(fuzz.Input(7, "media-wav", folder), answer)
    assert record.findings == is_finding
    kept = tmp_path / "kept" / folder.name / "clip.wav"
    assert kept.exists() == is_finding
    if is_finding:
        assert kept.read_bytes() == b"damaged"
        assert (tmp_path / "kept" / f"{folder.name}.txt").exists()


def test_a_process_that_ends_and_one_that_computes_for_too_long_are_findings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers = tmp_path / "fuzz_readers.py"
    readers.write_text(
        "import os, sys\nprint('{}', flush=True)\nfor line in sys.stdin:\n"
        "    if 'crash' in line: os.kill(os.getpid(), 11)\n"
        "    while 'hang' in line: pass\n"
        '    print(\'{"outcome": "read", "seconds": 0, "mb": 1, "trace": ""}\', flush=True)\n'
    )
    monkeypatch.setattr(fuzz, "__file__", str(tmp_path / "fuzz.py"))
    monkeypatch.setattr(fuzz, "LIMIT_S", -1.5)
    worker = fuzz.Worker(["any"])
    inputs = [fuzz.Input(0, "any", Path(name)) for name in ("ok", "crash", "ok", "hang", "ok")]
    outcomes = [worker.read(item)["outcome"] for item in inputs]
    worker.close()
    assert outcomes == ["read", "! process ended with -11", "read", "! no answer", "read"]
