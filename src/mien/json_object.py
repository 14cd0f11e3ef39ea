"""JSON objects from files that may be damaged."""

from __future__ import annotations

import json
from typing import Any


def parse(data: bytes | str) -> dict[str, Any]:
    """The JSON object in a text, in UTF-8 if it is bytes.

    Raises ValueError for every other content: no UTF-8, no JSON, nested too deeply, or not an object.
    """
    try:
        content = json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError(f"it is no JSON object but a {type(content).__name__}")
    return content
