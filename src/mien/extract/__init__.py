"""Clips × encoders → store. Decode once, feed every encoder, store what is missing; see `extract`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mien.datasets.index import Index
from mien.errors import ConfigError
from mien.extract import failures
from mien.extract.failures import Failure
from mien.extract.local import At, Here, Processes
from mien.extract.plan import ChangedError, ExtractionSettings, plan
from mien.store import FeatureStore
from mien.store.writer import output_error

__all__ = ["ChangedError", "ExtractionProgress", "Failure", "Report", "extract"]


@dataclass(frozen=True, slots=True)
class ExtractionProgress:
    """How far an extraction is. clips: done of total, of which failed. media_s: seconds of recordings, of
    media_total_s. elapsed_s: since the first recording was begun."""

    clips: int
    total: int
    failed: int
    media_s: float
    media_total_s: float
    elapsed_s: float

    @property
    def clips_per_minute(self) -> float:
        return 60 * self.clips / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def speed(self) -> float:
        """Seconds of media a second."""
        return self.media_s / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds that are left at this speed; None as long as there is none."""
        return (self.media_total_s - self.media_s) / self.speed if self.speed > 0 else None


@dataclass
class Report:
    """What an extraction did. made: files written; there: files that were there already, made in the same
    way."""

    made: int = 0
    there: int = 0
    clips: int = 0
    media_s: float = 0.0
    elapsed_s: float = 0.0
    failures: list[Failure] = field(default_factory=list)


def extract(
    index: Index,
    encoders: Sequence[str],
    store: Path | str,
    *,
    workers: int = 1,
    ray: str | None = None,
    gpus: float = 0.0,
    faces: str = "video",
    dtype: str = "float16",
    device: str = "auto",
    replace: bool = False,
    threads: int | None = None,
    progress: Callable[[ExtractionProgress], None] | None = None,
) -> Report:
    """Makes the features of an index's clips that a store does not hold yet.

    Each recording is decoded once for all encoders and for all clips in it. A clip that fails is listed in
    the report and in STORE/failures.jsonl, and the rest goes on; the next call tries it again. Files appear
    whole or not at all, so that a run may be killed at any moment and started again. With workers, call
    it under `if __name__ == "__main__":`, as everything that starts processes.

    Args:
        encoders: `NAME` or `NAME=SOURCE`, see `mien.encoders.registry`.
        workers: processes; 0 works in this one. With `ray`, actors.
        ray: `auto` or a cluster's address: the same work on Ray, the store being on a file system that all
        share.
        gpus: of a Ray actor; may be a fraction.
        faces: `video`, or `crops` for a corpus that comes with aligned crops.
        dtype: of stored values, `float16` or `float32`.
        replace: make anew what the store holds of another provenance, instead of stopping.
        threads: of each process; default: the cores shared out evenly.

    Raises:
        ConfigError: an unknown encoder, or options that do not fit. ProvenanceError: the store holds other
        features.
        OutputError: the store cannot be written; what is finished stays. ArtefactError: weights are missing.
    """
    if workers < 0 or (workers == 0 and ray):
        raise ConfigError(f"{workers} workers", remedy="--workers 1 or more")
    root = Path(store).absolute()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    settings = ExtractionSettings(root, faces, dtype, replace, device, threads or max(1, cores // max(1, workers)))
    try:
        root.mkdir(parents=True, exist_ok=True)
        FeatureStore(root).gc()
    except OSError as error:
        raise output_error(root, error) from None
    report = Report()
    try:
        with _runner(encoders, settings, workers, ray, gpus) as runner:
            todo = plan(index, runner.declared, settings)
            report.there = todo.made
            failures.forget(root, todo.pairs | {(f.clip, f.encoder) for f in todo.failures})
            for failure in todo.failures:
                _put_aside(root, report, failure)
            _follow(runner.run(todo.tasks), todo.tasks, root, report, progress)
    except OSError as error:
        raise output_error(root / failures.FILE, error) from None
    finally:
        FeatureStore(root).gc()  # what processes left that were stopped on the way
    return report


def _runner(encoders: Sequence[str], settings: ExtractionSettings, workers: int, ray: str | None, gpus: float) -> Any:
    if ray:
        from mien.extract.cluster import OnRay

        return OnRay(encoders, settings, address=ray, workers=workers, gpus=gpus)
    return Processes(encoders, settings, workers) if workers else Here(encoders, settings)


def _follow(
    events: Any, tasks: Sequence[Any], root: Path, report: Report, progress: Callable[[ExtractionProgress], None] | None
) -> None:
    total = sum(len(task.jobs) for task in tasks)
    total_s = sum(task.duration_s for task in tasks)
    begun, most, failed = time.monotonic(), 0.0, set[str]()
    for event in events:
        under_way = 0.0
        if isinstance(event, At):
            under_way = event.seconds
        else:
            report.clips += 1
            report.made += len(event.encoders)
            report.media_s += event.seconds
            for failure in event.failures:
                failed.add(failure.clip)
                _put_aside(root, report, failure)
        report.elapsed_s = time.monotonic() - begun
        most = max(most, min(total_s, report.media_s + under_way))
        if progress:
            progress(ExtractionProgress(report.clips, total, len(failed), most, total_s, report.elapsed_s))


def _put_aside(root: Path, report: Report, failure: Failure) -> None:
    report.failures.append(failure)
    failures.add(root, failure)
