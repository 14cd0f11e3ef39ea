"""Kinds of bad clients: what each sends, and the status that it has to get. `test_bad_clients.py` runs them."""

# Each kind is a row of a table, so lines may be long.
# ruff: noqa: E501

from __future__ import annotations

import gzip
import io
import socket
import struct
import time
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from running_server import TOKEN, RunningServer

BEARER = f"Authorization: Bearer {TOKEN}"
FORM = "Content-Type: multipart/form-data; boundary=XX"
#: Settings of the server that the kinds expect.
LIMIT, IDLE_S = 1 << 20, 0.6


@dataclass(frozen=True)
class Kind:
    """One kind. run: returns the status that the client got, 0 for a connection that was closed without an answer.
    expected: the statuses that are right. accepted: the upload becomes a job, which has to fail with a reason."""

    name: str
    run: Callable[[RunningServer], int]
    expected: tuple[int, ...]
    accepted: bool = False


def exchange(server: RunningServer, data: bytes, *, close: bool = False, timeout: float = 60) -> bytes:
    """Send bytes over a new connection and return the answer; close: leave without waiting for it."""
    with socket.create_connection((server.host, server.port), timeout=timeout) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data)
        if close:
            return b""
        answer = b""
        try:
            while piece := connection.recv(1 << 16):
                answer += piece
                head, _, body = answer.partition(b"\r\n\r\n")
                lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                if lengths and len(body) >= int(lengths[0].split(b":")[1]):
                    break
        except ConnectionResetError:
            pass
        return answer


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else 0


def raw(name: str, data: bytes, *expected: int, close: bool = False) -> Kind:
    return Kind(name, lambda server: status(exchange(server, data, close=close)), expected)


def request(
    method: str = "GET", path: str = "/v1/timelines", *headers: str, body: bytes = b"", host: str = "127.0.0.1",
    auth: str = BEARER, length: int | None = None,
) -> bytes:  # fmt: skip
    lines = [f"{method} {path} HTTP/1.1", *([f"Host: {host}"] if host else []), *([auth] if auth else []), *headers]
    if body or length is not None:
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def upload(*headers: str, body: bytes = b"data", path: str = "/v1/timelines", length: int | None = None) -> bytes:
    return request("POST", path, *headers, body=body, length=length)


def form(*parts: tuple[str, bytes], end: bytes = b"--XX--\r\n") -> bytes:
    """A form of parts: their Content-Disposition after `form-data; `, and their data."""
    pieces = [
        b"--XX\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + data + b"\r\n"
        for head, data in parts
    ]
    return b"".join(pieces) + end


OCTETS = "Content-Type: application/octet-stream"
WS = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)


def without_token() -> list[Kind]:
    routes = [
        ("GET", "/v1/timelines"), ("POST", "/v1/timelines"), ("GET", "/v1/timelines/x"), ("DELETE", "/v1/timelines/x"),
        ("GET", "/v1/timelines/x/timeline.csv"), ("GET", "/v1/timelines/x/report"), ("GET", "/v1/models"),
        ("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/nothing"), ("OPTIONS", "/v1/timelines"),
    ]  # fmt: skip
    kinds = [raw(f"no token: {m} {p}", request(m, p, auth=""), 401) for m, p in routes]
    wrong = {
        "wrong": "Bearer wrong-token-0123456789", "empty": "Bearer ", "longer": f"Bearer {TOKEN}x",
        "shorter": f"Bearer {TOKEN[:-1]}", "other scheme": f"Basic {TOKEN}", "no scheme": TOKEN, "list": f"Bearer a, {TOKEN}",
        "capitals": f"Bearer {TOKEN.upper()}", "letters beyond ASCII": "Bearer \xff\xfe\xe9" * 8, "huge": "Bearer " + "a" * 9000,
    }  # fmt: skip
    kinds += [raw(f"token: {k}", request(auth=f"Authorization: {v}"), 401) for k, v in wrong.items()]
    kinds += [
        raw("token in the address", request(path=f"/v1/timelines?token={TOKEN}", auth=""), 401),
        raw("token in a cookie", request(auth=f"Cookie: token={TOKEN}"), 401),
        raw("path that looks open", request(path="/healthz/../v1/timelines", auth=""), 401),
        raw("path with an encoded slash", request(path="/healthz%2f..%2fv1/timelines", auth=""), 401),
        raw("two slashes", request(path="//v1/timelines", auth=""), 401),
        raw("live: no token", request("GET", "/v1/live", *WS, auth=""), 401),
        raw("live: wrong token", request("GET", "/v1/live", *WS, "Sec-WebSocket-Protocol: mien, mien.token.no", auth=""), 401),
    ]  # fmt: skip
    return kinds


