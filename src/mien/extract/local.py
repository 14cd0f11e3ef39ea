"""Local runners of extraction: worker processes on this machine, or this process itself."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from mien.errors import MienError
from mien.extract.job_runner import ClipResult, JobRunner
from mien.extract.plan import EncoderInfo, ExtractionSettings, RecordingJob
from mien.extract.worker import (
    Finished,
    MediaPosition,
    Message,
    NextJob,
    Ready,
    choose_device,
    limit_threads,
    run_worker,
    thread_environment,
)


class WorkerError(MienError):
    """A worker process ended unexpectedly."""


class InProcessRunner:
    """Runs extraction in this process, for notebooks, debuggers and very small corpora. Use as a context manager.

    Raises:
        ConfigError, ArtefactError: an encoder cannot be created.
    """

    def __init__(self, specs: Sequence[str], settings: ExtractionSettings) -> None:
        settings = replace(settings, device=choose_device(settings.device, 0))
        self._runner = JobRunner(specs, settings)
        self.encoder_infos = self._runner.encoder_infos

    def __enter__(self) -> InProcessRunner:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, jobs: Sequence[RecordingJob]) -> Iterator[ClipResult | MediaPosition]:
        """Encode the jobs; see `JobRunner.run`."""
        limit_threads(self._runner.settings.threads)
        yield from self._runner.run(jobs)


@dataclass(eq=False)
class _Worker:
    """jobs: sent to the process, without the clips that are complete."""

    process: SpawnProcess
    pipe: Connection
    jobs: list[RecordingJob] = field(default_factory=list)
    position_s: float = 0.0


class ProcessRunner:
    """Runs extraction in spawned worker processes. Use as a context manager.

    Each worker has a pipe of its own, so that a killed one cannot block the others. If a worker dies, its unfinished
    jobs are run once more, each alone in a new process; if that one dies too, the clips of the job are failures.

    Raises:
        ConfigError, ArtefactError: an encoder cannot be created (on entering the context).
        WorkerError: the first worker dies while it creates the encoders.
    """

    def __init__(self, specs: Sequence[str], settings: ExtractionSettings, workers: int) -> None:
        self._specs, self._settings, self._max_workers = specs, settings, workers
        self._workers: list[_Worker] = []
        self._count = 0
        self.encoder_infos: list[EncoderInfo] = []

    def __enter__(self) -> ProcessRunner:
        try:
            message = self._receive(self._start())
            if isinstance(message, Exception):
                raise message
            if isinstance(message, Ready):
                self.encoder_infos = message.encoder_infos
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
        context = multiprocessing.get_context("spawn")
        pipe, worker_pipe = context.Pipe()
        environment = dict(os.environ)
        os.environ.update(thread_environment(self._settings.threads))
        try:
            process = context.Process(
                target=run_worker,
                args=(worker_pipe, self._count, list(self._specs), self._settings),
                name=f"mien-extract-{self._count}",
                daemon=True,
            )
            process.start()
        finally:
            os.environ.clear()
            os.environ.update(environment)
        worker_pipe.close()  # only the worker holds its end now, so its death ends the pipe
        self._count += 1
        worker = _Worker(process, pipe)
        self._workers.append(worker)
        return worker

    def _receive(self, worker: _Worker) -> Message:
        try:
            message: Message = worker.pipe.recv()
            return message
        except (EOFError, ConnectionResetError):
            worker.process.join()
            code = worker.process.exitcode or 0
            raise WorkerError(
                f"a worker process ended ({f'signal {-code}' if code < 0 else f'exit code {code}'})",
                follows="Its current recording was not stored.",
                remedy="The usual cause is too little memory: use fewer --workers, or extract this recording alone.",
            ) from None

    def run(self, jobs: Sequence[RecordingJob]) -> Iterator[ClipResult | MediaPosition]:
        """Encode the jobs in the workers. Yields clips in order of completion, and positions in between.

        Raises:
            OutputError: a stream cannot be written. ConfigError, ArtefactError: an encoder cannot be created.
        """
        queue = deque(jobs)
        while len(self._workers) < min(self._max_workers, len(jobs)):
            self._start()
        while self._workers:
            for pipe in wait([w.pipe for w in self._workers]):
                worker = next(w for w in self._workers if w.pipe is pipe)
                try:
                    message = self._receive(worker)
                except WorkerError as error:
                    yield from self._retry_or_fail(worker, queue, error)
                else:
                    yield from self._handle(worker, queue, message)
            while queue and len(self._workers) < min(self._max_workers, len(queue)):
                self._start()

    def _handle(
        self, worker: _Worker, queue: deque[RecordingJob], message: Message
    ) -> Iterator[ClipResult | MediaPosition]:
        if isinstance(message, Exception):
            raise message
        if isinstance(message, NextJob):
            worker.position_s = 0.0
            worker.pipe.send(self._next_job(worker, queue))
        elif isinstance(message, MediaPosition):
            worker.position_s = message.seconds
            yield MediaPosition(sum(w.position_s for w in self._workers))
        elif isinstance(message, ClipResult):
            worker.jobs = [rest for job in worker.jobs if (rest := _without(job, message.clip)).clip_jobs]
            yield message
        elif isinstance(message, Finished):
            self._remove(worker)

    @staticmethod
    def _next_job(worker: _Worker, queue: deque[RecordingJob]) -> RecordingJob | None:
        """Next job for a worker. None ends the worker once its jobs are complete: when the queue is empty, or because
        the next job crashed a worker and has to run alone."""
        alone = any(job.attempts for job in worker.jobs) or (worker.jobs and queue and queue[0].attempts)
        if not queue or alone:
            return None
        worker.jobs.append(queue.popleft())
        return worker.jobs[-1]

    def _retry_or_fail(self, worker: _Worker, queue: deque[RecordingJob], error: WorkerError) -> Iterator[ClipResult]:
        self._remove(worker)
        for job in worker.jobs:
            if not job.attempts:
                queue.appendleft(replace(job, attempts=1))
                continue
            failures = job.failures(error)
            for clip in (c.clip for c in job.clip_jobs):
                clip_failures = tuple(f for f in failures if f.clip == clip)
                yield ClipResult(clip, (), clip_failures, job.duration_s / len(job.clip_jobs))

    def _remove(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.pipe.close()
        worker.process.join()


def _without(job: RecordingJob, clip: str) -> RecordingJob:
    return replace(job, clip_jobs=tuple(c for c in job.clip_jobs if c.clip != clip))
