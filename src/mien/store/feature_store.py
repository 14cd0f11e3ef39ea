"""The folders of the store: `STORE/<encoder>/<clip>.safetensors`, one provenance to an encoder."""

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
from mien.records import Stream
from mien.store.filenames import escape, unescape
from mien.store.reader import Reader, read_header, verify_file
from mien.store.writer import SUFFIX, StoreError, Writer

#: Part files of other machines are left alone this long: nobody here can tell whether their writer lives.
_FOREIGN_PART_S = 86_400.0
#: Files of one shelf that stay mapped. Each holds a file descriptor, of which a process has 1,024 by default.
_MAPPED = 256


class ProvenanceError(ConfigError):
    """Features of one encoder that were not made in one way. Its text names each key that differs, with both
    values."""


def differences(path: Path, found: Mapping[str, str], wanted: Mapping[str, str]) -> ProvenanceError | None:
    """None where the two are equal in every key."""
    keys = [k for k in sorted({*found, *wanted}) if found.get(k) != wanted.get(k)]
    if not keys:
        return None
    said = "; ".join(f"{k}: the file has {found.get(k)!r}, asked for is {wanted.get(k)!r}" for k in keys)
    return ProvenanceError(
        f"{path} was made in another way: {said}",
        follows="features of two kinds are never mixed; nothing was read or written",
        remedy="name another --store for the new kind, or make them anew with `mien extract --replace`",
    )


@dataclass(frozen=True, slots=True)
class StoredStream:
    """One line of `mien store ls`: an encoder's files. bytes: on the disk; kinds: different provenances
    found;
    broken: files that cannot be opened."""

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
class Damage:
    """A file that is not what was written."""

    path: Path
    what: str


@dataclass(frozen=True, slots=True)
class Removal:
    """A file that `gc` removed or would remove."""

    path: Path
    bytes: int
    reason: str


class EncoderFeatures:
    """The streams of one encoder, all of one provenance, by clip id.

    `shelf[clip]` is a Reader; `clip in shelf`; `len(shelf)`; iteration gives clip ids in order. Up to 256
    files stay mapped, the least recently used is let go. Files written after opening are seen and checked
    when asked for.
    """

    def __init__(self, folder: Path, encoder: str, provenance: Mapping[str, str] | None) -> None:
        self.folder, self.encoder = folder, encoder
        self.provenance = dict(provenance) if provenance is not None else None
        self._readers: OrderedDict[str, Reader] = OrderedDict()

    def __getitem__(self, clip: str) -> Reader:
        if clip in self._readers:
            self._readers.move_to_end(clip)
            return self._readers[clip]
        reader = Reader(self.folder / (escape(clip) + SUFFIX))
        if self.provenance is None:
            self.provenance = reader.provenance
        if error := differences(reader.path, reader.provenance, self.provenance):
            raise error
        self._readers[clip] = reader
        while len(self._readers) > _MAPPED:
            self._readers.popitem(last=False)[1].close()
        return reader

    def __contains__(self, clip: object) -> bool:
        return isinstance(clip, str) and (self.folder / (escape(clip) + SUFFIX)).is_file()

    def __iter__(self) -> Iterator[str]:
        return (clip_of(path) for path in files(self.folder))

    def __len__(self) -> int:
        return sum(1 for _ in files(self.folder))

    def close(self) -> None:
        """Lets go of every mapping."""
        while self._readers:
            self._readers.popitem()[1].close()


