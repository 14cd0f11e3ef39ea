"""Clips that were put aside, with their reasons, in STORE/failures.jsonl."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from mien.atomic import write_bytes
from mien.errors import MienError

FILE = "failures.jsonl"


@dataclass(frozen=True, slots=True)
class Failure:
    """One clip and encoder that gave no features. error: the kind of fault; what, follows, remedy: as in
    MienError."""

    clip: str
    encoder: str
    media: str
    error: str
    what: str
    follows: str = ""
    remedy: str = ""
    when: str = ""

    @classmethod
    def of(cls, clip: str, encoder: str, media: object, error: BaseException) -> Failure:
        when = datetime.now(UTC).isoformat(timespec="seconds")
        kind = type(error).__name__
        if isinstance(error, MienError):
            return cls(clip, encoder, str(media), kind, error.what, error.follows, error.remedy, when)
        what = f"{kind}: {error}" if str(error) else kind
        return cls(clip, encoder, str(media), kind, what, "", "a fault of the encoder; see the log", when)

    def __str__(self) -> str:
        return f"{self.clip} ({self.encoder}): " + "; ".join(p for p in (self.what, self.remedy) if p)


def read(store: Path) -> list[Failure]:
    """The listed failures. A last line that was cut by a kill is passed over."""
    found = []
    try:
        lines = (store / FILE).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            found.append(Failure(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return found


def add(store: Path, failure: Failure) -> None:
    """One line, written at once. Raises OSError."""
    store.mkdir(parents=True, exist_ok=True)
    line = json.dumps(asdict(failure), ensure_ascii=True) + "\n"
    with open(store / FILE, "a", encoding="utf-8") as file:
        file.write(line)


def forget(store: Path, tried: Collection[tuple[str, str]]) -> None:
    """Takes (clip, encoder) pairs off the list, before they are tried again, and a last line that a kill cut
    short. Raises OSError."""
    if not (store / FILE).exists():
        return
    old = read(store)
    kept = [failure for failure in old if (failure.clip, failure.encoder) not in tried]
    if len(kept) < len(old) or not (store / FILE).read_bytes().endswith(b"\n"):
        _rewrite(store, kept)


def _rewrite(store: Path, failures: Iterable[Failure]) -> None:
    text = "".join(json.dumps(asdict(f), ensure_ascii=True) + "\n" for f in failures)
    write_bytes(store / FILE, text.encode())
