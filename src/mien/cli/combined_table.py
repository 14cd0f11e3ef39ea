"""One table of many recordings: the timelines of a folder, with the recording's name in the first column."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from mien.atomic import atomic_path

#: Name of the table without its suffix, and of the column that it adds.
STEM, COLUMN = "timelines", "file"


def write(path: Path, timelines: Sequence[tuple[str, Path]]) -> list[str]:
    """Writes the table, in memory that does not grow with the number of rows.

    Args:
        path: its suffix is that of the timelines: .csv, .jsonl or .parquet.
        timelines: name of the recording, and its timeline.

    Returns:
        Names of recordings that are left out, because their timelines have other columns than the first one.

    Raises:
        OutputError: the table cannot be written.
    """
    with atomic_path(path) as temporary:
        if path.suffix == ".parquet":
            return _write_parquet(temporary, timelines)
        with temporary.open("w", encoding="utf-8", newline="") as file:
            return (_write_csv if path.suffix == ".csv" else _write_jsonl)(file, timelines)


def _write_csv(file: IO[str], timelines: Sequence[tuple[str, Path]]) -> list[str]:
    header, left_out = "", []
    for name, path in timelines:
        with path.open(encoding="utf-8-sig", newline="") as rows:
            columns = rows.readline()
            if not header:
                header = columns
                file.write(f"{COLUMN},{header}")
            if columns != header:
                left_out.append(name)
                continue
            cell = io.StringIO()
            csv.writer(cell, lineterminator="").writerow([name])
            for row in rows:
                file.write(f"{cell.getvalue()},{row}")
    return left_out


def _write_jsonl(file: IO[str], timelines: Sequence[tuple[str, Path]]) -> list[str]:
    columns: list[str] = []
    left_out = []
    for name, path in timelines:
        start = json.dumps({COLUMN: name}, ensure_ascii=False)[:-1]
        with path.open(encoding="utf-8") as rows:
            for number, row in enumerate(rows):
                if number == 0:
                    own = list(json.loads(row))
                    columns = columns or own
                    if own != columns:
                        left_out.append(name)
                        break
                file.write(f"{start},{row.lstrip()[1:]}")
    return left_out


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
