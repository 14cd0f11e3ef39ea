"""Provisional rows of a job that runs: two files in its folder that grow, deleted when the job ends or waits again."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

#: Rows as lines of JSON, and the position of the end of each line, 64 bits, little-endian: row N is found at once.
ROWS, ENDS = "partial.jsonl", "partial.ends"
_POSITION = 8
#: Most rows of a person a second: a chart shows no more. Our choice.
MAX_HZ = 10.0
#: Most bytes of rows; later ones come with the result. Our choice: three hours of one person.
MAX_BYTES = 64 << 20


class RowWriter:
    """Writes provisional rows into the folder of a job. A full disk ends the rows, not the job.

    Args:
        folder: of the job. max_bytes: of rows.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self._left, self._size = max_bytes, 0
        self._cells: dict[int, int] = {}
        self._rows: IO[bytes] = (folder / ROWS).open("wb")
        self._ends: IO[bytes] = (folder / ENDS).open("wb")

    def add(self, table: pl.DataFrame) -> None:
        """Append rows, at most `MAX_HZ` a second of each subject. table: with the columns of a Timeline, by time."""
        lines = []
        for row in table.iter_rows(named=True):
            cell = int(row["time_s"] * MAX_HZ + 1e-6)
            if self._cells.get(row["subject"]) != cell:
                self._cells[row["subject"]] = cell
                lines.append(json.dumps(row).encode() + b"\n")
        ends = bytearray()
        for number, line in enumerate(lines):
            if len(line) > self._left:
                self._left, lines = 0, lines[:number]
                break
            self._left, self._size = self._left - len(line), self._size + len(line)
            ends += self._size.to_bytes(_POSITION, "little")
        try:
            # The rows first: who sees a position finds what it stands for.
            for file, data in ((self._rows, b"".join(lines)), (self._ends, bytes(ends))):
                file.write(data)
                file.flush()
        except OSError:
            self._left = 0

    def close(self) -> None:
        """End the rows."""
        for file in (self._rows, self._ends):
            with suppress(OSError):
                file.close()


def count(folder: Path) -> int:
    """Number of provisional rows that are there."""
    try:
        return os.stat(folder / ENDS).st_size // _POSITION
    except OSError:
        return 0


def read(folder: Path, after: int, limit: int) -> list[dict[str, Any]]:
    """Provisional rows from number `after` on, at most `limit`; none where there are none."""
    try:
        with (folder / ENDS).open("rb") as ends, (folder / ROWS).open("rb") as rows:
            ends.seek(_POSITION * max(0, after - 1))
            data = ends.read(_POSITION * (limit + (after > 0)))
            positions = [int.from_bytes(data[i : i + _POSITION], "little") for i in range(0, len(data), _POSITION)]
            start = positions[0] if after and positions else 0
            positions = positions[after > 0 :]
            if not positions:
                return []
            rows.seek(start)
            return [json.loads(line) for line in rows.read(positions[-1] - start).splitlines()]
    except OSError:
        return []


def remove(folder: Path) -> None:
    """Delete the provisional rows of a job."""
    for name in (ENDS, ROWS):
        (folder / name).unlink(missing_ok=True)
