"""The official sample file: which frames are asked for, and in which order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from mien.errors import ConfigError
from mien.labels import EXPRESSIONS

EXPR, VA = "expr", "va"
LOCATION = "image_location"
HEADERS = {EXPR: ",".join((LOCATION, *EXPRESSIONS)), VA: f"{LOCATION},valence,arousal"}
FIELDS = {EXPR: 2, VA: 3}
#: `<clip>/<frame number>.jpg`, a frame number counting from 1 with leading zeros.
PLACE = r"^(.+)/(\d+)\.jpg$"


@dataclass(frozen=True)
class Template:
    """A sample file, row by row. kind: `expr` or `va`. names: `(row,)` as they stand there (`video/00001.jpg`).
    frames: `(row,)` frame numbers, counting from 1. clips: `(row,)` index into `clip_ids`. Row i is line i + 2."""

    path: Path
    kind: str
    names: pl.Series
    frames: np.ndarray
    clips: np.ndarray
    clip_ids: list[str]

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def rows_of(self) -> dict[str, np.ndarray]:
        """clip -> `(its rows,)` their positions in the file, in the file's order."""
        order = np.argsort(self.clips, kind="stable")
        cuts = np.searchsorted(self.clips[order], np.arange(1, len(self.clip_ids)))
        return dict(zip(self.clip_ids, np.split(order, cuts), strict=True))


def read_sample(path: Path, kind: str | None = None) -> Template:
    """Reads a sample file.

    What does not say which rows are wanted is forgiven: quotes around the header, a byte-order mark, Windows line
    ends, whatever values stand in its rows.

    Args:
        kind: what it should be a sample of; None takes its header's word.

    Raises:
        ConfigError: it is not there or no text, its header is neither EXPR's nor VA's, or not that of `kind`, it
            has no rows, a row does not begin `clip/00001.jpg`, or a name stands there twice.
    """
    path = Path(path)
    lines = _lines(path)
    header = lines[0].replace('"', "").replace(" ", "")
    found = next((k for k, text in HEADERS.items() if header.lower() == text.lower()), None)
    if found is None:
        raise _refused(
            path,
            f"begins with {lines[0][:100]!r}, which is neither the header of EXPR nor that of VA",
            f"give the sample file that the organisers sent; EXPR's begins {HEADERS[EXPR]!r}, VA's {HEADERS[VA]!r}",
        )
    if kind is not None and kind != found:
        raise _refused(path, f"is a sample of {found.upper()}, and {kind.upper()} is asked for", "give the other one")
    rows = pl.Series("row", lines[1:])
    if not len(rows):
        raise _refused(path, "has a header and no rows", "give the whole file; EXPR's has 1,022,655 rows")
    names = rows.str.splitn(",", 2).struct.field("field_0").str.strip_chars('" ').alias("name")
    place = names.str.extract_groups(PLACE).struct.unnest()
    clip, frame = place.to_series(0), place.to_series(1).cast(pl.Int64, strict=False)
    wrong = (frame.is_null() | (frame < 1)).arg_true()
    if len(wrong):
        line = int(wrong[0]) + 2
        raise _refused(
            path, f"line {line}: {names[line - 2]!r} does not name a frame (video/00001.jpg)", "give the official file"
        )
    if names.n_unique() < len(names):
        line = int(names.is_duplicated().arg_true()[0]) + 2
        raise _refused(
            path, f"names {names[line - 2]!r} more than once (first at line {line})", "give the official file"
        )
    ids = clip.unique(maintain_order=True)
    codes = clip.rle_id()
    if codes[-1] >= len(ids):  # clips that come in several pieces
        codes = clip.cast(pl.Enum(ids)).to_physical()
    return Template(path, found, names, frame.to_numpy(), codes.to_numpy().astype(np.int64), ids.to_list())


def fits(labels: list[str], expected: Iterable[str]) -> None:
    """Raises ConfigError where a system's classes are not the challenge's: its numbers would mean others."""
    wanted = list(expected)
    if labels != wanted:
        raise ConfigError(
            f"the classes of these predictions are {', '.join(labels)}",
            follows=f"a submission counts {', '.join(wanted)} from 0; nothing was written",
            remedy="train with corpus.labels in that order",
        )


def _lines(path: Path) -> list[str]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            text = file.read()
    except FileNotFoundError:
        raise _refused(path, "is not there", "name the sample file that the organisers sent") from None
    except (OSError, UnicodeDecodeError) as error:
        raise _refused(path, f"cannot be read as text ({error})", "give the official text file, unpacked") from None
    if not text.strip():
        raise _refused(path, "is empty", "download it again")
    lines = text.replace("\r\n", "\n").split("\n")
    while not lines[-1].strip():
        lines.pop()
    return lines


def _refused(path: Path, what: str, remedy: str) -> ConfigError:
    return ConfigError(
        f"the sample {path} {what}",
        follows="without it nobody knows which rows a submission has to have; nothing was written or checked",
        remedy=remedy,
    )
