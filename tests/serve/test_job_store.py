"""Jobs in SQLite and the threads that run them, without processes: order, restarts, deletions, faults of a runner."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from running_server import until

from mien.errors import ConfigError
from mien.serve.jobs import DONE, FAILED, QUEUED, RUNNING, Job, JobOptions, JobStore
from mien.serve.pool import Pool
from mien.serve.worker_process import DIED, STOPPED, RunResult

Run = Callable[[Path, Path, Callable[[], bool]], RunResult]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    opened = JobStore(tmp_path / "data", clock=Clock())
    yield opened
    opened.close()


def add(store: JobStore, **options: Any) -> Job:
    upload = store.incoming / store.new_id()
    upload.write_bytes(b"a recording")
    return store.add(upload.name, upload, ".mp4", JobOptions(**options))


def reopened(store: JobStore) -> JobStore:
    """The folder as the next server finds it after this one died."""
    store.close()
    store.__init__(store.folder, clock=store._clock)  # type: ignore[misc]
    return store


def test_jobs_start_in_the_order_of_their_uploads(store: JobStore) -> None:
    jobs = [add(store, max_faces=n) for n in (1, 2, 3)]
    assert [store.position(job) for job in jobs] == [0, 1, 2]
    assert [job.id for job in store.all()] == [job.id for job in reversed(jobs)]
    claimed = [store.claim() for _ in range(4)]
    assert [job and job.id for job in claimed] == [*[job.id for job in jobs], None]
    assert claimed[1] is not None
    assert (claimed[1].state, claimed[1].starts, claimed[1].options.max_faces) == (RUNNING, 1, 2)
    assert store.counts() == {QUEUED: 0, RUNNING: 3, DONE: 0, FAILED: 0}


def test_a_requeued_job_keeps_its_place(store: JobStore) -> None:
    first, second = add(store), add(store)
    assert store.claim() is not None
    store.requeue(first.id)
    again = store.claim()
    assert again is not None
    assert (again.id, again.starts) == (first.id, 2)
    store.requeue(first.id, counts=False)
    assert store.get(first.id).starts == 1  # type: ignore[union-attr]
    assert store.position(second) == 1


def test_restart_resumes_jobs_and_removes_what_belongs_to_none(store: JobStore) -> None:
    running, waiting, done, lost = (add(store) for _ in range(4))
    assert store.claim() is not None
    store.finish(done.id, {"rows": 1})
    store.recording_of(lost).unlink()
    (store.incoming / "half").write_bytes(b"x")
    (store.folder_of("unknown")).mkdir()
    (store.folder_of("unknown") / "recording").write_bytes(b"x")
    assert reopened(store).recover() == (1, 1)
    states = {job.id: job.state for job in store.all()}
    assert states == {running.id: QUEUED, waiting.id: QUEUED, done.id: DONE, lost.id: FAILED}
    assert store.get(lost.id).outcome["remedy"] == "Upload it again."  # type: ignore[union-attr]
    assert list(store.incoming.iterdir()) == []
    assert not store.folder_of("unknown").exists()
    assert store.recording_of(running).read_bytes() == b"a recording"


def test_a_job_that_ends_the_server_each_time_fails_at_last(store: JobStore) -> None:
    job = add(store)
    for _ in range(5):
        assert store.claim() is not None
        reopened(store).recover()
    assert store.claim() is None
    found = store.get(job.id)
    assert found is not None
    assert found.state == FAILED
    assert "ended 5 times" in found.outcome["what"]
    assert not store.folder_of(job.id).exists()


def test_old_jobs_are_deleted_from_the_disk(store: JobStore) -> None:
    clock = store._clock
    old, young, waiting = add(store, model="a-name-to-look-for"), add(store), add(store)
    store.finish(old.id, {"notes": ["a note to look for"]})
    clock.now += 100
    store.fail(young.id, {"what": "x"})
    assert store.delete_old(50) == [old.id]
    assert {job.id for job in store.all()} == {young.id, waiting.id}
    assert not store.folder_of(old.id).exists()
    for path in store.folder.glob("jobs.sqlite*"):
        assert b"to look for" not in path.read_bytes()
        assert b"to-look-for" not in path.read_bytes()


def test_a_folder_of_another_version_is_refused(store: JobStore, tmp_path: Path) -> None:
    store._db.execute("PRAGMA user_version=99")
    store.close()
    with pytest.raises(ConfigError, match="version 99"):
        store.__init__(store.folder, clock=store._clock)  # type: ignore[misc]
    with sqlite3.connect(store.folder / "jobs.sqlite") as database:
        database.execute("PRAGMA user_version=1")
    store.__init__(store.folder, clock=store._clock)  # type: ignore[misc]


class FakeRunner:
    """Runs a function instead of a prediction."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def run(self, media: Path, out: Path, options: JobOptions, on_progress: Any, stop: Callable[[], bool]) -> RunResult:
        return self._run(media, out, stop)

    def close(self) -> None:
        pass


