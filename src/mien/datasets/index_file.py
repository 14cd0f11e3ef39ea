"""Index files: JSON lines, a header with a digest of everything, then one line for each clip and problem."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mien import json_object
from mien.atomic import atomic_path
from mien.datasets.index_entries import Entry


def write(path: Path, header: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> None:
    """Write an index file atomically. header: without the digest. Raises OutputError."""
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    first = json.dumps({**header, "digest": _digest(header, lines)}, ensure_ascii=False)
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file:
        for line in (first, *lines):
            file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Header, without its digest, and records of an index file.

    Raises OSError, and ValueError for lines that are no JSON objects or do not have the digest that the header states.
    Files of earlier versions state none.
    """
    text = Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    first, *lines = [line for line in text.split("\n") if line] or [""]
    header = json_object.parse(first)
    stated = header.pop("digest", None)
    if stated is not None and stated != _digest(header, lines):
        raise ValueError(
            "its content does not have the digest that its first line states: it is damaged, or was changed by hand; "
            'if by hand, remove "digest" from the first line'
        )
    return header, [json_object.parse(line) for line in lines]


def check(header: Mapping[str, Any], entries: Sequence[Entry]) -> None:
    """Raise ValueError for values that no dataset reader gives, in files without a digest."""
    if not all(isinstance(n, int) for counts in header["counts"].values() for n in counts.values()):
        raise ValueError("a count is not a number")
    if not all(isinstance(name, str) for name in header["classes"]):
        raise ValueError("a class is not a name")
    seen = set[str]()
    for entry in entries:
        if problem := entry.problem() or (f"clip {entry.id!r} is there twice" if entry.id in seen else ""):
            raise ValueError(problem)
        seen.add(entry.id)


def _digest(header: Mapping[str, Any], lines: Sequence[str]) -> str:
    """SHA-256 of an index: of its header without the digest, as JSON with sorted keys, and of the other lines."""
    text = "\n".join([json.dumps(header, sort_keys=True), *lines])
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
