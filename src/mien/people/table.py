"""people.csv: one row for each subject with a face of the recordings, and who it is."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from mien.atomic import atomic_path
from mien.people.find import Member
from mien.printable import printable

#: Names of the table and of the page.
TABLE, PAGE = "people.csv", "people.html"
COLUMNS = (
    "recording", "subject", "person", "how", "seconds", "faces", "distance", "nearest", "nearest_distance", "media",
    "timeline",
)  # fmt: skip


def write(path: Path, members: Sequence[Member]) -> Path:
    """Write the table; only the user can read it, unless the folder says otherwise (`mien.scratch.private_mode`).

    Seconds have one decimal, distances three; a missing value is an empty cell. The column `timeline` is relative to
    the table's folder, `media` as mien predict was given it.

    Raises:
        OutputError: the table cannot be written.
    """
    with atomic_path(path, private=True) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        for m in members:
            rows.writerow(
                (
                    m.recording.name, m.subject, m.person or "", m.how, f"{m.seconds:.1f}",
                    m.faces, _decimal(m.distance), m.nearest or "", _decimal(m.nearest_distance),
                    printable(m.recording.media), printable(_relative(m.recording.timeline, path.parent)),
                )
            )  # fmt: skip
    return path


def _decimal(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:  # another drive
        return path.absolute().as_posix()
