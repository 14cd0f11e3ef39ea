"""Run jobs on a Ray cluster: an actor for each runner, with the worker process of a single machine inside.

An actor copies the recording to its machine, so no shared file system is needed; limits of time and memory are those of
`WorkerProcess`. Copies are deleted at the end of a job.
"""

from __future__ import annotations

import logging
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mien.errors import ConfigError, ServerError
from mien.serve import partial_rows
from mien.serve.jobs import DONE, RESULT, JobOptions
from mien.serve.worker import REPORT
from mien.serve.worker_process import DIED, STOPPED, Limits, OnProgress, RunResult, WorkerProcess

#: Seconds between two questions to an actor.
ASK_EVERY_S = 0.2
#: Seconds without an answer of an actor after which it counts as dead, and for its start.
ANSWER_S, START_S = 60.0, 300.0
#: Seconds for a connection to the cluster.
CONNECT_S = 5.0
#: Bytes of a recording sent at once.
PIECE = 16 << 20


def create_runners(address: str, number: int, limits: Limits) -> list[RayRunner]:
    """Connect to a cluster and create runners for it.

    Args:
        address: of the cluster, or `auto` for the one of this machine, started where there is none.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster at the address.
    """
    try:
        import ray
    except ImportError:
        raise ConfigError(
            "--ray needs Ray, which is not installed",
            follows="The server did not start.",
            remedy="Run pip install 'mien[ray,serve]', or omit --ray.",
        ) from None
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not ray.is_initialized():
        try:
            _check_port(address)
            ray.init(address=address, **quiet)
        except (OSError, ValueError) as error:
            if address != "auto":
                raise ConfigError(
                    f"no Ray cluster is reachable at {address!r}: {error}",
                    follows="The server did not start.",
                    remedy="Check it with `ray status --address ADDRESS`, or use --ray auto for this machine.",
                ) from None
            ray.init(include_dashboard=False, **quiet)
    return [RayRunner(ray, limits) for _ in range(number)]


def _check_port(address: str) -> None:
    """Raise OSError if nothing listens at an address with a port: Ray would try for minutes and end the process."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    if parts.port is not None:
        socket.create_connection((parts.hostname or "", parts.port), CONNECT_S).close()


class RayRunner:
    """A `Runner` on a cluster. Its actor starts with the first job, and again after it died.

    Args:
        ray: the module, connected to a cluster.
        limits: of each job.
    """

    def __init__(self, ray: Any, limits: Limits) -> None:
        self._ray, self._limits = ray, limits
        self._actor: Any = None

    def run(
        self, media: Path, out: Path, options: JobOptions, on_progress: OnProgress, stop: Callable[[], bool]
    ) -> RunResult:
        """Predict a recording on another machine; see `Runner`."""
        try:
            return self._run(media, out, options, on_progress, stop)
        except (self._ray.exceptions.RayError, TimeoutError) as error:
            self.close()
            return RunResult(DIED, _lost(type(error).__name__))

    def _run(
        self, media: Path, out: Path, options: JobOptions, on_progress: OnProgress, stop: Callable[[], bool]
    ) -> RunResult:
        if self._actor is None:
            kind = self._ray.remote(_Actor).options(num_cpus=1, max_concurrency=3)
            self._actor = kind.remote(list(sys.path), self._limits)
            self._get(self._actor.begin.remote(media.suffix), START_S)
        else:
            self._get(self._actor.begin.remote(media.suffix))
        with media.open("rb") as file:
            while piece := file.read(PIECE):
                self._get(self._actor.add.remote(piece))
        running = self._actor.run.remote(options)
        while not self._ray.wait([running], timeout=ASK_EVERY_S)[0]:
            if stop():
                self.close()
                return RunResult(STOPPED)
            on_progress(self._get(self._actor.progress.remote()))
            with suppress(OSError):  # the folder is gone where the job was deleted, or the disk is full
                self._fetch_rows(out)
        partial_rows.remove(out)
        result: RunResult = self._get(running)
        if result.state == DONE:
            for name in (RESULT, REPORT):
                with (out / name).open("xb") as target:
                    while piece := self._get(self._actor.read.remote(name, target.tell())):
                        target.write(piece)
                if not (out / name).stat().st_size:
                    (out / name).unlink()  # no report was asked for
        self._get(self._actor.end.remote())
        return result

    def _fetch_rows(self, out: Path) -> None:
        """Copy the provisional rows that are new. The positions come first and are written last: no row lacks."""
        names = (partial_rows.ENDS, partial_rows.ROWS)
        have = [(out / name).stat().st_size if (out / name).exists() else 0 for name in names]
        data = [self._get(self._actor.read.remote(name, size)) for name, size in zip(names, have, strict=True)]
        for name, size, piece in reversed(list(zip(names, have, data, strict=True))):
            with (out / name).open("r+b" if size else "wb") as file:
                file.seek(size)
                file.write(piece)

    def _get(self, reference: Any, seconds: float = ANSWER_S) -> Any:
        return self._ray.get(reference, timeout=seconds)

    def close(self) -> None:
        """End the actor, if there is one, and its worker."""
        if self._actor is not None:
            with suppress(self._ray.exceptions.RayError, TimeoutError):
                self._get(self._actor.stop.remote(), 5)
            self._ray.kill(self._actor)
            self._actor = None


class _Actor:
    """The part of a runner on its machine of the cluster."""

    def __init__(self, path: list[str], limits: Limits) -> None:
        sys.path[:] = list(dict.fromkeys([*path, *sys.path]))
        self._base = Path(tempfile.mkdtemp(prefix="mien-"))
        # Waits for the end of this process and deletes what it leaves. A grandchild, because Ray kills the children.
        waiting = 'exec 3<&0; (cat <&3 >/dev/null; rm -rf -- "$0") >/dev/null 2>&1 &'
        self._cleaner = subprocess.Popen(["sh", "-c", waiting, str(self._base)], stdin=subprocess.PIPE)
        self._cleaner.wait()
        self._worker = WorkerProcess(limits)
        self._folder = Path()
        self._media = Path()
        self._progress, self._stopped, self._running = 0.0, threading.Event(), threading.Lock()

    def begin(self, suffix: str) -> None:
        """Make a folder for a job."""
        self.end()
        self._folder = Path(tempfile.mkdtemp(dir=self._base))
        self._media = self._folder / f"recording{suffix}"
        self._media.touch(mode=0o600)
        self._progress = 0.0
        self._stopped.clear()

    def add(self, piece: bytes) -> None:
        """Append to the recording."""
        with self._media.open("ab") as file:
            file.write(piece)

    def run(self, options: JobOptions) -> RunResult:
        """Predict the recording."""

        def on_progress(done: float) -> None:
            self._progress = done

        with self._running:
            return self._worker.run(self._media, self._folder, options, on_progress, self._stopped.is_set)

    def progress(self) -> float:
        """The part that is done."""
        return self._progress

    def stop(self) -> None:
        """End the job that runs, and delete it."""
        self._stopped.set()
        with self._running:
            self._worker.close()
        self.end()

    def read(self, name: str, start: int) -> bytes:
        """Bytes of a result from a position on; none at its end, or where there is no such file."""
        path = self._folder / name
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            file.seek(start)
            return file.read(PIECE)

    def end(self) -> None:
        """Delete everything of the job."""
        if self._folder != Path():
            shutil.rmtree(self._folder, ignore_errors=True)


def _lost(why: str) -> dict[str, str]:
    return ServerError(
        f"the machine of the Ray cluster that predicted the recording was lost ({why})",
        follows="The job was tried twice and failed.",
        remedy="Look at the cluster with `ray status`.",
    ).record()
