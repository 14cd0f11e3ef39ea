"""One process of a local extraction: asks for recordings over a pipe, says what became of them."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mien.extract.job_runner import JobRunner
from mien.extract.plan import ExtractionSettings, RecordingJob


def work(pipe: Connection, number: int, specs: Sequence[str], settings: ExtractionSettings) -> None:
    """Runs until told to stop, or until the parent is gone. Messages: ("ready", declarations), ("next",),
    ("at", s), ("made", Made), ("fatal", error); answers to ("next",) are a Task or None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    try:
        settings = replace(settings, device=device_of(settings.device, number))
        stage = JobRunner(specs, settings, lambda seconds: pipe.send(("at", seconds)))
        limit_threads(settings.threads)
        pipe.send(("ready", stage.declared))
        for made in stage.run(_tasks(pipe)):
            pipe.send(("made", made))
        pipe.send(("over",))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the parent is gone: nobody to tell, and the part files are cleared by the next run
    except Exception as error:
        pipe.send(("fatal", sendable(error)))


def _tasks(pipe: Connection) -> Iterator[RecordingJob]:
    while True:
        pipe.send(("next",))
        task = pipe.recv()
        if task is None:
            return
        yield task


def device_of(device: str, number: int) -> str:
    """`auto` is the graphics card whose turn it is, or the CPU."""
    if device != "auto":
        return device
    if not any(Path("/dev").glob("nvidia[0-9]*")) and not os.environ.get("CUDA_VISIBLE_DEVICES"):
        return "cpu"  # torch takes seconds to import, and many encoders do not need it
    import torch

    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return f"cuda:{number % cards}" if cards else "cpu"


def limit_threads(threads: int) -> None:
    """OpenCV and torch start as many threads as there are cores, in each process; that is slower for all of
    them."""
    import cv2

    cv2.setNumThreads(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def thread_environment(threads: int) -> dict[str, str]:
    """For libraries that read their number of threads when they are loaded."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return {name: os.environ.get(name, str(threads)) for name in names}


def sendable(error: Exception) -> Any:
    """The error itself where it survives being pickled, else its text."""
    try:
        again = pickle.loads(pickle.dumps(error))
        return error if str(again) == str(error) else RuntimeError(f"{type(error).__name__}: {error}")
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
