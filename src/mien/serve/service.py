"""State of one running server: its jobs, workers and figures."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus

from mien.serve.jobs import QUEUED, Job, JobStore
from mien.serve.metrics import Metrics
from mien.serve.pool import Pool
from mien.serve.responses import RequestError
from mien.serve.settings import Settings
from mien.serve.worker_process import Limits, Runner, WorkerProcess


class Tickets:
    """Links to one path that need no token: each for one use, within `SECONDS`."""

    SECONDS, MOST = 60.0, 1000

    def __init__(self) -> None:
        self._issued: dict[tuple[str, bytes], float] = {}
        self._lock = threading.Lock()

    def issue(self, path: str) -> str:
        """A link to the path."""
        query = f"ticket={secrets.token_urlsafe(24)}"
        now = time.monotonic()
        with self._lock:
            recent = {key: end for key, end in self._issued.items() if end > now}
            self._issued = dict(list(recent.items())[-self.MOST :]) | {(path, query.encode()): now + self.SECONDS}
        return f"{path}?{query}"

    def use(self, path: str, query: bytes) -> bool:
        """Whether this is a link that was issued and not used."""
        with self._lock:
            return self._issued.pop((path, query), 0.0) > time.monotonic()


class Service:
    """The jobs, workers and figures of a server. `start` opens the folder; `stop` keeps jobs that are not over."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.store = JobStore(settings.folder)
        self.again, self.lost = self.store.recover()
        self.pool = Pool(self.store, self._runners(), keep_seconds=settings.keep_seconds, on_end=self._on_end)
        self.tickets = Tickets()
        self.live_sessions = self._uploads = 0

    def _runners(self) -> Sequence[Runner]:
        settings = self.settings
        limits = Limits(settings.job_seconds, settings.job_bytes)
        if settings.ray:
            from mien.serve.ray_runner import create_runners

            return create_runners(settings.ray, settings.workers, limits)
        return [WorkerProcess(limits) for _ in range(settings.workers)]

    def stop(self) -> None:
        """End the workers and close the folder."""
        self.pool.stop()
        self.store.close()

    @contextmanager
    def reserve(self) -> Iterator[None]:
        """A place in the queue for an upload that comes. Raises RequestError (429) if there is none."""
        waiting = self.store.counts()[QUEUED]
        if waiting + self._uploads >= self.settings.queue:
            raise RequestError(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"{waiting} jobs wait, and the queue has room for {self.settings.queue}",
                follows="Nothing was accepted.",
                remedy="Send it again later; the header Retry-After says in how many seconds.",
                headers={"retry-after": str(self._retry_after(waiting))},
            )
        self._uploads += 1
        try:
            yield
        finally:
            self._uploads -= 1

    def _retry_after(self, waiting: int) -> int:
        """Seconds until about a tenth of the queue is done, by the mean time of the jobs so far."""
        totals = {s.name: s.value for m in self.metrics.job_seconds.collect() for s in m.samples if not s.labels}
        mean = totals["mien_job_seconds_sum"] / max(1, totals["mien_job_seconds_count"]) or 10.0
        return max(1, min(600, round(mean * max(1, waiting / 10) / self.settings.workers)))

    def _on_end(self, job: Job, state: str) -> None:
        self.metrics.jobs.labels(state).inc()
        if job.started is not None:
            self.metrics.job_seconds.observe(max(0.0, time.time() - job.started))
            self.metrics.wait_seconds.observe(max(0.0, job.started - job.created))
