"""Check that the file of a table is complete and undamaged, without parsing it."""

from __future__ import annotations

from pathlib import Path

from mien.timeline import parquet_digest

#: Suffixes of the tables that mien writes and reads.
SUFFIXES = (".csv", ".parquet", ".jsonl")


def check_whole(path: Path) -> None:
    """Raise OSError, or ValueError for a truncated file and for a Parquet file with a changed byte.

    path: its suffix is one of `SUFFIXES`. Text ends with a line break, which mien always writes.
    """
    if path.suffix.lower() == ".parquet":
        parquet_digest.verify(path)
        return
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 1))
        if size and file.read(1) != b"\n":
            raise ValueError("it ends in the middle of a row (if it is complete, end it with a line break)")


def is_whole(path: Path) -> bool:
    """Whether the file can be read and `check_whole` finds nothing."""
    try:
        check_whole(path)
    except (OSError, ValueError):
        return False
    return True
