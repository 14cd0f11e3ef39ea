"""Rows of small CSV files that users write: events, attributes, names of people."""

from __future__ import annotations

import csv
from pathlib import Path

from mien.errors import ConfigError


def read_rows(path: Path, option: str, *, follows: str) -> list[dict[str, str]]:
    """Rows of a CSV with a header, spaces stripped; missing cells are "".

    Args:
        option: that names the file. follows: consequence, for the error.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return [{k.strip(): (v or "").strip() for k, v in row.items() if k} for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(
            f"{option} {path} cannot be read: {error}", follows=follows, remedy="Give a CSV file with a header."
        ) from None
