"""Jobs of the server in SQLite, and their files: what is accepted survives a restart, what is over is deleted.

The folder has `jobs.sqlite`, `incoming/` (uploads that are not complete) and `jobs/ID/` (the recording until it is
predicted, with provisional rows beside it, then its results). No name that a client gave is stored, only the suffix of
the file.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mien.errors import ConfigError, OutputError, ServerError
from mien.serve import partial_rows

try:
    import fcntl
except ImportError:  # Windows: two servers in one folder are not noticed
    fcntl = None  # type: ignore[assignment]

QUEUED, RUNNING, DONE, FAILED = "queued", "running", "done", "failed"
#: Name of the result that all formats are made from.
RESULT = "timeline.parquet"
#: Most times that a job is started: a second time after a worker died, more often only where the server itself ended.
MAX_STARTS, MAX_STARTS_AFTER_RESTART = 2, 5
#: Version of the table; a folder of another version is refused.
_VERSION = 1
_TABLE = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, state TEXT NOT NULL, options TEXT NOT NULL, suffix TEXT NOT NULL, size INTEGER NOT NULL,
    starts INTEGER NOT NULL DEFAULT 0, created REAL NOT NULL, started REAL, finished REAL, outcome TEXT
)
"""


@dataclass(frozen=True, slots=True)
class JobOptions:
    """How to predict an upload; the names and ranges are those of `Predictor.predict`. report: also write the report
    page with the recording in it."""

    model: str = "starter"
    max_faces: int = 4
    face: bool = True
    voice: bool = True
    reidentify: bool = True
    audio_track: int | None = None
    split_channels: bool = False
    min_quality: float = 0.0
    start_s: float = 0.0
    stop_s: float | None = None
    report: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """One upload. suffix: of the recording's file, "" or such as `.mp4`. size: bytes. created, started, finished: Unix
    seconds. outcome: what the worker returned, or the reason of a failure (`what`, `follows`, `remedy`, `type`)."""

    id: str
    state: str
    options: JobOptions
    suffix: str
    size: int
    starts: int
    created: float
    started: float | None
    finished: float | None
    outcome: dict[str, Any] = field(default_factory=dict)


