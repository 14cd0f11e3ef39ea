"""Refusals of requests as JSON: every one states what failed, the consequence and the fix."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse, Response

from mien.errors import MienError, ServerError


class RequestError(ServerError):
    """A request that is refused.

    Args:
        status: of HTTP. headers: more of the response, such as Retry-After.
    """

    def __init__(
        self, status: int, what: str, *, follows: str, remedy: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(what, follows=follows, remedy=remedy)
        self.status, self.headers = status, dict(headers or {})


def shortened(value: object) -> str:
    """A value of a request as an error shows it: at most 60 characters, control characters as escapes."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class NiceJSON(JSONResponse):
    """JSON that people read: letters as they are, a line break at the end, and NaN refused."""

    def render(self, content: Any) -> bytes:
        """The bytes of the response."""
        return json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1).encode() + b"\n"


def error_body(error: MienError) -> dict[str, Any]:
    """The JSON of an error."""
    kind = {"type": "ServerError"} if isinstance(error, ServerError) else {}  # also a RequestError
    return {"error": error.record() | kind}


def error_response(error: MienError, status: int = 500) -> Response:
    """The response for an error; a RequestError has its own status."""
    headers = {}
    if isinstance(error, RequestError):
        status, headers = error.status, error.headers
    return NiceJSON(error_body(error), status_code=status, headers=headers)
