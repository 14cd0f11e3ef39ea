"""What a request must show before it reaches a route: a name of this machine, an origin of its own, the token."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mien.serve.responses import RequestError, error_response
from mien.serve.settings import is_loopback

#: Start of the WebSocket subprotocol that holds the token, because browsers cannot send another header there.
TOKEN_PROTOCOL = "mien.token."
#: Most bytes of the address, and of all headers.
MAX_HEAD = 16 << 10
_REFUSED = "The request was refused."
#: Sent with every response. The page loads nothing from elsewhere; a report has its own rule (`app`).
SECURITY = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
        "connect-src 'self'; worker-src 'self' blob:; frame-src 'self' blob:; form-action 'none'; base-uri 'none'; "
        "frame-ancestors 'self'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """ASGI middleware that refuses requests of strangers, and adds the headers of `SECURITY`.

    Args:
        app: what the request is passed to.
        token: that `Authorization: Bearer` has to hold, "" for none.
        loopback: the server listens on this machine only, so the header Host must name it. This stops DNS rebinding: a
            page whose name is made to point to this machine.
        public: the address under which a proxy publishes the server, as `https://mien.example.org`, or "".
        is_open: whether a path and a query need no token.
        on_response: called with the scope and the status of each HTTP response.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str,
        loopback: bool,
        public: str,
        is_open: Callable[[str, bytes], bool],
        on_response: Callable[[Scope, int], None],
    ) -> None:
        self._app, self._token, self._loopback = app, token, loopback
        self._public, self._is_open, self._on_response = urlsplit(public), is_open, on_response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        start = "http.response.start" if scope["type"] == "http" else "websocket.http.response.start"

        async def send_guarded(message: Message) -> None:
            if message["type"] == start:
                names = {name.lower() for name, _ in message.setdefault("headers", [])}
                extra = [(k.encode(), v.encode()) for k, v in SECURITY.items() if k.encode() not in names]
                message["headers"] = [*message["headers"], *extra]
                if scope["type"] == "http":
                    self._on_response(scope, message["status"])
            await send(message)

        error = self._refusal(scope)
        if error is None:
            await self._app(scope, receive, send_guarded)
        elif scope["type"] == "http":
            error.headers["connection"] = "close"  # a body that may follow is not read
            await error_response(error)(scope, receive, send_guarded)
        else:
            await refuse_websocket(error, scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> RequestError | None:
        headers = Headers(scope=scope)
        return (
            _check_size(scope)
            or self._check_host(headers)
            or self._check_origin(scope, headers)
            or self._check_token(scope, headers)
        )

    def _check_host(self, headers: Headers) -> RequestError | None:
        hosts = headers.getlist("host")
        host = hosts[0] if len(hosts) == 1 else ""
        if not self._loopback or host == self._public.netloc != "":
            return None
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            name = ""
        if is_loopback(name):
            return None
        return RequestError(
            HTTPStatus.FORBIDDEN,
            "the header Host names another machine",
            follows=_REFUSED,
            remedy="Use http://127.0.0.1 with the port of the server. Behind a proxy, start it with --public-url.",
        )

    def _check_origin(self, scope: Scope, headers: Headers) -> RequestError | None:
        origin, host = headers.get("origin"), headers.get("host", "")
        scheme = {"ws": "http", "wss": "https"}.get(scope["scheme"], scope["scheme"])
        own = {f"{scheme}://{host}".lower(), f"{self._public.scheme}://{self._public.netloc}".lower()}
        foreign = origin is not None and origin.lower() not in own
        # Requests without the header Origin, such as those of images, say it in Sec-Fetch-Site. A link to the page may
        # come from anywhere.
        is_link = scope.get("method") == "GET" and headers.get("sec-fetch-mode") == "navigate" and scope["path"] == "/"
        if not foreign and (headers.get("sec-fetch-site") not in ("cross-site", "same-site") or is_link):
            return None
        return RequestError(
            HTTPStatus.FORBIDDEN,
            "the request comes from a page of another site",
            follows=_REFUSED,
            remedy="Open the page of this server, or call it from a program. Behind a proxy, start the server with "
            "--public-url.",
        )

    def _check_token(self, scope: Scope, headers: Headers) -> RequestError | None:
        if not self._token or (scope["type"] == "http" and self._is_open(scope["path"], scope["query_string"])):
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            given = ""
        if not given and scope["type"] == "websocket":
            offered = scope.get("subprotocols", ())
            given = next((p.removeprefix(TOKEN_PROTOCOL) for p in offered if p.startswith(TOKEN_PROTOCOL)), "")
        if hmac.compare_digest(given.strip().encode("utf-8", "replace"), self._token.encode()):
            return None
        what = "the token is wrong" if given else "the request has no token"
        return RequestError(
            HTTPStatus.UNAUTHORIZED,
            what,
            follows=_REFUSED,
            remedy="Send the header `Authorization: Bearer TOKEN` with the token that the server was started with.",
            headers={"www-authenticate": "Bearer"},
        )


def _check_size(scope: Scope) -> RequestError | None:
    """A refusal of a head that is larger than MAX_HEAD: uvicorn limits only what has not arrived in one piece."""
    address = len(scope["raw_path"]) + len(scope["query_string"])
    if address > MAX_HEAD:
        return RequestError(
            HTTPStatus.REQUEST_URI_TOO_LONG, f"the address has {address} bytes", follows=_REFUSED,
            remedy=f"Use at most {MAX_HEAD}.",
        )  # fmt: skip
    size = sum(len(name) + len(value) for name, value in scope["headers"])
    if size > MAX_HEAD:
        return RequestError(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the headers have {size} bytes", follows=_REFUSED,
            remedy=f"Send at most {MAX_HEAD}.",
        )  # fmt: skip
    return None


async def refuse_websocket(error: RequestError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer the opening of a WebSocket with the status and the text of an error."""
    if "websocket.http.response" in scope.get("extensions", {}):
        response = error_response(error)
        await send({"type": "websocket.http.response.start", "status": error.status, "headers": response.raw_headers})
        await send({"type": "websocket.http.response.body", "body": response.body})
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": error.what[:100]})
