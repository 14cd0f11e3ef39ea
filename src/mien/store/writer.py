"""Write one stream to a safetensors file with row access and a checksum.

Layout: `values` (rows, dim) F16 or F32, `pad` (0 to 7 bytes, for alignment), `times` (rows,) F64 seconds, `valid`
(rows,) BOOL. The header's `__metadata__` has, as strings: `format`, `clip`, `encoder`, `provenance` (JSON), `origin`
(JSON: identity of the media file when it was read), `notes` (JSON list), `rows`, `valid_rows`, and `sha256` of the
whole file: of the data section, then of the header with zeros in place of the hash.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from mien.atomic import FULL, commit
from mien.errors import MienError, OutputError
from mien.scratch import temporary_path
from mien.store.filenames import quote

FORMAT = "mien-stream-1"
SUFFIX = ".safetensors"
DTYPES: dict[str, tuple[str, np.dtype[Any]]] = {
    "float16": ("F16", np.dtype("<f2")),
    "float32": ("F32", np.dtype("<f4")),
}
#: Header text before the hash, and the placeholder for the hash while it is computed.
HASH_KEY = b'"sha256":"'
_ZEROS = b"0" * 64
#: Bytes reserved in the header for notes, which are complete only at the end.
_NOTES = 2048


class StoreError(MienError):
    """A file of the store cannot be read: missing, truncated, damaged, or of another format."""


class FeatureError(MienError):
    """The store cannot represent features: values not finite or too large for 16 bits, times not increasing."""


def output_error(path: Path, error: OSError) -> OutputError:
    """The error for a file of the store that could not be written, from the operating system's error."""
    if error.errno in FULL:
        remedy = "Free some space, or name another --store. Complete files remain and are not computed again."
    else:
        remedy = f"Check that {path.parent} exists and can be written, or name another --store."
    return OutputError(
        f"{path} could not be written: {error.strerror or error}.", follows="Nothing of it was kept.", remedy=remedy
    )


class Writer:
    """Write one stream in pieces to a temporary file, then rename it.

    Use it as a context manager: a normal exit flushes the file to the disk and renames it; an exception removes it.
    Memory grows by 9 bytes a row, not with the values.

    Args:
        path: the final file. The temporary file beside it has this host and process in its name.
        dim: length of one value. dtype: `float16` or `float32`.
        provenance: what made the values, strings to strings.
        origin: identity of the media file, for `mien.datasets.index.Stamp`.

    Raises:
        OutputError: the disk is full or there is no permission.
        FeatureError: a valid value is not finite or does not fit the dtype, or times do not increase.
        ValueError: an unknown dtype, a provenance of other types than strings, or rows of another shape.
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
            raise ValueError(f"provenance maps strings to strings; encoder {encoder} gives {wrong}")
        self.path, self.dim, self.dtype, self.notes = path, dim, dtype, list[str]()
        self._meta = {"format": FORMAT, "clip": quote(clip), "encoder": encoder, "sha256": _ZEROS.decode()}
        self._meta["provenance"] = json.dumps(dict(provenance), sort_keys=True)
        self._meta["origin"] = json.dumps(dict(origin or {}), sort_keys=True)
        self._times: list[np.ndarray] = []
        self._valid: list[np.ndarray] = []
        self._rows, self._last = 0, -np.inf
        self._hash = hashlib.sha256()
        self.part = temporary_path(path)
        self._reserved = 0
        self._file: IO[bytes] | None = None

    def _open(self) -> IO[bytes]:
        longest = len(self._header(10**15, [])) + _NOTES
        self._reserved = -(-(8 + longest) // 64) * 64
        self.part.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.part, "xb", buffering=1 << 20)  # noqa: SIM115
        self._file.write(b"\0" * self._reserved)
        return self._file

    def append(self, values: np.ndarray, times: np.ndarray, valid: np.ndarray) -> None:
        """Append rows. values: `(n, dim)`; times: `(n,)` seconds, increasing over all rows; valid: `(n,)` bool.
        Values at invalid rows are stored as zero."""
        values, times, valid = np.asarray(values), np.asarray(times, "<f8"), np.asarray(valid, bool)
        if values.shape != (len(times), self.dim) or valid.shape != (len(times),):
            raise ValueError(f"{self.path.name}: rows of {self.dim} expected; got {values.shape}, {times.shape}")
        steps = np.diff(times, prepend=self._last)
        if not (np.isfinite(times).all() and (steps > 0).all()):
            row = int(np.argmax(~(steps > 0)))
            raise FeatureError(
                f"{self.path.name}: times must increase; row {self._rows + row} is at {times[row]} s after "
                f"{times[row - 1] if row else self._last} s.",
                follows="Nothing of it was kept.",
                remedy="This is a bug in the encoder or in the timestamp repair. Please report it.",
            )
        rows = self._convert(values, valid)
        self._guard(lambda: self._write(rows))
        self._times.append(times)
        self._valid.append(valid)
        self._rows += len(times)
        self._last = times[-1] if len(times) else self._last

    def _convert(self, values: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Rows in the stored dtype, zero where invalid; raises FeatureError if one is then not finite."""
        dtype = DTYPES[self.dtype][1]
        with np.errstate(over="ignore"):
            rows = values.astype(dtype, copy=not valid.all())
        if not valid.all():
            rows[~valid] = 0
        # Tested on the bits, because numpy's isfinite is ten times slower on 16-bit floats.
        bits, unsigned, infinite = (
            (np.uint16, 0x7FFF, 0x7C00) if dtype.itemsize == 2 else (np.uint32, 0x7FFFFFFF, 0x7F800000)
        )
        if rows.size and np.bitwise_and(np.ascontiguousarray(rows).view(bits), unsigned).max() >= infinite:
            row, column = np.argwhere(~np.isfinite(rows))[0]
            raise FeatureError(
                f"{self.path.name}: row {self._rows + row}, column {column} is {values[row, column]}, "
                f"which {self.dtype} cannot represent.",
                follows="Nothing of it was kept.",
                remedy="Store 32-bit values (--dtype float32)."
                if np.isfinite(values[row, column])
                else "The encoder returned it for a valid row: check that clip and the encoder's precision.",
            )
        return rows

    def _write(self, array: np.ndarray) -> None:
        file = self._file or self._open()
        raw = np.ascontiguousarray(array).view(np.uint8).data if array.size else b""
        self._hash.update(raw)
        file.write(raw)

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            self.abort()
            raise output_error(self.path, error) from None

    def close(self) -> None:
        """Complete the file and rename it to `path`."""
        self._guard(self._finish)

    def _finish(self) -> None:
        file = self._file or self._open()
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
        file.seek(0)
        file.write(header)
        file.flush()
        os.fsync(file.fileno())
        file.close()
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
        """Remove the temporary file."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # unflushed data is about to be removed
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
