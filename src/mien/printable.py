"""Text that is safe to print: control characters and bytes that are not UTF-8 become escapes.

A file name may hold any byte but / and NUL. A terminal obeys escape sequences in it, a line feed in it forges a line of
output, and marks of writing direction make one name look like another.
"""

from __future__ import annotations

import re
from pathlib import Path

#: Controls (C0, DEL, C1), line and paragraph separators, marks of writing direction, and lone surrogates, with which
#: Python stands for bytes that are not UTF-8.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
#: The same without tab and line feed, for texts of several lines.
_UNSAFE_IN_LINES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(name: Path | str) -> str:
    """A path or name as one line of printable text."""
    return _UNSAFE.sub(_escape, str(name))


def printable_lines(text: str) -> str:
    """Text of several lines as printable text."""
    return _UNSAFE_IN_LINES.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")
