"""Clip ids as file names, and back."""

from __future__ import annotations

import hashlib
from urllib.parse import unquote_to_bytes

#: Characters that some file system refuses or reads as something else, and the two that escaping itself uses.
_UNSAFE = frozenset('/\\:*?"<>|%~') | {chr(i) for i in range(32)} | {"\x7f"}
#: Bytes a name may take: file systems allow 255, and ours carry a suffix and, while being written, a process
#: id.
_LONGEST = 180


def quote(name: str) -> str:
    """A text without the characters that file systems refuse: what is unsafe becomes `%XX`, the rest (letters
    of any script too) stays readable. Reversed by `unescape`."""
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
    """A clip id or encoder name as one file name: `quote`, and where that is long, the start of it, `~` and a
    hash."""
    safe = quote(name)
    if len(safe.encode()) <= _LONGEST:
        return safe
    start = safe.encode()[:80].decode(errors="ignore")
    return f"{start}~{hashlib.sha256(safe.encode()).hexdigest()[:32]}"


def unescape(name: str) -> str | None:
    """The id of a name made by `escape`; None where it was shortened (the file's header knows it)."""
    return None if "~" in name else unquote_to_bytes(name).decode(errors="surrogatepass")