def of_other_sites() -> list[Kind]:
    hosts = ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "169.254.169.254", "0.0.0.0", "[::2]:80",
             "127.0.0.1@evil.example", "[::1", "evil.example:127"]  # fmt: skip
    kinds = [raw(f"Host {host}", request(host=host), 403) for host in hosts]
    origins = ["https://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1", "http://127.0.0.1.evil.example",
               "file://", "chrome-extension://abc", "http://localhost"]  # fmt: skip
    kinds += [raw(f"posted from {o}", upload(OCTETS, f"Origin: {o}"), 403) for o in origins]
    kinds += [
        raw("no Host", request(host=""), 400),
        raw("two Hosts", request("GET", "/v1/timelines", "Host: 127.0.0.1"), 400, 403),
        raw("form posted from another site", upload(FORM, "Origin: https://evil.example", body=form(('filename="a"', b"x"))), 403),
        raw("deleted from another site", request("DELETE", "/v1/timelines/x", "Origin: https://evil.example"), 403),
        raw("picture of another site", request("GET", "/v1/timelines", "Sec-Fetch-Site: cross-site"), 403),
        raw("frame of another port", request("GET", "/", "Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe"), 200, 403),
        raw("link to a result", request("GET", "/v1/timelines", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate"), 403),
        raw("preflight", request("OPTIONS", "/v1/timelines", "Origin: https://evil.example", "Access-Control-Request-Method: POST"), 403),
        raw("live from another site", request("GET", "/v1/live", *WS, "Origin: https://evil.example"), 403),
        raw("live with a foreign Host", request("GET", "/v1/live", *WS, host="evil.example"), 403),
    ]  # fmt: skip
    return kinds


def broken_http() -> list[Kind]:
    line = "GET /v1/timelines HTTP/1.1\r\nHost: 127.0.0.1\r\n" + BEARER + "\r\n"
    start = f"POST /v1/timelines HTTP/1.1\r\nHost: 127.0.0.1\r\n{BEARER}\r\n{OCTETS}\r\n"
    chunked = start + "Transfer-Encoding: chunked\r\n\r\n"
    return [
        raw("letters", b"hello\r\n\r\n", 400),
        raw("zero bytes", bytes(2000), 0, 400),
        raw("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300), 0, 400),
        raw("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, 403),
        raw("HTTP/0.9", b"GET /\r\n\r\n", 400),
        raw("huge head", (line + "X: " + "a" * 100_000 + "\r\n\r\n").encode(), 400, 431),
        raw("many headers", (line + "".join(f"X-{n}: {n}\r\n" for n in range(5000)) + "\r\n").encode(), 400, 431),
        raw("long address", request(path="/" + "a" * 60_000), 400, 414),
        raw("zero byte in the address", request(path="/v1/\0"), 400),
        raw("encoded zero byte in the address", request(path="/v1/timelines/%00"), 404),
        raw("header without a name", (line + ": x\r\n\r\n").encode(), 400),
        raw("header over two lines", (line + "X: a\r\n b\r\n\r\n").encode(), 200, 400),
        raw("negative length", upload(OCTETS, length=-1), 400),
        raw("length that is no number", (start + "Content-Length: ten\r\n\r\n").encode(), 400),
        raw("two lengths", (start + "Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde").encode(), 400),
        raw("length and chunks", (start + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").encode(), 400, 422),
        raw("unknown coding", (start + "Transfer-Encoding: gzip\r\n\r\nabc").encode(), 400, 501),
        raw("chunk of a wrong size", (chunked + "zz\r\nabc\r\n").encode(), 400, 0),
        raw("chunk of 2**70 bytes", (chunked + "4" + "0" * 18 + "\r\nabc").encode(), 0, 400, 408),
        raw("CONNECT", b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n", 400, 403),
        raw("TRACE", request("TRACE", "/v1/timelines"), 405),
        raw("unknown method", request("BREW", "/v1/timelines"), 405),
        raw("PUT", request("PUT", "/v1/timelines", body=b"x"), 405),
        raw("address of another host", request("GET", "http://evil.example/v1/timelines"), 404),
        raw("unknown route", request(path="/v2/timelines"), 404),
        raw("closed at once", b"", 0, close=True),
        raw("closed after a letter", b"G", 0, close=True),
        raw("closed in the head", line.encode(), 0, close=True),
        raw("closed before the answer", request(), 0, close=True),
        raw("slow head", line.encode(), 0, 408),
        raw("silence", b"", 0, 408),
        raw("upgrade to something else", request("GET", "/healthz", "Upgrade: h2c", "Connection: Upgrade"), 200, 400),
    ]  # fmt: skip


def of_paths() -> list[Kind]:
    wanted = ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc%2fpasswd", "/....//etc/passwd", "//etc/passwd",
              "/v1/timelines/../../jobs.sqlite", "/v1/timelines/..%2f..%2fjobs.sqlite", "/v1/timelines/' OR 1=1 --".replace(" ", "%20"),
              "/v1/timelines/x/timeline.exe", "/v1/timelines/x/timeline.csv%00", "/v1/timelines/x/..%2f..%2flock"]  # fmt: skip
    return [raw(f"GET {path}", request(path=path), 404) for path in wanted]


def wrong_options() -> list[Kind]:
    queries = ["model=other", "model=../../x", "model=/etc", "max_faces=0", "max_faces=65", "max_faces=many", "max_faces=1e9",
               "min_quality=2", "min_quality=nan", "start_s=-1", "start_s=inf", "start_s=5&stop_s=4", "stop_s=0", "audio_track=0",
               "face=perhaps", "face=false&voice=false", "report=" + "x" * 500]  # fmt: skip
    kinds = [raw(f"?{q[:40]}", upload(OCTETS, path=f"/v1/timelines?{q}"), 422) for q in queries]
    return [*kinds, raw("rows after -1", request(path="/v1/timelines/x/rows?after=-1"), 404, 422)]


def bad_uploads() -> list[Kind]:
    file = ('name="file"; filename="a.mp4"', b"data")
    start = f"POST /v1/timelines HTTP/1.1\r\nHost: 127.0.0.1\r\n{BEARER}\r\n"
    whole = form(file)

    def slow(server: RunningServer) -> int:
        """A byte in a while: too slow on the whole, although it never pauses for long."""
        with socket.create_connection((server.host, server.port), timeout=60) as connection:
            connection.sendall(upload(OCTETS, body=b"", length=100_000))
            connection.settimeout(0.1)
            until = time.monotonic() + 60
            while time.monotonic() < until:
                try:
                    connection.sendall(b"a")
                    if answer := connection.recv(1000):
                        return status(answer)
                except TimeoutError:
                    time.sleep(0.01)
        return -1

    kinds = [
        raw("10 GB declared", upload(OCTETS, length=10 << 30), 413),
        raw("a byte more than allowed declared", upload(OCTETS, length=LIMIT + 1), 413),
        raw("form of 10 GB declared", upload(FORM, length=10 << 30), 413),
        raw("more than allowed", upload(OCTETS, body=bytes(LIMIT + 1)), 413),
        raw("file in a form over the limit", upload(FORM, body=form(('filename="a"', bytes(LIMIT + 1)))), 413),
        raw("chunks without end", (start + OCTETS + "\r\nTransfer-Encoding: chunked\r\n\r\n").encode() + (b"40000\r\n" + bytes(1 << 18) + b"\r\n") * 6, 413),
        raw("long end of a form", (start + FORM + "\r\nTransfer-Encoding: chunked\r\n\r\n").encode() + b"%x\r\n" % len(whole) + whole + b"\r\n" + (b"40000\r\n" + bytes(1 << 18) + b"\r\n") * 6, 413, 422),
        raw("empty", upload(OCTETS, body=b"", length=0), 422),
        raw("no length and no body", request("POST", "/v1/timelines", OCTETS), 422),
        raw("empty file in a form", upload(FORM, body=form(('filename="a"', b""))), 422),
        raw("form without a boundary", upload("Content-Type: multipart/form-data", body=whole), 422),
        raw("form with a long boundary", upload("Content-Type: multipart/form-data; boundary=" + "X" * 500, body=whole), 422),
        raw("form with another boundary", upload("Content-Type: multipart/form-data; boundary=YY", body=whole), 422),
        raw("form without a file", upload(FORM, body=form(('name="model"', b"starter"))), 422),
        raw("form with a field beside the file", upload(FORM, body=form(('name="model"', b"starter"), file)), 422),
        raw("form with two files", upload(FORM, body=form(file, file)), 422),
        raw("form without parts", upload(FORM, body=b"--XX--\r\n"), 422),
        raw("form of random bytes", upload(FORM, body=bytes(range(256)) * 20), 422),
        raw("form that ends early", upload(FORM, body=form(file, end=b"")), 422),
        raw("form with a huge header", upload(FORM, body=form((f'filename="{"a" * 20000}"', b"x"))), 422),
        raw("form with many headers", upload(FORM, body=form(('filename="a"' + "\r\nX: y" * 500, b"x"))), 422),
        raw("compressed body", upload(OCTETS, "Content-Encoding: gzip", body=gzip.compress(bytes(9000))), 415),
        raw("JSON", upload("Content-Type: application/json", body=b"{}"), 415),
        raw("HTML", upload("Content-Type: text/html", body=b"<p>"), 415),
        raw("form of fields", upload("Content-Type: application/x-www-form-urlencoded", body=b"a=b"), 415),
        raw("plain text", upload("Content-Type: text/plain", body=b"a"), 415),
        raw("no type", upload(body=b"a"), 415),
        raw("type of odd letters", upload("Content-Type: video/\xff", body=b"a"), 415),
        raw("half an upload, then silence", upload(OCTETS, body=b"half", length=1000), 408),
        raw("half a form, then silence", upload(FORM, body=whole[:40], length=len(whole)), 408),
        raw("head, then silence", upload(OCTETS, body=b"", length=1000), 408),
        raw("expects to continue, then silence", upload(OCTETS, "Expect: 100-continue", body=b"", length=1000), 100, 408),
        Kind("slow", slow, (408,)),
    ]  # fmt: skip
    for at in (0, 1, 30, 60, len(whole) - 12, len(whole) - 1):
        kinds.append(
            raw(f"left after {at} bytes of a form", upload(FORM, body=whole[:at], length=len(whole)), 0, close=True)
        )
    for at in (0, 1, 3):
        kinds.append(
            raw(f"left after {at} bytes of a recording", upload(OCTETS, body=b"data"[:at], length=4), 0, close=True)
        )
    return kinds


def odd_names() -> list[Kind]:
    names = ["../../etc/passwd", "/etc/passwd", "C:\\..\\x.mp4", "..", "con.mp4", ".mp4", "x.php", "a.mp4/../../b", "x" * 3000 + ".mp4",
             "%2e%2e%2fx.mp4", "; rm -rf $HOME", "a%00.mp4", "x.\xe9\xff", "-rf", "~root", "a.mp4%0d%0aX: y", "a.MP4;.exe"]  # fmt: skip
    kinds = [
        Kind(f"name {n[:30]!r}", lambda server, n=n: _odd(server, f"X-File-Name: {n}"), (202,), accepted=True)
        for n in names
    ]
    quoted = ["../../etc/passwd", "..\\\\..\\\\x.mp4", "a\\\"b.mp4", "x" * 2000]  # fmt: skip
    return kinds + [
        Kind(f"name in a form {n[:30]!r}", lambda server, n=n: status(exchange(server, upload(FORM, body=form((f'filename="{n}"', NOT_MEDIA))))), (202,), accepted=True)
        for n in quoted
    ]  # fmt: skip


NOT_MEDIA = b"no media"


def _odd(server: RunningServer, header: str) -> int:
    return status(exchange(server, upload(OCTETS, header, body=NOT_MEDIA)))


def wrong_content() -> list[Kind]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("bomb", bytes(200 << 20))
    contents = {
        "text": b"hello " * 100,
        "zip bomb": archive.getvalue(),
        "gzip bomb": gzip.compress(bytes(100 << 20)),
        "PNG of 4 gigapixels": _png(65000, 65000),
        "PNG of 100 megapixels, one line": _png(10000, 10000, lines=1),
        "GIF of 65535 x 65535": b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b",\0\0\0\0\xff\xff\xff\xff\0\x02\x02D\x01\0;",
        "JPEG of 65500 x 65500": b"\xff\xd8\xff\xc0\0\x0b\x08\xff\xdc\xff\xdc\x01\x01\x11\0\xff\xda\0\x08\x01\x01\0\0?\0\xff\xd9",
        "playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        "playlist of the network": b"#EXTM3U\n#EXTINF:9,\nhttp://127.0.0.1:1/a.ts\n#EXT-X-ENDLIST\n",
        "concatenation": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "SVG": b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><svg>&b;</svg>',
        "program": b"\x7fELF" + bytes(500),
        "PDF": b"%PDF-1.7\n" + bytes(500),
        "MP4 without a content": b"\0\0\0\x18ftypisom\0\0\0\0isomiso2",
        "MP4 with a box of 2**60 bytes": b"\0\0\0\x18ftypisom\0\0\0\0isomiso2\0\0\0\x01moov\x10" + bytes(100),
        "WAV of 4 GB, empty": b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\x01\0\x01\0\x80>\0\0\0}\0\0\x02\0\x10\0data\xff\xff\xff\xff",
        "WAV of 0 samples a second": b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0" + bytes(10) + b"data\0\0\0\0",
        "Matroska, cut": b"\x1aE\xdf\xa3\x01\0\0\0\0\0\0\x1f" + bytes(31),
        "one byte": b"\0",
    }  # fmt: skip

    def send(server: RunningServer, data: bytes) -> int:
        return status(exchange(server, upload(OCTETS, "X-File-Name: a.mp4", body=data)))

    return [
        Kind(f"content: {n}", lambda server, d=d: send(server, d), (202,), accepted=True) for n, d in contents.items()
    ]


def _png(width: int, height: int, lines: int = 0) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = zlib.compress(bytes((3 * width + 1) * lines))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


KINDS = [
    *without_token(), *of_other_sites(), *broken_http(), *of_paths(), *wrong_options(), *bad_uploads(), *odd_names(),
    *wrong_content(),
]  # fmt: skip
assert len({kind.name for kind in KINDS}) == len(KINDS)