class FeatureStore:
    """A folder of features. Creating one touches nothing; the folder comes with the first file."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def path(self, encoder: str, clip: str) -> Path:
        """Where that stream lies, or would."""
        return self.root / escape(encoder) / (escape(clip) + SUFFIX)

    def encoders(self) -> list[str]:
        """Names of the encoders that have a folder here, in order."""
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
        """Writes one stream in pieces; see Writer.

        Raises:
            ProvenanceError: a file of that clip is there already, made in another way, and `replace` is not
            set.
            StoreError: the file that is there belongs to another clip (two ids that this file system takes
            for one).
        """
        path = self.path(encoder, clip)
        if path.exists():
            try:
                there = Reader(path)
            except StoreError:
                pass  # broken: it is written anew
            else:
                if there.clip != clip:
                    raise StoreError(
                        f"{path} holds clip {there.clip!r}; to this file system {clip!r} is the same name",
                        follows="the new one was not written",
                        remedy="rename one of the two clips, or put the store on another file system",
                    )
                if not replace and (error := differences(path, there.provenance, provenance)):
                    raise error
        return Writer(path, clip=clip, encoder=encoder, dim=dim, provenance=provenance, dtype=dtype, origin=origin)

    def write(self, encoder: str, clip: str, stream: Stream, **options: Any) -> Path:
        """Writes a whole stream with its own provenance; options as of `writer`."""
        options.setdefault("provenance", stream.provenance)
        with self.writer(encoder, clip, dim=stream.dim, **options) as writer:
            writer.append(stream.values, stream.times, stream.valid)
        return writer.path

    def open(self, encoder: str, provenance: Mapping[str, str] | None = None, *, check: bool = True) -> EncoderFeatures:
        """The streams of an encoder. check: read every file's header now (about 60 µs each) rather than as
        they are asked for.

        Args:
            provenance: what every file must have been made by; None takes that of the first file.

        Raises:
            ProvenanceError: a file differs, from `provenance` or from the others.
            StoreError: the encoder has no folder here, or (check) a file is broken.
        """
        folder = self.root / escape(encoder)
        if not folder.is_dir():
            others = ", ".join(self.encoders()) or "none"
            raise StoreError(
                f"{self.root} holds nothing of encoder {encoder!r}; it holds: {others}",
                remedy=f"mien extract INDEX --encoder {encoder} --store {self.root}",
            )
        shelf = EncoderFeatures(folder, encoder, provenance)
        for path in files(folder) if check else ():
            reader = Reader(path)
            shelf.provenance = reader.provenance if shelf.provenance is None else shelf.provenance
            if error := differences(path, reader.provenance, shelf.provenance):
                raise error
        return shelf

    def ls(self) -> list[StoredStream]:
        """One row for each encoder."""
        return [self._row(encoder) for encoder in self.encoders()]

    def _row(self, encoder: str) -> StoredStream:
        readers, broken, size = [], 0, 0
        for path in files(self.root / escape(encoder)):
            size += path.stat().st_size
            try:
                readers.append(Reader(path))
            except StoreError:
                broken += 1
        shapes = Counter((r.dim, r.dtype) for r in readers).most_common(1)
        dim, dtype = shapes[0][0] if shapes else (0, "")
        kinds = len({tuple(sorted(r.provenance.items())) for r in readers})
        rows, valid = sum(r.rows for r in readers), sum(r.valid_rows for r in readers)
        return StoredStream(encoder, len(readers), rows, valid, dim, dtype, size, kinds, broken)

    def verify(self, encoders: Collection[str] | None = None, threads: int = 2) -> Iterator[Damage]:
        """Reads every byte of every file and yields those that are not what was written, in order of their
        names."""

        def check(path: Path) -> Damage | None:
            try:
                verify_file(path)
            except StoreError as error:
                return Damage(path, error.what)
            return None

        paths = [p for e in self.encoders() if encoders is None or e in encoders for p in files(self.root / escape(e))]
        with ThreadPoolExecutor(threads) as pool:  # hashing lets go of the interpreter's lock
            yield from (fault for fault in pool.map(check, paths) if fault)

    def gc(self, *, keep: Collection[str] | None = None, broken: bool = False, dry_run: bool = False) -> list[Removal]:
        """Removes part files that no living process writes; with `broken` files that cannot be opened; with
        `keep` (clip ids) files of every other clip. dry_run: only says so."""
        found = []
        for folder in (self.root / escape(e) for e in self.encoders()):
            found += [Removal(p, p.stat().st_size, "left by a process that ended") for p in dead_parts(folder)]
            for path in files(folder) if broken or keep is not None else ():
                if reason := _reason(path, keep, broken):
                    found.append(Removal(path, path.stat().st_size, reason))
        if not dry_run:
            for removal in found:
                removal.path.unlink(missing_ok=True)
        return found


def _reason(path: Path, keep: Collection[str] | None, broken: bool) -> str:
    try:
        clip = clip_of(path)
        if broken:
            read_header(path)
    except StoreError as error:
        return error.what if broken else ""
    return "its clip is not in the index" if keep is not None and clip not in keep else ""


def files(folder: Path) -> list[Path]:
    """The finished files of a folder, in order."""
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.name.endswith(SUFFIX) and not e.name.startswith("."))
    return [folder / name for name in names]


def clip_of(path: Path) -> str:
    """The clip id of a finished file. Raises StoreError where only its header knows it and that is broken."""
    clip = unescape(path.name.removesuffix(SUFFIX))
    return Reader(path).clip if clip is None else clip


def dead_parts(folder: Path) -> Iterator[Path]:
    """Part files whose writer is gone."""
    here = escape(socket.gethostname())[:32]
    for path in folder.glob(".*.part"):
        host, pid = path.name.split(".")[-4:-2]
        alive = time.time() - path.stat().st_mtime < _FOREIGN_PART_S
        if host == here:
            alive = Path(f"/proc/{pid}").exists() if Path("/proc").is_dir() else _answers(int(pid))
        if not alive:
            yield path


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True
