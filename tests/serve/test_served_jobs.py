"""Jobs of the server: results, limits, and what is left when workers and servers are killed. Real processes."""

from __future__ import annotations

import http.client
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import polars as pl
import pytest
from running_server import RunningServer, quiet_server, silence_wav, until

import mien
from mien.client import Rows
from mien.errors import ConfigError, MediaError, ServerError
from mien.media.video import frames, write_video
from mien.serve.jobs import FAILED, JobOptions
from mien.serve.worker_process import Limits, WorkerProcess
from mien.timeline.table import Timeline


@pytest.fixture(scope="module")
def clip(shared: Path) -> Path:
    return shared / "clips" / "single_face.mp4"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with quiet_server(tmp_path_factory.mktemp("served"), workers=1) as running:
        yield running


def test_client_returns_what_predict_does(server: RunningServer, clip: Path) -> None:
    local = mien.predict(clip, max_faces=2)
    seen: list[float] = []
    remote = mien.Client(server.url).predict(clip, max_faces=2, progress=seen.append)
    assert remote.table.equals(local.table)
    assert remote.classes == local.classes
    assert remote.notes == local.notes
    assert remote.media == str(clip)
    assert remote.info["media"] == local.info["media"]
    assert seen == sorted(seen)
    assert seen[-1] == 1
    assert server.files() == set()  # the client deletes its job
    assert server.get("/v1/timelines") == {"timelines": []}


def test_formats_report_and_rows(server: RunningServer, clip: Path, tmp_path: Path) -> None:
    address = server.upload(clip.read_bytes(), "?report=true")
    record = server.wait(address, "done")
    assert record["rows"] == 72
    assert record["links"]["csv"] == f"{address}/timeline.csv"
    tables = {}
    for kind in server.get("/v1/models")["formats"]:
        status, body, headers = server.request("GET", f"{address}/timeline.{kind}")
        assert status == 200
        assert f'filename="timeline.{kind}"' in headers["content-disposition"]
        path = tmp_path / f"timeline.{kind}"
        path.write_bytes(body)
        if kind in ("csv", "jsonl", "parquet"):
            tables[kind] = Timeline.read(path).table
    assert {"csv", "jsonl", "parquet"} <= set(tables)
    assert pl.Series(tables["csv"]["valence"] - tables["parquet"]["valence"]).abs().max() < 1e-5
    _, report, headers = server.request("GET", f"{address}/report")
    assert b"video/mp4" in report
    assert headers["content-security-policy"].startswith("sandbox allow-scripts")
    first, second = (server.get(f"{address}/rows?after={n}&limit=50") for n in (0, 50))
    assert [len(first["rows"]), len(second["rows"])] == [50, 22]
    assert (first["last"], second["last"], second["next"]) == (False, True, 72)
    assert first["rows"][7]["valence"] == tables["parquet"]["valence"][7]
    names = {name.rpartition("/")[2] for name in server.files()}
    assert "recording.mp4" not in names  # the upload is gone when it is predicted
    assert server.request("DELETE", address)[0] == 204
    assert server.files() == set()
    assert server.request("GET", address)[0] == 404


def test_report_without_the_recording_has_the_charts(server: RunningServer) -> None:
    address = server.upload(silence_wav(2), name="x.wav")
    server.wait(address, "done")
    status, report, _ = server.request("GET", f"{address}/report")
    assert status == 200
    assert b"<html" in report
    assert b"data:audio" not in report
    server.request("DELETE", address)


def test_page_of_routes_names_all_of_them(server: RunningServer) -> None:
    status, page, headers = server.request("GET", "/docs")
    assert status == 200
    assert "script-src 'self'" in headers["content-security-policy"]
    routes = server.get("/openapi.json")["paths"]
    assert {"/v1/timelines", "/v1/timelines/{job_id}", "/v1/models", "/healthz", "/metrics"} <= set(routes)
    for path in routes:
        assert f"{path}</code>".encode() in page
    assert b"<code>max_faces</code></td><td>4</td><td>Most people tracked at once." in page
    assert b"http://" not in page
    assert b"https://" not in page


