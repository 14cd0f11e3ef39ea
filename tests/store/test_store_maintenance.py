"""Maintenance of the feature store: totals, removal of files, open file descriptors."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

from mien.scratch import temporary_path
from mien.store import FeatureStore
from tests.store.streams import KEY, stream, write


def test_ls_counts_files_rows_and_bytes(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    assert store.ls() == []
    s = stream()
    sizes = sum(write(store, clip, s=s).stat().st_size for clip in "abc")
    write(store, "a", "other", s=stream(5, 2), dtype="float32")
    first, second = store.ls()[::-1]
    assert (first.encoder, first.clips, first.rows, first.dim, first.dtype) == ("tiny", 3, 120, 6, "float16")
    assert (first.bytes, first.valid_rows, first.kinds, first.broken) == (sizes, 3 * s.valid.sum(), 1, 0)
    assert (second.encoder, second.clips, second.dtype) == ("other", 1, "float32")


def test_gc_removes_temporary_files_of_ended_processes_only(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    path = write(store, "a")
    write(store, "b")
    broken = write(store, "c")
    os.truncate(broken, 20)
    own_part = temporary_path(path)
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    dead = own_part.with_name(own_part.name.replace(f".{os.getpid()}-", f".{ended.stdout.strip()}-"))
    other_host = own_part.with_name(f".a.elsewhere.{ended.stdout.strip()}.0.part")
    for part in (own_part, dead, other_host):
        part.write_bytes(b"half")
    assert {r.path for r in store.gc(dry_run=True)} == {dead}
    assert dead.exists()
    assert {r.path for r in store.gc()} == {dead}
    assert not dead.exists()
    os.utime(other_host, (0, 0))
    removals = store.gc(keep={"a", "c"}, broken=True)
    assert {r.path: r.reason.split(" ")[-1] for r in removals if r.path != broken} == {
        other_host: "ended",
        store.path("tiny", "b"): "index",
    }
    assert not broken.exists()
    assert path.exists()
    assert own_part.exists()


def test_many_files_do_not_exhaust_file_descriptors(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    for i in range(300):
        write(store, f"c{i}", s=stream(3, 2))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 64
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 270, hard))
    try:
        features = store.open("tiny", KEY)
        assert sum(features[clip].read(0, 1).values.shape[0] for clip in features) == 300
    finally:
        features.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
