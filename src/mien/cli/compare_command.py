"""`mien compare`: agreement, averages around events, and groups of timelines or annotations."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from mien.cli import console
from mien.cli.options import JsonOption


# Over 60 lines, because Typer reads the options from the signature.
def compare(
    a: Annotated[
        Path, typer.Argument(metavar="A", help="A timeline, a file of annotations, or a folder of them (mien-out).")
    ],
    b: Annotated[
        Path | None,
        typer.Argument(metavar="B", help="What A is compared with; may be omitted with --events."),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page; the same numbers go beside it as .json.")] = Path(
        "compare.html"
    ),
    names: Annotated[
        str | None, typer.Option(metavar="A,B", help="Names of A and B on the page; default: those of the paths.")
    ] = None,
    groups: Annotated[
        bool, typer.Option("--groups", help="A and B are two groups of recordings, not two views of the same ones.")
    ] = False,
    paired: Annotated[
        bool, typer.Option("--paired", help="With --groups: recordings of one name are one person in two conditions.")
    ] = False,
    people: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="With --groups: the people.csv of mien people. Each person is one value, over all their recordings; "
            "with --paired, the same person in A and B is a pair.",
        ),
    ] = None,
    events: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV", help="Events to average around: columns time_s and, if wanted, recording, event, subject."
        ),
    ] = None,
    window: Annotated[
        str, typer.Option(metavar="S,S", help="First and last second around an event, such as --window=-2,5.")
    ] = "-1,3",
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="SPAN|FILE",
            help="Valence and arousal as differences from each person's mean in a span (0-10s, left out elsewhere) or "
            "in another timeline of the same person.",
        ),
    ] = None,
    attributes: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV", help="Agreement by attributes of the recordings: columns recording, and one for each."
        ),
    ] = None,
    map: Annotated[
        list[str] | None,
        typer.Option(metavar="LABEL=CLASS", help="Count a label as a class; LABEL= leaves it out. Repeatable."),
    ] = None,
    person: Annotated[
        list[str] | None,
        typer.Option(metavar="N=M", help="Subject N of A is subject M of B; default: equal numbers. Repeatable."),
    ] = None,
    tier: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Read only this tier or person of annotations; repeatable. Default: all."),
    ] = None,
    rate: Annotated[float, typer.Option(min=0.1, max=100, metavar="HZ", help="Moments compared each second.")] = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Compare timelines with annotations or each other.

    Writes one HTML page with plots, and its numbers as JSON. Recordings are matched by name: anna/clip.eaf and
    mien-out/clip/timeline.csv are both of the recording "clip".

    Agreement (default): confusion matrix, Cohen's kappa, Krippendorff's alpha, macro F1, and the CCC of valence and
    arousal, with intervals over recordings; with --attributes also by attribute, with the gap and its test.
    Groups (--groups): each measure of A minus B, with effect size, permutation test and Holm's correction.
    Events (--events): the mean course of valence, arousal and each class around a stimulus.

    One recording gives no intervals. docs/COMPARE.md explains every number.

    \b
    Examples:
      mien compare anna mien-out --names Anna,mien
      mien compare anna.eaf mien-out/clip/timeline.csv --tier face --map joy=Happiness
      mien compare out-a out-b --names "model a,model b" --attributes attributes.csv
      mien compare control treated --groups --baseline 0-10s
      mien compare before after --groups --paired
      mien compare before after --groups --paired --people study/people.csv
      mien compare mien-out --events stimuli.csv --window=-2,5

    Exit code: 0 success, 1 a file cannot be read or written, 2 nothing can be compared, or wrong usage.
    """
    if b is None and events is None:
        raise typer.BadParameter("without B there is nothing to compare; give B, or --events", param_hint="B")
    if groups and attributes:
        raise typer.BadParameter("compares agreement, and --groups has none; omit one", param_hint="--attributes")
    if paired and not groups:
        raise typer.BadParameter("belongs to --groups", param_hint="--paired")
    if people and not groups:
        raise typer.BadParameter("belongs to --groups", param_hint="--people")
    from mien.compare import comparison, recordings
    from mien.compare.events import read_events
    from mien.views.comparison import write_page

    first, last = _pair(window, "--window")
    if last <= first:
        raise typer.BadParameter(f"{window!r} ends before it starts", param_hint="--window")
    labels = dict(_split(item, "--map") for item in map or ())
    options = comparison.Options(
        names=_names(names, a, b),
        rate_hz=rate,
        as_groups=groups,
        paired=paired,
        people=recordings.read_people(people, a, b) if people and b else None,
        subjects={_number(n): _number(m) for n, m in (_split(item, "--person") for item in person or ())},
        baseline=recordings.parse_baseline(baseline) if baseline else None,
        events=read_events(events) if events else [],
        window=(first, last),
        attributes=_attributes(attributes) if attributes else {},
    )
    read = [recordings.load(path, tiers=tier) if path else {} for path in (a, b)]
    sides, notes = recordings.relabel(read, labels)
    record = comparison.compare(sides[0], sides[1], options)
    record["notes"] = [*notes, *record["notes"]]
    written = write_page(out, record)
    if as_json:
        print(json.dumps(record, indent=1, ensure_ascii=False))
        return
    _print(record)
    console.stdout().print(f"{'page':12}{written}\n{'numbers':12}{written.with_suffix('.json')}", markup=False)


