"""Terminal view of a live prediction: a band for each person, percentages, valence and arousal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from mien.labels import probability_column
from mien.views.palette import class_colours
from mien.views.terminal import ASCII, UNICODE, Signs
from mien.views.words import count, format_time

#: Characters of the bar of a class, of the band over time, and of the scale of valence and arousal.
BAR, BAND, SCALE = 20, 60, 21
#: Seconds of one character of the band.
BAND_STEP_S = 0.5


@dataclass(slots=True)
class LiveState:
    """What the view shows.

    title: of the source. notice: lines on privacy and outputs. classes: class names. elapsed_s: seconds since the
    start. delay_s: seconds between a moment and its rows, as measured; None before the first. frames, dropped, rows:
    numbers of them. state: of the connection; "" when it stands. latest: subject -> its last row. bands: subject -> the
    expression of each `BAND_STEP_S`, oldest first, "" for none. band_s: subject -> time of the last of these.
    """

    title: str
    classes: Sequence[str]
    notice: Sequence[str] = ()
    elapsed_s: float = 0.0
    delay_s: float | None = None
    frames: int = 0
    dropped: int = 0
    rows: int = 0
    state: str = ""
    latest: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    bands: dict[int, list[str]] = field(default_factory=dict)
    band_s: dict[int, float] = field(default_factory=dict)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take new rows; who has had no row for `BAND * BAND_STEP_S` seconds is left out."""
        for row in rows:
            subject, time_s = int(row["subject"]), float(row["time_s"])
            self.latest[subject] = row
            band, last_s = self.bands.setdefault(subject, []), self.band_s.get(subject)
            if last_s is None or not 0 <= time_s - last_s < BAND_STEP_S:
                gap = 0 if last_s is None else min(BAND, max(0, round((time_s - last_s) / BAND_STEP_S) - 1))
                band += [""] * gap + [row["expression"] or ""]
                self.band_s[subject] = time_s
                del band[:-BAND]
        self.rows += len(rows)
        if rows:
            oldest = float(rows[-1]["time_s"]) - BAND * BAND_STEP_S
            for subject in [s for s, row in self.latest.items() if row["time_s"] < oldest]:
                del self.latest[subject], self.bands[subject], self.band_s[subject]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        signs = ASCII if options.ascii_only else UNICODE
        lines: list[RenderableType] = [self._headline(signs)]
        lines += [Text(line, style="dim") for line in self.notice]
        if self.state:
            lines.append(Text.assemble(("waiting  ", "bold yellow"), self.state))
        colours = class_colours(self.classes)
        # As many people as fit: a screen is shorter than a crowd.
        room = max(1, (options.max_height - len(lines) - 1) // (len(self.classes) + 5))
        subjects = sorted(self.latest)
        for subject in subjects[:room]:
            lines += self._person(subject, colours, signs)
        if not subjects:
            lines.append(Text("\nnobody yet: a face or a voice appears here", style="dim"))
        if len(subjects) > room:
            lines.append(Text(f"\n{count(len(subjects) - room, 'person')} more; enlarge the window", style="dim"))
        yield Group(*lines)

    def _headline(self, signs: Signs) -> Text:
        delay = "no rows yet" if self.delay_s is None else f"delay {self.delay_s:.2f} s"
        facts = [format_time(self.elapsed_s), delay, count(self.frames, "frame"), f"{self.dropped:,} dropped"]
        return Text.assemble((self.title, "bold"), "  ", (signs.dot.join([*facts, count(self.rows, "row")]), "dim"))

    def _person(self, subject: int, colours: Mapping[str, str], signs: Signs) -> list[RenderableType]:
        row = self.latest[subject]
        evidence = {"both": "face and voice", "none": "nobody seen or heard"}.get(row["evidence"], row["evidence"])
        best = row["expression"]
        title = Text.assemble((f"\nPerson {subject}", "bold"), "  ")
        if best is None:
            title.append("no estimate", style="dim")
        else:
            title.append(f"{best} {row['confidence']:.0%}", style=f"bold {colours[best]}")
        title.append(f"{signs.dot}{evidence}", style="dim")
        band = Text("  ")
        for name in self.bands[subject]:
            band.append(signs.sure if name else " ", style=colours.get(name, ""))
        table = Table.grid(padding=(0, 1))
        for name in self.classes:
            share = row[probability_column(name)]
            length = 0 if share is None else round(share * BAR)
            bar = Text(signs.sure * length, style=colours[name])
            bar.append(" " * (BAR - length))
            table.add_row(" ", Text(name), bar, Text("" if share is None else f"{share:4.0%}"))
        lines: list[RenderableType] = [title, band]
        if any(row[probability_column(name)] is not None for name in self.classes):
            lines.append(table)
        for axis in ("valence", "arousal"):
            if row[axis] is not None:
                lines.append(Text(f"  {axis} {_scale(row[axis], signs)} {row[axis]:+.2f}"))
        return lines


def _scale(value: float, signs: Signs) -> str:
    """A value in [-1, 1] as a mark on a line."""
    place = round((max(-1.0, min(1.0, value)) + 1) / 2 * (SCALE - 1))
    mark = "|" if signs is ASCII else "●"
    return signs.unsure * place + mark + signs.unsure * (SCALE - 1 - place)
