"""WebVTT subtitles (.vtt): cues with the person as voice, `<v subject_0>Happiness`. Specification: W3C, WebVTT."""

from __future__ import annotations

import html
import re

from mien.timeline.formats.annotations import Annotation, Annotations
from mien.timeline.formats.cues import annotations_of, cues, format_time, parse_blocks, split_name

_VOICE = re.compile(r"<v(?:\.[^\s>]*)?[ \t]+([^>]*)>")
_TAG = re.compile(r"<[^>]*>")


def dumps(annotations: Annotations) -> str:
    """The text of a .vtt file."""
    lines = ["WEBVTT", ""]
    for start, stop, person, label in cues(annotations):
        lines += [
            f"{format_time(start, '.')} --> {format_time(stop, '.')}",
            f"<v {_escape(person)}>{_escape(label)}",
            "",
        ]
    return "\n".join(lines) + ("" if len(lines) > 2 else "\n")


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def cue_texts(text: str) -> list[tuple[float, float, str, str]]:
    """Start, end, person and text of each cue; a cue of several voices is one for each. Raises ValueError."""
    if not text.startswith("WEBVTT"):
        raise ValueError("it does not begin with WEBVTT")
    found = []
    for start, stop, body in parse_blocks(text):
        before, *voices = _VOICE.split(body)
        pairs = [*zip(voices[::2], voices[1::2], strict=True)]
        if _plain(before):
            pairs.insert(0, split_name(_plain(before)))
        found += [(start, stop, html.unescape(person).strip(), _plain(part)) for person, part in pairs]
    return found


def _plain(text: str) -> str:
    return html.unescape(_TAG.sub("", text)).strip()


def loads(text: str) -> Annotations:
    """The cues of a .vtt file as intervals. Raises ValueError: it is no WebVTT."""
    items: list[Annotation] = []
    for cue in cue_texts(text):
        items += annotations_of(*cue)
    return Annotations(tuple(items), max((i.stop_s for i in items), default=0.0))
