"""Page of the people of many recordings: each person with the recordings in which they are seen."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mien import __version__
from mien.atomic import atomic_path
from mien.printable import printable
from mien.views.palette import class_colours
from mien.views.render import load_template, read_source
from mien.views.report import read_thumbnails
from mien.views.words import count, format_time


@dataclass(frozen=True, slots=True)
class Appearance:
    """A subject of a recording as the page shows it. recording: its name. folder: of its results. record: its
    timeline.json. person: None if unknown. The others as `mien.people.find.Member`."""

    recording: str
    folder: Path
    record: Mapping[str, Any]
    subject: int
    person: str | None
    how: str
    seconds: float
    distance: float | None
    nearest: str | None
    nearest_distance: float | None


def write_people(path: Path, appearances: Sequence[Appearance], *, threshold: float, notes: Sequence[str] = ()) -> Path:
    """Write the page; only the user can read it, unless the folder says otherwise (`mien.scratch.private_mode`).

    Faces are those that reports beside the timelines hold; without reports there are none.

    Raises:
        OutputError: the page cannot be written.
    """
    people: dict[str, list[dict[str, Any]]] = {}
    thumbnails: dict[Path, dict[int, str]] = {}
    for appearance in appearances:
        report = appearance.folder / appearance.record["files"].get("report", "report.html")
        if report not in thumbnails:
            thumbnails[report] = read_thumbnails(report)
        row = _row(appearance, path.parent, report, thumbnails[report].get(appearance.subject, ""), threshold)
        people.setdefault(appearance.person or "", []).append(row)
    unknown = people.pop("", [])
    recordings = {appearance.folder for appearance in appearances}
    page = load_template("people.html").render(
        title="People · mien",
        name="People",
        facts=[count(len(people), "person"), count(len(recordings), "recording"), f"threshold {threshold:g}"],
        notes=[printable(note) for note in notes],
        people=[(printable(name), rows, format_time(sum(r["seconds"] for r in rows))) for name, rows in people.items()],
        unknown=unknown,
        count=count,
        format_time=format_time,
        version=__version__,
        css=read_source("base.css", "report.css", "index.css", "people.css"),
    )
    with atomic_path(path, private=True) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _row(a: Appearance, base: Path, report: Path, picture: str, threshold: float) -> dict[str, Any]:
    """What the template shows of one subject."""
    colours = class_colours(a.record["classes"])
    summary: Mapping[str, Any] = next((s for s in a.record["subjects"] if s["subject"] == a.subject), {})
    shares = summary.get("shares") or {}
    return {
        "recording": printable(a.recording),
        "media": printable(a.record["media"]["path"]),
        "link": _link(report, base) if report.is_file() else "",
        "picture": picture,
        "subject": a.subject,
        "seconds": a.seconds,
        "how": a.how,
        "distance": a.distance,
        "nearest": printable(a.nearest) if a.nearest else "",
        "nearest_distance": a.nearest_distance,
        "doubtful": [
            # Slightly other pictures could have decided otherwise.
            a.how != "names" and distance is not None and abs(distance - threshold) < 0.1 * threshold
            for distance in (a.distance, a.nearest_distance)
        ],
        "shares": [(name, share, colours[name]) for name, share in shares.items() if share >= 0.005],
        "valence": summary.get("valence"),
        "arousal": summary.get("arousal"),
    }


def _link(path: Path, base: Path) -> str:
    try:
        parts = Path(os.path.relpath(path.resolve(), base.resolve())).parts
    except ValueError:  # another drive
        return path.absolute().as_uri()
    return "/".join(quote(os.fsencode(part)) for part in parts)
