"""Readers of `fuzz.py`, and the process that runs them: one input a line on stdin, one JSON answer a line on stdout."""

from __future__ import annotations

import gc
import json
import logging
import os
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Bytes of address space that reading may add: beyond, an allocation fails instead of ending other processes.
MAX_ADDED = 4 << 30
#: One medium in so many is predicted, and of one in so many a report is written; the others are decoded.
PREDICT_EVERY, REPORT_EVERY = 5, 25
#: Memory in MB from which garbage is collected before an input, so that the peak is that of the input alone.
COLLECT_MB = 400.0


def media_reader() -> Callable[[Path, int], None]:
    """Decode a medium as prediction does; predict some, and write a report of some of these."""
    import mien
    from mien.encode.video_pass import MAX_SIDE
    from mien.media.audio import blocks
    from mien.media.video import frames, probe, sample_pictures

    predictor = mien.load("starter")

    def read(folder: Path, number: int) -> None:
        path = next(folder.iterdir())
        if number % PREDICT_EVERY:
            info = probe(path)
            if info.has_video:
                list(sample_pictures(path, 5, max_side=MAX_SIDE))
                for frame in frames(path, max_side=MAX_SIDE):
                    _ = frame.image
            for _block in blocks(path, seconds=2.0):
                pass
            return
        timeline = predictor.predict(path)
        timeline.summaries()
        if number % REPORT_EVERY == 0:
            with tempfile.TemporaryDirectory() as pages:
                timeline.report(Path(pages) / "report.html")

    return read


def timeline_reader() -> Callable[[Path, int], None]:
    """Read a timeline, summarise it and write it again."""
    from mien.timeline.table import Timeline

    def read(folder: Path, _number: int) -> None:
        path = next(folder.iterdir())
        timeline = Timeline.read(path)
        timeline.summaries()
        with tempfile.TemporaryDirectory() as copies:
            timeline.write(Path(copies) / path.name)

    return read


def store_reader() -> Callable[[Path, int], None]:
    """Read all values of a store's clips."""
    from mien.store.feature_store import FeatureStore

    def read(folder: Path, _number: int) -> None:
        features = FeatureStore(folder).open("e", {"encoder": "e"})
        for clip in features:
            reader = features[clip]
            reader.read(0, len(reader.times))
        features.close()

    return read


def checkpoint_reader() -> Callable[[Path, int], None]:
    """Load a checkpoint."""
    from mien import checkpoint

    return lambda folder, _number: (checkpoint.load(folder), None)[1]


def recipe_reader() -> Callable[[Path, int], None]:
    """Read a recipe and check it."""
    from mien import config, models

    return lambda folder, _number: (config.load(next(folder.iterdir()), check=models.problems), None)[1]


def index_reader() -> Callable[[Path, int], None]:
    """Read an index of a corpus and summarise it."""
    from mien.datasets.index import Index

    def read(folder: Path, _number: int) -> None:
        index = Index.load(next(folder.iterdir()), root=folder)
        index.summary()
        index.clips()

    return read


def labels_reader() -> Callable[[Path, int], None]:
    """Index a folder of sounds with a table of labels."""
    from mien.datasets.index import build_index

    return lambda folder, _number: (build_index("folder", folder).summary(), None)[1]


def calibration_reader() -> Callable[[Path, int], None]:
    """Read a calibration."""
    from mien.evaluation.calibration import Calibration

    return lambda folder, _number: (Calibration.load(next(folder.iterdir())), None)[1]


def prompts_reader() -> Callable[[Path, int], None]:
    """Read a file of classes described by text."""
    from mien.zero_shot import read_prompts

    return lambda folder, _number: (read_prompts(next(folder.iterdir()), "a {label}"), None)[1]


def provenance_reader() -> Callable[[Path, int], None]:
    """Ask whether a folder of results may be skipped or replaced, and list it on a page."""
    from mien.cli import batch, predict_jobs, provenance
    from mien.cli.inputs import MediaJob
    from mien.cli.provenance import RunFacts

    run = RunFacts("starter", {"a": "b"}, {"face": True})

    def read(folder: Path, _number: int) -> None:
        job = MediaJob(folder / "a.mp4", folder)
        options = predict_jobs.PredictOptions(
            predict_jobs.Format.csv, report=True, embed=False, overlay=True, face=True, voice=True, as_json=False
        )
        provenance.choose_folders([job])
        predict_jobs.done_before(job, run, "sha256:0", options)
        provenance.describe_replaced(job, run, "sha256:0")
        provenance.files_of(folder)
        batch.write(folder.parent, run, "csv", passed=[], failed=[])

    return read


READERS: dict[str, Callable[[], Callable[[Path, int], None]]] = {
    "media": media_reader,
    "timeline": timeline_reader,
    "store": store_reader,
    "checkpoint": checkpoint_reader,
    "recipe": recipe_reader,
    "index": index_reader,
    "labels": labels_reader,
    "calibration": calibration_reader,
    "prompts": prompts_reader,
    "provenance": provenance_reader,
}


def _memory_mb(field: str) -> float:
    return int(Path("/proc/self/status").read_text(encoding="ascii").split(field + ":")[1].split()[0]) / 1024


def _answer(reader: Callable[[Path, int], None], folder: Path, number: int) -> dict[str, Any]:
    """Outcome, processor seconds, peak memory in MB, and the traceback of an error that is not one of mien's."""
    from mien.errors import MienError
    from mien.memory import release_freed_memory

    if _memory_mb("VmRSS") > COLLECT_MB:
        gc.collect()
        release_freed_memory()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    start, trace = time.process_time(), ""
    try:
        reader(folder, number)
        outcome = "read"
    except MienError as error:
        outcome = type(error).__name__
        if "This is a bug" in str(error):
            trace = traceback.format_exc()
    except BaseException as error:
        outcome, trace = f"! {type(error).__name__}", traceback.format_exc()
    return {"outcome": outcome, "seconds": time.process_time() - start, "mb": _memory_mb("VmHWM"), "trace": trace}


def main() -> None:
    """Read inputs, lines of `reader<TAB>number<TAB>folder`, until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    logging.disable()
    readers: dict[str, Callable[[Path, int], None]] = {name: READERS[name]() for name in sys.argv[1:]}
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MAX_ADDED, used + MAX_ADDED))
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        name, number, folder = line.rstrip("\n").split("\t")
        print(json.dumps(_answer(readers[name], Path(folder), int(number))), file=answers, flush=True)


if __name__ == "__main__":
    main()
