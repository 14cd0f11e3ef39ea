"""Rows of a job while it runs: the files, the route, the client. The runner is a function here, without a process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
import timeline_rows
from running_server import until
from starlette.testclient import TestClient

from mien.errors import ServerError
from mien.labels import EXPRESSIONS
from mien.serve import partial_rows
from mien.serve.app import create_app
from mien.serve.jobs import DONE, FAILED, RESULT, JobOptions, JobStore
from mien.serve.partial_rows import RowWriter
from mien.serve.ray_runner import RayRunner
from mien.serve.service import Service
from mien.serve.settings import Settings
from mien.serve.worker_process import DIED, STOPPED, Limits, RunResult
from mien.timeline.table import Timeline


def table(times: list[float], subject: int = 0) -> pl.DataFrame:
    """Rows of one subject at these times."""
    return timeline_rows.rows(len(times), subject).with_columns(time_s=pl.Series(times))


def ticks(count: int, step: float = 0.1) -> list[float]:
    return [round(n * step, 6) for n in range(count)]


def test_rows_are_read_by_their_number(tmp_path: Path) -> None:
    writer = RowWriter(tmp_path)
    assert partial_rows.read(tmp_path, 0, 9) == []
    writer.add(table(ticks(7)))
    writer.add(table([0.7, 0.8]))
    everything = partial_rows.read(tmp_path, 0, 99)
    assert [row["time_s"] for row in everything] == ticks(9)
    for after in range(11):
        for limit in (1, 3, 99):
            assert partial_rows.read(tmp_path, after, limit) == everything[after : after + limit]
    assert partial_rows.count(tmp_path) == 9
    partial_rows.remove(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert (partial_rows.count(tmp_path), partial_rows.read(tmp_path, 0, 9)) == (0, [])


def test_rows_are_bounded_in_number_and_bytes(tmp_path: Path) -> None:
    writer = RowWriter(tmp_path)
    writer.add(pl.concat([table(ticks(300, 1 / 30)), table(ticks(300, 1 / 30), subject=1)]).sort("time_s", "subject"))
    assert partial_rows.count(tmp_path) == 200
    assert {row["subject"] for row in partial_rows.read(tmp_path, 0, 10)} == {0, 1}
    line = len((tmp_path / partial_rows.ROWS).read_bytes().splitlines(keepends=True)[0])
    small = RowWriter(tmp_path, max_bytes=3 * line + line // 2)
    small.add(table(ticks(2)))
    small.add(table([0.2, 0.3, 0.4]))
    small.add(table([0.5]))
    assert [row["time_s"] for row in partial_rows.read(tmp_path, 0, 10)] == ticks(3)


class Steps:
    """A runner whose runs are controlled by the test: each does what the next function says."""

    def __init__(self, *runs: Callable[[Path, Callable[[], bool]], RunResult]) -> None:
        self.runs = list(runs)

    def run(self, media: Path, out: Path, options: JobOptions, on_progress: Any, stop: Callable[[], bool]) -> RunResult:
        return self.runs.pop(0)(out, stop)

    def close(self) -> None:
        pass


@pytest.fixture
def go() -> threading.Event:
    return threading.Event()


def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *runs: Any) -> TestClient:
    monkeypatch.setattr(Service, "_runners", lambda self: [Steps(*runs)])
    service = Service(Settings(tmp_path / "data", workers=1))
    return TestClient(create_app(service), base_url="http://127.0.0.1")


def upload(client: TestClient) -> str:
    answer = client.post("/v1/timelines", content=b"video", headers={"content-type": "video/mp4"})
    assert answer.status_code == 202
    return str(answer.headers["location"])


def finished(out: Path) -> RunResult:
    Timeline(timeline_rows.rows(40), classes=EXPRESSIONS).to_parquet(out / RESULT)
    partial_rows.remove(out)
    return RunResult(DONE, {"rows": 40, "subjects": [0]})


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, go: threading.Event) -> Iterator[TestClient]:
    """A server whose first run gives three rows and dies, and whose second one gives five and finishes."""

    def wait(stop: Callable[[], bool]) -> None:
        until(lambda: go.is_set() or stop())
        go.clear()

    def first(out: Path, stop: Callable[[], bool]) -> RunResult:
        RowWriter(out).add(table(ticks(3)))
        wait(stop)
        return RunResult(DIED, {"type": "ServerError", "what": "it died"})

    def second(out: Path, stop: Callable[[], bool]) -> RunResult:
        wait(stop)
        writer = RowWriter(out)
        writer.add(table(ticks(5)))
        wait(stop)
        return finished(out) if not stop() else RunResult(STOPPED)

    with served(tmp_path, monkeypatch, first, second) as client:
        yield client


def test_rows_of_a_job_from_its_start_to_its_result(parts: TestClient, go: threading.Event) -> None:
    address = upload(parts)

    def rows(after: int, run: str = "", wait: float = 20) -> dict[str, Any]:
        found: dict[str, Any] = parts.get(f"{address}/rows?after={after}&run={run}&wait={wait}").json()
        return found

    until(lambda: len(rows(0)["rows"]) == 3)
    part = rows(0)
    assert [row["time_s"] for row in part["rows"]] == ticks(3)
    assert (part["first"], part["next"], part["run"], part["final"], part["last"]) == (0, 3, "1", False, False)
    began = time.monotonic()
    assert rows(3, "1", wait=0.2)["rows"] == []
    assert 0.2 <= time.monotonic() - began < 5
    go.set()  # the worker dies: its rows are gone
    until(lambda: parts.get(address).json()["state"] == "running" and rows(3, "1", wait=0)["run"] == "2")
    part = rows(3, "1", wait=0)
    assert (part["first"], part["rows"]) == (0, [])  # not those of the first run
    threading.Timer(0.1, go.set).start()
    part = rows(0, "2")
    assert (len(part["rows"]), part["run"]) == (5, "2")
    threading.Timer(0.1, go.set).start()
    for _ in range(5):
        if not part["final"]:
            part = rows(part["next"], part["run"])
    assert (len(part["rows"]), part["first"], part["next"], part["run"], part["last"]) == (40, 0, 40, "final", True)
    assert [len(rows(n, "final")["rows"]) for n in (0, 39, 40, 99)] == [40, 1, 0, 0]
    assert rows(10)["first"] == 10


def test_rows_of_a_server_that_was_killed_are_gone_after_its_restart(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "data")
    (store.incoming / "upload").write_bytes(b"video")
    job = store.add("upload", store.incoming / "upload", ".mp4", JobOptions())
    assert store.claim() is not None
    RowWriter(store.folder_of(job.id)).add(table(ticks(3)))
    store.close()
    again = JobStore(tmp_path / "data")
    assert again.recover() == (1, 0)
    assert [path.name for path in again.folder_of(job.id).iterdir()] == ["recording.mp4"]
    again.close()


def test_rows_are_deleted_with_their_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: TestClient, go: threading.Event
) -> None:
    address = upload(parts)
    until(lambda: len(parts.get(f"{address}/rows").json()["rows"]) == 3)
    folder = tmp_path / "data" / "jobs" / address.rpartition("/")[2]
    assert {path.name for path in folder.iterdir()} >= {partial_rows.ROWS, partial_rows.ENDS}
    assert parts.delete(address).status_code == 204
    until(lambda: not folder.exists())
    assert parts.get(f"{address}/rows").status_code == 404


def test_rows_of_a_failed_job_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(out: Path, stop: Callable[[], bool]) -> RunResult:
        RowWriter(out).add(table(ticks(3)))
        return RunResult(FAILED, {"type": "MediaError", "what": "it is damaged"})

    with served(tmp_path, monkeypatch, fail) as client:
        address = upload(client)
        until(lambda: client.get(address).json()["state"] == "failed")
        found = client.get(f"{address}/rows?after=3&run=1&wait=20").json()
        assert (found["rows"], found["last"], found["final"]) == ([], True, False)
        assert client.get(f"{address}/rows?wait=31").status_code == 422


def test_client_yields_rows_until_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    from mien.client import Client, Rows

    answers = [
        {"rows": [], "first": 0, "next": 0, "run": "1", "final": False, "last": False},
        {"rows": [{"time_s": 0.0}, {"time_s": 0.1}], "first": 0, "next": 2, "run": "1", "final": False, "last": False},
        {"rows": [{"time_s": 0.2}], "first": 2, "next": 3, "run": "1", "final": False, "last": False},
        {"rows": [{"time_s": 0.0}], "first": 0, "next": 1, "run": "final", "final": True, "last": False},
        {"rows": [{"time_s": 0.05}], "first": 1, "next": 2, "run": "final", "final": True, "last": True},
    ]
    asked: list[str] = []

    def request(self: Client, method: str, address: str, **_: Any) -> dict[str, Any]:
        asked.append(address)
        return answers.pop(0)

    monkeypatch.setattr(Client, "_request", request)
    found = list(Client("http://127.0.0.1:1").rows("abc"))
    assert found == [
        Rows([{"time_s": 0.0}, {"time_s": 0.1}], 0, False),
        Rows([{"time_s": 0.2}], 2, False),
        Rows([{"time_s": 0.0}], 0, True),
        Rows([{"time_s": 0.05}], 1, True),
    ]
    assert asked[3] == "/v1/timelines/abc/rows?after=3&run=1&wait=20.00"

    answers[:] = [
        {"rows": [], "first": 0, "next": 0, "run": "1", "final": False, "last": True},
        {"reason": {"type": "ServerError", "what": "it died", "follows": "", "remedy": ""}},
    ]
    with pytest.raises(ServerError, match="it died"):
        list(Client("http://127.0.0.1:1").rows("abc"))


def test_rows_are_copied_from_the_machine_of_a_cluster(tmp_path: Path) -> None:
    """Without Ray: an actor is a folder, and its answers are values."""
    there, here = tmp_path / "there", tmp_path / "here"
    for folder in (there, here):
        folder.mkdir()

    def read(name: str, start: int) -> bytes:
        return (there / name).read_bytes()[start:] if (there / name).exists() else b""

    runner = RayRunner(SimpleNamespace(get=lambda value, timeout: value), Limits(1, 1))
    runner._actor = SimpleNamespace(read=SimpleNamespace(remote=read))
    runner._fetch_rows(here)
    assert partial_rows.read(here, 0, 9) == []
    writer = RowWriter(there)
    for times in ([0.0, 0.1], [0.2], [], [0.3, 0.4]):
        writer.add(table(times))
        runner._fetch_rows(here)
        assert partial_rows.read(here, 0, 99) == partial_rows.read(there, 0, 99)
    assert partial_rows.count(here) == 5
    writer.add(table([0.5]))
    ends = (there / partial_rows.ENDS).read_bytes()
    (there / partial_rows.ENDS).write_bytes(ends[:-8])  # a row whose position is not written yet
    runner._fetch_rows(here)
    assert len(partial_rows.read(here, 0, 99)) == 5
    (there / partial_rows.ENDS).write_bytes(ends)
    runner._fetch_rows(here)
    assert partial_rows.read(here, 0, 99) == partial_rows.read(there, 0, 99)
    assert partial_rows.count(here) == 6
