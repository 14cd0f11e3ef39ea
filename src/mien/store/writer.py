"""One stream on disk: a safetensors file that can be read by row and be checked.

Layout: `values` (rows, dim) F16 or F32, `pad` (0 to 7 bytes, for alignment), `times` (rows,) F64 seconds,
`valid` (rows,) BOOL. The header's `__metadata__` holds, as strings: `format`, `clip`, `encoder`, `provenance`
(JSON), `origin` (JSON: what the media file was when it was read), `notes` (JSON list), `rows`, `valid_rows`,
and `sha256` of the whole
file: of the data section and then of the header with that hash written as zeros. Every byte is covered.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from mien.atomic import commit
from mien.errors import MienError, OutputError
from mien.store.filenames import escape, quote

FORMAT = "mien-stream-1"
SUFFIX = ".safetensors"
DTYPES: dict[str, tuple[str, np.dtype[Any]]] = {
    "float16": ("F16", np.dtype("<f2")),
    "float32": ("F32", np.dtype("<f4")),
}
#: What stands before the hash in the header, and what stands in its place while the hash is made.
HASH_KEY = b'"sha256":"'
_ZEROS = b"0" * 64
#: Bytes kept free in the header for notes, which are only known at the end.
_NOTES = 2048
_COUNT = itertools.count()
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class StoreError(MienError):
    """A file of the store that cannot be read: missing, truncated, damaged, or not one of ours."""


class FeatureError(MienError):
    """Values that a store cannot hold truthfully: not finite, too large for 16 bits, times that do not
    increase."""


def output_error(path: Path, error: OSError) -> OutputError:
    """The house's error for a file that could not be written."""
    if error.errno in _FULL:
        remedy = "free space there or name another --store; what is finished stays and is not made again"
    else:
        remedy = f"check that {path.parent} exists and can be written, or name another --store"
    return OutputError(f"{path}: {error.strerror or error}", follows="nothing of it was kept", remedy=remedy)


