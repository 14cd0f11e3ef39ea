"""Readers of a Timeline's own files: CSV, JSON lines and Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

from mien.labels import is_probability_column

#: Key of classes, media, notes and info in the metadata of Parquet.
KEY = "mien"


def _file_schema(columns: Iterable[str], known: pl.Schema) -> pl.Schema:
    """Types of a file's columns: without them, a column whose first rows are empty would be read as text."""
    return pl.Schema({c: pl.Float32 if is_probability_column(c) else known.get(c, pl.String) for c in columns})


def read_csv(path: Path, known: pl.Schema) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The table, and no further facts. known: types of the columns other than probabilities. Raises ValueError."""
    # polars does not unescape quotes in a header.
    with path.open(encoding="utf-8-sig", newline="") as file:
        columns = next(csv.reader(file), [])
    if not columns:
        raise ValueError("it is empty")
    return pl.read_csv(path, has_header=False, skip_rows=1, schema=_file_schema(columns, known)), {}


def read_jsonl(path: Path, known: pl.Schema) -> tuple[pl.DataFrame, dict[str, Any]]:
    """As `read_csv`."""
    with path.open(encoding="utf-8") as file:
        first = json.loads(file.readline() or "{}")
    if not isinstance(first, dict):
        raise ValueError("its first line is not a JSON object")
    # With the whole schema, because without it polars does not keep the order of many columns.
    return pl.read_ndjson(path, schema=_file_schema(first, known)), {}


def read_parquet(path: Path, known: pl.Schema) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The table, and the arguments of `Timeline` that the metadata holds. known: not needed."""
    about = json.loads(pl.read_parquet_metadata(path).get(KEY, "{}"))
    return pl.read_parquet(path), about