def test_waiting_for_news_of_a_job(server: RunningServer, clip: Path) -> None:
    address = server.upload(clip.read_bytes())
    seen = [server.get(address)]
    while seen[-1]["state"] not in ("done", "failed"):
        seen.append(server.get(f"{address}?wait=30"))
        assert seen[-1] != seen[-2], "an answer after half a minute without news"
    assert 2 <= len(seen) <= 15
    began = time.monotonic()
    assert server.get(f"{address}?wait=30")["state"] == "done"  # nothing to wait for
    assert time.monotonic() - began < 30
    assert server.request("GET", f"{address}?wait=31")[0] == 422
    server.request("DELETE", address)
    bad = server.upload(b"ends at once")
    seen = [server.get(bad)]
    while seen[-1]["state"] != "failed":
        seen.append(server.get(f"{bad}?wait=30"))
        assert seen[-1] != seen[-2], "an answer after half a minute without news"
    server.request("DELETE", bad)


def test_answers_on_one_connection_are_not_delayed(server: RunningServer) -> None:
    """Without TCP_NODELAY each answer but the first waits 40 ms for an acknowledgement."""
    connection, times = http.client.HTTPConnection(server.host, server.port), []
    for _ in range(30):
        began = time.perf_counter()
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        times.append(time.perf_counter() - began)
    connection.close()
    assert min(times[1:]) < 0.03


def test_failed_jobs_say_why_without_names_of_files(server: RunningServer, tmp_path: Path) -> None:
    text = tmp_path / "secret-name.mp4"
    text.write_text("no video at all")
    with pytest.raises(MediaError) as caught:
        mien.Client(server.url).predict(text)
    assert "the recording" in caught.value.what
    assert "secret" not in str(caught.value)
    assert str(server.folder) not in str(caught.value)


def test_client_errors(server: RunningServer, clip: Path) -> None:
    with pytest.raises(ConfigError, match="does not offer it"):
        mien.Client(server.url).predict(clip, model="other")
    with pytest.raises(MediaError, match="cannot be read"):
        mien.Client(server.url).predict("missing.mp4")
    with pytest.raises(ServerError, match=r"no answer from http://127\.0\.0\.1:1"):
        mien.Client("http://127.0.0.1:1").predict(clip)
    with pytest.raises(ConfigError, match="is not the address of a server"):
        mien.Client("127.0.0.1:8642")


