"""Summary of a timeline for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mien.labels import EXPRESSIONS, SCORE_TASKS, score_columns, score_tasks
from mien.printable import printable
from mien.records import SubjectSummary
from mien.views.palette import class_colours
from mien.views.parts import Parts, choose_parts
from mien.views.words import count, format_time, people_in

#: Lengths of the bar of 100 %, in characters. The first that leaves room for the stretches beside the shares is used.
BARS = (16, 12, 8)


class Signs(NamedTuple):
    """The characters that a terminal can show. sure, unsure: parts of a bar. dot, dash, times: between words."""

    sure: str
    unsure: str
    dot: str
    dash: str
    times: str


UNICODE, ASCII = Signs("━", "╌", " · ", " – ", "×"), Signs("#", "-", " | ", " - ", "x")


def summary_table(
    summaries: Sequence[SubjectSummary],
    *,
    classes: Sequence[str] = EXPRESSIONS,
    name: str = "",
    notes: Sequence[str] = (),
    info: Mapping[str, Any] | None = None,
) -> RenderableType:
    """Rich renderable of a timeline's summary.

    Per subject: the share of each expression with its mean confidence, the longest stretches, means and evidence. Then
    the notes. A timeline without any expression shows only the means of valence and arousal, and the other way round.
    Score tasks are shown as means over time.
    A bar is as long as the share; its solid part is the share times the confidence. In a narrow terminal bars are
    shorter, and in a very narrow one the stretches are below the shares. Where the terminal's encoding is not Unicode,
    everything is ASCII.

    Args:
        classes: the timeline's class names.
    """
    return _Summary(tuple(summaries), tuple(classes), name, tuple(notes), info or {})


@dataclass(frozen=True, slots=True)
class _Summary:
    """A summary, written when the terminal that shows it is known."""

    summaries: tuple[SubjectSummary, ...]
    classes: tuple[str, ...]
    name: str
    notes: tuple[str, ...]
    info: Mapping[str, Any]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        signs = ASCII if options.ascii_only else UNICODE
        summaries = self.summaries
        shown = choose_parts(any(s.shares for s in summaries), any(s.valence is not None for s in summaries))
        colours = class_colours(self.classes)
        lines: list[RenderableType] = [_headline(summaries, self.name, self.info, signs)]
        for subject in summaries:
            scores = _scores(subject, signs)
            lines += [_title(subject, signs), *scores]
            if any(s.shares or s.valence is not None for s in summaries) or not scores:
                lines += _body(subject, shown, colours, signs, (console, options))
        lines += [Text.assemble(("note  ", "yellow"), note) for note in self.notes]
        yield Group(*lines)


def _headline(summaries: Sequence[SubjectSummary], name: str, info: Mapping[str, Any], signs: Signs) -> Text:
    rows = sum(s.rows for s in summaries)
    facts = [count(rows, "row"), people_in(summaries, pictures=info.get("media", {}).get("kind") != "audio")]
    start = min((s.start_s for s in summaries), default=0.0) if info.get("section") else 0.0
    stop = max((s.stop_s for s in summaries), default=0.0)
    if stop > start:
        facts.insert(0, (f"{format_time(start)}{signs.dash}" if start else "") + format_time(stop))
    if (total := info.get("seconds", {}).get("total")) and stop > start:
        facts.append(f"predicted in {total:.1f} s ({(stop - start) / total:.1f}{signs.times} real time)")
    return Text.assemble((printable(name) or "timeline", "bold"), "  ", (signs.dot.join(facts), "dim"))


def _title(subject: SubjectSummary, signs: Signs) -> Text:
    evidence = ", ".join(f"{kind} {share:.0%}" for kind, share in subject.evidence.items() if share >= 0.005)
    means = [
        f"{axis} {value:+.2f}"
        for axis, value in (("valence", subject.valence), ("arousal", subject.arousal))
        if value is not None
    ]
    facts = signs.dot.join([*means, f"evidence: {evidence}"])
    return Text.assemble((f"\nSubject {subject.subject}", "bold"), "  ", (facts, "dim"))


def _scores(subject: SubjectSummary, signs: Signs) -> list[RenderableType]:
    """A line for each score task that has an estimate: the mean of each of its scores."""
    lines: list[RenderableType] = []
    for task in score_tasks(subject.scores):
        means = [subject.scores[column] for column in score_columns(task)]
        if any(mean is not None for mean in means):
            names = zip(SCORE_TASKS[task].columns, means, strict=True)
            text = signs.dot.join(f"{name} {mean:.2f}" for name, mean in names if mean is not None)
            lines.append(Text.assemble((f"  mean {SCORE_TASKS[task].title}  ", "dim"), text))
    return lines


def _body(
    subject: SubjectSummary,
    shown: Parts,
    colours: Mapping[str, str],
    signs: Signs,
    terminal: tuple[Console, ConsoleOptions],
) -> list[RenderableType]:
    if not subject.shares and (shown.expression or subject.valence is None):
        missing = "expression" if shown.expression else "valence or arousal"
        return [Text(f"  no face or voice evidence, so no {missing}", style="dim")]
    if not shown.expression:
        return []
    stretches = _stretches(subject, colours, signs)
    for length in BARS:
        body = Table.grid(padding=(0, 3))
        body.add_row(_shares(subject, colours, signs, length), stretches)
        if _width(body, terminal) <= terminal[1].max_width:
            return [body]
    return [_shares(subject, colours, signs, BARS[-1]), Padding(stretches, (0, 0, 0, 2))]


def _width(body: RenderableType, terminal: tuple[Console, ConsoleOptions]) -> int:
    """Characters that the body needs to break no line."""
    console, options = terminal
    return Measurement.get(console, options.update_width(1000), body).maximum


def _shares(subject: SubjectSummary, colours: Mapping[str, str], signs: Signs, length: int) -> Table:
    """A line for each class: its share as a bar and a number, and its mean confidence."""
    shares = _grid(5)
    is_moment = subject.stop_s <= subject.start_s
    for name, share in subject.shares.items():
        if share >= 0.005:
            sure = _confidence(subject, name)
            bar = _bar(sure if is_moment else share, 1.0 if is_moment else sure, colours[name], signs, length)
            numbers = "" if is_moment else f"{share:4.0%}"
            shares.add_row(" ", Text(name), bar, Text(numbers), Text(f"confidence {sure:.0%}", style="dim"))
    if subject.unnamed >= 0.005:
        missing = Text("no expression", style="dim"), "", Text(f"{subject.unnamed:4.0%}", style="dim")
        shares.add_row(" ", *missing, Text("of all time", style="dim"))
    return shares


def _stretches(subject: SubjectSummary, colours: Mapping[str, str], signs: Signs) -> Table:
    """The longest stretches of one expression, with their mean confidence."""
    stretches = _grid(3)
    for s in subject.dominant():
        if s.seconds > 0:
            interval = Text(f"{format_time(s.start_s)}{signs.dash}{format_time(s.stop_s)}", style="dim")
            confidence = Text(f"{s.confidence:4.0%}", style="dim")
            stretches.add_row(interval, Text(s.expression, style=colours[s.expression]), confidence)
    return stretches


def _grid(columns: int) -> Table:
    """A grid whose cells are cut rather than broken into lines."""
    grid = Table.grid(padding=(0, 1))
    for _ in range(columns):
        grid.add_column(no_wrap=True)
    return grid


def _confidence(subject: SubjectSummary, name: str) -> float:
    """Mean confidence of a class over the time that has it."""
    spans = [(s.confidence, s.seconds or 1.0) for s in subject.stretches if s.expression == name]
    return sum(c * w for c, w in spans) / sum(w for _, w in spans) if spans else 0.0


def _bar(share: float, sure: float, colour: str, signs: Signs, full: int) -> Text:
    """A bar for a share, whose first part, share times confidence, is solid. full: characters of 100 %."""
    length = max(1, round(share * full))
    solid = min(length, round(share * sure * full))
    bar = Text.assemble((signs.sure * solid, colour), (signs.unsure * (length - solid), colour))
    bar.pad_right(full - length)
    return bar
