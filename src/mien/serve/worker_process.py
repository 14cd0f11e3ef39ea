"""Start a worker process, give it jobs, and end it where a job exceeds its time or memory."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mien.errors import ServerError
from mien.serve.jobs import DONE, FAILED, JobOptions

#: Outcomes of a run beside DONE and FAILED: the worker died, and the server wanted it to stop.
DIED, STOPPED = "died", "stopped"
#: Called with the part of a job that is done, in [0, 1].
OnProgress = Callable[[float], None]
#: Seconds between two looks at a worker's time and memory. Our choice: it fills less than 0.5 GB in that time.
LOOK_EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one job: seconds, and bytes of the worker's resident memory."""

    seconds: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended. state: DONE with the facts of `worker.Predictors.run`; FAILED with a reason; DIED with a reason
    for the case that it is not tried again; STOPPED."""

    state: str
    facts: dict[str, Any] = field(default_factory=dict)


class Runner(Protocol):
    """Runs one job at a time, here or on another machine."""

    def run(
        self,
        media: Path,
        out: Path,
        options: JobOptions,
        on_progress: OnProgress,
        stop: Callable[[], bool],
    ) -> RunResult:
        """Predict a recording into the folder `out`. stop: asked several times a second; True ends the run."""

    def close(self) -> None:
        """End the worker."""


class WorkerProcess:
    """A `Runner` in a process of this machine, started with the first job and again after it died.

    Args:
        limits: of each job.
        threads: that a worker's libraries use.
    """

    def __init__(self, limits: Limits, *, threads: int = 1) -> None:
        self._limits, self._threads = limits, threads
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""

    @property
    def pid(self) -> int | None:
        """Number of the process, None while there is none."""
        return self._process.pid if self._process else None

    def run(
        self,
        media: Path,
        out: Path,
        options: JobOptions,
        on_progress: OnProgress,
        stop: Callable[[], bool],
    ) -> RunResult:
        """Predict a recording; see `Runner`."""
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        deadline = time.monotonic() + self._limits.seconds
        job = {"media": str(media), "out": str(out), "options": asdict(options)}
        with suppress(BrokenPipeError):  # it died while it waited; reading says so
            process.stdin.write(json.dumps(job).encode() + b"\n")
            process.stdin.flush()
        while True:
            ready, _, _ = select.select([process.stdout], [], [], LOOK_EVERY_S)
            if ready:
                data = os.read(process.stdout.fileno(), 1 << 16)
                if not data:
                    return self._died()
                self._buffer += data
                *lines, self._buffer = self._buffer.split(b"\n")
                for line in lines:
                    message = json.loads(line)
                    if "progress" in message:
                        on_progress(message["progress"])
                    elif "done" in message:
                        return RunResult(DONE, message["done"])
                    elif "failed" in message:
                        return RunResult(FAILED, message["failed"])
            if stop():
                self.close()
                return RunResult(STOPPED)
            if time.monotonic() > deadline:
                self.close()
                return RunResult(FAILED, too_long(self._limits.seconds))
            if resident_bytes(process.pid) > self._limits.memory_bytes:
                self.close()
                return RunResult(FAILED, too_large(self._limits.memory_bytes))

    def close(self) -> None:
        """Kill the worker, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._reap()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            self._reap()
        if self._process is None:
            threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(self._threads))
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mien.serve.worker"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env={**threads, **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )  # fmt: skip
        return self._process

    def _died(self) -> RunResult:
        return RunResult(DIED, died(self._reap()))

    def _reap(self) -> int:
        process, self._process, self._buffer = self._process, None, b""
        assert process is not None
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        return process.wait()


def resident_bytes(pid: int) -> int:
    """Resident memory of a process in bytes; 0 where the system does not tell, as without /proc."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, AttributeError):
        return 0


def too_long(seconds: float) -> dict[str, str]:
    """The reason of a job that exceeded its time."""
    return ServerError(
        f"the job took longer than {seconds:g} s",
        follows="It was ended, and nothing is kept of it.",
        remedy="Send a part of the recording (start_s, stop_s), or start the server with a larger --job-minutes.",
    ).record()


def too_large(memory_bytes: int) -> dict[str, str]:
    """The reason of a job that exceeded its memory."""
    return ServerError(
        f"the job needed more than {memory_bytes / (1 << 30):.3g} GB of memory",
        follows="It was ended, and nothing is kept of it.",
        remedy="Send smaller pictures, or start the server with a larger --job-memory.",
    ).record()


def died(code: int) -> dict[str, str]:
    """The reason of a job whose worker ended with a code, negative for a signal."""
    name = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
    return ServerError(
        f"the process that predicted the recording ended with {name}",
        follows="The job was tried twice and failed.",
        remedy="Look whether the machine ran out of memory, or try the recording with `mien predict`.",
    ).record()
