"""Numbers and times as text, the same in terminal, report and index page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mien.records import SubjectSummary


def count(number: int, noun: str) -> str:
    """A number with its noun: `1 row`, `1,200 rows`; `0 people` for `person`."""
    plural = "people" if noun == "person" else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def people(seen: int, heard: int, *, pictures: bool) -> str:
    """Who is in a recording: `2 people`, `nobody seen, a voice heard`, `a voice`, `2 voices`.

    Args:
        seen: people with a face in some row.
        heard: people of whom some row rests on speech.
        pictures: whether the recording has pictures.
    """
    if seen:
        return count(seen, "person")
    voice = {0: "no voice", 1: "a voice"}.get(heard) or count(heard, "voice")
    return f"nobody seen, {voice} heard" if pictures else voice


def people_in(summaries: Sequence[SubjectSummary], *, pictures: bool) -> str:
    """Who is in a timeline, by its summaries; see `people`."""
    seen = sum(s.evidence["face"] + s.evidence["both"] > 0 for s in summaries)
    heard = sum(s.evidence["voice"] + s.evidence["both"] > 0 for s in summaries)
    return people(seen, heard, pictures=pictures)


def format_time(seconds: float) -> str:
    """A duration, or a time in a recording, as the report's clock writes it: `0:04.2`, `1:04.2`, `1:02:04`.

    Tenths of a second below an hour; above it, whole seconds.
    """
    minutes, rest = divmod(round(seconds, 1), 60)
    if minutes < 60:
        return f"{int(minutes)}:{rest:04.1f}"
    return f"{int(minutes // 60)}:{int(minutes % 60):02d}:{int(rest):02d}"
