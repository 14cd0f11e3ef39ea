"""`mien people`: same person, same name over the recordings of a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mien.cli import batch, console
from mien.cli.options import JsonOption
from mien.errors import ConfigError, MediaError
from mien.printable import printable
from mien.views.words import count

if TYPE_CHECKING:
    from mien.people.descriptors import FaceDescriptor
    from mien.people.find import Member

#: What the output always says of the descriptor that needs no download.
SESSION_NOTE = (
    "faces are compared by their gradients, which suits recordings of one session: of six people filmed so, none of "
    "216 pairs of one person was missed, and none of 2,160 pairs of two was joined. Over days it takes one person for "
    "several; how often is not measured. Check the page, and read docs/PEOPLE.md."
)
BIOMETRIC_NOTE = (
    "the descriptors kept are biometric data (GDPR Art. 9): keep them no longer than their purpose needs, and remove "
    "them with --forget"
)


# Over 60 lines, because Typer reads the options from the signature.
def people(
    folders: Annotated[
        list[Path], typer.Argument(metavar="OUT...", help="Folders of results, as mien predict wrote them.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder for people.csv and people.html; default: OUT, if it is one."),
    ] = None,
    names: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="Names and corrections, which win over faces: columns recording, subject, name. Subjects with one "
            "name are one person, with different names different people.",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="DISTANCE",
            help="Join groups of faces while their mean distance is below this. Lower: one person is more often taken "
            "for several; higher: several for one. Default: 0.4, or what the descriptor's card says.",
        ),
    ] = None,
    descriptor: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="A face recognition network of your own instead of gradients: an ONNX file with a card beside it.",
        ),
    ] = None,
    media: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="Search here, too, for recordings that are not where they were predicted. Repeatable.",
        ),
    ] = None,
    keep_descriptors: Annotated[
        bool,
        typer.Option(
            "--keep-descriptors",
            help="Keep the descriptors in OUT (biometric data), so that later runs need not read the recordings again.",
        ),
    ] = False,
    forget: Annotated[
        bool,
        typer.Option("--forget", help="Remove descriptors, people.csv and people.html from the folders, and end."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Find the same people across recordings, and name them.

    Reads up to 12 faces of each subject again, where the timelines say that they are, and groups them by likeness.
    Writes people.csv with one row for each subject of each recording, and people.html. Timelines are not changed: join
    them by recording and subject. Nobody is recognised: people are "person 1", "person 2", unless you name them.

    Descriptors of faces are biometric data. They are held in memory and gone when the command ends, unless you ask for
    --keep-descriptors. In most countries you need the people's explicit consent: read docs/PEOPLE.md first.

    \b
    Examples:
      mien people mien-out
      mien people mien-out --names names.csv
      mien people before after --out study
      mien people mien-out --media /mnt/archive --keep-descriptors
      mien people mien-out --descriptor face-recognition.onnx
      mien people mien-out --forget

    Exit code: 0 success, 1 a recording could not be read (the others are finished), 2 wrong usage.
    """
    if out is None and len(folders) > 1 and not forget:
        raise typer.BadParameter("several folders of results need one for people.csv", param_hint="--out")
    console.hide_log()
    target = out or folders[0]
    from mien.people import kept
    from mien.people.table import PAGE, TABLE
    from mien.scratch import remove_abandoned

    results = _results(folders)
    for folder in {target, *(folder for _, folder, _ in results)}:
        remove_abandoned(folder)
    if forget:
        paths = [*(path for f in folders for path in sorted(f.glob(f"*/{kept.NAME}"))), target / TABLE, target / PAGE]
        _forget([path for path in paths if path.is_file()], as_json)
        return
    if not results:
        if (folders[0] / "timeline.json").is_file():
            raise MediaError(
                f"{printable(folders[0])} holds the results of one recording",
                follows="Nobody was compared.",
                remedy=f"Give the folder that holds it: mien people {printable(folders[0].absolute().parent)}",
            )
        raise MediaError(
            f"{', '.join(map(printable, folders))} holds no results of mien predict",
            follows="Nobody was compared.",
            remedy="Predict first: mien predict RECORDINGS --out OUT, then mien people OUT.",
        )
    from mien.people import find
    from mien.people.descriptors import load_descriptor, threshold_of
    from mien.people.names import read_names
    from mien.people.table import write
    from mien.views.people import Appearance, write_people

    chosen = load_descriptor(descriptor)
    limit = threshold_of(chosen, threshold)
    known = [(name, subject["subject"]) for name, _, record in results for subject in record["subjects"]]
    given = read_names(names, known) if names else {}  # before an hour of reading
    with console.status("faces", quiet=as_json) as update:
        read = find.read_recordings(
            results,
            chosen,
            media_folders=media or (),
            keep=keep_descriptors,
            on_recording=lambda done, total, name: update(f"{done:.0f} of {total} recordings, {name}", done, total),
        )
    members = find.identify(read.recordings, limit, given)
    notes = _notes(read, members, chosen, any((folder / kept.NAME).is_file() for _, folder, _ in results))
    files = {"table": target / TABLE, "page": target / PAGE}
    write(files["table"], members)
    shown = [
        Appearance(
            m.recording.name, m.recording.folder, m.recording.record, m.subject, m.person, m.how,
            m.seconds, m.distance, m.nearest, m.nearest_distance,
        )
        for m in members
    ]  # fmt: skip
    write_people(files["page"], shown, threshold=limit, notes=notes)
    failed = [error.record() for error in read.failed]
    if as_json:
        facts = {"descriptor": chosen.name, "threshold": limit, "notes": notes, "failed": failed}
        console.print_json({**{kind: str(path) for kind, path in files.items()}, **facts, "people": _summary(members)})
    else:
        for error in read.failed:
            console.print_error(error)
        _print(members, notes, files)
    if failed:
        raise typer.Exit(1)


