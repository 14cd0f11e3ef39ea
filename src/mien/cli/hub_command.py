"""`mien hub`: the artefacts from outside."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mien.hub import Status

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Networks from outside: list, fetch, check. MIEN_HUB=FOLDER names a local mirror, asked first.",
)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """What mien may use, under which licence, and whether it is here."""
    from mien import hub

    _print(hub.status(), as_json, checked=False)


@app.command()
def pull(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="By default: all.")] = None,
) -> None:
    """Fetch artefacts into the cache, each checked against its pinned digest.

    \b
    Example:
      mien hub pull blazeface facemesh
    """
    from mien import hub
    from mien.cli import console

    for path in hub.pull(names or ()):
        console.out().print(str(path), markup=False)


@app.command()
def verify(as_json: AsJson = False) -> None:
    """Compute the digest of every artefact that is here; exit code 1 if one is not what was pinned."""
    from mien import hub

    rows = hub.verify()
    _print(rows, as_json, checked=True)
    if any(row.problem for row in rows):
        raise typer.Exit(1)


def _print(rows: list[Status], as_json: bool, *, checked: bool) -> None:
    from rich.table import Table

    from mien import hub
    from mien.cli import console

    if as_json:
        told = [
            {
                "name": row.artefact.name,
                "file": row.artefact.file,
                "size": row.artefact.size,
                "licence": row.artefact.licence,
                "use": row.artefact.use,
                "path": str(row.path) if row.path else None,
                "place": row.place,
                "problem": row.problem,
            }
            for row in rows
        ]
        print(json.dumps(told, indent=2))
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("name", "size", "licence", "for", "here"):
        table.add_column(title, overflow="fold")
    for row in rows:
        if row.problem:
            here = f"[red]{row.problem}[/red]"
        elif row.path:
            here = f"[green]{'verified' if checked else 'yes'}[/green] ({row.place})"
        else:
            here = f"no: mien hub pull {row.artefact.name}"
        size = hub.human_size(row.artefact.size) if row.artefact.size else "?"
        table.add_row(row.artefact.name, size, row.artefact.licence, row.artefact.use, here)
    console.out().print(table)
