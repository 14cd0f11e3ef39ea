"""Failure list of extraction: the clips and encoders that failed, with reasons, in STORE/failures.jsonl."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from mien.atomic import write_bytes
from mien.errors import MienError

FILE = "failures.jsonl"


@dataclass(frozen=True, slots=True)
class Failure:
    """One clip and encoder without features. error: type of the exception. what, follows, remedy: as in MienError.
    when: UTC time, ISO 8601."""

    clip: str
    encoder: str
    media: str
    error: str
    what: str
    follows: str = ""
    remedy: str = ""
    when: str = ""

    @classmethod
    def from_error(cls, clip: str, encoder: str, media: object, error: BaseException) -> Failure:
        """Failure of a clip and encoder for an exception, at the current time."""
        when = datetime.now(UTC).isoformat(timespec="seconds")
        kind = type(error).__name__
        if isinstance(error, MienError):
            return cls(clip, encoder, str(media), kind, error.what, error.follows, error.remedy, when)
        what = f"{kind}: {error}" if str(error) else kind
        remedy = "Correct the encoder, or report a bug if it is one of mien's."
        return cls(clip, encoder, str(media), kind, what, "", remedy, when)

    def __str__(self) -> str:
        return f"{self.clip} ({self.encoder}): " + "; ".join(p for p in (self.what, self.remedy) if p)


def read(store: Path) -> list[Failure]:
    """Read the failures of a store. Lines that cannot be parsed, such as a truncated last one, are skipped."""
    failures = []
    try:
        lines = (store / FILE).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            failures.append(Failure(**json.loads(line)))
        except (ValueError, TypeError, RecursionError):
            continue
    return failures


def append(store: Path, failure: Failure) -> None:
    """Append a failure to the list, as one line. Raises OSError."""
    store.mkdir(parents=True, exist_ok=True)
    with open(store / FILE, "a", encoding="utf-8") as file:
        file.write(_to_line(failure))


def remove(store: Path, pairs: Collection[tuple[str, str]]) -> None:
    """Remove (clip, encoder) pairs, before they are tried again, and a truncated last line. Raises OSError."""
    if not (store / FILE).exists():
        return
    listed = read(store)
    remaining = [failure for failure in listed if (failure.clip, failure.encoder) not in pairs]
    if len(remaining) < len(listed) or not (store / FILE).read_bytes().endswith(b"\n"):
        write_bytes(store / FILE, "".join(map(_to_line, remaining)).encode())


def _to_line(failure: Failure) -> str:
    return json.dumps(asdict(failure), ensure_ascii=True) + "\n"
