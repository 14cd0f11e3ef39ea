"""Feature store: folders `STORE/<encoder>/<clip>.safetensors`, with one provenance for each encoder."""

from __future__ import annotations

import os
import socket
import time
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mien.errors import ConfigError
from mien.processes import is_running
from mien.records import Stream
from mien.store.filenames import escape, unescape
from mien.store.reader import Reader, read_header, verify_file
from mien.store.writer import SUFFIX, StoreError, Writer

#: Seconds for which temporary files of other machines are kept: whether their process runs cannot be checked here.
_FOREIGN_PART_S = 86_400.0
#: Files of one encoder that stay mapped. Each uses a file descriptor, of which a process has 1,024 by default.
_MAX_MAPPED = 256


class ProvenanceError(ConfigError):
    """Features of one encoder with different provenances. The text names each key that differs, with both values."""


def provenance_error(path: Path, stored: Mapping[str, str], requested: Mapping[str, str]) -> ProvenanceError | None:
    """The error for a file whose provenance differs from the requested one; None if they are equal."""
    keys = [k for k in sorted({*stored, *requested}) if stored.get(k) != requested.get(k)]
    if not keys:
        return None
    differences = "; ".join(f"{k}: the file has {stored.get(k)!r}, {requested.get(k)!r} is requested" for k in keys)
    return ProvenanceError(
        f"{path} has another provenance: {differences}.",
        follows="Features of different provenance are never mixed. Nothing was read or written.",
        remedy="Name another --store for the new features, or compute them again with `mien extract --replace`.",
    )


@dataclass(frozen=True, slots=True)
class EncoderSummary:
    """Totals of an encoder's files, one row of `mien store ls`. bytes: on the disk; kinds: number of different
    provenances; broken: files that cannot be opened."""

    encoder: str
    clips: int
    rows: int
    valid_rows: int
    dim: int
    dtype: str
    bytes: int
    kinds: int
    broken: int


@dataclass(frozen=True, slots=True)
class DamagedFile:
    """A file that differs from what was written. what: the error text."""

    path: Path
    what: str


@dataclass(frozen=True, slots=True)
class Removal:
    """A file that `gc` removed, or would remove without `dry_run`."""

    path: Path
    bytes: int
    reason: str


class EncoderFeatures:
    """Mapping from clip id to `Reader` for the streams of one encoder, all of one provenance.

    Iteration gives clip ids in order. Up to 256 files stay mapped; the least recently used one is released. Files
    written later are included, and checked when they are read.

    Raises:
        ProvenanceError, StoreError: at `features[clip]`, as `FeatureStore.open`.
    """

    def __init__(self, folder: Path, encoder: str, provenance: Mapping[str, str] | None) -> None:
        self.folder, self.encoder = folder, encoder
        self.provenance = dict(provenance) if provenance is not None else None
        self._readers: OrderedDict[str, Reader] = OrderedDict()

    def __getitem__(self, clip: str) -> Reader:
        if clip in self._readers:
            self._readers.move_to_end(clip)
            return self._readers[clip]
        reader = self._open(self.folder / (escape(clip) + SUFFIX))
        self._readers[clip] = reader
        while len(self._readers) > _MAX_MAPPED:
            self._readers.popitem(last=False)[1].close()
        return reader

    def __contains__(self, clip: object) -> bool:
        return isinstance(clip, str) and (self.folder / (escape(clip) + SUFFIX)).is_file()

    def __iter__(self) -> Iterator[str]:
        return (clip_id(path) for path in stored_files(self.folder))

    def __len__(self) -> int:
        return sum(1 for _ in stored_files(self.folder))

    def check_all(self) -> None:
        """Read the header of every file. Raises as reading a stream does."""
        for path in stored_files(self.folder):
            self._open(path)

    def _open(self, path: Path) -> Reader:
        reader = Reader(path)
        if self.provenance is None:
            self.provenance = reader.provenance
        if error := provenance_error(path, reader.provenance, self.provenance):
            raise error
        return reader

    def close(self) -> None:
        """Release all mappings."""
        while self._readers:
            self._readers.popitem()[1].close()


