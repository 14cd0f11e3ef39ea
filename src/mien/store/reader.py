"""Reading and checking one file of the store."""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mien.records import Stream
from mien.store.filenames import unescape
from mien.store.writer import DTYPES, FORMAT, HASH_KEY, StoreError

_CODES = {code for code, _ in DTYPES.values()}
_ITEMSIZE = {"F16": 2, "F32": 4, "F64": 8, "U8": 1, "BOOL": 1}
_MENDING = "`mien store gc STORE --broken` removes it and `mien extract` makes it again"


@dataclass
class Reader:
    """One stored stream, mapped into memory on first use; only the rows that are asked for are read from the
    disk.

    clip, encoder, provenance, origin, notes: as they were written. rows, dim, dtype: of `values`.
    A Reader can be pickled (for loader processes); the other side maps the file again.

    Raises:
        StoreError: on opening, if the file is missing, truncated or not a stream of the store.
    """

    path: Path
    clip: str = field(init=False)
    encoder: str = field(init=False)
    provenance: dict[str, str] = field(init=False)
    origin: dict[str, Any] = field(init=False)
    notes: list[str] = field(init=False)
    rows: int = field(init=False)
    dim: int = field(init=False)
    dtype: str = field(init=False)
    valid_rows: int = field(init=False)

    def __post_init__(self) -> None:
        header, self._start = read_header(self.path)
        try:
            meta, values = header["__metadata__"], header["values"]
            self.clip = unescape(meta["clip"]) or ""
            self.encoder = meta["encoder"]
            self.provenance = json.loads(meta["provenance"])
            self.origin, self.notes = json.loads(meta["origin"]), json.loads(meta["notes"])
            self.rows, self.dim = values["shape"]
            self.valid_rows = int(meta["valid_rows"])
        except (ValueError, KeyError, TypeError):
            raise _broken(self.path, "has a header that cannot be read") from None
        self.dtype = next(name for name, (code, _) in DTYPES.items() if code == values["dtype"])
        self._offsets = {name: header[name]["data_offsets"] for name in ("values", "times", "valid")}

    @cached_property
    def _mapped(self) -> mmap.mmap:
        with open(self.path, "rb") as file:
            if os.fstat(file.fileno()).st_size != self._start + self._offsets["valid"][1]:
                raise StoreError(f"{self.path} changed while it was open", remedy="open the store again")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _array(self, name: str, dtype: Any, count: int) -> np.ndarray:
        return np.frombuffer(self._mapped, dtype, count, self._start + self._offsets[name][0])

    @cached_property
    def values(self) -> np.ndarray:
        """`(rows, dim)` as stored (16- or 32-bit), mapped, read-only."""
        return self._array("values", DTYPES[self.dtype][1], self.rows * self.dim).reshape(self.rows, self.dim)

    @cached_property
    def times(self) -> np.ndarray:
        """`(rows,)` seconds, mapped, read-only."""
        return self._array("times", "<f8", self.rows)

    @cached_property
    def valid(self) -> np.ndarray:
        """`(rows,)` bool, mapped, read-only."""
        return self._array("valid", bool, self.rows)

    def read(self, start: int, stop: int) -> Stream:
        """Rows [start, stop), clipped to what there is, as a Stream of its own memory with float32 values."""
        rows = slice(max(0, start), max(0, start, min(stop, self.rows)))
        self._announce(rows)
        return Stream(
            _float32(self.values[rows]),
            self.times[rows].copy(),
            self.valid[rows].copy(),
            self.provenance,
        )

    def _announce(self, rows: slice) -> None:
        """Has the disk read the rows' values in one go, where they are not in memory yet; page by page it takes
        several times as long."""
        if not hasattr(mmap, "MADV_WILLNEED") or rows.stop <= rows.start:
            return
        row = self.dim * DTYPES[self.dtype][1].itemsize
        start = self._start + self._offsets["values"][0] + rows.start * row
        page = start % mmap.PAGESIZE
        self._mapped.madvise(mmap.MADV_WILLNEED, start - page, (rows.stop - rows.start) * row + page)

    def between(self, start_s: float, stop_s: float) -> Stream:
        """The rows whose times lie in [start_s, stop_s) seconds."""
        start, stop = np.searchsorted(self.times, (start_s, stop_s))
        return self.read(int(start), int(stop))

    def stream(self, *, mapped: bool = False) -> Stream:
        """The whole stream: float32 in memory, or (mapped) as stored and left on the disk until it is
        touched."""
        if mapped:
            return Stream(self.values, self.times, self.valid, self.provenance)
        return self.read(0, self.rows)

    def close(self) -> None:
        """Lets go of the mapping; arrays that were handed out by `values`, `times`, `valid` keep it alive."""
        for name in ("values", "times", "valid", "_mapped"):
            self.__dict__.pop(name, None)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("values", "times", "valid", "_mapped")}


def _float32(values: np.ndarray) -> np.ndarray:
    """A copy in float32. Where torch is loaded anyway it converts 16-bit floats, 2.4 times as fast as
    numpy."""
    torch: Any = sys.modules.get("torch")
    if values.dtype != np.float16 or not hasattr(torch, "from_numpy"):
        return values.astype(np.float32)
    converted: np.ndarray = torch.from_numpy(values.copy()).float().numpy()
    return converted


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a store file and where its data starts. Raises StoreError, which says what is wrong with
    it."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, 100_000_000):
                raise _broken(path, f"is {size:,} bytes, less than its own header")
            raw = file.read(length)
    except FileNotFoundError:
        raise StoreError(
            f"{path} is not in the store",
            remedy="`mien extract` makes what is missing; look at failures.jsonl there",
        ) from None
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}", remedy="check its permissions and its disk") from None
    try:
        header = json.loads(raw)
        meta = header["__metadata__"]
        promised = 8 + length + header["valid"]["data_offsets"][1]
        known = meta["format"] == FORMAT and header["values"]["dtype"] in _CODES
        fault = _layout_fault(header) if known else ""
    except (ValueError, KeyError, TypeError):
        raise _broken(path, "has a header that cannot be read") from None
    if not known:
        raise _broken(path, f"is of format {meta['format']!r}; this version reads {FORMAT!r}")
    if size != promised:
        raise _broken(path, f"is {size:,} bytes where its header promises {promised:,}: it was cut or added to")
    if fault:
        raise _broken(path, fault)
    return header, 8 + length


def _layout_fault(header: Mapping[str, Any]) -> str:
    offset, rows = 0, header["values"]["shape"][0]
    for name in ("values", "pad", "times", "valid"):
        tensor = header[name]
        start, stop = tensor["data_offsets"]
        if start != offset or stop - start != math.prod(tensor["shape"]) * _ITEMSIZE[tensor["dtype"]]:
            return f"has a header whose {name!r} does not fit its place"
        if name in ("times", "valid") and tensor["shape"] != [rows]:
            return f"has {rows} values but {tensor['shape']} {name}"
        offset = stop
    return ""


def verify_file(path: Path) -> None:
    """Reads the whole file and compares its hash. Raises StoreError if any byte differs from what was
    written."""
    header, start = read_header(path)
    written = str(header["__metadata__"].get("sha256")).encode()
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        head = file.read(start).replace(HASH_KEY + written, HASH_KEY + b"0" * 64, 1)
        while block := file.read(1 << 20):
            digest.update(block)
    digest.update(head)
    if digest.hexdigest().encode() != written:
        raise _broken(path, "is not what was written: its checksum differs")


def _broken(path: Path, what: str) -> StoreError:
    return StoreError(f"{path} {what}", follows="it is not read", remedy=_MENDING)
