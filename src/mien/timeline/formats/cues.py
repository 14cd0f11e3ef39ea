"""Cues of subtitles, in WebVTT and SRT alike: one cue for each stretch of an expression, with the person's name.

A timeline without expressions has one cue a second with valence and arousal. Speech has no cues.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from mien.timeline.formats.annotations import AROUSAL, EXPRESSION, VALENCE, Annotation, Annotations

_TIMES = re.compile(r"\s*((?:\d+:)?\d{1,2}:\d{1,2}[.,]\d{1,3})\s*-->\s*((?:\d+:)?\d{1,2}:\d{1,2}[.,]\d{1,3})")
_VALUES = re.compile(r"valence ([-+]?[\d.]+), arousal ([-+]?[\d.]+)")
#: Longest name before a colon that counts as a person's. Our choice: longer ones are sentences.
_NAME = re.compile(r"([^:\n]{1,40}): +(?=\S)")


def cues(annotations: Annotations) -> Iterator[tuple[float, float, str, str]]:
    """Start, end in seconds, person and text of each cue, by start."""
    expressions = [(i.start_s, i.stop_s, i.person, i.label) for i in annotations.items if i.kind == EXPRESSION]
    if expressions:
        yield from sorted(expressions)
        return
    arousal = {(i.person, i.start_s): i.label for i in annotations.items if i.kind == AROUSAL}
    pairs = [
        (i.start_s, i.stop_s, i.person, f"valence {float(i.label):+.3f}, arousal {float(a):+.3f}")
        for i in annotations.items
        if i.kind == VALENCE and (a := arousal.get((i.person, i.start_s))) is not None
    ]
    yield from sorted(pairs)


def format_time(seconds: float, point: str) -> str:
    """`00:01:02.345`, with `point` before the milliseconds."""
    ms = round(1000 * seconds)
    return f"{ms // 3_600_000:02d}:{ms // 60_000 % 60:02d}:{ms // 1000 % 60:02d}{point}{ms % 1000:03d}"


def parse_blocks(text: str) -> Iterator[tuple[float, float, str]]:
    """Start, end in seconds and text of each block that has a line of times. Raises ValueError where it ends before it
    starts."""
    for block in re.split(r"\n[ \t]*\n", text.replace("\r\n", "\n").replace("\r", "\n")):
        lines = block.split("\n")
        for number, line in enumerate(lines):
            if match := _TIMES.match(line):
                start, stop = _seconds(match[1]), _seconds(match[2])
                if stop < start:
                    raise ValueError(f"a cue ends before it starts: {line.strip()}")
                yield start, stop, "\n".join(lines[number + 1 :]).strip()
                break


def _seconds(text: str) -> float:
    *rest, seconds = text.replace(",", ".").split(":")
    total = 0.0
    for part in (*rest, seconds):
        total = total * 60 + float(part)
    return total


def split_name(text: str) -> tuple[str, str]:
    """Person and label of `Anna: Happiness`; the person is "" without a name."""
    match = _NAME.match(text)
    return (match[1].strip(), text[match.end() :].strip()) if match else ("", text)


def annotations_of(start: float, stop: float, person: str, text: str) -> Iterator[Annotation]:
    """The annotations of a cue: a class, or valence and arousal."""
    person = person or "subject_0"
    if match := _VALUES.fullmatch(text):
        yield Annotation(VALENCE, person, start, stop, match[1])
        yield Annotation(AROUSAL, person, start, stop, match[2])
    elif text:
        yield Annotation(EXPRESSION, person, start, stop, text)
