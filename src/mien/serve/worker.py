"""Worker process: predicts one recording at a time and keeps its models. `WorkerProcess` starts it.

Reads one JSON object a line on standard input, a job (`media`, `out`, `options`), and writes messages (`progress`,
`done`, `failed`) to standard output. It ends at once when its input ends, so that none is left when the server is
killed.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import IO, Any

from mien.errors import ConfigError, MienError, ServerError
from mien.processes import forbid_core_dumps
from mien.serve.jobs import RESULT, JobOptions
from mien.serve.partial_rows import RowWriter

#: Added to the priority of a worker, so that the server answers while all cores predict. Our choice.
NICE = 5
REPORT = "report.html"


class Predictors:
    """The models of a worker, each loaded when a job first asks for it."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}

    def run(self, media: Path, out: Path, options: JobOptions, progress: Callable[[float], None]) -> dict[str, Any]:
        """Predict a recording and write its results into `out`; returns the facts that the server keeps. Provisional
        rows are there while it runs.

        Args:
            progress: called with the part that is done, in [0, 1].

        Raises what `Predictor.predict` raises.
        """
        from mien.predict import load
        from mien.predict.request import predict_arguments

        if options.model not in self._loaded:
            self._loaded[options.model] = load(options.model)
        predictor = self._loaded[options.model]
        predictor.max_faces, predictor.reidentify = options.max_faces, options.reidentify
        share = 0.7 if options.report else 1.0  # writing a report decodes and encodes the pictures again

        def on_time(done_s: float, total_s: float | None) -> None:
            progress(share * min(1.0, done_s / total_s) if total_s else 0.0)

        with closing(RowWriter(out)) as rows:
            timeline = predictor.predict(media, **predict_arguments(options), progress=on_time, on_rows=rows.add)
        progress(share)
        timeline.notes = tuple(_anonymous(note, media) for note in timeline.notes)
        if options.report and len(timeline):
            timeline.report(out / REPORT)
        timeline.media = ""
        timeline.to_parquet(out / RESULT)
        return {
            "rows": len(timeline),
            "subjects": timeline.subjects,
            "notes": list(timeline.notes),
            "media": timeline.info.get("media", {}),
        }


def _anonymous(text: str, media: Path) -> str:
    """A text without the server's name of the recording."""
    return text.replace(str(media), "the recording").replace(media.name, "the recording")


def reason_of(error: Exception, media: Path) -> dict[str, str]:
    """Why a job failed, as the server keeps and shows it."""
    if isinstance(error, MienError):
        return {key: _anonymous(text, media) for key, text in error.record().items()}
    if isinstance(error, ValueError):
        return ConfigError(
            _anonymous(str(error), media),
            follows="Nothing was predicted.",
            remedy="Change the options of the request.",
        ).record()
    last = traceback.extract_tb(error.__traceback__)[-1]  # no message: it may quote the recording
    return ServerError(
        f"unexpected {type(error).__name__} in {Path(last.filename).name}, line {last.lineno}",
        follows="This recording was not predicted. It is a fault of mien; other jobs are not affected.",
        remedy="Run `MIEN_DEBUG=1 mien predict FILE` for the traceback, and please report it.",
    ).record()


def _clean(folder: Path, keep: set[str]) -> None:
    for path in folder.iterdir():
        if path.name not in keep and path.is_file():
            path.unlink(missing_ok=True)


def _read_lines(source: IO[str], jobs: queue.Queue[dict[str, Any]]) -> None:
    for line in source:
        jobs.put(json.loads(line))
    os._exit(0)  # the server is gone, in the middle of a job perhaps


def main() -> None:
    """Work until the input ends."""
    os.umask(0o077)
    os.nice(NICE)
    forbid_core_dumps()
    replies = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no reply

    def send(**message: Any) -> None:
        replies.write(json.dumps(message, default=str) + "\n")
        replies.flush()

    jobs: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_read_lines, args=(sys.stdin, jobs), daemon=True).start()
    predictors = Predictors()
    send(ready=True)
    while True:
        job = jobs.get()
        media, out = Path(job["media"]), Path(job["out"])
        tempfile.tempdir = str(out)  # deleted with the job
        try:
            outcome = predictors.run(media, out, JobOptions(**job["options"]), lambda done: send(progress=done))
        except Exception as error:
            send(failed=reason_of(error, media))
            if isinstance(error, MemoryError):
                return
        else:
            _clean(out, {media.name, RESULT, REPORT})
            send(done=outcome)


if __name__ == "__main__":
    main()
