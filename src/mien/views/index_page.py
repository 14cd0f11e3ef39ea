"""Index page of an output folder: one row for each recording, with links to its files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mien import __version__
from mien.atomic import atomic_path
from mien.printable import printable, printable_lines
from mien.views.palette import class_colours
from mien.views.render import load_template, read_source
from mien.views.report import read_thumbnails
from mien.views.words import count, format_time, people

#: Most faces shown for one recording.
MAX_FACES = 6


def write_index(
    path: Path,
    results: Sequence[tuple[Path, Mapping[str, Any]]],
    *,
    table: str = "",
    passed: Sequence[tuple[str, str]] = (),
    failed: Sequence[tuple[str, str]] = (),
) -> Path:
    """Writes the page, for the user alone unless the folder says otherwise (`mien.scratch.private_mode`).

    Faces are those that the reports hold; without a report, or with `--no-embed`, there are none. Recordings whose
    files have one name are shown with their paths.

    Args:
        results: folders beside the page with the content of their timeline.json.
        table: name of the combined table beside the page, "" for none.
        passed: path and reason of the inputs that were passed over.
        failed: path and error of the inputs that failed.

    Raises:
        OutputError: the page cannot be written.
    """
    entries = [_entry(folder, record) for folder, record in results]
    frequency = Counter(entry["name"] for entry in entries)
    for entry in entries:
        if frequency[entry["name"]] > 1:
            entry["name"] = entry["path"]
    facts = [count(len(entries), "recording"), format_time(sum(e["duration"] for e in entries))]
    if failed:
        facts.append(f"{len(failed)} failed")
    page = load_template("index.html").render(
        title="Results · mien",
        name="Results",
        facts=facts,
        notes=[],
        entries=entries,
        several_models=len({e["model"] for e in entries}) > 1,
        table=table,
        passed=[(printable(name), reason) for name, reason in passed],
        failed=[(printable(name), printable_lines(what)) for name, what in failed],
        version=__version__,
        count=count,
        format_time=format_time,
        css=read_source("base.css", "report.css", "index.css"),
    )
    with atomic_path(path, private=True) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _length(duration: float, record: Mapping[str, Any]) -> float:
    """Seconds that were predicted of a recording of `duration` seconds: of a section, those of the section."""
    options = record.get("options")
    start, end = (options.get(key) if isinstance(options, dict) else None for key in ("start", "end"))
    stop = min(duration, end) if isinstance(end, int | float) else duration
    return max(0.0, stop - start) if isinstance(start, int | float) else stop


def _entry(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows of one recording."""
    media, subjects = record["media"], record["subjects"]
    colours = class_colours(record["classes"])
    seen = [s for s in subjects if s["evidence"]["face"] + s["evidence"]["both"] > 0]
    heard = sum(s["evidence"]["voice"] + s["evidence"]["both"] > 0 for s in subjects)
    files = {kind: name for kind, name in record["files"].items() if (folder / name).is_file()}
    links = {kind: "/".join(quote(os.fsencode(part)) for part in (folder.name, name)) for kind, name in files.items()}
    report = folder / files["report"] if "report" in files else None
    kind = media.get("kind", "")
    return {
        "name": printable(Path(media["path"]).name),
        "path": printable(media["path"]),
        "kind": kind,
        "duration": 0.0 if kind == "image" else _length(float(media.get("duration_s") or 0.0), record),
        "people": people(len(seen), heard, pictures=kind != "audio"),
        "subjects": [
            {
                "id": s["subject"],
                "shares": [(name, share, colours[name]) for name, share in s["shares"].items() if share >= 0.005],
                "confidence": s.get("confidence"),
                "valence": s["valence"],
                "arousal": s["arousal"],
            }
            for s in subjects[:MAX_FACES]
            if s["shares"] or s["valence"] is not None
        ],
        "more": max(0, len(subjects) - MAX_FACES),
        "faces": list(read_thumbnails(report).items())[:MAX_FACES] if report else [],
        "links": links,
        "model": record["model"],
        "notes": [printable(note) for note in record["notes"]],
    }
