"""Which requests the guard passes on: names and origins behind a proxy, and in browsers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mien.errors import ConfigError
from mien.serve.guard import Guard
from mien.serve.service import Tickets
from mien.serve.settings import check_access, is_loopback
from mien.serve.upload import suffix_of

PUBLIC = "https://mien.example.org"


def status_of(headers: dict[str, str], *, loopback: bool = True, public: str = "", path: str = "/v1/timelines") -> int:
    """Status that a GET request gets from an application behind a guard; 200 if it is passed on."""
    found: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            found.append(message["status"])
            assert b"content-security-policy" in dict(message["headers"])

    guard = Guard(
        app, token="", loopback=loopback, public=public, is_open=lambda path, query: False, on_response=lambda *_: None
    )
    scope = {
        "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"", "scheme": "http",
        "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
    }  # fmt: skip
    asyncio.run(guard(scope, None, send))  # type: ignore[arg-type]
    return found[0]


@pytest.mark.parametrize(
    ("headers", "public", "loopback", "status"),
    [
        ({"Host": "127.0.0.1:8642"}, "", True, 200),
        ({"Host": "LOCALHOST:1"}, "", True, 200),
        ({"Host": "[::1]:8642"}, "", True, 200),
        ({"Host": "127.9.9.9"}, "", True, 200),
        ({"Host": "mien.example.org"}, "", True, 403),
        ({"Host": "mien.example.org"}, PUBLIC, True, 200),
        ({"Host": "mien.example.org", "Origin": PUBLIC}, PUBLIC, True, 200),
        ({"Host": "127.0.0.1:8642", "Origin": PUBLIC}, PUBLIC, True, 200),  # a proxy that replaces Host
        ({"Host": "mien.example.org", "Origin": PUBLIC}, "", False, 403),  # TLS that the server does not know of
        ({"Host": "mien.example.org", "Origin": "http://mien.example.org"}, "", False, 200),
        ({"Host": "other.example.org", "Origin": "https://other.example.org"}, PUBLIC, True, 403),
        ({"Host": "127.0.0.1:8642", "Origin": "http://127.0.0.1:8642", "Sec-Fetch-Site": "same-origin"}, "", True, 200),
        ({"Host": "127.0.0.1:8642", "Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, "", True, 200),
        ({"Host": "127.0.0.1:8642", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, "", True, 403),
    ],
)
def test_names_and_origins(headers: dict[str, str], public: str, loopback: bool, status: int) -> None:
    assert status_of(headers, public=public, loopback=loopback) == status


def test_links_from_elsewhere_reach_the_page_only() -> None:
    link = {"Host": "127.0.0.1", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert [status_of(link, path=path) for path in ("/", "/v1/models")] == [200, 403]


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("::", False), ("10.0.0.1", False),
     ("localhost.example.org", False), ("", False)],
)  # fmt: skip
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize("token", ["short", "with a space in between", "ä" * 20, "a" * 201, "line\nbreak-0123456789"])
def test_tokens_that_cannot_be_sent_are_refused(token: str) -> None:
    with pytest.raises(ConfigError, match="--token") as caught:
        check_access("127.0.0.1", token)
    assert token not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("clip.MP4", ".mp4"), ("a/b.c/d", ""), ("..\\x.wav", ".wav"), ("a.tar.gz", ".gz"), ("x.mp4/", ""), ("x.m p4", ""),
     ("x." + "a" * 9, ""), (".mp4", ""), ("", ""), ("a.mp4\0", ""), ("x.mp4;.sh", ".sh")],
)  # fmt: skip
def test_suffixes_of_names(name: str, suffix: str) -> None:
    assert suffix_of(name) == suffix


def test_tickets_are_for_one_path_and_one_use(monkeypatch: pytest.MonkeyPatch) -> None:
    tickets = Tickets()
    link = tickets.issue("/a")
    path, _, query = link.partition("?")
    assert not tickets.use("/b", query.encode())
    assert not tickets.use(path, b"")
    assert [tickets.use(path, query.encode()) for _ in range(2)] == [True, False]
    late = tickets.issue("/a").partition("?")[2].encode()
    monkeypatch.setattr("mien.serve.service.time.monotonic", lambda: 1e12)
    assert not tickets.use("/a", late)
    for _ in range(3):
        tickets.issue("/a")
    assert len(tickets._issued) <= 3