class Writer:
    """Writes one stream piece by piece, beside its place, and puts it there whole or not at all.

    Use as a context manager: leaving it normally finishes the file (flushed to the disk, then renamed);
    leaving it by an exception removes what was written. Memory does not grow with the values, only by 9 bytes
    a row.

    Args:
        path: the final file. The part file beside it carries this host and process in its name.
        dim: length of one value. dtype: `float16` or `float32`.
        origin: what the media file was, for `mien.datasets.index.Stamp`.

    Raises:
        OutputError: the disk is full or there is no permission.
        FeatureError: a valid value is not finite or does not fit the dtype, or times do not increase.
    """

    def __init__(
        self,
        path: Path,
        *,
        clip: str,
        encoder: str,
        dim: int,
        provenance: Mapping[str, str],
        dtype: str = "float16",
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
        wrong = {k: v for k, v in provenance.items() if not (isinstance(k, str) and isinstance(v, str))}
        if wrong:
            raise ValueError(f"provenance maps strings to strings; {encoder} says {wrong}")
        self.path, self.dim, self.dtype, self.notes = path, dim, dtype, list[str]()
        self._meta = {"format": FORMAT, "clip": quote(clip), "encoder": encoder, "sha256": _ZEROS.decode()}
        self._meta["provenance"] = json.dumps(dict(provenance), sort_keys=True)
        self._meta["origin"] = json.dumps(dict(origin or {}), sort_keys=True)
        self._times: list[np.ndarray] = []
        self._valid: list[np.ndarray] = []
        self._rows, self._last = 0, -np.inf
        self._hash = hashlib.sha256()
        self.part = part_path(path)
        self._reserved = 0
        self._file: Any = None

    def _open(self) -> None:
        longest = len(self._header(10**15, [])) + _NOTES
        self._reserved = -(-(8 + longest) // 64) * 64
        self.part.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.part, "xb", buffering=1 << 20)  # noqa: SIM115
        self._file.write(b"\0" * self._reserved)

    def append(self, values: np.ndarray, times: np.ndarray, valid: np.ndarray) -> None:
        """Adds rows. values: `(n, dim)`; times: `(n,)` seconds, increasing over all rows; valid: `(n,)` bool.
        Values at invalid rows are stored as zero, whatever they are."""
        values, times, valid = np.asarray(values), np.asarray(times, "<f8"), np.asarray(valid, bool)
        if values.shape != (len(times), self.dim) or valid.shape != (len(times),):
            raise ValueError(f"{self.path.name}: rows of {self.dim} expected; got {values.shape}, {times.shape}")
        steps = np.diff(times, prepend=self._last)
        if not (np.isfinite(times).all() and (steps > 0).all()):
            row = int(np.argmax(~(steps > 0)))
            raise FeatureError(
                f"{self.path.name}: times must increase; row {self._rows + row} is at {times[row]} s after "
                f"{times[row - 1] if row else self._last} s",
                follows="nothing of it was kept",
                remedy="a fault of the encoder or of the repair of timestamps; please report it",
            )
        rows = self._converted(values, valid)
        self._guard(lambda: self._write(rows))
        self._times.append(times)
        self._valid.append(valid)
        self._rows += len(times)
        self._last = times[-1] if len(times) else self._last

    def _converted(self, values: np.ndarray, valid: np.ndarray) -> np.ndarray:
        dtype = DTYPES[self.dtype][1]
        with np.errstate(over="ignore"):
            rows = values.astype(dtype, copy=not valid.all())
        if not valid.all():
            rows[~valid] = 0
        # read off the bits: numpy's isfinite is ten times slower on 16-bit floats
        bits, unsigned, infinite = (
            (np.uint16, 0x7FFF, 0x7C00) if dtype.itemsize == 2 else (np.uint32, 0x7FFFFFFF, 0x7F800000)
        )
        if rows.size and np.bitwise_and(np.ascontiguousarray(rows).view(bits), unsigned).max() >= infinite:
            row, column = np.argwhere(~np.isfinite(rows))[0]
            raise FeatureError(
                f"{self.path.name}: row {self._rows + row}, column {column} is {values[row, column]}, "
                f"which {self.dtype} cannot hold",
                follows="nothing of it was kept",
                remedy="store 32-bit values (--dtype float32)"
                if np.isfinite(values[row, column])
                else "the encoder gave it for a valid row; look at that clip and at its precision",
            )
        return rows

    def _write(self, array: np.ndarray) -> None:
        if self._file is None:
            self._open()
        raw = np.ascontiguousarray(array).view(np.uint8).data if array.size else b""
        self._hash.update(raw)
        self._file.write(raw)

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            self.abort()
            raise output_error(self.path, error) from None

    def close(self) -> None:
        """Finishes the file and puts it in its place."""
        self._guard(self._finish)

    def _finish(self) -> None:
        if self._file is None:
            self._open()
        self._write(np.zeros(-self._rows * self._row_bytes % 8, np.uint8))
        self._write(np.concatenate(self._times or [np.zeros(0, "<f8")]))
        self._write(np.concatenate(self._valid or [np.zeros(0, bool)]))
        notes = self.notes
        while len(json.dumps(json.dumps(notes))) > _NOTES - 64:
            notes = notes[:-1]
        size = self._reserved - 8
        header = size.to_bytes(8, "little") + self._header(self._rows, notes).ljust(size)
        self._hash.update(header)
        header = header.replace(HASH_KEY + _ZEROS, HASH_KEY + self._hash.hexdigest().encode(), 1)
        self._file.seek(0)
        self._file.write(header)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        commit(self.part, self.path, sync=True)

    @property
    def _row_bytes(self) -> int:
        return self.dim * DTYPES[self.dtype][1].itemsize

    def _header(self, rows: int, notes: list[str]) -> bytes:
        valid = sum(int(v.sum()) for v in self._valid)
        meta = self._meta | {"rows": str(rows), "valid_rows": str(valid), "notes": json.dumps(notes)}
        tensors: dict[str, Any] = {"__metadata__": meta}
        offset = 0
        for name, code, shape, size in (
            ("values", DTYPES[self.dtype][0], [rows, self.dim], rows * self._row_bytes),
            ("pad", "U8", [-rows * self._row_bytes % 8], -rows * self._row_bytes % 8),
            ("times", "F64", [rows], 8 * rows),
            ("valid", "BOOL", [rows], rows),
        ):
            tensors[name] = {"dtype": code, "shape": shape, "data_offsets": [offset, offset + size]}
            offset += size
        return json.dumps(tensors, separators=(",", ":")).encode()

    def abort(self) -> None:
        """Leaves nothing behind."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # what cannot be flushed is about to be removed
                self._file.close()
            self.part.unlink(missing_ok=True)
            self._file = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def part_path(path: Path) -> Path:
    """A name beside `path` that no other process, thread or machine uses."""
    host = escape(socket.gethostname())[:32]
    return path.with_name(f".{path.stem[:120]}.{host}.{os.getpid()}.{next(_COUNT)}.part")
