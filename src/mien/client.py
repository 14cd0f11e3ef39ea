"""Client of a mien server: predict a recording on another machine.

    client = mien.Client("http://127.0.0.1:8642", token="...")
    timeline = client.predict("clip.mp4")

Uses the standard library alone.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from mien import errors
from mien.errors import ConfigError, MediaError, MienError, ServerError
from mien.timeline.table import Timeline

#: Longest time in seconds that the server waits for news of a job before it answers, and the pause after an answer.
WAIT_S, PAUSE_S = 20.0, 0.05
#: Seconds without an answer after which a request fails.
TIMEOUT_S = 60.0
_BLOCK = 1 << 20


class Rows(NamedTuple):
    """Rows of a job on a server.

    rows: dicts with the columns of a Timeline. first: number of the first row; 0 where they replace all before. final:
    they are those of the result, not provisional.
    """

    rows: list[dict[str, Any]]
    first: int
    final: bool


class Client:
    """Client of a server that `mien serve` started.

    Args:
        url: address of the server, as `http://127.0.0.1:8642`.
        token: of the server, "" if it has none. Spaces and line breaks around it, as a file may have, are left out.
        patience_s: how long to wait, in seconds, while the queue of the server is full or the server restarts.

    Raises:
        ConfigError: the address is not one of HTTP, or the token cannot be sent in a header.
    """

    def __init__(self, url: str, token: str = "", *, patience_s: float = 600.0) -> None:
        try:
            parts = urlsplit(url)
            is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port that is no number, or too large
            is_address = False
        if not is_address:
            raise ConfigError(
                f"{url!r} is not the address of a server",
                follows="Nothing was sent.",
                remedy="Use the address that `mien serve` prints, as http://127.0.0.1:8642.",
            )
        token = token.strip()
        if not (token.isascii() and token.isprintable()):
            raise ConfigError(
                "the token holds letters outside ASCII, or control characters",
                follows="Nothing was sent.",
                remedy="Copy it again from the output of `mien serve`, or from its MIEN_TOKEN.",
            )
        self._url, self._parts, self._token, self._patience = url.rstrip("/"), parts, token, patience_s

    def predict(
        self, path: str | Path, *, progress: Callable[[float], None] | None = None,
        on_rows: Callable[[Rows], None] | None = None, timeout_s: float | None = None, **options: Any,
    ) -> Timeline:  # fmt: skip
        """Predict a recording on the server. The job is deleted there at the end, and if this is interrupted.

        Args:
            path: a video, sound file or picture.
            progress: called with the part that is done, in [0, 1], when it changes.
            on_rows: called with provisional rows while the server predicts a video, see `rows`.
            timeout_s: longest time for all, in seconds; None: no limit.
            options: `model`, `max_faces`, `face`, `voice`, `reidentify`, `audio_track`, `split_channels`,
                `min_quality`, `start_s`, `stop_s`, as in `mien.load` and `Predictor.predict`.

        Raises:
            MediaError: the file cannot be read, here or by the server. ConfigError: a wrong option or token.
            ServerError: the server cannot be reached, is full, or could not finish the job.
        """
        deadline = time.monotonic() + (timeout_s if timeout_s is not None else float("inf"))
        job = self._upload(Path(path), options, deadline)
        address = f"/v1/timelines/{job['id']}"
        try:
            job = self._wait(address, job, progress, on_rows, deadline)
            with tempfile.TemporaryDirectory(prefix="mien-") as folder:
                file = Path(folder) / "timeline.parquet"
                with file.open("wb") as target:
                    self._request("GET", f"{address}/timeline.parquet", target=target)
                timeline = Timeline.read(file)
        finally:
            with suppress(MienError):
                self._request("DELETE", address)
        timeline.media = str(path)
        return timeline

    def rows(self, job_id: str) -> Iterator[Rows]:
        """Yield the rows of a job as the server finds them, then those of its result.

        While a video is predicted, rows are provisional: at most ten a second of each person, which the rows of the
        result replace. Where `first` is 0, forget the rows before.

        Args:
            job_id: the `id` of a job, as `POST /v1/timelines` and `GET /v1/timelines` give it.

        Raises:
            MediaError: the server could not read the recording.
            ServerError: there is no such job, it failed, or the server cannot be reached, also not within a minute
                where it answered before.
        """
        address, after, run = f"/v1/timelines/{quote(job_id, safe='')}", 0, ""
        answered: float | None = None
        while True:
            try:
                part, after, run, is_last = self._rows(address, after, run, WAIT_S)
            except _UnreachableError:
                self._pause_if_it_answered(answered)
                continue
            answered = time.monotonic()
            if part.rows or part.final:
                yield part
            if is_last:
                break
        if not part.final:
            raise _error_of(self._request("GET", address)["reason"], ServerError)

    def _rows(self, address: str, after: int, run: str, wait_s: float) -> tuple[Rows, int, str, bool]:
        """Rows after those that are known; the arguments of the next call; and whether no more follow."""
        query = urlencode({"after": after, "run": run, "wait": f"{wait_s:.2f}"})
        answer = self._request("GET", f"{address}/rows?{query}")
        time.sleep(PAUSE_S)
        part = Rows(answer["rows"], answer["first"], answer["final"])
        return part, answer["next"], answer["run"], answer["last"]

    def models(self) -> dict[str, Any]:
        """What the server offers: `models`, `formats` and `limits`. Raises ServerError and ConfigError."""
        return self._request("GET", "/v1/models")

    def _upload(self, path: Path, options: dict[str, Any], deadline: float) -> dict[str, Any]:
        given = {k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in options.items() if v is not None}
        headers = {"Content-Type": "application/octet-stream", "X-File-Name": f"file{_plain_suffix(path)}"}
        start = time.monotonic()
        while True:
            try:
                with path.open("rb") as file:
                    length = os.fstat(file.fileno()).st_size
                    if not length:
                        raise MediaError(
                            f"{path} is empty (0 bytes)",
                            follows="Nothing was sent.",
                            remedy="Copy or download it again and compare its size with the original's.",
                        )
                    return self._request(
                        "POST", f"/v1/timelines?{urlencode(given)}", body=file,
                        headers={**headers, "Content-Length": str(length)},
                    )  # fmt: skip
            except OSError as error:
                raise MediaError(
                    f"{path} cannot be read: {error.strerror or error}",
                    follows="Nothing was sent.",
                    remedy="Check the name and the permissions.",
                ) from error
            except _BusyError as error:
                pause = min(error.retry_after, max(0.0, deadline - time.monotonic()))
                if time.monotonic() + pause > min(deadline, start + self._patience):
                    raise ServerError(error.what, follows=error.follows, remedy=error.remedy) from None
                time.sleep(pause)

    def _wait(
        self, address: str, job: dict[str, Any], progress: Callable[[float], None] | None,
        on_rows: Callable[[Rows], None] | None, deadline: float,
    ) -> dict[str, Any]:  # fmt: skip
        last, answered, after, run = -1.0, time.monotonic(), 0, ""
        while job["state"] not in ("done", "failed"):
            if time.monotonic() > deadline:
                raise ServerError(
                    f"the job is still {job['state']}, and the time given is over",
                    follows="The job was deleted.",
                    remedy="Give a larger timeout_s, or send a part of the recording (start_s, stop_s).",
                )
            wait = max(0.0, min(WAIT_S, deadline - time.monotonic()))
            try:
                if on_rows is not None:
                    part, after, run, _ = self._rows(address, after, run, wait)
                    if part.rows and not part.final:
                        on_rows(part)
                    wait = 0.0
                job, answered = self._request("GET", f"{address}?wait={wait:.2f}"), time.monotonic()
            except _UnreachableError:
                self._pause_if_it_answered(answered)
                continue
            if on_rows is None:
                time.sleep(PAUSE_S)
            if progress is not None and job["progress"] != last:
                last = job["progress"]
                progress(last)
        if job["state"] == "failed":
            raise _error_of(job["reason"], ServerError)
        return job

    def _pause_if_it_answered(self, answered: float | None) -> None:
        """Wait for a server that restarts, which goes on with its jobs; called where it does not answer. answered: when
        it did. Raises the error that is handled if it never did, or too long ago."""
        if answered is None or time.monotonic() - answered > min(self._patience, TIMEOUT_S):
            raise
        time.sleep(1.0)

    def _request(
        self, method: str, address: str, *, body: IO[bytes] | None = None, headers: dict[str, str] | None = None,
        target: IO[bytes] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """One request; returns the JSON of the answer, or writes its bytes to `target`."""
        connection = self._connect()
        sent = {"Accept": "application/json", **(headers or {})}
        if self._token:
            sent["Authorization"] = f"Bearer {self._token}"
        try:
            try:
                connection.request(method, self._parts.path.rstrip("/") + address, body=body, headers=sent)
            except (BrokenPipeError, ConnectionResetError):
                if body is None:
                    raise  # else the server has refused the upload before its end, and says why
            answer = connection.getresponse()
            if answer.status >= 400:
                raise self._refusal(answer)
            if target is not None:
                while data := answer.read(_BLOCK):
                    target.write(data)
                return {}
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.filename is not None:
                raise  # a file here, not the connection
            raise _UnreachableError(
                f"no answer from {self._url}: {error or type(error).__name__}",
                follows="Nothing was predicted.",
                remedy="Check the address, and that `mien serve` runs there.",
            ) from error
        finally:
            connection.close()
        return self._decoded(text) if text else {}

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=ssl.create_default_context())
        return http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)

    def _decoded(self, text: bytes) -> dict[str, Any]:
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ServerError(
                f"{self._url} does not answer as a mien server does",
                follows="Nothing was predicted.",
                remedy="Check the address and the port.",
            )
        return found

    def _refusal(self, answer: http.client.HTTPResponse) -> MienError:
        text = answer.read(1 << 16)
        try:
            reason = json.loads(text)["error"]
            what, follows, remedy = reason["what"], reason["follows"], reason["remedy"]
        except (ValueError, KeyError, TypeError):
            what, follows = f"{self._url} answered with status {answer.status}", "Nothing was predicted."
            remedy = "Check the address, and the log of the server or of the proxy before it."
        if answer.status == 401:
            what = f"{self._url}: {what}"
            remedy = "Give mien.Client the token that the server was started with: token=..."
        if answer.status == 429 or (answer.status == 503 and answer.headers.get("retry-after")):
            seconds = answer.headers.get("retry-after", "")
            return _BusyError(what, follows, remedy, float(seconds) if seconds.isdigit() else 5.0)
        kind = {401: ConfigError, 413: MediaError, 415: MediaError, 422: ConfigError}.get(answer.status, ServerError)
        return kind(what, follows=follows, remedy=remedy)


class _UnreachableError(ServerError):
    """No answer."""


class _BusyError(ServerError):
    """The queue of the server is full. retry_after: seconds."""

    def __init__(self, what: str, follows: str, remedy: str, retry_after: float) -> None:
        super().__init__(what, follows=follows, remedy=remedy)
        self.retry_after = retry_after


def _plain_suffix(path: Path) -> str:
    """The suffix of a name, where a header can hold it. The name itself is not sent."""
    suffix = path.suffix
    return suffix if suffix.isascii() and suffix[1:].isalnum() else ""


def _error_of(reason: dict[str, str], default: type[MienError]) -> MienError:
    """The error that the server describes."""
    kind = getattr(errors, reason.get("type", ""), default)
    if not (isinstance(kind, type) and issubclass(kind, MienError)):
        kind = default
    return kind(reason.get("what", ""), follows=reason.get("follows", ""), remedy=reason.get("remedy", ""))
