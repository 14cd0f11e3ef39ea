"""Names that the user gives to subjects; they win over what faces say."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from pathlib import Path

from mien.csv_rows import read_rows
from mien.errors import ConfigError

COLUMNS = ("recording", "subject", "name")
_FOLLOWS = "Nobody was named."
Key = tuple[str, int]


def read_names(path: Path, known: Collection[Key]) -> dict[Key, str]:
    """Names of a CSV with the columns `recording`, `subject` and `name`: (recording, subject) -> name.

    Rows without a name say nothing. A recording is named as in people.csv; the name of its folder is its name.

    Args:
        known: the recordings and subjects that there are, with or without a face.

    Raises:
        ConfigError: a column is missing, a row names a recording or subject that is not there, or two rows give one
            subject different names.
    """
    rows = read_rows(path, "--names", follows=_FOLLOWS)
    if lacking := [column for column in COLUMNS if rows and column not in rows[0]]:
        raise ConfigError(
            f"{path} has the columns {', '.join(rows[0])}; {' and '.join(lacking)} is missing",
            follows=_FOLLOWS,
            remedy=f"Begin the file with the line {','.join(COLUMNS)}.",
        )
    recordings = sorted({recording for recording, _ in known})
    names: dict[Key, str] = {}
    for line, row in enumerate(rows, 2):
        if not row["name"]:
            continue
        recording, subject = row["recording"], row["subject"]
        if recording not in recordings:
            near = difflib.get_close_matches(recording, recordings, 1, 0.5)
            raise ConfigError(
                f"{path}:{line}: there is no recording {recording!r}" + (f"; is {near[0]!r} meant?" if near else ""),
                follows=_FOLLOWS,
                remedy="Write recordings as the column recording of people.csv does: the names of the result folders.",
            )
        subjects = sorted(number for other, number in known if other == recording)
        if not subject.isdecimal() or int(subject) not in subjects:
            raise ConfigError(
                f"{path}:{line}: {recording} has no subject {subject or '(empty)'}",
                follows=_FOLLOWS,
                remedy=f"Use one of {', '.join(map(str, subjects))}.",
            )
        earlier = names.setdefault((recording, int(subject)), row["name"])
        if earlier != row["name"]:
            raise ConfigError(
                f"{path}:{line}: subject {subject} of {recording} is {row['name']!r} here and {earlier!r} above",
                follows=_FOLLOWS,
                remedy="Give each subject one name.",
            )
    return names
