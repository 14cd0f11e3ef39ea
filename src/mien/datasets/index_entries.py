"""What `mien index` writes down: clips as they lie on the disk, what they were then, and problems."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mien.datasets.frame_times import FrameTimes
from mien.labels import EXPRESSIONS

ERROR, WARNING, NOTE = "error", "warning", "note"
#: Bytes hashed at the start, the middle and the end of a media file.
_SAMPLE = 1 << 16


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a media file (or a folder of crops) was when it was indexed.

    size: bytes (entries of a folder). mtime_ns: last change. fingerprint: SHA-256 of the size and of 64 KiB
    at the start, the middle and the end of a file; of the names in a folder. Our choice: hashing whole
    corpora takes hours; a change that keeps size and time, or all three samples and the size, is not seen.
    """

    size: int
    mtime_ns: int
    fingerprint: str

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """Raises OSError (FileNotFoundError where it is gone)."""
        stat = path.stat()
        if path.is_dir():
            names = sorted(os.listdir(path))
            digest = hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest()
            return cls(len(names), stat.st_mtime_ns, digest[:32])
        digest256 = hashlib.sha256(str(stat.st_size).encode())
        with open(path, "rb") as file:
            for offset in (0, max(0, stat.st_size // 2 - _SAMPLE // 2), max(0, stat.st_size - _SAMPLE)):
                file.seek(offset)
                digest256.update(file.read(_SAMPLE))
        return cls(stat.st_size, stat.st_mtime_ns, digest256.hexdigest()[:32])

    def still(self, path: Path) -> bool:
        """Whether `path` is what it was; a copy with another time but the same fingerprint is. Raises
        OSError."""
        stat = path.stat()
        if not path.is_dir() and (stat.st_size, stat.st_mtime_ns) == (self.size, self.mtime_ns):
            return True
        return self.same(Stamp.of(path))

    def same(self, other: Stamp) -> bool:
        return (self.size, self.fingerprint) == (other.size, other.fingerprint)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something about a corpus that its user should know.

    kind: one word or two, for counting. line: of the file, from 1, or None. rule: what mien does about it.
    severity: `error` (something is left out), `warning` (used, but look), `note` (an oddity with a stated
    rule).
    """

    severity: str
    kind: str
    file: str
    line: int | None
    what: str
    rule: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line is not None else self.file
        return f"{self.severity}: {where}: {self.what}; {self.rule}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One clip: one subject in one recording.

    media: the recording, relative to the index's root, or None. side: `left` or `right` where it is one of
    two subjects in the picture. crops: folder of ready face crops, relative, or "". present: which crops are
    there, one bool a frame, or None. times: frame times of the recording's video, or None. splits and labels:
    by task (`expr`, `va`); labels says where they lie, for the corpus that wrote it. rows: label rows or
    frames to predict.
    """

    id: str
    media: str | None
    subject: str = ""
    side: str = ""
    splits: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, Any] = field(default_factory=dict)
    rows: int | None = None
    stamp: Stamp | None = None
    duration_s: float | None = None
    has_audio: bool = False
    has_video: bool = False
    times: FrameTimes | None = None
    crops: str = ""
    crops_stamp: Stamp | None = None
    present: np.ndarray | None = None


@dataclass
class CorpusContents:
    """What a corpus reader brings back. counts: name -> label -> number, for the table."""

    entries: list[Entry]
    problems: list[Problem]
    classes: tuple[str, ...] = EXPRESSIONS
    counts: dict[str, dict[str, int]] = field(default_factory=dict)


def packed(entry: Entry) -> dict[str, Any]:
    record = {k: getattr(entry, k) for k in Entry.__dataclass_fields__}
    record["stamp"] = asdict(entry.stamp) if entry.stamp else None
    record["crops_stamp"] = asdict(entry.crops_stamp) if entry.crops_stamp else None
    record["times"] = entry.times.packed() if entry.times else None
    record["present"] = (
        None if entry.present is None else [len(entry.present), np.packbits(entry.present).tobytes().hex()]
    )
    return {k: v for k, v in record.items() if v not in (None, "", {}, False)} | {"media": entry.media}


def unpacked(record: dict[str, Any]) -> Entry:
    for key in ("stamp", "crops_stamp"):
        if record.get(key):
            record[key] = Stamp(**record[key])
    if record.get("times"):
        record["times"] = FrameTimes.unpacked(record["times"])
    if record.get("present"):
        count, packed = record["present"]
        record["present"] = np.unpackbits(np.frombuffer(bytes.fromhex(packed), np.uint8))[:count].astype(bool)
    return Entry(**record)