def run_jobs(store: JobStore, run: Run) -> Pool:
    pool = Pool(store, [FakeRunner(run)], keep_seconds=1e6)
    pool.start()
    return pool


def state(store: JobStore, job: Job) -> str:
    found = store.get(job.id)
    return found.state if found else "gone"


def test_a_fault_of_the_server_fails_one_job_and_not_the_next(store: JobStore) -> None:
    jobs = [add(store), add(store)]

    def run(media: Path, out: Path, stop: Callable[[], bool]) -> RunResult:
        if media == store.recording_of(jobs[0]):
            raise OSError("full")
        return RunResult(DONE, {"rows": 3})

    pool = run_jobs(store, run)
    until(lambda: [state(store, job) for job in jobs] == [FAILED, DONE])
    pool.stop()
    assert "OSError" in store.get(jobs[0].id).outcome["what"]  # type: ignore[union-attr]
    assert not store.recording_of(jobs[1]).exists()


def test_a_job_whose_worker_dies_is_run_twice(store: JobStore) -> None:
    job, runs = add(store), []

    def run(media: Path, out: Path, stop: Callable[[], bool]) -> RunResult:
        runs.append(media.read_bytes())
        return RunResult(DIED, {"type": "ServerError", "what": "it died"})

    pool = run_jobs(store, run)
    until(lambda: state(store, job) == FAILED)
    pool.stop()
    assert runs == [b"a recording"] * 2


def test_a_job_added_while_a_thread_looks_for_one_is_not_missed(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mien.serve.pool.POLL_S", 600.0)
    claim, looked, woken = store.claim, threading.Event(), threading.Event()

    def slow_claim() -> Job | None:
        found = claim()
        looked.set()
        woken.wait(0.3)
        return found

    monkeypatch.setattr(store, "claim", slow_claim)
    pool = run_jobs(store, lambda media, out, stop: RunResult(DONE, {"rows": 1}))
    assert looked.wait(60)
    job = add(store)
    pool.wake()
    woken.set()
    until(lambda: state(store, job) == DONE)
    began = time.monotonic()
    pool.stop()
    assert time.monotonic() - began < 60


def test_a_job_deleted_in_its_last_moment_leaves_nothing(store: JobStore) -> None:
    job, reached, deleted = add(store), threading.Event(), threading.Event()

    def run(media: Path, out: Path, stop: Callable[[], bool]) -> RunResult:
        reached.set()
        assert deleted.wait(60)
        out.mkdir(exist_ok=True)
        (out / "timeline.parquet").write_bytes(b"late result")
        return RunResult(DONE, {"rows": 1})

    pool = run_jobs(store, run)
    assert reached.wait(60)
    assert pool.cancel(job.id)
    deleted.set()
    until(lambda: not store.folder_of(job.id).exists() and not pool._cancelled)
    assert state(store, job) == "gone"
    assert not pool.cancel(job.id)
    pool.stop()


def test_stopping_the_server_keeps_the_job_that_runs(store: JobStore) -> None:
    job, reached = add(store), threading.Event()

    def run(media: Path, out: Path, stop: Callable[[], bool]) -> RunResult:
        reached.set()
        until(stop)
        return RunResult(STOPPED)

    pool = run_jobs(store, run)
    assert reached.wait(60)
    pool.stop()
    found = store.get(job.id)
    assert found is not None
    assert (found.state, found.starts) == (QUEUED, 0)


def test_a_full_disk_for_a_while_does_not_end_the_threads(
    store: JobStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("mien.serve.pool.POLL_S", 0.02)
    claim, delete_old, faults = store.claim, store.delete_old, {"claim": 3, "delete_old": 2}

    def failing(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*values: Any) -> Any:
            faults[name] -= 1
            if faults[name] >= 0:
                raise sqlite3.OperationalError("database or disk is full")
            return function(*values)

        return call

    monkeypatch.setattr(store, "claim", failing("claim", claim))
    monkeypatch.setattr(store, "delete_old", failing("delete_old", delete_old))
    job = add(store)
    pool = Pool(store, [FakeRunner(lambda media, out, stop: RunResult(DONE, {"rows": 1}))], keep_seconds=0.05)
    pool.start()
    until(lambda: state(store, job) == "gone")  # run, and deleted when it was old
    pool.stop()
    assert "starting a job: OperationalError: database or disk is full" in caplog.text
    assert "deleting old jobs: OperationalError" in caplog.text
