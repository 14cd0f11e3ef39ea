"""One input of `mien predict`: its options, its prediction, and the files that are written for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.cli import console, provenance
from mien.cli.inputs import MediaJob
from mien.cli.provenance import RunFacts
from mien.printable import printable

if TYPE_CHECKING:
    from mien.predict import Predictor
    from mien.records import SubjectSummary
    from mien.timeline.table import Timeline


class Format(StrEnum):
    """File format of a Timeline."""

    csv = "csv"
    parquet = "parquet"
    jsonl = "jsonl"
    eaf = "eaf"
    textgrid = "textgrid"
    vtt = "vtt"
    srt = "srt"
    boris = "boris"
    boris_events = "boris-events"
    labelstudio = "labelstudio"
    rttm = "rttm"

    @property
    def table(self) -> str:
        """Format of the table: an annotation format holds no probabilities, so a CSV is written beside it."""
        return str(self) if self in (Format.csv, Format.parquet, Format.jsonl) else "csv"

    @property
    def annotations_name(self) -> str | None:
        """Name of the file of annotations, None for a format that is a table."""
        if self.table == self:
            return None
        from mien.timeline.formats import FORMATS

        return f"timeline{FORMATS[self].suffix}"


class Channels(StrEnum):
    """What the channels of a sound are."""

    MIX = "mix"
    SPLIT = "split"


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """How to predict each input, and what to write for it. start_s, stop_s: the part to predict. rate_hz: rows per
    second and person in the file, None for all. The others as `Predictor.predict`."""

    format: Format
    report: bool
    embed: bool
    overlay: bool
    face: bool
    voice: bool
    as_json: bool
    start_s: float = 0.0
    stop_s: float | None = None
    rate_hz: float | None = None
    audio_track: int | None = None
    split_channels: bool = False
    min_quality: float = 0.0
    face_rate_hz: float | None = None
    features: bool | tuple[str, ...] = False

    @property
    def timeline_name(self) -> str:
        """Name of the timeline's file."""
        return f"timeline.{self.format.table}"

    @property
    def features_name(self) -> str:
        """Name of the file of features."""
        return f"features.{self.format.table}"

    @property
    def file_names(self) -> list[str]:
        """Names of the files that an input without pictures gets, too."""
        annotations = self.format.annotations_name
        return [
            self.timeline_name,
            *([annotations] if annotations else []),
            *([self.features_name] if self.features else []),
            *(["report.html"] if self.report else []),
        ]


@dataclass(slots=True)
class Outcome:
    """What became of the inputs, as JSON prints it. skipped: finished by an earlier run."""

    results: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class JobResult:
    """What was predicted and written for one input. files: `timeline`, `annotations`, `features`, `provenance`,
    `report`, `overlay` -> path.
    rows: of the file."""

    media: Path
    timeline: Timeline
    summaries: list[SubjectSummary]
    files: dict[str, Path]
    notes: list[str]
    seconds: dict[str, float]
    rows: int

    def record(self) -> dict[str, Any]:
        """The result as JSON prints it."""
        return {
            "media": str(self.media),
            **{name: str(path) for name, path in self.files.items()},
            "rows": self.rows,
            "subjects": _subject_records(self.summaries),
            "notes": self.notes,
            "seconds": self.seconds,
        }


def _subject_records(summaries: list[SubjectSummary]) -> list[dict[str, Any]]:
    """The summaries as JSON holds them: without stretches, but with the mean confidence over them."""
    records = []
    for summary in summaries:
        spans = [(s.confidence, s.seconds or 1.0) for s in summary.stretches]
        confidence = sum(c * w for c, w in spans) / sum(w for _, w in spans) if spans else None
        record = {k: v for k, v in asdict(summary).items() if k != "stretches"}
        records.append(record | {"confidence": confidence})
    return records


def done_before(job: MediaJob, run: RunFacts, digest: str, options: PredictOptions) -> dict[str, Any] | None:
    """A skipped job as JSON prints it; None if it has to be predicted."""
    found = provenance.read(job.folder)
    if found is None:
        return None
    has_pictures = found["media"].get("kind") != "audio"
    names = [*options.file_names]
    if options.overlay and has_pictures:
        names.append("overlay.png" if found["media"].get("kind") == "image" else "overlay.mp4")
    if not provenance.is_done(job, found, run, digest, names):
        return None
    files = {kind: str(job.folder / name) for kind, name in found["files"].items()}
    return {"media": str(job.media), **files, "rows": found["rows"]}


def predict_in_process(predictor: Predictor, item: tuple[MediaJob, PredictOptions, RunFacts]) -> JobResult:
    """`predict_job` in one of several processes, which print nothing."""
    job, options, run = item
    digest = job.digest or provenance.digest_of(job.media)
    return predict_job(job, predictor, replace(options, as_json=True), run, digest, "")


