"""Records of a dataset index: clips, file stamps that detect changes, and problems."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mien.datasets.frame_times import FrameTimes
from mien.labels import EXPRESSIONS, TASKS

ERROR, WARNING, NOTE = "error", "warning", "note"
#: Bytes hashed at the start, the middle and the end of a media file.
_SAMPLE = 1 << 16


@dataclass(frozen=True, slots=True)
class Stamp:
    """State of a media file or crop folder at indexing time, to detect later changes.

    size: bytes of a file, entries of a folder. mtime_ns: time of the last change. fingerprint: of a file, the SHA-256
    of its size and of 64 KiB at its start, middle and end; of a folder, of its names. Our choice, because hashing whole
    corpora takes hours: a change that keeps size and time, or size and all three samples, is not detected.
    """

    size: int
    mtime_ns: int
    fingerprint: str

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """Stamp of a file or folder as it is now. Raises OSError."""
        stat = path.stat()
        if path.is_dir():
            names = sorted(os.listdir(path))
            digest = hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest()
            return cls(len(names), stat.st_mtime_ns, digest[:32])
        content_hash = hashlib.sha256(str(stat.st_size).encode())
        with open(path, "rb") as file:
            for offset in (0, max(0, stat.st_size // 2 - _SAMPLE // 2), max(0, stat.st_size - _SAMPLE)):
                file.seek(offset)
                content_hash.update(file.read(_SAMPLE))
        return cls(stat.st_size, stat.st_mtime_ns, content_hash.hexdigest()[:32])

    def matches(self, path: Path) -> bool:
        """True if `path` is unchanged, or is a copy with the same fingerprint. Raises OSError."""
        stat = path.stat()
        if not path.is_dir() and (stat.st_size, stat.st_mtime_ns) == (self.size, self.mtime_ns):
            return True
        return self.same_content(Stamp.of(path))

    def same_content(self, other: Stamp) -> bool:
        """True if size and fingerprint are equal; the modification time is ignored."""
        return (self.size, self.fingerprint) == (other.size, other.fingerprint)


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding about a corpus: a fault or a deviation from its description.

    severity: `error` (something is left out), `warning` (used, but needs a check), `note` (a known deviation). kind: a
    few words, for counting. line: of the file, from 1, or None. what: the finding. rule: what mien does about it.
    """

    severity: str
    kind: str
    file: str
    line: int | None
    what: str
    rule: str

    def __str__(self) -> str:
        location = f"{self.file}:{self.line}" if self.line is not None else self.file
        return f"{self.severity}: {location}: {self.what}; {self.rule}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One indexed clip: one subject in one recording.

    media: the recording, relative to the index's root, or None. side: `left` or `right` for one of two subjects in the
    picture, else "". splits: task (`mien.labels.TASKS`) -> `train`, `val` or `test`. labels: task -> what the dataset
    reader needs to read the labels again, such as a file relative to the root. rows: label rows, or frames to predict.
    times: frame times of the recording's video, or None. crops: folder of the corpus's face crops, relative to the
    root, or "". present: `(frame,)` bool, frames that have a crop, or None. stamp, crops_stamp: state of the recording
    and of the crop folder at indexing time.
    """

    id: str
    media: str | None
    subject: str = ""
    side: str = ""
    splits: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str | int] = field(default_factory=dict)
    rows: int | None = None
    stamp: Stamp | None = None
    duration_s: float | None = None
    has_audio: bool = False
    has_video: bool = False
    times: FrameTimes | None = None
    crops: str = ""
    crops_stamp: Stamp | None = None
    present: np.ndarray | None = None

    def problem(self) -> str:
        """What is impossible in an entry that was read from a file, in words; "" for nothing."""
        texts = (
            self.id,
            self.subject,
            self.side,
            self.crops,
            *self.splits.values(),
            *([self.media] if self.media else []),
        )
        what = ""
        if not all(isinstance(text, str) for text in texts) or not self.id:
            what = "has a name or a split that is no text"
        elif not set(self.splits.values()) <= {"", "train", "val", "test"}:
            what = f"has the split {next(s for s in self.splits.values() if s not in ('train', 'val', 'test'))!r}"
        elif not set(self.splits) | set(self.labels) <= set(TASKS):
            what = "has labels of an unknown task"
        elif not all(isinstance(value, str | int) for value in self.labels.values()):
            what = "has labels that are neither a file nor a number"
        elif self.times is not None and not (np.diff(self.times.seconds) > 0).all():
            what = "has frame times that do not increase"
        elif self.duration_s is not None and not 0 <= self.duration_s < 1e9:
            what = f"has a duration of {self.duration_s} s"
        elif self.rows is not None and not (isinstance(self.rows, int) and self.rows >= 0):
            what = f"has {self.rows!r} rows"
        return what and f"clip {self.id!r} {what}"


@dataclass
class CorpusContents:
    """Result of `DatasetReader.read`. classes: names in the order of the class index. counts: title -> label -> number,
    rows of the summary that `mien index` prints."""

    entries: list[Entry]
    problems: list[Problem]
    classes: tuple[str, ...] = EXPRESSIONS
    counts: dict[str, dict[str, int]] = field(default_factory=dict)


def entry_to_record(entry: Entry) -> dict[str, Any]:
    """Entry as a JSON object; empty fields are left out."""
    record = {k: getattr(entry, k) for k in Entry.__dataclass_fields__}
    record["stamp"] = asdict(entry.stamp) if entry.stamp else None
    record["crops_stamp"] = asdict(entry.crops_stamp) if entry.crops_stamp else None
    record["times"] = entry.times.to_text() if entry.times else None
    record["present"] = (
        None if entry.present is None else [len(entry.present), np.packbits(entry.present).tobytes().hex()]
    )
    return {k: v for k, v in record.items() if v not in (None, "", {}, False)} | {"media": entry.media}


def entry_from_record(record: dict[str, Any]) -> Entry:
    """Entry of a JSON object; changes `record`. Raises TypeError, ValueError or KeyError for another object."""
    for key in ("stamp", "crops_stamp"):
        if record.get(key):
            record[key] = Stamp(**record[key])
    if record.get("times"):
        record["times"] = FrameTimes.from_text(record["times"])
    if record.get("present"):
        count, bits = record["present"]
        present = np.unpackbits(np.frombuffer(bytes.fromhex(bits), np.uint8))[:count].astype(bool)
        if len(present) != count:
            raise ValueError(f"{record.get('id')!r} has {len(present)} marks of frames in place of {count}")
        record["present"] = present
    return Entry(**record)
