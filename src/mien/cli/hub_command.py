"""`mien hub`: list, download and verify pretrained networks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from mien.cli.options import JsonOption

if TYPE_CHECKING:
    from mien.hub import ArtefactStatus

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="List, download and verify pretrained networks. MIEN_HUB=FOLDER names a local mirror, searched first.",
)


@app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List the networks: size, licence, use, whether downloaded.

    \b
    Examples:
      mien hub list
      mien hub list --json
    """
    from mien import hub

    _print_networks(hub.status(), as_json, verified=False)


@app.command()
def pull(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Networks to download; by default all.")
    ] = None,
) -> None:
    """Download networks, and verify each against its pinned hash.

    Writes them into the cache (MIEN_CACHE=FOLDER; by default ~/.cache/mien on Linux) and prints their paths.

    \b
    Examples:
      mien hub pull blazeface facemesh
      mien hub pull
    """
    from mien import hub
    from mien.cli import console

    for path in hub.pull(names or ()):
        console.stdout().print(str(path), markup=False)


@app.command()
def verify(as_json: JsonOption = False) -> None:
    """Verify the hashes of the downloaded networks.

    Exit code: 0 all match, 1 a file differs from its pinned hash.

    \b
    Examples:
      mien hub verify
      mien hub verify --json
    """
    from mien import hub

    rows = hub.verify()
    _print_networks(rows, as_json, verified=True)
    if any(row.problem for row in rows):
        raise typer.Exit(1)


def _print_networks(rows: list[ArtefactStatus], as_json: bool, *, verified: bool) -> None:
    from mien import hub
    from mien.cli import console

    if as_json:
        records = [
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
        print(json.dumps(records, indent=2))
        return
    table = console.table("name", "size", "licence", "use", "downloaded")
    for row in rows:
        if row.problem:
            state = f"[red]{row.problem}[/red]"
        elif row.path:
            state = f"[green]{'verified' if verified else 'yes'}[/green] ({row.place})"
        else:
            state = f"no: mien hub pull {row.artefact.name}"
        size = hub.human_size(row.artefact.size) if row.artefact.size else "?"
        table.add_row(row.artefact.name, size, row.artefact.licence, row.artefact.use, state)
    console.stdout().print(table)
