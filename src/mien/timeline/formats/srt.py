"""SubRip subtitles (.srt): cues with the person's name before a colon, `subject_0: Happiness`."""

from __future__ import annotations

import re

from mien.timeline.formats.annotations import Annotation, Annotations
from mien.timeline.formats.cues import annotations_of, cues, format_time, parse_blocks, split_name

_TAG = re.compile(r"</?[a-zA-Z][^>]*>|\{\\[^}]*\}")


def dumps(annotations: Annotations) -> str:
    """The text of an .srt file; cues are numbered from 1."""
    blocks = [
        f"{number}\n{format_time(start, ',')} --> {format_time(stop, ',')}\n{person}: {label}\n"
        for number, (start, stop, person, label) in enumerate(cues(annotations), 1)
    ]
    return "\n".join(blocks)


def cue_texts(text: str) -> list[tuple[float, float, str, str]]:
    """Start, end, person and text of each cue. Raises ValueError: it has text, but no cues."""
    found = [(start, stop, *split_name(_TAG.sub("", body).strip())) for start, stop, body in parse_blocks(text) if body]
    if text.strip() and not found:
        raise ValueError("it has no line of times such as 00:00:01,000 --> 00:00:02,500")
    return found


def loads(text: str) -> Annotations:
    """The cues of an .srt file as intervals. Raises ValueError: it is no SubRip."""
    items: list[Annotation] = []
    for cue in cue_texts(text):
        items += annotations_of(*cue)
    return Annotations(tuple(items), max((i.stop_s for i in items), default=0.0))