class FeatureStore:
    """A folder of features. The folder is created with the first file."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def path(self, encoder: str, clip: str) -> Path:
        """The file of a stream, whether or not it exists."""
        return self.root / escape(encoder) / (escape(clip) + SUFFIX)

    def encoders(self) -> list[str]:
        """Names of the encoders in the store, sorted."""
        if not self.root.is_dir():
            return []
        return sorted(
            name for p in self.root.iterdir() if p.is_dir() and (name := unescape(p.name)) and p.name[0] != "."
        )

    def writer(
        self,
        encoder: str,
        clip: str,
        *,
        dim: int,
        provenance: Mapping[str, str],
        dtype: str = "float16",
        origin: Mapping[str, Any] | None = None,
        replace: bool = False,
    ) -> Writer:
        """A `Writer` for one stream.

        Raises:
            ProvenanceError: the clip has a file of another provenance, and `replace` is not set.
            StoreError: the file belongs to another clip whose id is the same name to this file system.
        """
        path = self.path(encoder, clip)
        if path.exists():
            try:
                existing = Reader(path)
            except StoreError:
                pass  # a broken file is overwritten
            else:
                if existing.clip != clip:
                    raise StoreError(
                        f"{path} belongs to clip {existing.clip!r}; to this file system {clip!r} is the same name.",
                        follows="The new clip was not written.",
                        remedy="Rename one of the two clips, or move the store to another file system.",
                    )
                if not replace and (error := provenance_error(path, existing.provenance, provenance)):
                    raise error
        return Writer(path, clip=clip, encoder=encoder, dim=dim, provenance=provenance, dtype=dtype, origin=origin)

    def write(self, encoder: str, clip: str, stream: Stream, **options: Any) -> Path:
        """Write a whole stream with its own provenance and return its file; options and errors as `writer`."""
        options.setdefault("provenance", stream.provenance)
        with self.writer(encoder, clip, dim=stream.dim, **options) as writer:
            writer.append(stream.values, stream.times, stream.valid)
        return writer.path

    def open(self, encoder: str, provenance: Mapping[str, str] | None = None, *, check: bool = True) -> EncoderFeatures:
        """The streams of an encoder.

        Args:
            provenance: required of every file; None takes that of the first file.
            check: read every file's header now (about 60 µs each), not at its first use.

        Raises:
            ProvenanceError: a file's provenance differs from `provenance` or from the other files.
            StoreError: the encoder has no folder in the store, or (with `check`) a file is broken.
        """
        folder = self.root / escape(encoder)
        if not folder.is_dir():
            others = ", ".join(self.encoders()) or "none"
            raise StoreError(
                f"{self.root} has no features of encoder {encoder!r}; it has: {others}.",
                follows="Nothing was read.",
                remedy=f"Run: mien extract INDEX --encoder {encoder} --store {self.root}",
            )
        features = EncoderFeatures(folder, encoder, provenance)
        if check:
            features.check_all()
        return features

    def ls(self) -> list[EncoderSummary]:
        """Totals for each encoder, sorted by name."""
        return [self._summarise(encoder) for encoder in self.encoders()]

    def _summarise(self, encoder: str) -> EncoderSummary:
        readers, broken, size = [], 0, 0
        for path in stored_files(self.root / escape(encoder)):
            size += path.stat().st_size
            try:
                readers.append(Reader(path))
            except StoreError:
                broken += 1
        shapes = Counter((r.dim, r.dtype) for r in readers).most_common(1)
        dim, dtype = shapes[0][0] if shapes else (0, "")
        kinds = len({tuple(sorted(r.provenance.items())) for r in readers})
        rows, valid = sum(r.rows for r in readers), sum(r.valid_rows for r in readers)
        return EncoderSummary(encoder, len(readers), rows, valid, dim, dtype, size, kinds, broken)

    def verify(self, encoders: Collection[str] | None = None, threads: int = 2) -> Iterator[DamagedFile]:
        """Read every byte of every file and yield the damaged files, in order of their names.

        Args:
            encoders: names to verify; None means all. threads: files read at once.
        """

        def check(path: Path) -> DamagedFile | None:
            try:
                verify_file(path)
            except StoreError as error:
                return DamagedFile(path, error.what)
            return None

        paths = [
            p for e in self.encoders() if encoders is None or e in encoders for p in stored_files(self.root / escape(e))
        ]
        with ThreadPoolExecutor(threads) as pool:  # hashing releases the GIL
            yield from (damaged for damaged in pool.map(check, paths) if damaged)

    def gc(self, *, keep: Collection[str] | None = None, broken: bool = False, dry_run: bool = False) -> list[Removal]:
        """Remove temporary files without a running writer, and return what was removed.

        Args:
            keep: clip ids; files of all other clips are removed too. broken: also remove files that cannot be opened.
            dry_run: remove nothing.
        """
        removals = []
        for folder in (self.root / escape(e) for e in self.encoders()):
            removals += [
                Removal(p, p.stat().st_size, "left by a process that has ended") for p in orphaned_parts(folder)
            ]
            for path in stored_files(folder) if broken or keep is not None else ():
                if reason := _removal_reason(path, keep, broken):
                    removals.append(Removal(path, path.stat().st_size, reason))
        if not dry_run:
            for removal in removals:
                removal.path.unlink(missing_ok=True)
        return removals


def _removal_reason(path: Path, keep: Collection[str] | None, broken: bool) -> str:
    """Why `gc` removes a stored file, or ""."""
    try:
        clip = clip_id(path)
        if broken:
            read_header(path)
    except StoreError as error:
        return error.what if broken else ""
    return "its clip is not in the index" if keep is not None and clip not in keep else ""


def stored_files(folder: Path) -> list[Path]:
    """The complete files of a folder, sorted by name."""
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.name.endswith(SUFFIX) and not e.name.startswith("."))
    return [folder / name for name in names]


def clip_id(path: Path) -> str:
    """The clip id of a stored file. Raises StoreError if the id is only in the header and the header is broken."""
    clip = unescape(path.name.removesuffix(SUFFIX))
    return Reader(path).clip if clip is None else clip


def orphaned_parts(folder: Path) -> Iterator[Path]:
    """Temporary files whose process has ended."""
    this_host = escape(socket.gethostname())[:32]
    for path in folder.glob(".*.part"):
        host, pid = path.name.split(".")[-4:-2]
        alive = time.time() - path.stat().st_mtime < _FOREIGN_PART_S
        if host == this_host:
            alive = is_running(int(pid))
        if not alive:
            yield path
