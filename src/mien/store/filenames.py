"""Convert clip ids to file names and back."""

from __future__ import annotations

import hashlib
from urllib.parse import unquote_to_bytes

#: Characters that a file system forbids or interprets, and the two that escaping uses.
_UNSAFE = frozenset('/\\:*?"<>|%~') | {chr(i) for i in range(32)} | {"\x7f"}
#: Largest name in bytes: file systems allow 255, and names get a suffix and, during writing, a host and process id.
_MAX_BYTES = 180


def quote(name: str) -> str:
    """Replace characters that file systems forbid by `%XX`; all others, letters of any script included, stay readable.
    `unescape` reverses it."""
    parts = []
    for i, char in enumerate(name):
        lone = "\ud800" <= char <= "\udfff"
        edge = i in (0, len(name) - 1) and char in ". "
        if char in _UNSAFE or lone or edge:
            parts.append("".join(f"%{byte:02X}" for byte in char.encode(errors="surrogatepass")))
        else:
            parts.append(char)
    return "".join(parts)


def escape(name: str) -> str:
    """A clip id or encoder name as a file name: `quote`; if that is too long, its start, `~` and a hash."""
    safe = quote(name)
    if len(safe.encode()) <= _MAX_BYTES:
        return safe
    start = safe.encode()[:80].decode(errors="ignore")
    return f"{start}~{hashlib.sha256(safe.encode()).hexdigest()[:32]}"


def unescape(name: str) -> str | None:
    """The id of a name from `escape`; None if it was shortened (the file's header has the id)."""
    return None if "~" in name else unquote_to_bytes(name).decode(errors="surrogatepass")
