"""Rows of a live prediction as a Parquet timeline, written while they come."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import polars as pl

from mien.atomic import atomic_path
from mien.errors import ConfigError, OutputError
from mien.live.predictor import Row
from mien.timeline import parquet_digest
from mien.timeline.columns import schema
from mien.timeline.read_file import KEY

#: Rows of a row group, which are kept in memory: five minutes of one person at 30 frames a second. Our choice: the
#: index of a day's file is then about 1 MB.
GROUP_ROWS = 8192


class Recorder:
    """Write rows to a Parquet file that `Timeline.read` reads. A context manager: the file gets its name at the end.

    Memory holds `GROUP_ROWS` rows, however long the recording is.

    Args:
        path: of the file, which ends in .parquet. classes: class names.

    Attributes:
        rows: number of rows so far. notes, info: as of a `Timeline`, stored when the file is complete.

    Raises:
        ConfigError: another suffix. OutputError: the file cannot be written (at construction, when rows are added, and
        at the end).
    """

    def __init__(self, path: Path, classes: Sequence[str], *, media: str = "") -> None:
        if path.suffix.lower() != ".parquet":
            raise ConfigError(
                f"--record {path}: a recording of rows is a Parquet file",
                follows="Nothing was recorded.",
                remedy="End the name in .parquet; Timeline.read(path).to_csv(...) converts it.",
            )
        import pyarrow.parquet as pq

        self._schema, self._classes, self._media = schema(classes), tuple(classes), media
        self.rows, self.notes = 0, list[str]()
        self.info: Mapping[str, Any] = {}
        self._path, self._waiting, self._count = path, list[pl.DataFrame](), 0
        self._stack = ExitStack()
        try:
            self._temporary = self._stack.enter_context(atomic_path(path))
        except OutputError as error:
            raise _obstructed(error) from None
        try:
            empty = pl.DataFrame(schema=self._schema).to_arrow()
            self._writer = pq.ParquetWriter(self._temporary, empty.schema, compression="zstd")
        except OSError as error:
            self._stack.close()
            raise _failed(path, error) from None

    def add(self, rows: Sequence[Row]) -> None:
        """Append rows."""
        if not rows:
            return
        self._waiting.append(pl.DataFrame(rows, schema=self._schema))
        self._count += len(rows)
        self.rows += len(rows)
        if self._count >= GROUP_ROWS:
            self._write()

    def _write(self) -> None:
        if not self._waiting:
            return
        try:
            self._writer.write_table(pl.concat(self._waiting).to_arrow())
        except OSError as error:
            raise _failed(self._path, error) from None
        self._waiting, self._count = [], 0

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The rows so far are complete whatever ended the session.
        about = {"classes": self._classes, "media": self._media, "notes": self.notes, "info": dict(self.info)}
        try:
            self._write()
            self._writer.add_key_value_metadata({KEY: json.dumps(about, default=str), **parquet_digest.METADATA})
            self._writer.close()
            parquet_digest.add(self._temporary)
        except OSError as failure:
            raise _failed(self._path, failure) from None
        try:
            self._stack.close()
        except OutputError as failure:
            raise _obstructed(failure) from None


def _obstructed(error: OutputError) -> OutputError:
    return OutputError(
        error.what, follows="The rows of this session were not kept.", remedy="Name another file with --record."
    )


def _failed(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{path} could not be written: {error.strerror or error}",
        follows="The rows of this session were not kept.",
        remedy="Free some space, or choose another folder with --record.",
    )
