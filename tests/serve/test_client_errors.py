"""Errors of `mien.Client`: what failed, the value, what follows and what to do."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from running_server import TOKEN, RunningServer, quiet_server

import mien
from mien import client as client_module
from mien.errors import ConfigError, MediaError, MienError, ServerError


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with quiet_server(tmp_path_factory.mktemp("errors"), token=TOKEN, upload_bytes=1 << 20) as running:
        yield running


@pytest.mark.parametrize("url", ["127.0.0.1:8642", "http://127.0.0.1:99999", "http://127.0.0.1:http", "ftp://host"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"is not the address of a server\nNothing was sent\.\nUse the address"):
        mien.Client(url)


@pytest.mark.parametrize("token", ["tökén", "two\nlines", "a\0b"])
def test_a_token_that_no_header_can_hold_is_refused(token: str) -> None:
    with pytest.raises(ConfigError, match=r"the token holds .*\nNothing was sent\.\nCopy it again") as caught:
        mien.Client("http://127.0.0.1:8642", token)
    assert token not in str(caught.value)


def test_a_token_from_a_file_ends_with_its_line(server: RunningServer) -> None:
    assert mien.Client(server.url, f"{TOKEN}\n").models()["models"][0]["name"] == "starter"


@pytest.mark.parametrize("token", ["", "wrong"])
def test_a_wrong_token_says_what_to_give_the_client(server: RunningServer, token: str) -> None:
    with pytest.raises(ConfigError, match=rf"{server.url}: the .*token.*\n.*\nGive mien\.Client the token"):
        mien.Client(server.url, token).models()


@pytest.mark.parametrize(
    ("size", "options", "kind", "message"),
    [
        (0, {}, MediaError, r"clip\.mp4 is empty \(0 bytes\)\nNothing was sent\.\nCopy or download it again"),
        ((1 << 20) + 1, {}, MediaError, r"larger than 1 MB\n.*\nSend a part of the recording"),
        (9, {"maxfaces": 2}, ConfigError, r"'maxfaces': there is no such option\n.*\nDid you mean max_faces\?"),
        (9, {"max_faces": 99}, ConfigError, r"max_faces '99': .*less than or equal to 64\nNothing was accepted\."),
        (9, {"model": "other" * 99}, ConfigError, r"model 'other.{50,55}\.\.\.: this server does not offer it\n"),
    ],
)
def test_what_cannot_be_predicted(
    server: RunningServer, tmp_path: Path, size: int, options: dict[str, Any], kind: type[MienError], message: str
) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(bytes(size))
    with pytest.raises(kind, match=message):
        mien.Client(server.url, TOKEN).predict(path, **options)
    assert server.get("/v1/timelines") == {"timelines": []}


def test_a_job_that_is_not_there(server: RunningServer) -> None:
    client = mien.Client(server.url, TOKEN)
    for job_id in ("deleted", "with space?"):
        with pytest.raises(ServerError, match=r"there is no such timeline\n.*\nUpload the recording again"):
            next(client.rows(job_id))
    with pytest.raises(ServerError, match=r"GET '/v2/v1/models': not found\n"):
        mien.Client(f"{server.url}/v2", TOKEN).models()


Serve = Callable[[list[dict[str, Any] | None]], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server that gives answers one after the other, and hangs up for None; the last one again and again."""
    servers = []

    def start(answers: list[dict[str, Any] | None]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
                if answer is not None:
                    self.send_response(200)
                    self.end_headers()
                    self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for one in servers:
        one.shutdown()
        one.server_close()


def answer_of(first: int, *, final: bool) -> dict[str, Any]:
    return {"rows": [{"time_s": 0.0}], "first": first, "next": first + 1, "run": "1", "final": final, "last": final}


def test_rows_go_on_when_the_server_restarts(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module.time, "sleep", lambda seconds: None)
    url = serve([answer_of(0, final=False), None, None, answer_of(0, final=True)])
    assert [part.final for part in mien.Client(url).rows("job")] == [False, True]


def test_rows_end_with_an_error_when_the_server_stays_away(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module.time, "sleep", lambda seconds: None)
    for answers, patience_s in (([None], 600.0), ([answer_of(0, final=False), None], 0.0)):
        with pytest.raises(ServerError, match=r"no answer from http://127\.0\.0\.1"):
            list(mien.Client(serve(answers), patience_s=patience_s).rows("job"))