def _names(text: str | None, a: Path, b: Path | None) -> tuple[str, str]:
    if text is not None:
        first, comma, second = text.partition(",")
        if not first.strip() or (b is not None and not (comma and second.strip())) or first.strip() == second.strip():
            raise typer.BadParameter(f"{text!r} is not two different names, such as Anna,mien", param_hint="--names")
        return first.strip(), second.strip() or "B"
    from mien.compare.recordings import recording_name

    own = [path.resolve().name if path.is_dir() else recording_name(path) for path in (a, b) if path is not None]
    if len(own) == 1 or own[0] == own[1]:
        return (own[0], "B") if len(own) == 1 else ("A", "B")
    return own[0], own[1]


def _split(text: str, option: str) -> tuple[str, str]:
    left, equals, right = text.partition("=")
    if not equals or not left.strip():
        raise typer.BadParameter(f"{text!r}: write it as LEFT=RIGHT", param_hint=option)
    return left.strip(), right.strip()


def _number(text: str) -> int:
    if not re.fullmatch(r"\d+", text):
        raise typer.BadParameter(f"{text!r} is no subject number", param_hint="--person")
    return int(text)


def _pair(text: str, option: str) -> tuple[float, float]:
    try:
        first, last = (float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r}: write two numbers with a comma between", param_hint=option) from None
    return first, last


def _attributes(path: Path) -> dict[str, dict[str, str]]:
    from mien.csv_rows import read_rows
    from mien.errors import ConfigError

    rows = read_rows(path, "--attributes", follows="Nothing was compared.")
    if not rows or "recording" not in rows[0] or len(rows[0]) < 2:
        raise ConfigError(
            f"{path} has the columns {', '.join(rows[0]) if rows else 'none'}; it needs recording and one attribute",
            follows="Nothing was compared.",
            remedy="Begin the file with a line such as recording,gender,age.",
        )
    return {
        row["recording"]: {key: value for key, value in row.items() if key != "recording" and value} for row in rows
    }


def _print(record: dict[str, Any]) -> None:
    from mien.views.comparison import format_number, format_p
    from mien.views.evaluation import format_interval, format_score

    screen = console.stdout()
    if record["agreement"]:
        table = console.table("score", "value", "interval", right=("value",))
        for row in record["agreement"]["scores"]:
            table.add_row(row["name"], format_score(row["value"]), format_interval(row))
        screen.print(table)
        for entry in record["agreement"]["attributes"]:
            gaps = [
                f"{row['name']} {format_score(gap['gap'])} (p {format_p(gap['p'])})"
                for row in record["agreement"]["scores"]
                if (gap := entry["gaps"][row["key"]])["gap"] is not None
            ]
            screen.print(f"gaps by {entry['attribute']}: {', '.join(gaps)}", markup=False)
    if record["groups"]:
        names = record["names"]
        table = console.table(
            "measure", *names, "difference", "effect", "p, Holm", right=(*names, "difference", "effect")
        )
        for row in record["groups"]["contrasts"]:
            cells = [format_number(row[key]) for key in ("mean_a", "mean_b", "difference", "effect")]
            table.add_row(row["measure"], *cells, format_p(row["p_holm"]))
        screen.print(table if table.rows else "no measure varies between the recordings")
    if record["events"]:
        kinds = sorted({(row["event"], row["of"], row["count"]) for row in record["events"]})
        screen.print("events: " + ", ".join(f"{e} ({of}: {n})" for e, of, n in kinds), markup=False)
    for note in record["notes"]:
        screen.print(f"note  {note}", style="yellow", markup=False)
