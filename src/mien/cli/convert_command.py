"""`mien convert`: a timeline or annotations in another file format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mien.cli import console, provenance
from mien.views.words import count

ReadRateOption = Annotated[
    float,
    typer.Option(min=0.1, metavar="HZ", help="Rows per second of a table that is made from intervals of annotations."),
]
TierOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Read only this tier or person of annotations; repeatable. Default: all."),
]


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A timeline (.csv, .parquet, .jsonl) or annotations (.eaf, .TextGrid, .vtt, .srt, .boris, .rttm, a "
            "table of BORIS, an export of Label Studio).",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write; its suffix chooses the format.")],
    rate: ReadRateOption = 25.0,
    tier: TierOption = None,
    media: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The recording that ELAN, BORIS and Label Studio open; default: by timeline.json."
        ),
    ] = None,
) -> None:
    """Convert timelines and annotations to other formats.

    Writes OUT in the format of its suffix: .csv, .parquet or .jsonl (tables with all columns), .eaf (ELAN), .TextGrid
    (Praat), .vtt or .srt (subtitles), .boris (a BORIS project), .boris.csv (BORIS events), .labelstudio.json (Label
    Studio) or .rttm (who speaks).

    Annotations hold one interval for each stretch of an expression, the mean valence and arousal of each second, and
    the speech of each person, as far as the format has a place for them. Probabilities and boxes stay in the table.
    Read back, a row has the label of the interval that covers it. docs/ANNOTATIONS.md explains both ways.

    \b
    Examples:
      mien convert mien-out/clip/timeline.csv clip.eaf
      mien convert mien-out/clip/timeline.csv clip.TextGrid
      mien convert anna.eaf anna.csv --rate 10 --tier "Anna face"
      mien convert project.boris coded.parquet

    Exit code: 0 success, 1 a file cannot be read or written.
    """
    from mien.timeline.table import Timeline

    timeline = Timeline.read(source, rate_hz=rate, tiers=tier)
    timeline.media = str(media or timeline.media or _recording_of(source))
    timeline.write(out)
    screen = console.stdout()
    for note in timeline.notes:
        screen.print(f"note  {note}", style="yellow", markup=False)
    people = count(len(timeline.subjects), "person")
    screen.print(f"{out}: {people}, {count(len(timeline), 'row')} of {source}", markup=False)


def _recording_of(source: Path) -> str:
    """Path of the recording of a timeline of `mien predict`, by the timeline.json beside it; "" if there is none."""
    record = provenance.read(source.parent)
    return str(record["media"]["path"]) if record and source.name in record["files"].values() else ""
