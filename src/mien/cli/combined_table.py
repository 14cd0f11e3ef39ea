"""One table of many recordings: the timelines of a folder, with the recording's name in the first column."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from mien.atomic import atomic_path
from mien.timeline.whole_file import is_whole

#: Name of the table without its suffix, and of the column that it adds.
STEM, COLUMN = "timelines", "file"


def write(path: Path, timelines: Sequence[tuple[str, Path]]) -> list[str]:
    """Writes the table, in memory that does not grow with the number of rows. None is written without a timeline.

    Args:
        path: its suffix is that of the timelines: .csv, .jsonl or .parquet.
        timelines: name of the recording, and its timeline.

    Returns:
        Names of recordings that are left out, because their timelines are damaged or have other columns than the first
        one.

    Raises:
        OutputError: the table cannot be written.
    """
    whole, left_out = [], []
    for name, timeline in timelines:
        if is_whole(timeline):
            whole.append((name, timeline))
        else:
            left_out.append(name)
    if not whole:
        return left_out
    with atomic_path(path) as temporary:
        if path.suffix == ".parquet":
            return left_out + _write_parquet(temporary, whole)
        with temporary.open("wb") as file:
            return left_out + _write_lines(file, whole, is_csv=path.suffix == ".csv")


def _write_lines(file: IO[bytes], timelines: Sequence[tuple[str, Path]], *, is_csv: bool) -> list[str]:
    """Copy rows as bytes, each behind the name of its recording. CSV has a header, JSON lines have none."""
    columns: list[str] = []
    left_out = []
    for name, path in timelines:
        start = _csv_start(name) if is_csv else _json_start(name)
        with path.open("rb") as rows:
            first = rows.readline().removeprefix(codecs.BOM_UTF8)
            if not first and not is_csv:
                continue  # a timeline without rows
            try:
                own = first.decode().strip().split(",") if is_csv else list(json.loads(first))
            except ValueError:
                left_out.append(name)
                continue
            if is_csv and not columns:
                file.write(f"{COLUMN},".encode() + first)
            columns = columns or own
            if own != columns:
                left_out.append(name)
                continue
            if not is_csv:
                rows.seek(0)
            for row in rows:
                file.write(start + (row if is_csv else row.lstrip()[1:]))
    return left_out


def _csv_start(name: str) -> bytes:
    cell = io.StringIO()
    csv.writer(cell, lineterminator="").writerow([name])
    return f"{cell.getvalue()},".encode()


def _json_start(name: str) -> bytes:
    return (json.dumps({COLUMN: name}, ensure_ascii=False)[:-1] + ",").encode()


def _write_parquet(path: Path, timelines: Sequence[tuple[str, Path]]) -> list[str]:
    import polars as pl

    from mien.timeline.read_file import source_of

    tables = [pl.scan_parquet(source_of(timeline), glob=False) for _, timeline in timelines]
    schemas = [table.collect_schema() for table in tables]
    parts, left_out = [], []
    for (name, _), table, schema in zip(timelines, tables, schemas, strict=True):
        if schema != schemas[0]:
            left_out.append(name)
        else:
            parts.append(table.select(pl.lit(name).alias(COLUMN), pl.all()))
    pl.concat(parts).sink_parquet(path)
    return left_out
