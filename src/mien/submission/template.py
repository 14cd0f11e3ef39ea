"""Official sample file of a challenge: the frames to predict and their order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from mien.errors import ConfigError
from mien.labels import ACTION_UNITS, COMPOUND_EXPRESSIONS, EXPRESSIONS, MIMICRY

#: The challenges: expression classification, valence and arousal, action units, compound expressions, and Emotional
#: Mimicry Intensity.
EXPR, VA, AU, CE, EMI = "expr", "va", "au", "ce", "emi"
LOCATION, FILENAME = "image_location", "Filename"
#: Names of the classes or values of each challenge, as its header lists them.
NAMES: dict[str, tuple[str, ...]] = {
    EXPR: EXPRESSIONS,
    VA: ("valence", "arousal"),
    AU: ACTION_UNITS,
    CE: tuple(name.replace(" ", "_") for name in COMPOUND_EXPRESSIONS),
    EMI: MIMICRY,
}
#: Challenges whose rows hold the number of one class, although the header names all; and those with one row a clip.
ONE_CLASS, PER_CLIP = frozenset({EXPR, CE}), frozenset({EMI})
HEADERS = {kind: ",".join((FILENAME if kind in PER_CLIP else LOCATION, *names)) for kind, names in NAMES.items()}
FIELDS = {kind: 2 if kind in ONE_CLASS else 1 + len(names) for kind, names in NAMES.items()}
#: An example row of each challenge, for messages.
EXAMPLES = {
    EXPR: "video/00001.jpg,3",
    VA: "video/00001.jpg,0.1,-0.2",
    AU: "video/00001.jpg,0,0,1,0,0,0,0,0,0,0,1,0",
    CE: "video/00001.jpg,3",
    EMI: "00001,0.1,0,0.4,0,0.2,0",
}
#: `<clip>/<frame number>.jpg`; frame numbers count from 1, with leading zeros.
_NAME = r"^(.+)/(\d+)\.jpg$"
_OFFICIAL = "Give the sample file of the organisers."


@dataclass(frozen=True)
class Template:
    """Rows of a sample file; row i is line i + 2.

    Attributes:
        kind: key of `HEADERS`.
        names: `(row,)` image locations (`video/00001.jpg`), or clip names.
        frames: `(row,)` frame numbers from 1; 1 in a challenge with one row a clip.
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
        kind: expected challenge; None accepts all. A test list of EMI may lack the columns after `Filename`.

    Raises:
        ConfigError: the file cannot be read, has the header of no challenge or not that of `kind`, has no rows, a row
            that does not begin with `clip/00001.jpg` (of EMI: with a name), or a repeated name.
    """
    path = Path(path)
    lines = _lines(path)
    header = _plain(lines[0])
    challenge = next((k for k, text in HEADERS.items() if header == _plain(text)), None)
    if header == _plain(FILENAME):
        challenge = EMI
    if challenge is None:
        raise _invalid(
            path,
            f"begins with {lines[0][:100]!r}, which is the header of no challenge",
            f"{_OFFICIAL} EXPR's begins {HEADERS[EXPR]!r}, VA's {HEADERS[VA]!r}, AU's {HEADERS[AU]!r}.",
        )
    if kind is not None and kind != challenge:
        what = f"is a sample of {challenge.upper()}, and {kind.upper()} is asked for"
        raise _invalid(path, what, f"Give the sample of {kind.upper()}.")
    rows = pl.Series("row", lines[1:])
    if not len(rows):
        raise _invalid(path, "has a header and no rows", "Give the whole file; EXPR's has 1,022,655 rows.")
    names = rows.str.splitn(",", 2).struct.field("field_0").str.strip_chars('" ').alias("name")
    if challenge in PER_CLIP:
        clip, frame = names, pl.repeat(1, len(names), dtype=pl.Int64, eager=True)
        frame = frame.set(names == "", None)
    else:
        parts = names.str.extract_groups(_NAME).struct.unnest()
        clip, frame = parts.to_series(0), parts.to_series(1).cast(pl.Int64, strict=False)
    wrong = (frame.is_null() | (frame < 1)).arg_true()
    if len(wrong):
        line = int(wrong[0]) + 2
        thing = "a clip" if challenge in PER_CLIP else "a frame (video/00001.jpg)"
        what = f"does not name {thing} in line {line}: {names[line - 2]!r}"
        raise _invalid(path, what, _OFFICIAL)
    if names.n_unique() < len(names):
        line = int(names.is_duplicated().arg_true()[0]) + 2
        raise _invalid(path, f"names {names[line - 2]!r} more than once (first at line {line})", _OFFICIAL)
    ids = clip.unique(maintain_order=True)
    codes = clip.rle_id()
    if codes[-1] >= len(ids):  # the rows of some clip are not contiguous
        codes = clip.cast(pl.Enum(ids)).to_physical()
    return Template(path, challenge, names, frame.to_numpy(), codes.to_numpy().astype(np.int64), ids.to_list())


def _plain(header: str) -> str:
    """A header without quotes and spaces, in lower case."""
    return header.replace('"', "").replace(" ", "").lower()


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
