"""Official sample file of a challenge: the frames to predict and their order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from mien.errors import ConfigError
from mien.labels import EXPRESSIONS

#: The two challenges: expression classification, valence and arousal.
EXPR, VA = "expr", "va"
LOCATION = "image_location"
HEADERS = {EXPR: ",".join((LOCATION, *EXPRESSIONS)), VA: f"{LOCATION},valence,arousal"}
FIELDS = {EXPR: 2, VA: 3}
#: `<clip>/<frame number>.jpg`; frame numbers count from 1, with leading zeros.
_NAME = r"^(.+)/(\d+)\.jpg$"
_OFFICIAL = "Give the sample file of the organisers."


@dataclass(frozen=True)
class Template:
    """Rows of a sample file; row i is line i + 2.

    Attributes:
        kind: `expr` or `va`.
        names: `(row,)` image locations (`video/00001.jpg`).
        frames: `(row,)` frame numbers from 1.
        clips: `(row,)` index into `clip_ids`.
    """

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
        """Row indices of each clip id, in the order of the file."""
        order = np.argsort(self.clips, kind="stable")
        cuts = np.searchsorted(self.clips[order], np.arange(1, len(self.clip_ids)))
        return dict(zip(self.clip_ids, np.split(order, cuts), strict=True))


def read_sample(path: Path, kind: str | None = None) -> Template:
    """Reads a sample file. Ignores quotes around the header, a byte-order mark, Windows line ends and the values.

    Args:
        kind: expected challenge, `expr` or `va`; None accepts both.

    Raises:
        ConfigError: the file cannot be read, has the header of neither challenge or not that of `kind`, has no rows, a
            row that does not begin with `clip/00001.jpg`, or a repeated name.
    """
    path = Path(path)
    lines = _lines(path)
    header = lines[0].replace('"', "").replace(" ", "")
    challenge = next((k for k, text in HEADERS.items() if header.lower() == text.lower()), None)
    if challenge is None:
        raise _invalid(
            path,
            f"begins with {lines[0][:100]!r}, which is neither the header of EXPR nor that of VA",
            f"{_OFFICIAL} EXPR's begins {HEADERS[EXPR]!r}, VA's {HEADERS[VA]!r}.",
        )
    if kind is not None and kind != challenge:
        what = f"is a sample of {challenge.upper()}, and {kind.upper()} is asked for"
        raise _invalid(path, what, f"Give the sample of {kind.upper()}.")
    rows = pl.Series("row", lines[1:])
    if not len(rows):
        raise _invalid(path, "has a header and no rows", "Give the whole file; EXPR's has 1,022,655 rows.")
    names = rows.str.splitn(",", 2).struct.field("field_0").str.strip_chars('" ').alias("name")
    parts = names.str.extract_groups(_NAME).struct.unnest()
    clip, frame = parts.to_series(0), parts.to_series(1).cast(pl.Int64, strict=False)
    wrong = (frame.is_null() | (frame < 1)).arg_true()
    if len(wrong):
        line = int(wrong[0]) + 2
        what = f"does not name a frame (video/00001.jpg) in line {line}: {names[line - 2]!r}"
        raise _invalid(path, what, _OFFICIAL)
    if names.n_unique() < len(names):
        line = int(names.is_duplicated().arg_true()[0]) + 2
        raise _invalid(path, f"names {names[line - 2]!r} more than once (first at line {line})", _OFFICIAL)
    ids = clip.unique(maintain_order=True)
    codes = clip.rle_id()
    if codes[-1] >= len(ids):  # the rows of some clip are not contiguous
        codes = clip.cast(pl.Enum(ids)).to_physical()
    return Template(path, challenge, names, frame.to_numpy(), codes.to_numpy().astype(np.int64), ids.to_list())


def check_classes(labels: list[str], expected: Iterable[str]) -> None:
    """Checks that the classes of predictions have the order of the challenge. Raises ConfigError if not."""
    wanted = list(expected)
    if labels != wanted:
        raise ConfigError(
            f"the classes of these predictions are {', '.join(labels)}",
            follows=f"A submission counts {', '.join(wanted)} from 0. Nothing was written.",
            remedy="Train with corpus.labels in that order.",
        )


def _lines(path: Path) -> list[str]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            text = file.read()
    except FileNotFoundError:
        raise _invalid(path, "does not exist", _OFFICIAL) from None
    except (OSError, UnicodeDecodeError) as error:
        raise _invalid(path, f"cannot be read as text ({error})", f"{_OFFICIAL} Unpack it first.") from None
    if not text.strip():
        raise _invalid(path, "is empty", "Download it again.")
    lines = text.replace("\r\n", "\n").split("\n")
    while not lines[-1].strip():
        lines.pop()
    return lines


def _invalid(path: Path, what: str, remedy: str) -> ConfigError:
    return ConfigError(
        f"the sample {path} {what}",
        follows="The sample defines the rows of a submission. Nothing was written or checked.",
        remedy=remedy,
    )
