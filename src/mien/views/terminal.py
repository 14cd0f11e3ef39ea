"""The summary a terminal shows after a prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mien.records import SubjectSummary
from mien.views.palette import EXPRESSION

BAR = 16


def summary(
    summaries: Sequence[SubjectSummary],
    *,
    name: str = "",
    notes: Sequence[str] = (),
    info: Mapping[str, Any] | None = None,
) -> RenderableType:
    """Per subject: the share of each expression, the longest stretches, means and evidence; then the notes."""
    parts: list[RenderableType] = [_headline(summaries, name, info or {})]
    for one in summaries:
        parts += [_title(one), _body(one)]
    parts += [Text.assemble(("note  ", "yellow"), note) for note in notes]
    return Group(*parts)


def _headline(summaries: Sequence[SubjectSummary], name: str, info: Mapping[str, Any]) -> Text:
    rows = sum(d.rows for d in summaries)
    facts = [f"{rows} rows", f"{len(summaries)} subject{'s' * (len(summaries) != 1)}"]
    stop = max((d.stop_s for d in summaries), default=0.0)
    if stop > 0:
        facts.insert(0, clock(stop))
    if (spent := info.get("seconds", {}).get("total")) and stop > 0:
        facts.append(f"predicted in {spent:.1f} s ({stop / spent:.1f}× real time)")
    return Text.assemble((name or "timeline", "bold"), "  ", (" · ".join(facts), "dim"))


def _title(one: SubjectSummary) -> Text:
    evidence = ", ".join(f"{kind} {share:.0%}" for kind, share in one.evidence.items() if share >= 0.005)
    means = [
        f"{axis} {value:+.2f}"
        for axis, value in (("valence", one.valence), ("arousal", one.arousal))
        if value is not None
    ]
    facts = " · ".join([*means, f"evidence: {evidence}"])
    return Text.assemble((f"\nSubject {one.subject}", "bold"), "  ", (facts, "dim"))


def _body(one: SubjectSummary) -> RenderableType:
    if not one.shares:
        return Text("  nothing was seen or heard that an expression could be read from", style="dim")
    shares = Table.grid(padding=(0, 1))
    for name, share in one.shares.items():
        if share >= 0.005:
            bar = Text("━" * max(1, round(share * BAR)), style=EXPRESSION[name])
            bar.pad_right(BAR - len(bar))
            shares.add_row(" ", name, bar, Text(f"{share:4.0%}"))
    if one.unnamed >= 0.005:
        shares.add_row(" ", Text("unnamed", style="dim"), "", Text(f"{one.unnamed:4.0%}", style="dim"))
    longest = [s for s in one.dominant() if s.seconds > 0]
    stretches = Table.grid(padding=(0, 1))
    for s in longest:
        when = Text(f"{clock(s.start_s)} – {clock(s.stop_s)}", style="dim", justify="right")
        sure = Text(f"{s.confidence:4.0%}", style="dim")
        stretches.add_row(when, Text(s.expression, style=EXPRESSION[s.expression]), sure)
    both = Table.grid(padding=(0, 3))
    both.add_row(shares, stretches)
    return both


def clock(seconds: float) -> str:
    """Seconds as a reader's clock: 4.2 s, 1:04.2, 1:02:04."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds, 1), 60)
    if minutes < 60:
        return f"{int(minutes)}:{rest:04.1f}"
    return f"{int(minutes // 60)}:{int(minutes % 60):02d}:{int(rest):02d}"
