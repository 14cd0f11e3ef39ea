"""Results of many recordings as one: the combined table and the index page of an output folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mien.cli import combined_table, provenance
from mien.cli.inputs import INDEX, PROVENANCE, PassedOver
from mien.cli.provenance import RunFacts
from mien.printable import printable


@dataclass(frozen=True, slots=True)
class BatchFiles:
    """Files of an output folder. table, index: None where no recording is finished. left_out: recordings in the folder
    that the table does not hold, because they were predicted by another model, version or with other options."""

    table: Path | None
    index: Path | None
    left_out: list[str]


def write(
    out: Path, run: RunFacts, format: str, *, passed: Sequence[PassedOver], failed: Sequence[Mapping[str, str]]
) -> BatchFiles:
    """Writes the combined table and the index page of everything finished in `out`, earlier runs included.

    Args:
        run: the table holds the results that agree with it in model, version and options.
        format: suffix of the timelines, without its dot.
        passed, failed: shown on the index page.

    Raises:
        OutputError: a file cannot be written.
    """
    from mien.views.index_page import write_index

    found = finished(out)
    if not found:
        return BatchFiles(None, None, [])
    wanted = run.record()
    same, left_out = [], []
    for folder, record in found:
        name = printable(record["media"]["path"])
        timeline = folder / f"timeline.{format}"
        if all(record.get(key) == wanted[key] for key in provenance.DECIDES) and timeline.is_file():
            same.append((name, timeline))
        else:
            left_out.append(name)
    table = None
    if same:
        table = out / f"{combined_table.STEM}.{format}"
        without = combined_table.write(table, same)
        left_out += without
        if len(without) == len(same):
            table = None
    index = write_index(
        out / INDEX,
        found,
        table=table.name if table else "",
        passed=[(printable(item.path), item.reason) for item in passed],
        failed=[(printable(item["media"]), printable(item["what"])) for item in failed],
    )
    return BatchFiles(table, index, left_out)


def finished(out: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Folders of finished results in `out` with their timeline.json, sorted by name."""
    folders = sorted(path.parent for path in out.glob(f"*/{PROVENANCE}"))
    return [(folder, record) for folder in folders if (record := provenance.read(folder)) is not None]
