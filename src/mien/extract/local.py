"""Several processes on one machine, or none."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from mien.errors import MienError
from mien.extract.failures import Failure
from mien.extract.job_runner import ClipDone, JobRunner
from mien.extract.plan import Declared, ExtractionSettings, RecordingJob
from mien.extract.worker import device_of, limit_threads, thread_environment, work


class WorkerError(MienError):
    """A worker process that died."""


@dataclass(frozen=True, slots=True)
class At:
    """A sign of life: seconds of media that are passed in recordings not yet finished."""

    seconds: float


class Here:
    """The work in this process, for notebooks, debuggers and very small corpora."""

    def __init__(self, specs: Sequence[str], settings: ExtractionSettings) -> None:
        settings = replace(settings, device=device_of(settings.device, 0))
        self._stage = JobRunner(specs, settings)
        self.declared = self._stage.declared

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, tasks: Sequence[RecordingJob]) -> Iterator[ClipDone | At]:
        limit_threads(self._stage.settings.threads)
        yield from self._stage.run(tasks)


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    pipe: Connection
    given: list[RecordingJob] = field(default_factory=list)
    at_s: float = 0.0


class Processes:
    """Spawned worker processes, each with its own pipe, so that one that is killed cannot hold up the others.

    A process that dies takes nothing along but what it had in hand: that is given once more, alone, to a
    fresh process; if that dies too, the clip is a failure. Use as a context manager.
    """

    def __init__(self, specs: Sequence[str], settings: ExtractionSettings, workers: int) -> None:
        self._specs, self._settings, self._most = specs, settings, workers
        self._workers: list[_Worker] = []
        self._count = 0
        self.declared: list[Declared] = []

    def __enter__(self) -> Processes:
        try:
            first = self._start()
            kind, *content = self._receive(first)
            if kind != "ready":
                raise content[0]
            self.declared = content[0]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.pipe.close()
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join()
        self._workers.clear()

    def _start(self) -> _Worker:
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        before = dict(os.environ)
        os.environ.update(thread_environment(self._settings.threads))
        try:
            process = multiprocessing.get_context("spawn").Process(
                target=work,
                args=(theirs, self._count, list(self._specs), self._settings),
                name=f"mien-extract-{self._count}",
                daemon=True,
            )
            process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
        theirs.close()  # so that the process's end is seen as the end of the pipe
        self._count += 1
        worker = _Worker(process, ours)
        self._workers.append(worker)
        return worker

    def _receive(self, worker: _Worker) -> Any:
        try:
            return worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join()
            code = worker.process.exitcode or 0
            raise WorkerError(
                f"a worker process ended ({f'signal {-code}' if code < 0 else f'exit code {code}'})",
                follows="what it had in hand was not stored",
                remedy="too little memory is the usual cause: fewer --workers, or look at that file alone",
            ) from None

    def run(self, tasks: Sequence[RecordingJob]) -> Iterator[ClipDone | At]:
        """Raises whatever ends the run: a full disk, an encoder that cannot be made."""
        queue = deque(tasks)
        while len(self._workers) < min(self._most, len(tasks)):
            self._start()
        while self._workers:
            for pipe in wait([w.pipe for w in self._workers]):
                worker = next(w for w in self._workers if w.pipe is pipe)
                try:
                    message = self._receive(worker)
                except WorkerError as error:
                    yield from self._buried(worker, queue, error)
                else:
                    yield from self._heard(worker, queue, message)
            while queue and len(self._workers) < min(self._most, len(queue)):
                self._start()

    def _heard(self, worker: _Worker, queue: deque[RecordingJob], message: Any) -> Iterator[ClipDone | At]:
        kind, *content = message
        if kind == "fatal":
            raise content[0]
        if kind == "next":
            worker.at_s = 0.0
            worker.pipe.send(self._next(worker, queue))
        elif kind == "at":
            worker.at_s = content[0]
            yield At(sum(w.at_s for w in self._workers))
        elif kind == "made":
            made: ClipDone = content[0]
            worker.given = [rest for t in worker.given if (rest := _without(t, made.clip)).jobs]
            yield made
        elif kind == "over":
            self._remove(worker)

    @staticmethod
    def _next(worker: _Worker, queue: deque[RecordingJob]) -> RecordingJob | None:
        """None ends the worker, once it has finished what it has. A recording over which a process died is
        given alone, so that no other is blamed."""
        alone = any(task.attempts for task in worker.given) or (worker.given and queue and queue[0].attempts)
        if not queue or alone:
            return None
        worker.given.append(queue.popleft())
        return worker.given[-1]

    def _buried(self, worker: _Worker, queue: deque[RecordingJob], error: WorkerError) -> Iterator[ClipDone]:
        self._remove(worker)
        for task in worker.given:
            if not task.attempts:
                queue.appendleft(replace(task, attempts=1))
                continue
            for job in task.jobs:
                failures = tuple(Failure.of(job.clip, name, task.media, error) for name in job.encoders)
                yield ClipDone(job.clip, (), failures, task.duration_s / len(task.jobs))

    def _remove(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.pipe.close()
        worker.process.join()


def _without(task: RecordingJob, clip: str) -> RecordingJob:
    return replace(task, jobs=tuple(job for job in task.jobs if job.clip != clip))
