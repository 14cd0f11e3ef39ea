"""Results of a finished job in the formats that a Timeline can be written in."""

from __future__ import annotations

from functools import cache
from http import HTTPStatus
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.errors import MienError
from mien.serve import partial_rows
from mien.serve.jobs import DONE, FAILED, RESULT, RUNNING, Job, JobStore
from mien.serve.responses import RequestError
from mien.serve.worker import REPORT

if TYPE_CHECKING:
    from mien.timeline.table import Timeline

#: Most rows of one answer.
MAX_ROWS = 5000
#: Name of the rows of a result.
FINAL = "final"
MEDIA_TYPES = {
    ".csv": "text/csv; charset=utf-8",
    ".jsonl": "application/x-ndjson",
    ".parquet": "application/vnd.apache.parquet",
    ".vtt": "text/vtt; charset=utf-8",
    ".eaf": "application/xml",
}


@cache
def formats() -> list[str]:
    """Suffixes that a Timeline can be written with, without the dot: its own, and those of annotation formats."""
    found = ["csv", "parquet", "jsonl"]
    if find_spec("mien.timeline.formats"):
        found += [suffix.removeprefix(".") for suffix in import_module("mien.timeline.formats").suffixes()]
    return list(dict.fromkeys(found))


def read(store: JobStore, job: Job) -> Timeline:
    """The Timeline of a finished job. Raises RequestError if it is not finished."""
    from mien.timeline.table import Timeline

    check_done(job)
    return Timeline.read(store.folder_of(job.id) / RESULT)


def check_done(job: Job) -> None:
    """Raise RequestError for a job without results: 409 while it waits or runs, 410 if it failed."""
    if job.state == FAILED:
        raise RequestError(
            HTTPStatus.GONE, f"the job failed: {job.outcome.get('what', '')}", follows="It has no results.",
            remedy=job.outcome.get("remedy", ""),
        )  # fmt: skip
    if job.state != DONE:
        raise RequestError(
            HTTPStatus.CONFLICT, f"the job is {job.state}", follows="It has no results yet.",
            remedy=f"Ask GET /v1/timelines/{job.id} until its state is done.", headers={"retry-after": "1"},
        )  # fmt: skip


def file_of(store: JobStore, job: Job, suffix: str) -> Path:
    """The Timeline of a job as a file with a suffix such as `.csv`, written when it is first asked for.

    Raises RequestError: no results, or 404 for a format that does not exist.
    """
    timeline = read(store, job)
    path = store.folder_of(job.id) / f"timeline{suffix}"
    if suffix.removeprefix(".") not in formats():
        raise RequestError(
            HTTPStatus.NOT_FOUND, f"there is no format {suffix.removeprefix('.')!r}", follows="Nothing was written.",
            remedy=f"Use one of {', '.join(formats())}.",
        )  # fmt: skip
    if not path.is_file():
        try:
            timeline.write(path)
        except MienError as error:
            raise RequestError(
                HTTPStatus.UNPROCESSABLE_ENTITY, error.what.replace(str(path), "the timeline"), follows=error.follows,
                remedy=error.remedy,
            ) from error  # fmt: skip
    return path


def report_of(store: JobStore, job: Job) -> Path:
    """The report page: that with the recording if the job was asked for it, else one of the charts alone."""
    check_done(job)
    path = store.folder_of(job.id) / REPORT
    if not path.is_file():
        read(store, job).report(path, embed=False)
    return path


def run_of(job: Job) -> str:
    """Name of the rows that a job has: those of its result, or the number of the start that gives provisional ones."""
    return FINAL if job.state == DONE else str(job.starts)


def rows_of(store: JobStore, job: Job, after: int, limit: int, run: str = "") -> dict[str, Any]:
    """Rows of a job from number `after` on, as JSON holds them.

    Args:
        run: of the rows before `after`; where it is another one by now, the answer begins with row 0. "": the same one.

    Returns `rows`; `first`, the number of the first one; `next`, the number after the last one; `run`; whether they are
    `final`, and the `last`.
    """
    now = run_of(job)
    first = after if run in ("", now) else 0
    if job.state == DONE:
        table = read(store, job).table
        rows = table[first : first + min(limit, MAX_ROWS)].to_dicts()
        last = first + len(rows) >= len(table)
    else:
        rows = partial_rows.read(store.folder_of(job.id), first, min(limit, MAX_ROWS)) if job.state == RUNNING else []
        last = job.state == FAILED
    return {
        "rows": rows, "first": first, "next": first + len(rows), "run": now, "final": job.state == DONE, "last": last,
    }  # fmt: skip
