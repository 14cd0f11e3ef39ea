"""Rows of small CSV files that users write: events, attributes, names of people."""

from __future__ import annotations

import csv
from pathlib import Path

from mien.errors import ConfigError


def read_rows(path: Path, option: str, *, follows: str) -> list[dict[str, str]]:
    """Rows of a CSV with a header, spaces stripped; missing cells are "".

    Cells are separated by commas; by semicolons or tabs, as spreadsheets write them in many countries, where the header
    has these and no comma.

    Args:
        option: that names the file. follows: consequence, for the error.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, delimiter=_separator(file.readline()))
            file.seek(0)
            return [{k.strip(): (v or "").strip() for k, v in row.items() if k} for row in rows]
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{option} {path} is not UTF-8 text: {error.reason} at byte {error.start}",
            follows=follows,
            remedy="Save it again as CSV UTF-8.",
        ) from None
    except (OSError, csv.Error) as error:
        raise ConfigError(
            f"{option} {path} cannot be read: {error}", follows=follows, remedy="Give a CSV file with a header."
        ) from None


def _separator(header: str) -> str:
    """What separates the cells of a header: a comma, if it has one."""
    return "," if "," in header else next((c for c in ";\t" if c in header), ",")
