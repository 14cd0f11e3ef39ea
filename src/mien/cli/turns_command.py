"""`mien turns`: a transcript with the expression of who speaks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mien.cli import console
from mien.views.words import count

if TYPE_CHECKING:
    from mien.timeline.table import Timeline


def turns(
    timeline: Annotated[Path, typer.Argument(metavar="TIMELINE", help="A timeline of mien predict.")],
    transcript: Annotated[
        Path,
        typer.Argument(metavar="TRANSCRIPT", help="The JSON of whisperX or Whisper, or an .srt, .vtt or .rttm file."),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The table to write: .csv, .jsonl or .parquet.")] = Path(
        "utterances.csv"
    ),
    speaker: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=N", help="This speaker of the transcript is subject N; default: by the mouths. Repeatable."
        ),
    ] = None,
) -> None:
    """Add the speaker's expression to a transcript.

    Writes one row for each turn and, where the transcript has times of words, for each word: who speaks, the text, the
    expression with the highest mean probability meanwhile, and mean valence and arousal.

    Speakers of the transcript are matched with the people in view by whose mouth moves with the speech. A speaker who
    is out of view has no subject and no estimate. docs/TURNS.md explains the columns.

    \b
    Examples:
      mien turns mien-out/talk/timeline.csv talk.json
      mien turns mien-out/talk/timeline.csv talk.srt --out talk.csv
      mien turns mien-out/talk/timeline.csv talk.json --speaker SPEAKER_00=1

    Exit code: 0 success, 1 a file cannot be read or written, 2 wrong usage.
    """
    from mien.timeline.table import Timeline
    from mien.timeline.transcript import match_speakers, read_transcript, utterances, write_utterances

    chosen = {}
    for item in speaker or ():
        name, equals, number = item.rpartition("=")
        if not equals or not number.isdecimal():
            raise typer.BadParameter(f"{item!r}: write it as NAME=N, such as SPEAKER_00=1", param_hint="--speaker")
        chosen[name] = int(number)
    table, spans = Timeline.read(timeline), read_transcript(transcript)
    matched = match_speakers(table, spans, chosen)
    result = utterances(table, spans, matched)
    write_utterances(result, out)
    screen = console.stdout()
    for name in dict.fromkeys(span.speaker for span in spans if span.speaker):
        who = f"subject {matched[name]}" if name in matched else "nobody in view"
        screen.print(f"{name}: {who}", markup=False)
    rows = result.filter(result["level"] == "turn")
    unknown = rows["subject"].null_count()
    screen.print(f"{out}: {count(len(rows), 'turn')}, {count(len(result) - len(rows), 'word')}", markup=False)
    for note in _notes(table, [span.start_s for span in spans], unknown):
        screen.print(f"note  {note}", style="yellow", markup=False)


def _notes(table: Timeline, starts: list[float], unknown: int) -> list[str]:
    """Notes on turns without an estimate, and on a transcript that does not fit the timeline.

    starts: start of each turn, seconds. unknown: number of turns whose speaker is not in view.
    """
    if not starts:
        return ["the transcript has no turns"]
    if not len(table):
        return ["the timeline has no rows, so no turn has an estimate"]
    notes = [f"{count(unknown, 'turn')} of nobody in view, without an estimate"] if unknown else []
    end = max(summary.stop_s for summary in table.summaries())
    if late := sum(start >= end for start in starts):
        what = f"{count(late, 'turn')} after the end of the timeline at {end:.1f} s"
        notes.append(f"{what}: is this the transcript of the recording?")
    return notes