def test_files_are_private_and_metrics_count(server: RunningServer, clip: Path) -> None:
    address = server.upload(clip.read_bytes())
    server.wait(address, "done")
    server.request("GET", f"{address}/timeline.csv")
    for path in (server.folder, *server.folder.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    text = server.request("GET", "/metrics")[1].decode()
    assert 'mien_jobs_total{state="done"}' in text
    assert "single_face" not in text
    database = b"".join(p.read_bytes() for p in server.folder.glob("jobs.sqlite*"))
    assert b"single_face" not in database
    server.request("DELETE", address)


def test_deleting_a_running_job_ends_it(server: RunningServer, clip: Path) -> None:
    address = server.upload(clip.read_bytes())
    later = server.upload(clip.read_bytes())
    server.wait(address, "running")
    assert server.get(later)["before"] == 0
    assert server.request("DELETE", address)[0] == 204
    assert server.wait(later, "done")["state"] == "done"
    assert server.request("GET", address)[0] == 404
    server.request("DELETE", later)
    assert server.files() == set()


def test_killed_worker_is_tried_once_more_and_then_fails_with_a_reason(server: RunningServer, clip: Path) -> None:
    address = server.upload(clip.read_bytes())
    kill_worker(server, address)
    assert server.wait(address, "done")["rows"] == 72
    server.request("DELETE", address)

    address = server.upload(clip.read_bytes())
    first = kill_worker(server, address)
    until(lambda: bool(server.children()) and server.children() != first)
    kill_worker(server, address)
    reason = server.wait(address, "failed")["reason"]
    assert "signal 9 (SIGKILL)" in reason["what"]
    assert reason["remedy"]
    assert server.request("GET", f"{address}/timeline.csv")[0] == 410
    assert server.files() == set()
    del server.output[:]  # both are logged
    server.request("DELETE", address)


def test_rows_come_while_a_job_runs_and_start_again_with_it(server: RunningServer, clip: Path, tmp_path: Path) -> None:
    images = [cv2.resize(frame.image, (320, 180)) for frame in frames(clip)]
    path, count = tmp_path / "long.mp4", 2400  # a run of it takes several seconds, and the first rows one
    write_video(path, (images[n % len(images)] for n in range(count)), times=[n / 25 for n in range(count)], audio=None)
    parts: list[Rows] = []

    def on_rows(part: Rows) -> None:
        parts.append(part)
        if len(parts) == 1:
            server.kill_children("mien.serve.worker")

    timeline = mien.Client(server.url).predict(path, on_rows=on_rows)
    assert len(timeline) == count
    assert [part.first for part in parts].count(0) == 2  # each run has rows of its own
    last = parts[max(n for n, part in enumerate(parts) if part.first == 0) :]
    rows = [row for part in last for row in part.rows]
    assert not any(part.final for part in parts)
    times = [row["time_s"] for row in rows]
    assert times == sorted(times)
    assert set(times) <= set(timeline.table["time_s"])
    assert {row["evidence"] for row in rows} == {"face"}
    assert server.files() == set()
    del server.output[:]  # the death is logged


def test_accepted_jobs_survive_the_death_of_the_server(clip: Path, tmp_path: Path) -> None:
    first = RunningServer(tmp_path / "data", workers=1)
    addresses = [first.upload(clip.read_bytes()) for _ in range(2)]
    first.wait(addresses[0], "running")
    until(lambda: bool(first.children()))
    workers = first.children()
    (tmp_path / "data" / "incoming" / "half").write_bytes(b"part of an upload")
    first.kill()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))  # no worker is left alone
    second = RunningServer(tmp_path / "data", workers=1)
    try:
        assert [second.wait(address, "done")["rows"] for address in addresses] == [72, 72]
        assert {name.rpartition("/")[2] for name in second.files()} == {"timeline.parquet"}
    finally:
        second.stop()


def test_limits_of_time_queue_and_age(clip: Path, tmp_path: Path) -> None:
    server = RunningServer(tmp_path / "data", workers=1, queue=1, keep_seconds=2.0, job_seconds=0.3)
    try:
        with pytest.raises(AssertionError, match="another mien serve uses the folder"):
            RunningServer(tmp_path / "data")
        address = server.upload(clip.read_bytes())
        headers = {"Content-Type": "video/mp4"}
        status, body, found = 0, b"", dict[str, str]()
        for _ in range(20):  # one runs and one waits, or a few more where the first ones have ended meanwhile
            status, body, found = server.request("POST", "/v1/timelines", clip.read_bytes(), headers)
            if status == 429:
                break
        assert status == 429, body
        assert int(found["retry-after"]) >= 1
        assert "longer than 0.3 s" in server.wait(address, "failed")["reason"]["what"]
        until(lambda: server.get("/v1/timelines") == {"timelines": []})
        assert server.files() == set()
    finally:
        server.stop()


def test_a_worker_that_needs_too_much_memory_is_ended(clip: Path, tmp_path: Path) -> None:
    worker = WorkerProcess(Limits(seconds=60, memory_bytes=60 << 20))
    found = worker.run(clip, tmp_path, JobOptions(), lambda done: None, lambda: False)
    assert found.state == FAILED
    assert "GB of memory" in found.facts["what"]
    assert worker.pid is None


def kill_worker(server: RunningServer, address: str) -> list[int]:
    """Kill the workers during a job as the system does where memory is short."""
    server.wait(address, "running")
    until(lambda: bool(server.children()))
    return server.kill_children("mien.serve.worker")
