"""Read and verify one file of the feature store."""

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
from numpy.typing import DTypeLike

from mien.records import Stream
from mien.store.filenames import unescape
from mien.store.writer import DTYPES, FORMAT, HASH_KEY, StoreError

_CODES = {code for code, _ in DTYPES.values()}
_ITEMSIZE = {"F16": 2, "F32": 4, "F64": 8, "U8": 1, "BOOL": 1}
_REMEDY = "Run `mien store gc STORE --broken` to remove it and `mien extract` to compute it again."


@dataclass
class Reader:
    """One stored stream, memory-mapped on first use; reads only the requested rows from the disk.

    clip, encoder, provenance, origin, notes: as written. rows, dim, dtype: of `values`. valid_rows: number of valid
    rows. A Reader can be pickled (for loader processes); the other process maps the file again.

    Raises:
        StoreError: at creation, if the file is missing, truncated or not a stream of the store.
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
            raise _broken_error(self.path, "has a header that cannot be read") from None
        self.dtype = next(name for name, (code, _) in DTYPES.items() if code == values["dtype"])
        self._offsets = {name: header[name]["data_offsets"] for name in ("values", "times", "valid")}

    @cached_property
    def _mapped(self) -> mmap.mmap:
        with open(self.path, "rb") as file:
            if os.fstat(file.fileno()).st_size != self._start + self._offsets["valid"][1]:
                raise StoreError(
                    f"{self.path} changed while it was open.",
                    follows="It was not read.",
                    remedy="Open the store again.",
                )
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _array(self, name: str, dtype: DTypeLike, count: int) -> np.ndarray:
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
        """Rows [start, stop), clipped to the stream, as a copy with float32 values."""
        rows = slice(max(0, start), max(0, start, min(stop, self.rows)))
        self._prefetch(rows)
        return Stream(
            _float32(self.values[rows]),
            self.times[rows].copy(),
            self.valid[rows].copy(),
            self.provenance,
        )

    def _prefetch(self, rows: slice) -> None:
        """Ask the kernel to read the rows' values at once; page by page it takes several times as long."""
        if not hasattr(mmap, "MADV_WILLNEED") or rows.stop <= rows.start:
            return
        row = self.dim * DTYPES[self.dtype][1].itemsize
        start = self._start + self._offsets["values"][0] + rows.start * row
        page = start % mmap.PAGESIZE
        self._mapped.madvise(mmap.MADV_WILLNEED, start - page, (rows.stop - rows.start) * row + page)

    def between(self, start_s: float, stop_s: float) -> Stream:
        """The rows whose times lie in [start_s, stop_s) seconds, as `read`."""
        start, stop = np.searchsorted(self.times, (start_s, stop_s))
        return self.read(int(start), int(stop))

    def stream(self, *, mapped: bool = False) -> Stream:
        """The whole stream: a float32 copy, or, if `mapped`, a read-only view of the file in the stored dtype."""
        if mapped:
            return Stream(self.values, self.times, self.valid, self.provenance)
        return self.read(0, self.rows)

    def verify(self) -> None:
        """Read the whole file and compare its hash. Raises StoreError if any byte differs from what was written."""
        verify_file(self.path)

    def close(self) -> None:
        """Release the mapping. Arrays from `values`, `times` and `valid` keep it alive."""
        for name in ("values", "times", "valid", "_mapped"):
            self.__dict__.pop(name, None)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("values", "times", "valid", "_mapped")}


def _float32(values: np.ndarray) -> np.ndarray:
    """A float32 copy. If torch is already imported, it converts 16-bit floats 2.4 times as fast as numpy."""
    torch: Any = sys.modules.get("torch")
    if values.dtype != np.float16 or not hasattr(torch, "from_numpy"):
        return values.astype(np.float32)
    converted: np.ndarray = torch.from_numpy(values.copy()).float().numpy()
    return converted


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Read the header of a store file.

    Returns (header, offset of the data in bytes). Raises StoreError if the file is missing, truncated or not a stream
    of this format.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, 100_000_000):
                raise _broken_error(path, f"has {size:,} bytes, fewer than its header")
            raw = file.read(length)
    except FileNotFoundError:
        raise StoreError(
            f"{path} is not in the store.",
            follows="Nothing was read.",
            remedy="Run `mien extract` to compute it; failures.jsonl in the store lists clips that failed.",
        ) from None
    except OSError as error:
        raise StoreError(
            f"{path} cannot be read: {error.strerror or error}.",
            follows="Nothing was read.",
            remedy="Check its permissions and its disk.",
        ) from None
    try:
        header = json.loads(raw)
        meta = header["__metadata__"]
        promised = 8 + length + header["valid"]["data_offsets"][1]
        known = meta["format"] == FORMAT and header["values"]["dtype"] in _CODES
        fault = _layout_fault(header) if known else ""
    except (ValueError, KeyError, TypeError):
        raise _broken_error(path, "has a header that cannot be read") from None
    if not known:
        raise _broken_error(path, f"has format {meta['format']!r}; this version reads {FORMAT!r}")
    if size != promised:
        raise _broken_error(path, f"has {size:,} bytes, but its header promises {promised:,}: it was cut or extended")
    if fault:
        raise _broken_error(path, fault)
    return header, 8 + length


def _layout_fault(header: Mapping[str, Any]) -> str:
    """Description of an error in the header's offsets or shapes, or ""."""
    offset, rows = 0, header["values"]["shape"][0]
    for name in ("values", "pad", "times", "valid"):
        tensor = header[name]
        start, stop = tensor["data_offsets"]
        if start != offset or stop - start != math.prod(tensor["shape"]) * _ITEMSIZE[tensor["dtype"]]:
            return f"has a header whose offsets do not match the size of {name!r}"
        if name in ("times", "valid") and tensor["shape"] != [rows]:
            return f"has {rows} values but {tensor['shape']} {name}"
        offset = stop
    return ""


def verify_file(path: Path) -> None:
    """Read the whole file and compare its hash. Raises StoreError if any byte differs from what was written."""
    header, start = read_header(path)
    stored_hash = str(header["__metadata__"].get("sha256")).encode()
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        head = file.read(start).replace(HASH_KEY + stored_hash, HASH_KEY + b"0" * 64, 1)
        while block := file.read(1 << 20):
            digest.update(block)
    digest.update(head)
    if digest.hexdigest().encode() != stored_hash:
        raise _broken_error(path, "is damaged: its checksum differs from the stored one")


def _broken_error(path: Path, what: str) -> StoreError:
    return StoreError(f"{path} {what}.", follows="It was not read.", remedy=_REMEDY)
