"""Praat TextGrid files: one interval tier for each kind of annotation and person. Reads the long and the short text
format. Manual: Praat, "TextGrid file formats" (https://www.fon.hum.uva.nl/praat/manual/TextGrid_file_formats.html).
"""

from __future__ import annotations

import re
from typing import TypeVar

from mien.timeline.formats.annotations import STILL_S, Annotation, Annotations, parse_tier, tier_name

#: Free-standing strings, numbers and flags: Praat takes all else for comments. In a string, "" is one quotation mark.
_TOKEN = re.compile(r'"((?:[^"]|"")*)"|(?<!\S)([-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)(?!\S)|(?<!\S)(<exists>|<absent>)')

_Token = TypeVar("_Token", str, float, bool)


def dumps(annotations: Annotations) -> str:
    """The text of a TextGrid in the long format; gaps are intervals without text, as Praat needs them."""
    stop = max(annotations.stop_s, 0.0) or STILL_S
    tiers = annotations.tiers()
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0 ", f"xmax = {_time(stop)} "]
    lines += ["tiers? <exists> ", f"size = {len(tiers)} ", "item []: "]
    for number, ((kind, person), items) in enumerate(tiers.items(), 1):
        spans = _with_gaps(items, stop)
        lines += [f"    item [{number}]:", '        class = "IntervalTier" ']
        lines += [f"        name = {_quote(tier_name(kind, person))} ", "        xmin = 0 "]
        lines += [f"        xmax = {_time(stop)} ", f"        intervals: size = {len(spans)} "]
        for k, (start, end, label) in enumerate(spans, 1):
            lines += [f"        intervals [{k}]:", f"            xmin = {_time(start)} "]
            lines += [f"            xmax = {_time(end)} ", f"            text = {_quote(label)} "]
    return "\n".join(lines) + "\n"


def _with_gaps(items: list[Annotation], stop: float) -> list[tuple[float, float, str]]:
    spans: list[tuple[float, float, str]] = []
    now = 0.0
    for item in items:
        start, end = round(item.start_s, 6), min(round(item.stop_s, 6), round(stop, 6))
        if start > now:
            spans.append((now, start, ""))
        if end > max(start, now):
            spans.append((max(start, now), end, item.label))
            now = end
    if now < round(stop, 6):
        spans.append((now, round(stop, 6), ""))
    return spans


def _time(seconds: float) -> str:
    return f"{seconds:.6f}".rstrip("0").rstrip(".") or "0"


def _quote(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def loads(text: str) -> Annotations:
    """The intervals of a TextGrid; points of a point tier have no length. Intervals without text are left out.

    Raises ValueError: it is no TextGrid, or ends early.
    """
    tokens: list[str | float | bool] = []
    for string, number, flag in _TOKEN.findall(text):
        tokens.append(flag == "<exists>" if flag else float(number) if number else string.replace('""', '"'))
    if tokens[:2] != ["ooTextFile", "TextGrid"]:
        raise ValueError('it does not begin with File type = "ooTextFile" and Object class = "TextGrid"')
    values = iter(tokens[2:])
    items: list[Annotation] = []

    def take(kind: type[_Token]) -> _Token:
        value = next(values, None)
        if value is None or not isinstance(value, kind):
            raise ValueError(f"its text {'ends early' if value is None else f'has {value!r} in the wrong place'}")
        return value

    take(float)
    stop = take(float)
    if take(bool):
        for _ in range(int(take(float))):
            tier_class, name = take(str), take(str)
            take(float), take(float)
            kind, person = parse_tier(name)
            for _ in range(int(take(float))):
                start = take(float)
                end = take(float) if tier_class == "IntervalTier" else start
                label = take(str).strip()
                if label:
                    items.append(Annotation(kind, person, start, end, label))
    return Annotations(tuple(items), stop)
