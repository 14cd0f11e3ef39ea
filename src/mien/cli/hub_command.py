"""`mien hub`: pretrained networks, and checkpoints on the Hugging Face Hub."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mien.cli.options import JsonOption

if TYPE_CHECKING:
    from mien.hub import ArtefactStatus

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="List, download and verify networks; share checkpoints. MIEN_HUB=FOLDER names a local mirror, searched "
    "first; MIEN_OFFLINE=1 forbids downloads. "
    "HF_TOKEN and HF_ENDPOINT choose the account and the address of the Hugging Face Hub.",
)


@app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List the networks: size, licence, use, whether downloaded.

    The names in bold are models for mien predict --model. Some of them have no download: the list says what to do.

    \b
    Examples:
      mien hub list
      mien hub list --json
    """
    from mien import hub

    _print_networks(hub.status(), as_json, verified=False, models=True)


@app.command()
def pull(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...", help="Networks to download, by default all; or one checkpoint, written as ORG/NAME."
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(metavar="R", help="Commit, tag or branch of ORG/NAME; by default the newest.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the checkpoint ORG/NAME; by default runs/NAME.")
    ] = None,
) -> None:
    """Download networks, or a checkpoint from the Hugging Face Hub, and verify their hashes.

    Writes networks into the cache (MIEN_CACHE=FOLDER; by default ~/.cache/mien on Linux), a checkpoint into DIR, and
    prints their paths. Pickles are never downloaded.

    \b
    Examples:
      mien hub pull blazeface facemesh
      mien hub pull
      mien hub pull my-lab/fused --out runs/fused
    """
    from mien import hub
    from mien.cli import console
    from mien.errors import ConfigError

    screen = console.stdout()
    repositories = [name for name in names or () if "/" in name]
    is_mixed = bool(repositories) and len(names or ()) > 1
    if is_mixed or ((revision or out) and not repositories):
        raise ConfigError(
            f"{' '.join(names or ()) or 'no name'}: a checkpoint is one ORG/NAME; only it takes --revision and --out",
            follows="Nothing was downloaded.",
            remedy="Name one repository, such as my-lab/fused; download networks with a command of their own.",
        )
    if repositories:
        from mien import hub_repository

        folder = out or Path("runs") / repositories[0].split("/")[-1]
        screen.print(str(hub_repository.pull(repositories[0], folder, revision=revision)), markup=False)
        return
    _refuse_without_download(names or ())
    for path in hub.pull(names or ()):
        screen.print(str(path), markup=False)


@app.command()
def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a trained checkpoint.")],
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Repository on the Hub; created if absent.")],
    licence: Annotated[
        str, typer.Option(metavar="NAME", help="Licence of the checkpoint, such as MIT or CC-BY-NC-4.0.")
    ] = "",
    private: Annotated[bool, typer.Option("--private", help="Create a private repository.")] = False,
    keep_paths: Annotated[
        bool, typer.Option("--keep-paths", help="Upload although files name paths of this machine.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Upload without asking.")] = False,
) -> None:
    """Upload a checkpoint to the Hugging Face Hub, with a model card.

    Uploads the .safetensors, .json, .yaml, .onnx and .md files of RUN and of RUN/stages, and nothing else, after
    listing them. RUN/README.md is the model card; without one, the card of mien models RUN --card is written.

    \b
    Examples:
      mien hub push runs/fused my-lab/fused --licence MIT
      mien hub push runs/fused my-lab/fused --private --yes
    """
    from mien import hub_repository
    from mien.cli import console

    hub_repository.check_repository(repository)
    hub_repository.verify(run)
    _refuse_paths(run, keep_paths)
    card = _card(run, repository, licence)
    hub_repository.check_token()
    screen = console.stderr()
    for name in [n for n in hub_repository.checkpoint_files(run) if n != "README.md"]:
        screen.print(f"  {name}  {(run / name).stat().st_size:,} bytes", markup=False)
    screen.print(f"  README.md  {len(card.encode()):,} bytes (the model card)", markup=False)
    visible = "private if it is new" if private else "public unless it exists and is private"
    screen.print(f"to {hub_repository.endpoint()}/{repository} ({visible})", markup=False)
    if not yes:
        typer.confirm("Upload these files?", abort=True, err=True)
    console.stdout().print(hub_repository.push(run, repository, card=card, private=private), markup=False)


def _refuse_paths(run: Path, keep: bool) -> None:
    from mien import hub_repository
    from mien.errors import ConfigError

    paths = hub_repository.local_paths(run)
    if paths and not keep:
        raise ConfigError(
            f"{run} names paths of this machine:\n" + "\n".join(f"  {line}" for line in paths),
            follows="They would be published, and mean nothing elsewhere. Nothing was uploaded.",
            remedy="Replace them, for example by the Hub id of the encoder, or use --keep-paths.",
        )


