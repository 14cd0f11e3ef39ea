"""Worker process of a local extraction: receives recordings over a pipe and sends back the outcome of each clip."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

from mien.extract.job_runner import ClipResult, JobRunner
from mien.extract.plan import EncoderInfo, ExtractionSettings, RecordingJob


@dataclass(frozen=True, slots=True)
class Ready:
    """Message of a worker whose encoders are created."""

    encoder_infos: list[EncoderInfo]


@dataclass(frozen=True, slots=True)
class NextJob:
    """Message of a worker that asks for a job."""


@dataclass(frozen=True, slots=True)
class MediaPosition:
    """Progress within recordings that are not complete, seconds of media; of a worker, in its current recording."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Finished:
    """Message of a worker that has completed all its jobs."""


#: What a worker sends. An exception ends the run.
Message = Ready | NextJob | MediaPosition | ClipResult | Finished | Exception


def run_worker(pipe: Connection, number: int, specs: Sequence[str], settings: ExtractionSettings) -> None:
    """Run jobs until there are none, or until the parent process has ended. Entry point of a worker process.

    Messages to the parent are `Message`s; the answer to `NextJob` is a `RecordingJob`, or None to stop.

    Args:
        pipe: to the parent. number: of this worker, from 0. specs: of the encoders.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles interrupts
    try:
        settings = replace(settings, device=choose_device(settings.device, number))
        runner = JobRunner(specs, settings, lambda seconds: pipe.send(MediaPosition(seconds)))
        limit_threads(settings.threads)
        pipe.send(Ready(runner.encoder_infos))
        for result in runner.run(_receive_jobs(pipe)):
            pipe.send(result)
        pipe.send(Finished())
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the parent has ended; the next run removes the temporary files
    except Exception as error:
        pipe.send(picklable_error(error))


def _receive_jobs(pipe: Connection) -> Iterator[RecordingJob]:
    while True:
        pipe.send(NextJob())
        job: RecordingJob | None = pipe.recv()
        if job is None:
            return
        yield job


def choose_device(device: str, number: int) -> str:
    """Device of a worker: for `auto`, the CUDA devices in turn, or `cpu` where there is none. number: of the worker."""
    if device != "auto":
        return device
    if not any(Path("/dev").glob("nvidia[0-9]*")) and not os.environ.get("CUDA_VISIBLE_DEVICES"):
        return "cpu"  # without importing torch, which takes seconds and which many encoders do not need
    import torch

    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return f"cuda:{number % devices}" if devices else "cpu"


def limit_threads(threads: int) -> None:
    """Limit the threads of OpenCV and torch in this process. By default each process uses every core, which is slower
    for all of them."""
    import cv2

    cv2.setNumThreads(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def thread_environment(threads: int) -> dict[str, str]:
    """Environment variables for libraries that read their number of threads when they are loaded."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return {name: os.environ.get(name, str(threads)) for name in names}


def picklable_error(error: Exception) -> Exception:
    """The error itself if pickling preserves it, else a RuntimeError with its type and text."""
    try:
        if str(pickle.loads(pickle.dumps(error))) == str(error):
            return error
    except Exception:
        pass  # errors of third-party libraries may not be picklable
    return RuntimeError(f"{type(error).__name__}: {error}")