class JobStore:
    """The jobs of one server. All methods can be called from any thread.

    Args:
        folder: created with mode 0700 if it is not there. One server at a time can use it.
        clock: the time in Unix seconds.

    Raises:
        ConfigError: another server uses the folder, or it was written by another version. OutputError: no permission.
    """

    def __init__(self, folder: Path, *, clock: Any = time.time) -> None:
        self.folder, self._clock, self._lock = folder, clock, threading.RLock()
        self.incoming, self._jobs = folder / "incoming", folder / "jobs"
        try:
            for path in (folder, self.incoming, self._jobs):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
                path.chmod(0o700)
            self._lock_file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.close(os.open(folder / "jobs.sqlite", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise OutputError(
                f"{folder} cannot be used: {error.strerror}",
                follows="The server did not start.",
                remedy="Name a folder of your own with --folder.",
            ) from error
        try:
            if fcntl is not None:
                fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock_file)
            raise ConfigError(
                f"another mien serve uses the folder {folder}",
                follows="The server did not start.",
                remedy="End the other one, or name another folder with --folder.",
            ) from None
        self._db = sqlite3.connect(folder / "jobs.sqlite", check_same_thread=False, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        if found not in (0, _VERSION):
            self.close()
            raise ConfigError(
                f"{folder}/jobs.sqlite has version {found}, and this mien reads version {_VERSION}",
                follows="The server did not start, and the jobs are unchanged.",
                remedy="Finish them with the mien that accepted them, or name another folder with --folder.",
            )
        # FULL: a job that was accepted is on the disk, even if the power fails. secure_delete: rows are overwritten.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", f"user_version={_VERSION}"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.execute(_TABLE)

    def close(self) -> None:
        """Close the database and let another server use the folder."""
        with self._lock:
            self._db.close()
            os.close(self._lock_file)

    # --- uploads -----------------------------------------------------------------------------------------

    def new_id(self) -> str:
        """An identifier that cannot be guessed: 22 letters, digits, `_` and `-`."""
        return secrets.token_urlsafe(16)

    def folder_of(self, job_id: str) -> Path:
        """Folder of a job's files."""
        return self._jobs / job_id

    def recording_of(self, job: Job) -> Path:
        """The uploaded file of a job."""
        return self._jobs / job.id / f"recording{job.suffix}"

    def add(self, job_id: str, upload: Path, suffix: str, options: JobOptions) -> Job:
        """Accept a complete upload, a file in `incoming`, as a job that waits. Raises OSError."""
        job = Job(job_id, QUEUED, options, suffix, upload.stat().st_size, 0, self._clock(), None, None)
        target = self.recording_of(job)
        target.parent.mkdir(mode=0o700)
        upload.rename(target)
        for folder in (target.parent, self._jobs):
            _sync_folder(folder)
        self._execute(
            "INSERT INTO jobs (id, state, options, suffix, size, created) VALUES (?, ?, ?, ?, ?, ?)",
            job.id, job.state, json.dumps(asdict(options)), suffix, job.size, job.created,
        )  # fmt: skip
        return job

    # --- states ------------------------------------------------------------------------------------------

    def get(self, job_id: str) -> Job | None:
        """A job, or None if there is none, or it has been deleted."""
        found = self._execute("SELECT * FROM jobs WHERE id = ?", job_id)
        return _job(found[0]) if found else None

    def all(self) -> list[Job]:
        """All jobs, the newest first."""
        return [_job(row) for row in self._execute("SELECT * FROM jobs ORDER BY created DESC, rowid DESC")]

    def counts(self) -> dict[str, int]:
        """Number of jobs in each state."""
        found = dict.fromkeys((QUEUED, RUNNING, DONE, FAILED), 0)
        rows = self._execute("SELECT state, count(*) AS n FROM jobs GROUP BY state")
        return found | {row["state"]: row["n"] for row in rows}

    def position(self, job: Job) -> int:
        """Number of jobs that are started before this one."""
        rows = self._execute(
            "SELECT count(*) AS n FROM jobs WHERE state = ? AND (created, id) < (?, ?)", QUEUED, job.created, job.id
        )
        return int(rows[0]["n"])

    def claim(self) -> Job | None:
        """Start the job that waits longest; None if no job waits."""
        rows = self._execute(
            "UPDATE jobs SET state = ?, started = ?, starts = starts + 1 WHERE id = "
            "(SELECT id FROM jobs WHERE state = ? ORDER BY created, id LIMIT 1) RETURNING *",
            RUNNING, self._clock(), QUEUED,
        )  # fmt: skip
        return _job(rows[0]) if rows else None

    def finish(self, job_id: str, outcome: Mapping[str, Any]) -> None:
        """Record the results of a job; the recording is deleted."""
        self._end(job_id, DONE, outcome)

    def fail(self, job_id: str, reason: Mapping[str, Any]) -> None:
        """Record why a job failed; its files are deleted."""
        self._end(job_id, FAILED, reason)

    def _end(self, job_id: str, state: str, outcome: Mapping[str, Any]) -> None:
        with self._lock:
            job = self.get(job_id)
            if job is None:
                return  # deleted by the client in the meantime
            self._execute(
                "UPDATE jobs SET state = ?, finished = ?, outcome = ? WHERE id = ?",
                state, self._clock(), json.dumps(outcome), job_id,
            )  # fmt: skip
            if state == DONE:
                self.recording_of(job).unlink(missing_ok=True)
            else:
                shutil.rmtree(self.folder_of(job_id), ignore_errors=True)

    def requeue(self, job_id: str, *, counts: bool = True) -> None:
        """Let a job wait again, without its provisional rows. counts: whether the start that was interrupted counts as
        one of `MAX_STARTS`."""
        partial_rows.remove(self.folder_of(job_id))
        self._execute(
            "UPDATE jobs SET state = ?, started = NULL, starts = starts - ? WHERE id = ?",
            QUEUED,
            int(not counts),
            job_id,
        )

    def delete(self, job_id: str) -> str | None:
        """Delete everything of a job; returns the state that it had, None if there is none."""
        gone = self._execute("DELETE FROM jobs WHERE id = ? RETURNING state", job_id)
        shutil.rmtree(self.folder_of(job_id), ignore_errors=True)
        return str(gone[0]["state"]) if gone else None

    # --- cleaning ----------------------------------------------------------------------------------------

    def delete_old(self, keep_seconds: float) -> list[str]:
        """Delete the jobs that ended more than `keep_seconds` ago; returns their identifiers."""
        rows = self._execute("SELECT id FROM jobs WHERE finished < ?", self._clock() - keep_seconds)
        old = [str(row["id"]) for row in rows]
        for job_id in old:
            self.delete(job_id)
        self._execute("PRAGMA wal_checkpoint(TRUNCATE)")  # the log still holds deleted rows
        return old

    def recover(self) -> tuple[int, int]:
        """After a start of the server: let interrupted jobs wait again, and remove files that belong to no job.

        Returns the numbers of jobs that wait again, and of jobs that failed because they were interrupted too often.
        """
        again = failed = 0
        for job in self.all():
            if job.state == RUNNING and job.starts >= MAX_STARTS_AFTER_RESTART:
                self.fail(job.id, interrupted(job.starts))
                failed += 1
            elif job.state in (RUNNING, QUEUED) and not self.recording_of(job).is_file():
                self.fail(job.id, _LOST)
                failed += 1
            elif job.state == RUNNING:
                self.requeue(job.id)
                again += 1
        known = {job.id for job in self.all() if job.state != FAILED}
        for path in [*self.incoming.iterdir(), *(p for p in self._jobs.iterdir() if p.name not in known)]:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        return again, failed

    def _execute(self, statement: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock:
            return self._db.execute(statement, values).fetchall()


_LOST = OutputError(
    "the recording is no longer in the server's folder",
    follows="It was not predicted.",
    remedy="Upload it again.",
).record()


def interrupted(starts: int) -> dict[str, str]:
    """The reason of a job that was started `starts` times and never came to an end."""
    return ServerError(
        f"the server ended {starts} times while it predicted this recording",
        follows="It is not tried again, because it may be the cause.",
        remedy="Try it alone with `mien predict`, and report what happens.",
    ).record()


def _job(row: sqlite3.Row) -> Job:
    values = {key: row[key] for key in row.keys()}  # noqa: SIM118 (iterating over a Row gives its values)
    outcome = json.loads(values.pop("outcome") or "{}")
    return Job(**values | {"options": JobOptions(**json.loads(values["options"]))}, outcome=outcome)


def _sync_folder(folder: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):  # Windows opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