def _results(folders: Sequence[Path]) -> list[tuple[str, Path, dict[str, Any]]]:
    """Name, folder and timeline.json of each finished recording. Of several folders, names begin with the folder's.
    Raises ConfigError if two are equal."""
    found: dict[str, tuple[str, Path, dict[str, Any]]] = {}
    for out in dict.fromkeys(folder.resolve() for folder in folders):
        for folder, record in batch.finished(out):
            name = printable(folder.name if len(folders) == 1 else f"{out.name}/{folder.name}")
            if name in found:
                raise ConfigError(
                    f"{printable(found[name][1])} and {printable(folder)} are both called {name}",
                    follows="Nobody was compared.",
                    remedy="Rename one of the folders of results.",
                )
            found[name] = name, folder, record
    return list(found.values())


def _notes(read: Any, members: list[Member], descriptor: FaceDescriptor, any_kept: bool) -> list[str]:
    from mien.people.descriptors import FaceGradients

    notes = []
    if isinstance(descriptor, FaceGradients):
        notes.append(SESSION_NOTE)
    unread = sum(m.how == "no face" for m in members)
    if unread:
        notes.append(f"{count(unread, 'subject')} not compared: no face of theirs could be read again")
    if faceless := sum(not r.seconds for r in read.recordings):
        notes.append(f"{count(faceless, 'recording')} without a face: voices are not compared")
    if read.from_kept:
        notes.append(f"of {count(read.from_kept, 'recording')}, the descriptors kept by an earlier run were used")
    if any_kept:
        notes.append(BIOMETRIC_NOTE)
    return notes


def _summary(members: list[Member]) -> list[dict[str, Any]]:
    """Each person with the number of recordings and the seconds seen, in the order of the table."""
    found: dict[str, list[Member]] = {}
    for member in members:
        if member.person is not None:
            found.setdefault(member.person, []).append(member)
    return [
        {
            "person": person,
            "recordings": len({m.recording.folder for m in own}),
            "seconds": round(sum(m.seconds for m in own), 1),
            "subjects": [{"recording": m.recording.name, "subject": m.subject, "how": m.how} for m in own],
        }
        for person, own in found.items()
    ]


def _print(members: list[Member], notes: list[str], files: dict[str, Path]) -> None:
    screen = console.stdout()
    table = console.table("person", "recordings", "seconds", "seen as", right=("recordings", "seconds"))
    for row in _summary(members):
        own = ", ".join(f"{s['recording']} {s['subject']}" for s in row["subjects"][:4])
        more = len(row["subjects"]) - 4
        own += f" and {more} more" if more > 0 else ""
        table.add_row(row["person"], str(row["recordings"]), f"{row['seconds']:.1f}", own)
    screen.print(table if table.rows else "nobody was compared: no face could be read")
    for note in notes:
        screen.print(f"note  {note}", style="yellow", markup=False)
    for kind, path in files.items():
        screen.print(f"{kind:12}{printable(path)}", markup=False)


def _forget(paths: list[Path], as_json: bool) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
    if as_json:
        console.print_json({"removed": [str(path) for path in paths]})
        return
    screen = console.stdout()
    for path in paths:
        screen.print(f"{'removed':12}{printable(path)}", markup=False)
    if not paths:
        screen.print("nothing to remove: no descriptors, no people.csv, no people.html")
