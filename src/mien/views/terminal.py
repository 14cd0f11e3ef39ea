"""Summary of a timeline for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mien.labels import EXPRESSIONS
from mien.records import SubjectSummary
from mien.views.palette import class_colours
from mien.views.parts import Parts, choose_parts
from mien.views.words import count, format_time, people_in

#: Characters of a bar for a share of 100 %.
BAR = 16


def summary_table(
    summaries: Sequence[SubjectSummary],
    *,
    classes: Sequence[str] = EXPRESSIONS,
    name: str = "",
    notes: Sequence[str] = (),
    info: Mapping[str, Any] | None = None,
) -> RenderableType:
    """Rich renderable of a timeline's summary.

    Per subject: the share of each expression, the longest stretches, means and evidence. Then the notes. A timeline
    without any expression shows only the means of valence and arousal, and the other way round.

    Args:
        classes: the timeline's class names.
    """
    shown = choose_parts(any(s.shares for s in summaries), any(s.valence is not None for s in summaries))
    colours = class_colours(classes)
    lines: list[RenderableType] = [_headline(summaries, name, info or {})]
    for subject in summaries:
        lines += [_title(subject), *_body(subject, shown, colours)]
    lines += [Text.assemble(("note  ", "yellow"), note) for note in notes]
    return Group(*lines)


def _headline(summaries: Sequence[SubjectSummary], name: str, info: Mapping[str, Any]) -> Text:
    rows = sum(s.rows for s in summaries)
    facts = [count(rows, "row"), people_in(summaries, pictures=info.get("media", {}).get("kind") != "audio")]
    stop = max((s.stop_s for s in summaries), default=0.0)
    if stop > 0:
        facts.insert(0, format_time(stop))
    if (total := info.get("seconds", {}).get("total")) and stop > 0:
        facts.append(f"predicted in {total:.1f} s ({stop / total:.1f}× real time)")
    return Text.assemble((name or "timeline", "bold"), "  ", (" · ".join(facts), "dim"))


def _title(subject: SubjectSummary) -> Text:
    evidence = ", ".join(f"{kind} {share:.0%}" for kind, share in subject.evidence.items() if share >= 0.005)
    means = [
        f"{axis} {value:+.2f}"
        for axis, value in (("valence", subject.valence), ("arousal", subject.arousal))
        if value is not None
    ]
    facts = " · ".join([*means, f"evidence: {evidence}"])
    return Text.assemble((f"\nSubject {subject.subject}", "bold"), "  ", (facts, "dim"))


def _body(subject: SubjectSummary, shown: Parts, colours: Mapping[str, str]) -> list[RenderableType]:
    if not subject.shares and (shown.expression or subject.valence is None):
        missing = "expression" if shown.expression else "valence or arousal"
        return [Text(f"  no face or voice evidence, so no {missing}", style="dim")]
    if not shown.expression:
        return []
    shares = Table.grid(padding=(0, 1))
    for name, share in subject.shares.items():
        if share >= 0.005:
            bar = Text("━" * max(1, round(share * BAR)), style=colours[name])
            bar.pad_right(BAR - len(bar))
            shares.add_row(" ", Text(name), bar, Text(f"{share:4.0%}"))
    if subject.unnamed >= 0.005:
        shares.add_row(" ", Text("no expression", style="dim"), "", Text(f"{subject.unnamed:4.0%}", style="dim"))
    longest = [s for s in subject.dominant() if s.seconds > 0]
    stretches = Table.grid(padding=(0, 1))
    for s in longest:
        interval = Text(f"{format_time(s.start_s)} – {format_time(s.stop_s)}", style="dim", justify="right")
        confidence = Text(f"{s.confidence:4.0%}", style="dim")
        stretches.add_row(interval, Text(s.expression, style=colours[s.expression]), confidence)
    body = Table.grid(padding=(0, 3))
    body.add_row(shares, stretches)
    return [body]