def _card(run: Path, repository: str, licence: str) -> str:
    """Content of README.md: the run's own, or a new model card."""
    from mien import model_listing
    from mien.errors import ConfigError
    from mien.model_card import write_card

    model = model_listing.describe(str(run))
    own = run / "README.md"
    if own.is_file() and model.licence and licence.lower() in ("", model.licence.lower()):
        return own.read_text(encoding="utf-8")
    if own.is_file():
        raise ConfigError(
            f"{own} states the licence {model.licence or 'of none'!r}"
            + (f", --licence {licence!r}" if licence else ""),
            follows="Nothing was uploaded.",
            remedy="Write `license:` into the front matter of README.md, or delete the file: then a card is written.",
        )
    limited = [f"{i.encoder} ({i.licence})" for i in model.inputs if model_listing.is_non_commercial(i.licence)]
    if not licence:
        note = f" These encoders exclude commercial use: {', '.join(limited)}." if limited else ""
        raise ConfigError(
            f"checkpoint {run} states no licence",
            follows=f"Nothing was uploaded.{note}",
            remedy="Use --licence NAME, such as MIT or CC-BY-NC-4.0; the licences of corpus and encoders bind you.",
        )
    return write_card(model, repository, licence)


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


def _refuse_without_download(names: Iterable[str]) -> None:
    """Raise ConfigError for a model that `mien hub` cannot download."""
    from mien import hub, model_listing
    from mien.encoders import cards
    from mien.errors import ConfigError
    from mien.onnx_model import SHIPPED

    for name in names:
        if name in hub.ARTEFACTS or name not in (*SHIPPED, *cards.names()):
            continue
        if name in SHIPPED:
            what, remedy = "is part of mien", f"It needs these networks: `mien hub pull {' '.join(hub.NEEDED)}`."
        else:
            missing = model_listing.describe(name).missing
            what, remedy = "has no download", f"To use it, {missing}." if missing else "It is in MIEN_HUB already."
        raise ConfigError(f"{name} {what}", follows="Nothing was downloaded.", remedy=remedy)


def _other_models() -> list[dict[str, Any]]:
    """The models of `mien predict --model` that are no artefacts, as records of `mien hub list --json`."""
    from mien import hub, model_listing
    from mien.encoders import cards
    from mien.onnx_model import SHIPPED, shipped_folder

    records = []
    for name in (*SHIPPED, *cards.names()):
        if name in hub.ARTEFACTS:
            continue
        model = model_listing.describe(name)
        card = None if name in SHIPPED else cards.read(cards.BUILT_IN / f"{name}.yaml")
        place = shipped_folder(name) if card is None else _in_mirrors(card.file)
        records.append(
            {
                "name": name,
                "file": place.name if card is None and place else card.file if card else "",
                "size": model.size,
                "licence": model.licence,
                "use": "predicts "
                + f"{len(model.classes)} expressions{', valence and arousal' if model.valence_arousal else ''}",
                "path": str(place) if place else None,
                "place": "" if place is None else "package" if card is None else "mirror",
                "problem": "",
                "missing": "" if place else model.missing,
            }
        )
    return records


def _in_mirrors(file: str) -> Path | None:
    from mien import hub

    return next((folder / file for folder in hub.mirrors() if (folder / file).is_file()), None)


def _print_networks(rows: list[ArtefactStatus], as_json: bool, *, verified: bool, models: bool = False) -> None:
    from mien import downloads
    from mien.cli import console
    from mien.encoders import cards

    others = _other_models() if models else []
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
        ] + others
        print(json.dumps(records, indent=2))
        return
    from rich.text import Text

    table = console.table("name", "size", "licence", "use", "downloaded")
    table.columns[0].no_wrap = True  # a name is typed or copied
    for row in rows:
        if row.problem:
            state = Text(row.problem, style="red")
        elif row.path:
            state = Text.assemble(("verified" if verified else "yes", "green"), f" ({row.place})")
        else:
            state = Text(f"no: mien hub pull {row.artefact.name}")
        size = downloads.human_size(row.artefact.size) if row.artefact.size else "?"
        name = row.artefact.name
        shown = Text(name, style="bold" if name in cards.names() else "")
        table.add_row(shown, size, row.artefact.licence, row.artefact.use, state)
    for other in others:
        state = (
            Text.assemble(("yes", "green"), f" ({other['place']})")
            if other["path"]
            else Text(f"no: {other['missing']}")
        )
        size = downloads.human_size(other["size"]) if other["size"] else "?"
        table.add_row(Text(other["name"], style="bold"), size, other["licence"], other["use"], state)
    console.stdout().print(table)
