"""Live sessions of the server: the rows are those of mien.stream; what breaks a rule ends that session alone."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from running_server import TOKEN, RunningServer, quiet_server, until
from video_chunks import chunk, encoded
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

import mien

#: Seconds between two frames, much longer than reading one takes, so that none is late on a busy computer either.
STEP_S = 2.0


def picture(jpeg: bytes, time_s: float) -> bytes:
    return struct.pack("<BxxxId", 1, 0, time_s) + jpeg


def sound(samples: np.ndarray, time_s: float, rate: int = 16000) -> bytes:
    return struct.pack("<BxxxId", 2 if samples.dtype == np.float32 else 3, rate, time_s) + samples.tobytes()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with quiet_server(tmp_path_factory.mktemp("live"), token=TOKEN, live=1) as running:
        yield running
        assert running.get("/v1/timelines") == {"timelines": []}
        assert running.files() == set()


@pytest.fixture(scope="module")
def frames(shared: Path) -> list[bytes]:
    """Eight frames of a clip as JPEG."""
    with av.open(str(shared / "clips" / "single_face.mp4")) as container:
        images = [f.to_ndarray(format="bgr24") for f in container.decode(video=0)][:64:8]
    return [cv2.imencode(".jpg", image)[1].tobytes() for image in images]


def opened(server: RunningServer, query: str = "", token: str = TOKEN) -> ClientConnection:
    address = f"ws://{server.host}:{server.port}/v1/live{query}"
    return connect(address, subprotocols=["mien", f"mien.token.{token}"], open_timeout=60, max_size=None)  # type: ignore[list-item]


def receive(client: ClientConnection) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(client.recv(timeout=120))
    return found


def until_closed(client: ClientConnection) -> tuple[list[dict[str, Any]], int]:
    """The messages until the server closes the session, and the code that it gives."""
    seen = []
    try:
        while True:
            seen.append(receive(client))
    except ConnectionClosed as closed:
        return seen, closed.rcvd.code if closed.rcvd else 0


def test_rows_are_those_of_the_stream(server: RunningServer, frames: list[bytes]) -> None:
    noise = (np.random.default_rng(0).standard_normal(32000) / 10).astype(np.float32)
    expected = []
    stream = mien.stream("starter", delay_s=1.0, late_s=None)
    for number, jpeg in enumerate(frames):
        expected += stream.sound(noise, 16000, number * STEP_S)
        image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
        expected += stream.frame(image, number * STEP_S)
    expected += stream.finish()

    rows, faces = [], {}
    with opened(server, "?delay_s=1") as client:
        assert client.subprotocol == "mien"
        ready = receive(client)
        assert (ready["type"], ready["delay_s"], ready["classes"][0]) == ("ready", 1.0, "Neutral")
        for number, jpeg in enumerate(frames):
            client.send(sound(noise, number * STEP_S))
            client.send(picture(jpeg, number * STEP_S))
            while (message := receive(client))["type"] != "read":
                rows += message["rows"]
                faces |= message["faces"]
        client.send('{"finish": true}')
        while (message := receive(client))["type"] != "end":
            assert message["type"] == "rows"
            rows += message["rows"]
            assert message["dropped"] == 0
        assert until_closed(client) == ([], 1000)
    assert json.loads(json.dumps(rows)) == json.loads(json.dumps(expected))
    assert len(rows) >= len(frames)
    x1, y1, x2, y2 = faces["0"]
    assert 0 < x1 < x2 < 640
    assert 0 < y1 < y2 < 360


def test_chunks_of_video_are_pictures_and_damage_costs_a_key_frame(server: RunningServer, frames: list[bytes]) -> None:
    images = [cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB) for jpeg in frames]
    until(lambda: live_sessions(server) == 0)
    seen: list[dict[str, Any]] = []

    def send(client: ClientConnection, data: bytes, time_s: float, *, is_key: bool) -> None:
        client.send(chunk(data, time_s, is_key=is_key))
        while (message := receive(client))["type"] != "read":
            seen.append(message)

    with opened(server) as client:
        assert receive(client)["type"] == "ready"
        first, second = encoded(images[:4]), encoded(images[4:])
        for number, (data, is_key) in enumerate(first):
            send(client, data, number * STEP_S, is_key=is_key)
        assert {message["type"] for message in seen} <= {"rows"}
        send(client, b"damaged", 3.2 * STEP_S, is_key=True)
        assert seen.pop()["what"].startswith("a chunk of vp8 is damaged")
        for number, (data, is_key) in enumerate(second):
            send(client, data, (4 + number) * STEP_S, is_key=is_key)
        client.send('{"finish": true}')
        while (message := receive(client))["type"] != "end":
            seen.append(message)
        assert until_closed(client) == ([], 1000)
    rows = [row for message in seen for row in message["rows"]]
    assert [row["time_s"] for row in rows] == [number * STEP_S for number in range(8)]
    assert {row["evidence"] for row in rows} == {"face"}


def test_sessions_are_limited_and_end_with_their_client(server: RunningServer) -> None:
    until(lambda: live_sessions(server) == 0)
    with opened(server) as first:
        receive(first)
        with pytest.raises(InvalidStatus) as refused, opened(server):
            pass
        assert refused.value.response.status_code == 503
        assert b"--live" in refused.value.response.body
    until(lambda: live_sessions(server) == 0)


def live_sessions(server: RunningServer) -> float:
    lines = server.request("GET", "/metrics")[1].decode().splitlines()
    return float(next(line for line in lines if line.startswith("mien_live_sessions ")).split()[1])


@pytest.mark.parametrize(("query", "status"), [("?model=other", 422), ("?delay_s=nan", 422), ("?delay_s=x", 422)])
def test_wrong_options_are_refused(server: RunningServer, query: str, status: int) -> None:
    with pytest.raises(InvalidStatus) as refused, opened(server, query):
        pass
    assert refused.value.response.status_code == status


def test_wrong_token_is_refused(server: RunningServer) -> None:
    with pytest.raises(InvalidStatus) as refused, opened(server, token="wrong"):
        pass
    assert refused.value.response.status_code == 401


BIG = cv2.imencode(".jpg", np.zeros((2000, 2000, 3), np.uint8))[1].tobytes()
SILENCE = np.zeros(160, np.float32)
BROKEN: dict[str, Callable[[], bytes | str]] = {
    "text": lambda: "hello",
    "JSON that asks for something else": lambda: '{"finish": 1}',
    "empty": lambda: b"",
    "a byte": lambda: b"\x01",
    "header alone": lambda: picture(b"", 0),
    "unknown kind": lambda: b"\x09" + picture(b"\xff\xd8", 0)[1:],
    "bytes that are not zero": lambda: b"\x01\x01" + picture(b"\xff\xd8", 0)[2:],
    "time that is no number": lambda: picture(b"\xff\xd8", float("nan")),
    "time without an end": lambda: picture(b"\xff\xd8", float("inf")),
    "PNG": lambda: picture(b"\x89PNG\r\n\x1a\n", 0),
    "picture with a rate": lambda: struct.pack("<BxxxId", 1, 30, 0.0) + b"\xff\xd8",
    "damaged JPEG": lambda: picture(b"\xff\xd8" + bytes(100), 0),
    "JPEG of 65500 x 65500": lambda: picture(
        b"\xff\xd8\xff\xc0\0\x0b\x08\xff\xdc\xff\xdc\x01\x01\x11\0\xff\xda\0\x08\x01\x01\0\0?\0\xff\xd9", 0
    ),
    "too many pixels": lambda: picture(BIG, 0),
    "more than 2 MB": lambda: picture(b"\xff\xd8" + bytes(3 << 20), 0),
    "sound without a rate": lambda: sound(SILENCE, 0, rate=0),
    "sound of a rate beyond all": lambda: sound(SILENCE, 0, rate=2**32 - 1),
    "half a sample": lambda: sound(SILENCE, 0) + b"\0",
    "a minute of sound": lambda: sound(np.zeros(60 * 16000, np.int16), 0),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_messages_end_the_session(server: RunningServer, name: str) -> None:
    until(lambda: live_sessions(server) == 0)
    with opened(server) as client:
        client.send(BROKEN[name]())
        seen, code = until_closed(client)
        if name == "more than 2 MB":
            assert code == 1009
        else:
            assert code == 1008
            assert seen[-1]["type"] == "error"
            assert seen[-1]["what"]
            assert seen[-1]["remedy"]


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x82", b"\x82\x05hello", b"\xff\xff\xff\xff", b"\x82\xff" + b"\xff" * 8, b"\x81\x82\0\0\0\0\xff\xfe",
        bytes(500),
    ],
    ids=["left at once", "left in a frame", "not masked", "garbage", "huge length", "no UTF-8", "zeros"],
)  # fmt: skip
def test_broken_frames_end_the_session(server: RunningServer, data: bytes) -> None:
    until(lambda: live_sessions(server) == 0)
    client = opened(server)
    client.socket.sendall(data)
    with suppress(OSError):
        client.socket.shutdown(1)
    client.socket.close()
    until(lambda: live_sessions(server) == 0)
    assert server.request("GET", "/healthz")[0] == 200


def test_death_of_the_process_ends_the_session(server: RunningServer) -> None:
    until(lambda: live_sessions(server) == 0)
    with opened(server) as client:
        receive(client)
        server.kill_children("mien.serve.live_worker")
        assert until_closed(client)[1] == 1011


def test_picture_rates_beyond_the_computer_drop_pictures(server: RunningServer, frames: list[bytes]) -> None:
    until(lambda: live_sessions(server) == 0)
    with opened(server) as client:
        receive(client)
        for number in range(200):
            client.send(picture(frames[number % 8], number / 1000))
        client.send('{"finish": true}')
        message: dict[str, Any] = {}
        while message.get("type") != "end":
            message = receive(client)
        assert message["dropped"] > 100


def test_the_end_of_the_server_ends_its_sessions(tmp_path: Path) -> None:
    server = RunningServer(tmp_path / "data")
    with connect(f"ws://{server.host}:{server.port}/v1/live", open_timeout=60) as client:
        receive(client)
        (pid,) = server.children("mien.serve.live_worker")
        server.stop()
        assert until_closed(client)[1] in (1001, 1012)
    assert server.process.returncode == 0
    until(lambda: not Path(f"/proc/{pid}").exists())
    assert "".join(server.output) == ""
