"""Live sessions over a WebSocket: the server passes messages to a process for each session, and its rows back."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from mien.serve.guard import refuse_websocket
from mien.serve.live_messages import CHUNK, LiveMessage, parse
from mien.serve.live_worker import LENGTH
from mien.serve.responses import RequestError, shortened
from mien.serve.service import Service
from mien.serve.worker_process import resident_bytes

#: Subprotocol of a session.
PROTOCOL = "mien"
#: Pictures that may wait in a session's process; more are left out.
MAX_WAITING = 4
#: Seconds without a message after which a session ends.
SILENCE_S = 60.0
#: Longest line of a session's process in bytes.
_LINE = 4 << 20
#: Status codes of a WebSocket: all is done, the client broke the rules, an error of the server.
_DONE, _BROKEN_RULE, _FAULT = 1000, 1008, 1011


async def run_session(websocket: WebSocket, service: Service) -> None:
    """Serve one session from its opening to its end."""
    try:
        model, delay_s = _options(websocket, service)
    except RequestError as error:
        await refuse_websocket(error, websocket.scope, websocket.receive, websocket.send)
        return
    service.live_sessions += 1
    service.metrics.live.set(service.live_sessions)
    try:
        await websocket.accept(PROTOCOL if PROTOCOL in websocket.scope.get("subprotocols", ()) else None)
        await _Session(websocket, service.settings.job_bytes).run(model, delay_s)
    finally:
        service.live_sessions -= 1
        service.metrics.live.set(service.live_sessions)


def _options(websocket: WebSocket, service: Service) -> tuple[str, float]:
    query, models = websocket.query_params, service.settings.models
    model = query.get("model", models[0])
    if model not in models:
        raise RequestError(
            HTTPStatus.UNPROCESSABLE_ENTITY, f"model {shortened(model)}: this server does not offer it",
            follows="No session was opened.", remedy=f"Use one of {', '.join(models)}.",
        )  # fmt: skip
    try:
        delay_s = float(query.get("delay_s", "1"))
    except ValueError:
        delay_s = 0.0
    if not 0.1 <= delay_s <= 30:
        raise RequestError(
            HTTPStatus.UNPROCESSABLE_ENTITY, "delay_s: it must be from 0.1 to 30", follows="No session was opened.",
            remedy="Use 1 where nothing else is known.",
        )  # fmt: skip
    if service.live_sessions >= service.settings.live:
        raise RequestError(
            HTTPStatus.SERVICE_UNAVAILABLE, f"{service.live_sessions} live sessions are open, the most allowed",
            follows="No session was opened.", remedy="Close another one, or start the server with a larger --live.",
            headers={"retry-after": "5"},
        )  # fmt: skip
    return model, delay_s


class _Session:
    """One session. dropped: pictures left out here, because those before them are not read yet."""

    def __init__(self, websocket: WebSocket, memory_bytes: int) -> None:
        self._websocket, self._memory_bytes = websocket, memory_bytes
        self._waiting = self._dropped = 0
        self._is_broken = self._is_asked = False  # chunks were left out; a key frame was asked for
        self._problem = ""

    async def run(self, model: str, delay_s: float) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mien.serve.live_worker", model, str(delay_s),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            env={"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            limit=_LINE,
        )  # fmt: skip
        up, down = asyncio.create_task(self._pass_up(process)), asyncio.create_task(self._pass_down(process))
        try:
            await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
            if up.done() and not self._problem and up.exception() is None and up.result():
                await down  # the client asked for the end
            await self._close(down)
        finally:
            for task in (up, down):
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _pass_up(self, process: asyncio.subprocess.Process) -> bool:
        """Pass messages to the process. Returns whether the client asked for the end; False if it is gone or broke a
        rule."""
        assert process.stdin is not None
        while True:
            try:
                event = await asyncio.wait_for(self._websocket.receive(), SILENCE_S)
            except TimeoutError:
                self._problem = f"no message came for {SILENCE_S:g} s"
                return False
            if event["type"] == "websocket.disconnect":
                return False
            data, text = event.get("bytes"), event.get("text")
            try:
                if data is None:
                    _check_finish(text)
                    process.stdin.write(LENGTH.pack(0))
                    await process.stdin.drain()
                    return True
                message = parse(data)
            except ValueError as error:
                self._problem = str(error)
                return False
            except ConnectionError:
                return True
            if message.is_picture and not await self._takes(message):
                self._dropped += 1
                continue
            self._waiting += message.is_picture
            process.stdin.write(LENGTH.pack(len(data)) + data)
            if resident_bytes(process.pid) > self._memory_bytes:
                self._problem = f"the session needed more than {self._memory_bytes / (1 << 30):.3g} GB of memory"
                return False
            try:
                await process.stdin.drain()
            except ConnectionError:
                return True  # the process ended; its last line says why

    async def _takes(self, picture: LiveMessage) -> bool:
        """Whether there is room for a picture; after a chunk that was left out, for a key frame only."""
        if self._waiting >= MAX_WAITING:
            self._is_broken |= picture.kind == CHUNK
            self._is_asked = False
            return False
        if picture.kind != CHUNK or not self._is_broken or picture.is_key:
            self._is_broken &= picture.kind != CHUNK
            return True
        if not self._is_asked:
            self._is_asked = True
            with suppress(WebSocketDisconnect, RuntimeError):
                await self._websocket.send_json({"type": "key_frame", "what": "chunks came faster than they were read"})
        return False

    async def _pass_down(self, process: asyncio.subprocess.Process) -> int:
        """Pass the rows to the client; returns the status that the session ends with."""
        assert process.stdout is not None
        while line := await process.stdout.readline():
            message: dict[str, Any] = json.loads(line)
            if message["type"] == "read":
                self._waiting -= 1
            if "dropped" in message:
                message["dropped"] += self._dropped
            await self._websocket.send_json(message)
            if message["type"] == "end":
                return _DONE
            if message["type"] == "error":
                return _BROKEN_RULE
        return _FAULT

    async def _close(self, down: asyncio.Task[int]) -> None:
        with suppress(WebSocketDisconnect, RuntimeError):
            if self._problem:
                error = {"what": self._problem, "follows": "The session ended.", "remedy": "See docs/SERVER.md."}
                await self._websocket.send_json({"type": "error", **error})
                await self._websocket.close(_BROKEN_RULE)
            elif down.done() and not down.cancelled() and down.exception() is None:
                await self._websocket.close(down.result())


def _check_finish(text: str | None) -> None:
    try:
        asked = isinstance(content := json.loads(text or ""), dict) and content.get("finish") is True
    except ValueError:
        asked = False
    if not asked:
        raise ValueError('the only text that a client sends is {"finish": true}')