def predict_job(
    job: MediaJob, predictor: Predictor, options: PredictOptions, run: RunFacts, digest: str, title: str
) -> JobResult:
    """Predict one input and write its files. digest: of the media. title: of the progress display.

    Raises MediaError, ConfigError, ArtefactError and OutputError (BusyError while another run writes into the folder).
    """
    from mien.atomic import make_folder
    from mien.folder_lock import lock_folder

    make_folder(job.folder / options.timeline_name)
    remedy = "Wait until that run has ended, or choose another folder with --out."
    with lock_folder(job.folder, writer="another run of mien", remedy=remedy):
        return _predict_and_write(job, predictor, options, run, digest, title)


def _predict_and_write(
    job: MediaJob, predictor: Predictor, options: PredictOptions, run: RunFacts, digest: str, title: str
) -> JobResult:
    from mien.memory import release_after_rows
    from mien.predict.request import predict_arguments

    start = time.perf_counter()
    with console.progress(title, quiet=options.as_json) as progress:
        timeline = predictor.predict(job.media, **predict_arguments(options), progress=progress)
    predicted = time.perf_counter()
    release_after_rows(len(timeline))
    notes = list(timeline.notes)
    if replaced := provenance.describe_replaced(job, run, digest):
        removed = provenance.remove_replaced(job, options.file_names)
        gone = f"; {', '.join(removed)} removed" if removed else ""
        notes.append(f"{printable(job.folder)} held {replaced}, which this run replaced{gone}")
    kept = provenance.files_of(job.folder)  # of a run with the same rows, or none
    in_file = timeline if options.rate_hz is None else _thinned(timeline, options.rate_hz)
    files = {"timeline": in_file.write(job.folder / options.timeline_name)}
    if name := options.format.annotations_name:
        files["annotations"] = timeline.write(job.folder / name)
    if options.features:
        files["features"] = in_file.write_features(job.folder / options.features_name)
    if options.report:
        files["report"] = timeline.report(job.folder / "report.html", embed=options.embed)
    if options.overlay and timeline.table["frame"].null_count() < len(timeline):
        files["overlay"] = timeline.overlay(job.folder / "overlay.mp4")
    elif options.overlay:
        notes.append("no overlay was written, because there are no pictures to draw on")
    summaries = timeline.summaries()
    files["provenance"] = provenance.write(
        job, run, in_file, digest=digest, files=kept | files, notes=notes, subjects=_subject_records(summaries)
    )
    seconds = {
        **timeline.info.get("seconds", {}),
        "write": round(time.perf_counter() - predicted, 3),
        "all": round(time.perf_counter() - start, 3),
    }
    return JobResult(job.media, timeline, summaries, files, notes, seconds, len(in_file))


def without_done(jobs: list[MediaJob], options: PredictOptions, run: RunFacts, outcome: Outcome) -> list[MediaJob]:
    """The jobs that an earlier run has not finished; the others are recorded in `outcome`."""
    left = []
    for job in jobs:
        digest = provenance.digest_of(job.media)
        done = done_before(job, run, digest, options)
        if done is None:
            left.append(replace(job, digest=digest))
            continue
        outcome.skipped.append(done)
        if not options.as_json:
            name, folder = printable(job.media), printable(job.folder)
            console.stdout().print(f"{name}: done before, skipped ({folder})", markup=False)
    return left


def one_by_one(
    jobs: list[MediaJob], predictor: Predictor, options: PredictOptions, run: RunFacts
) -> Iterator[tuple[MediaJob, JobResult | Exception]]:
    """Each job and its result, or what it raised."""
    for number, job in enumerate(jobs, start=1):
        title = job.media.name if len(jobs) == 1 else f"[{number}/{len(jobs)}] {job.media.name}"
        try:
            digest = job.digest or provenance.digest_of(job.media)
            yield job, predict_job(job, predictor, options, run, digest, title)
        except Exception as error:
            yield job, error


def in_processes(
    jobs: list[MediaJob], options: PredictOptions, run: RunFacts, settings: dict[str, Any], workers: int
) -> Iterator[tuple[MediaJob, JobResult | Exception]]:
    """As `one_by_one`, in processes and in the order of completion. settings: arguments of `mien.load`."""
    from mien.predict.in_processes import run as run_in_processes

    items = [(job, options, run) for job in jobs]
    with console.progress("predicting", quiet=options.as_json, unit="inputs") as progress:
        for done, (index, result) in enumerate(run_in_processes(predict_in_process, items, settings, workers), start=1):
            yield jobs[index], result
            progress(done, len(jobs))


def _thinned(timeline: Timeline, rate_hz: float) -> Timeline:
    """The timeline with the first row of each interval of 1/rate_hz seconds, for each person."""
    import polars as pl

    from mien.timeline.table import Timeline

    interval = ((pl.col("time_s") + 1e-6) * rate_hz).floor()
    kept = timeline.table.select(interval.ne_missing(interval.shift(1).over("subject"))).to_series()
    features = None if timeline.features is None else timeline.features.filter(kept)
    return Timeline(
        timeline.table.filter(kept), classes=timeline.classes, media=timeline.media, notes=timeline.notes,
        info=timeline.info, features=features,
    )  # fmt: skip
