"""Start the server with uvicorn, and close connections whose request does not arrive."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from mien.errors import ConfigError
from mien.serve.app import create_app
from mien.serve.guard import MAX_HEAD
from mien.serve.service import Service
from mien.serve.settings import Settings

#: Most connections at a time; more get 503.
MAX_CONNECTIONS = 512
#: Largest message of a WebSocket in bytes: a picture in JPEG.
MAX_MESSAGE = 2 << 20
#: Seconds that requests and live sessions have to end when the server is stopped.
STOP_S = 5


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that closes connections on which no complete request head arrives within HEAD_S seconds.

    uvicorn limits the pause between two requests only, so a client that sends a letter a minute would hold a connection
    for ever.
    """

    HEAD_S = 15.0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time for the first request."""
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        """Take bytes; the time ends with the head of a request."""
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the time."""
        self._stop_timer()
        super().connection_lost(exc)

    def _watch_head(self) -> None:
        waiting = self.conn.their_state is h11.IDLE and not self.transport.is_closing()
        if not waiting:
            self._stop_timer()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self.HEAD_S, self._give_up)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        self._head_timer = None
        if self.conn.their_state is h11.IDLE and (self.cycle is None or self.cycle.response_complete):
            self.transport.close()


def serve(settings: Settings, on_start: Callable[[str], None] = lambda address: None) -> None:
    """Run the server until SIGINT or SIGTERM.

    Args:
        on_start: called with the address when the server listens.

    Raises:
        ConfigError: the address cannot be used, or another server uses the folder. OutputError: the folder cannot be
            written to.
    """
    os.umask(0o077)
    listener = _listen(settings)
    with listener:
        service = Service(settings)
        protocol = type("Protocol", (PatientProtocol,), {"HEAD_S": settings.idle_seconds})
        config = uvicorn.Config(
            create_app(service),
            http=protocol,
            ws="websockets-sansio",
            ws_max_size=MAX_MESSAGE,
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            h11_max_incomplete_event_size=MAX_HEAD,
            timeout_graceful_shutdown=STOP_S,
            proxy_headers=False,
        )
        logging.getLogger("uvicorn").setLevel(logging.ERROR)
        logging.getLogger("uvicorn.error").addFilter(_is_fault)
        logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # its warnings quote the upload
        host, port = listener.getsockname()[:2]
        on_start(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        with _ending_quietly():
            uvicorn.Server(config).run(sockets=[listener])


def _is_fault(record: logging.LogRecord) -> bool:
    """False for what a client causes: a WebSocket that is refused with a status, or that sends damaged text."""
    message = record.getMessage()
    return not any(text in message for text in ("without completing handshake", "Invalid UTF-8 sequence"))


@contextmanager
def _ending_quietly() -> Iterator[None]:
    """A context in which a signal that ended the server does not end the process: uvicorn raises it again."""
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: None) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _listen(settings: Settings) -> socket.socket:
    try:
        # With the protocol: asyncio sends small answers at once (TCP_NODELAY) only where the socket names TCP.
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)  # who connects before uvicorn runs waits
    except OSError as error:
        raise ConfigError(
            f"the server cannot listen on {settings.host}, port {settings.port}: {error.strerror}",
            follows="The server did not start.",
            remedy="Choose another --port (0: a free one), or another --host.",
        ) from error
    listener.set_inheritable(False)
    return listener
