"""Extraction: encode the clips of an index into the feature store. Each recording is decoded once for all encoders."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mien.datasets.index import Index
from mien.errors import ConfigError
from mien.extract import failures
from mien.extract.failures import Failure
from mien.extract.job_runner import ClipResult
from mien.extract.local import InProcessRunner, ProcessRunner
from mien.extract.plan import ChangedError, ExtractionSettings, RecordingJob, plan_extraction
from mien.extract.worker import MediaPosition
from mien.folder_lock import lock_folder
from mien.processes import usable_processors
from mien.store import FeatureStore
from mien.store.filenames import escape
from mien.store.writer import output_error

if TYPE_CHECKING:
    from mien.extract.cluster import RayRunner

__all__ = ["ChangedError", "ExtractionProgress", "ExtractionReport", "Failure", "extract"]


@dataclass(frozen=True, slots=True)
class ExtractionProgress:
    """Progress of an extraction. clips: complete ones of `total`, `failed` of which failed. media_s: seconds of media
    that are done, of media_total_s. elapsed_s: seconds since the first recording was started."""

    clips: int
    total: int
    failed: int
    media_s: float
    media_total_s: float
    elapsed_s: float

    @property
    def clips_per_minute(self) -> float:
        """Clips completed in a minute of the run."""
        return 60 * self.clips / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def speed(self) -> float:
        """Seconds of media in a second of the run."""
        return self.media_s / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def remaining_s(self) -> float | None:
        """Estimated seconds to the end at the current speed; None while the speed is unknown."""
        return (self.media_total_s - self.media_s) / self.speed if self.speed > 0 else None


@dataclass
class ExtractionReport:
    """Outcome of an extraction; the fields are the keys of `mien extract --json`.

    made: streams written. there: streams that were stored before, with the same provenance. clips: clips processed.
    media_s: seconds of media processed. elapsed_s: seconds that took. failures: streams that failed.
    """

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
) -> ExtractionReport:
    """Encode the clips of an index whose features are missing in the store.

    A clip that fails is listed in the report and in STORE/failures.jsonl, and the others continue; the next call tries
    it again. Files are written atomically, so a run can be killed at any moment and started again. With workers, call
    it under `if __name__ == "__main__":`, as everything that spawns processes.

    Args:
        encoders: `NAME` or `NAME=SOURCE`, see `mien.encoders.registry`.
        workers: processes, or actors with `ray`; 0 runs in this process.
        ray: `auto` or a cluster's address, to run on Ray. The store is on a file system that all machines share.
        gpus: of each Ray actor; may be a fraction.
        faces: `video` detects faces in the frames; `crops` reads the corpus's aligned crops.
        dtype: of stored values, `float16` or `float32`.
        replace: overwrite features of another provenance, instead of raising ProvenanceError.
        threads: of each process; default: the cores divided by the workers.
        progress: called after each clip and about every 2 s of media.

    Raises:
        ConfigError: an unknown encoder, or options that exclude each other.
        ProvenanceError: the store holds features of an encoder with another provenance.
        BusyError: another extraction of one of the encoders writes into the store.
        OutputError: the store cannot be written; streams that are complete stay.
        ArtefactError: weights are missing.
    """
    if workers < 0 or (workers == 0 and ray):
        raise ConfigError(
            f"--workers is {workers}, below 1", follows="Nothing was extracted.", remedy="Use --workers 1 or more."
        )
    root = Path(store).absolute()
    settings = ExtractionSettings(root, faces, dtype, replace, device, threads or _threads_per_worker(workers))
    _create_store(root)
    recorder = _Recorder(root, progress)
    try:
        with _make_runner(encoders, settings, workers, ray, gpus) as runner, ExitStack() as locks:
            for name in dict.fromkeys(info.name for info in runner.encoder_infos):
                locks.enter_context(_lock(root, name))
            plan = plan_extraction(index, runner.encoder_infos, settings)
            recorder.report.there = plan.existing
            failures.remove(root, plan.clip_encoder_pairs | {(f.clip, f.encoder) for f in plan.failures})
            for failure in plan.failures:
                recorder.add_failure(failure)
            recorder.follow(plan.jobs, runner.run(plan.jobs))
    except OSError as error:
        raise output_error(root / failures.FILE, error) from None
    finally:
        FeatureStore(root).gc()  # temporary files of processes that were stopped
    return recorder.report


def _lock(store: Path, encoder: str) -> AbstractContextManager[None]:
    """Hold the folder of an encoder, so that two extractions do not compute the same clips."""
    return lock_folder(
        store / escape(encoder),
        writer=f"another extraction of {encoder}",
        remedy="Wait until it has ended, or name another --store. Extractions of other encoders may run meanwhile.",
    )


def _threads_per_worker(workers: int) -> int:
    cores = usable_processors()
    return max(1, cores // max(1, workers))


def _create_store(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        FeatureStore(root).gc()
    except OSError as error:
        raise output_error(root, error) from None


def _make_runner(
    encoders: Sequence[str], settings: ExtractionSettings, workers: int, ray: str | None, gpus: float
) -> RayRunner | ProcessRunner | InProcessRunner:
    if ray:
        from mien.extract.cluster import RayRunner

        return RayRunner(encoders, settings, address=ray, workers=workers, gpus=gpus)
    return ProcessRunner(encoders, settings, workers) if workers else InProcessRunner(encoders, settings)


class _Recorder:
    """Records the events of a run in the report and the failure list, and reports progress."""

    def __init__(self, store: Path, progress: Callable[[ExtractionProgress], None] | None) -> None:
        self.report = ExtractionReport()
        self._store, self._progress = store, progress

    def add_failure(self, failure: Failure) -> None:
        self.report.failures.append(failure)
        failures.append(self._store, failure)

    def follow(self, jobs: Sequence[RecordingJob], events: Iterable[ClipResult | MediaPosition]) -> None:
        report = self.report
        total, total_s = sum(len(job.clip_jobs) for job in jobs), sum(job.duration_s for job in jobs)
        start, media_s, failed = time.monotonic(), 0.0, set[str]()
        for event in events:
            position_s = 0.0
            if isinstance(event, MediaPosition):
                position_s = event.seconds
            else:
                report.clips += 1
                report.made += len(event.encoders)
                report.media_s += event.media_s
                for failure in event.failures:
                    failed.add(failure.clip)
                    self.add_failure(failure)
            report.elapsed_s = time.monotonic() - start
            media_s = max(media_s, min(total_s, report.media_s + position_s))
            if self._progress:
                self._progress(ExtractionProgress(report.clips, total, len(failed), media_s, total_s, report.elapsed_s))
