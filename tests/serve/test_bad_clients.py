"""Bad clients: each gets the right status, leaves no file and no output; others are served meanwhile."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from bad_clients import IDLE_S, KINDS, LIMIT, Kind
from running_server import TOKEN, RunningServer, silence_wav, until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server; health checks go on in the background, and all have to be answered."""
    folder = tmp_path_factory.mktemp("attacked")
    running = RunningServer(folder, token=TOKEN, upload_bytes=LIMIT, idle_seconds=IDLE_S, workers=1, job_seconds=60.0)
    ended, answers = threading.Event(), []

    def ask() -> None:
        while not ended.wait(0.05):
            answers.append(running.request("GET", "/healthz")[0])  # an error after a minute without an answer

    thread = threading.Thread(target=ask)
    thread.start()
    yield running
    ended.set()
    thread.join()
    assert set(answers) == {200}
    until(lambda: running.get("/v1/timelines")["timelines"] == [])
    assert running.files() == set()
    assert running.process.poll() is None
    running.stop()
    assert "".join(running.output) == ""


@pytest.fixture(scope="module")
def codes(server: RunningServer) -> dict[str, int]:
    """Status that each kind got: many at once, because some wait for the server to lose its patience; none becomes a
    job."""
    refused = [kind for kind in KINDS if not kind.accepted]
    with ThreadPoolExecutor(12) as pool:
        got = list(pool.map(lambda kind: kind.run(server), refused))
    assert server.get("/v1/timelines") == {"timelines": []}
    return {kind.name: code for kind, code in zip(refused, got, strict=True)}


@pytest.fixture(scope="module")
def jobs(server: RunningServer, codes: dict[str, int]) -> Iterator[dict[str, tuple[int, str]]]:
    """Status that each kind that is accepted got, and the address of its job. Their jobs wait in the queue together."""
    found, known = {}, set[str]()
    for kind in (kind for kind in KINDS if kind.accepted):
        code = kind.run(server)
        now = {job["links"]["self"] for job in server.get("/v1/timelines")["timelines"]}
        (address,) = now - known
        found[kind.name], known = (code, address), now
    yield found
    for address in known:
        server.request("DELETE", address)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.accepted], ids=lambda kind: kind.name)
def test_bad_client_is_refused(codes: dict[str, int], kind: Kind) -> None:
    assert codes[kind.name] in kind.expected


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.accepted], ids=lambda kind: kind.name)
def test_bad_upload_fails_with_a_reason(server: RunningServer, jobs: dict[str, tuple[int, str]], kind: Kind) -> None:
    code, address = jobs[kind.name]
    assert code in kind.expected
    record = server.wait(address, "failed", "done")
    assert record["state"] == "failed"
    assert record["reason"]["remedy"]
    assert str(server.folder) not in str(record)


def test_there_are_enough_kinds() -> None:
    assert len(KINDS) >= 100


def test_report_opens_with_a_ticket_once(server: RunningServer) -> None:
    address = server.upload(silence_wav(1.0), name="a.wav")
    server.wait(address, "done")
    status, body, _ = server.request("POST", f"{address}/ticket")
    link = json.loads(body)["link"]
    stranger = {"Authorization": "none"}
    assert [server.request("GET", link, headers=stranger)[0] for _ in range(2)] == [200, 401]
    other = json.loads(server.request("POST", f"{address}/ticket")[1])["link"].partition("?")[2]
    assert server.request("GET", f"{address}/timeline.csv?{other}", headers=stranger)[0] == 401
    server.request("DELETE", address)
    assert status == 200
