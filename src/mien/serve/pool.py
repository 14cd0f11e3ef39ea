"""Run the jobs that wait, each with one of several workers, and delete those that are over."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mien.errors import ServerError
from mien.serve.jobs import DONE, FAILED, MAX_STARTS, RUNNING, Job, JobStore
from mien.serve.worker_process import DIED, STOPPED, Runner, RunResult

LOGGER = logging.getLogger("mien.serve")
#: Seconds after which an idle worker looks for a job, if nobody told it of one.
POLL_S = 1.0
#: Longest time in seconds between two deletions of old jobs.
MAX_CLEAN_EVERY_S = 30.0


class Pool:
    """Threads that run jobs, one `Runner` each.

    Args:
        store: the jobs.
        runners: one for each job that runs at a time.
        keep_seconds: time from the end of a job until it is deleted.
        on_end: called with each job that ended, its state and the seconds since it started.
    """

    def __init__(
        self,
        store: JobStore,
        runners: Sequence[Runner],
        *,
        keep_seconds: float,
        on_end: Callable[[Job, str], None] = lambda job, state: None,
    ) -> None:
        self._store, self._runners, self._keep, self._on_end = store, runners, keep_seconds, on_end
        self._stopping, self._wake = threading.Event(), threading.Condition()
        self._cancelled: set[str] = set()
        self.progress: dict[str, float] = {}
        self._threads = [
            threading.Thread(target=self._work, args=(runner,), name=f"mien-job-{n}", daemon=True)
            for n, runner in enumerate(runners)
        ]
        self._threads.append(threading.Thread(target=self._clean, name="mien-clean", daemon=True))

    def start(self) -> None:
        """Start the threads; the jobs that wait are run."""
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Say that a job waits. Takes as long as a look into the database."""
        with self._wake:
            self._wake.notify()

    def cancel(self, job_id: str) -> bool:
        """End a job if it runs, and delete everything of it. False if there is none."""
        self._cancelled.add(job_id)  # before the deletion, so that a run cannot end unseen between both
        state = self._store.delete(job_id)
        if state != RUNNING:
            self._cancelled.discard(job_id)
        return state is not None

    def stop(self) -> None:
        """End the workers; jobs that run will wait again, and go on with the next start of the server."""
        with self._wake:
            self._stopping.set()
            self._wake.notify_all()
        for thread in self._threads:
            thread.join()
        for runner in self._runners:
            runner.close()

    def _work(self, runner: Runner) -> None:
        while not self._stopping.is_set():
            with self._wake:  # a job that is added after the look, and before the wait, wakes it
                job = self._claim()
                if job is None and not self._stopping.is_set():
                    self._wake.wait(POLL_S)
            if job is None:
                continue
            try:
                self._run(runner, job)
            except Exception as error:  # one job must not end the thread
                if job.id not in self._cancelled:  # else its files are gone because the client deleted it
                    LOGGER.error("job %s: %s in the server", job.id, type(error).__name__)
                    with _logged("recording a failure"):
                        self._store.fail(job.id, _server_fault(error))
            finally:
                self.progress.pop(job.id, None)
                if job.id in self._cancelled:  # a result that was written in the moment of its deletion
                    with _logged("deleting a job"):
                        self._store.delete(job.id)
                    self._cancelled.discard(job.id)

    def _claim(self) -> Job | None:
        with _logged("starting a job"):
            return self._store.claim()
        return None

    def _run(self, runner: Runner, job: Job) -> None:
        def on_progress(done: float) -> None:
            self.progress[job.id] = done

        def stop() -> bool:
            return self._stopping.is_set() or job.id in self._cancelled

        self.progress[job.id] = 0.0
        result = runner.run(
            self._store.recording_of(job), self._store.folder_of(job.id), job.options, on_progress, stop
        )
        self._record(job, result)

    def _record(self, job: Job, result: RunResult) -> None:
        if job.id in self._cancelled:
            return
        if result.state == STOPPED:
            self._store.requeue(job.id, counts=False)
        elif result.state == DIED and job.starts < MAX_STARTS:
            LOGGER.warning("job %s: %s; it is tried again", job.id, result.facts["what"])
            self._store.requeue(job.id)
        elif result.state == DONE:
            self._store.finish(job.id, result.facts)
            self._on_end(job, DONE)
        else:
            if result.facts.get("type") == "ServerError":
                LOGGER.warning("job %s: %s", job.id, result.facts["what"])
            self._store.fail(job.id, result.facts)
            self._on_end(job, FAILED)

    def _clean(self) -> None:
        while not self._stopping.wait(min(MAX_CLEAN_EVERY_S, self._keep / 4)):
            with _logged("deleting old jobs"):
                self._store.delete_old(self._keep)


@contextmanager
def _logged(doing: str) -> Iterator[None]:
    """A context in which a fault of the disk or the database is logged and tried again later: a thread of the server
    must not end by it."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        LOGGER.error("%s: %s: %s", doing, type(error).__name__, error)


def _server_fault(error: Exception) -> dict[str, Any]:
    return ServerError(
        f"the server could not run the job: {type(error).__name__}",
        follows="The recording was not predicted.",
        remedy="Look at the space on the server's disk, and report it if there is enough.",
    ).record()
