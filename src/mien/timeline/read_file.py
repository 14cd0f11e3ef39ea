"""Read the table of a timeline from CSV, JSON lines and Parquet; damage of the file is an error."""

from __future__ import annotations

import csv
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl

from mien import json_object
from mien.timeline.columns import file_schema
from mien.timeline.whole_file import check_whole

#: Key of the facts in the metadata of a Parquet file.
KEY = "mien"
#: What the readers raise for damaged files. The Parquet reader panics at some damaged pages.
UNREADABLE = (
    pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError, TypeError, OSError, RecursionError, csv.Error,
)  # fmt: skip


def read_file(path: Path) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Table of a timeline's file, unchecked, and `classes`, `media`, `notes` and `info`, which only Parquet stores.

    path: its suffix is one of `mien.timeline.whole_file.SUFFIXES`.

    Raises: the types of `UNREADABLE`.
    """
    return _READERS[path.suffix.lower()](path)


def source_of(path: Path) -> Path | BytesIO:
    """A file as polars opens it: its path, or its content where the bytes of the path are not UTF-8. To be read with
    `glob=False`, because brackets and stars in a path are patterns otherwise."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return BytesIO(path.read_bytes())
    return path


def _read_csv(path: Path) -> tuple[pl.DataFrame, dict[str, Any]]:
    check_whole(path)
    # polars does not unescape quotes in a header.
    with path.open(encoding="utf-8-sig", newline="") as file:
        columns = next(csv.reader(file), [])
    if not columns:
        raise ValueError("it is empty")
    return pl.read_csv(source_of(path), has_header=False, skip_rows=1, schema=file_schema(columns), glob=False), {}


def _read_jsonl(path: Path) -> tuple[pl.DataFrame, dict[str, Any]]:
    check_whole(path)
    with path.open("rb") as file:
        first = _first_object(file.readline() or b"{}")
        file.seek(0)
        # With the whole schema, because without it polars does not keep the order of many columns. An open file,
        # because brackets and stars in a path would be patterns.
        return pl.read_ndjson(file, schema=file_schema(first)), {}


def _first_object(line: bytes) -> dict[str, Any]:
    try:
        return json_object.parse(line)
    except ValueError as error:
        raise ValueError(f"its first line is not a JSON object ({error})") from None


def _read_parquet(path: Path) -> tuple[pl.DataFrame, dict[str, Any]]:
    check_whole(path)
    with path.open("rb") as file:
        about = json_object.parse(pl.read_parquet_metadata(file).get(KEY, "{}"))
    table = pl.read_parquet(source_of(path), glob=False)
    return table, {key: about[key] for key in ("classes", "media", "notes", "info") if key in about}


_READERS = {".csv": _read_csv, ".parquet": _read_parquet, ".jsonl": _read_jsonl}
