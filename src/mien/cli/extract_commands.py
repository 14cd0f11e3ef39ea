"""`mien index`, `mien extract` and `mien store`: from a corpus on disk to stored features."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mien.cli.options import CORPUS_NAMES, IndexArgument, JsonOption, RootOption, TableOption

if TYPE_CHECKING:
    from mien.datasets.index import Index
    from mien.extract import ExtractionProgress, ExtractionReport
    from mien.store import FeatureStore

store_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="List, verify and clean up a feature store.",
)
StoreArgument = Annotated[Path, typer.Argument(metavar="STORE", help="The folder of the feature store.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    app.command(name="index", no_args_is_help=True)(index_)
    app.command(name="extract", no_args_is_help=True)(extract_)
    app.add_typer(store_app, name="store")


def index_(
    corpus: Annotated[str, typer.Argument(metavar="CORPUS", help=f"{CORPUS_NAMES}.")],
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="The folder of the corpus.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The index file to write.")] = Path("index.jsonl"),
    table: TableOption = None,
    split: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SHARE", help="New splits by subject, such as val=0.2; the rest is train. Repeatable."
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="An option of the corpus. ravdess: songs=yes adds sung clips. crema-d: labels=multimodal-votes labels "
            "clips as most raters did, not as the actor intended. ferplus: labels=plurality also takes images on which "
            "fewer than half of the raters agree. Repeatable.",
        ),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Print notes too, not only errors and warnings.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Index the clips, splits and labels of a corpus.

    Writes an index file for mien extract, train and evaluate, and prints every problem of the corpus: missing or
    unreadable files, invalid labels, clips without a split.

    \b
    Examples:
      mien index aff-wild2 /data/Aff-Wild2 --out affwild2.jsonl
      mien index folder my-videos --table my-videos/labels.csv --split val=0.2
      mien index ravdess RAVDESS --option songs=yes
    """
    from mien.cli import console
    from mien.datasets.index import build_index

    options = _parse_options(option or ())
    with console.progress("indexing recordings", quiet=as_json, unit="recordings") as bar:
        index = build_index(corpus, root, table=table, options=options, progress=bar)
    if split:
        index = index.split_by(_parse_shares(split))
    index.save(out)
    if as_json:
        problems = [asdict(problem) for problem in index.problems]
        print(json.dumps({"index": str(out), **dict(index.summary()), "problems": problems}))
    else:
        _print_index(index, out, all_)


def _parse_shares(options: list[str]) -> dict[str, float]:
    from mien.errors import ConfigError

    shares = {}
    for option in options:
        name, _, share = option.partition("=")
        try:
            shares[name] = float(share)
        except ValueError:
            raise ConfigError(
                f"--split {option!r} is not NAME=SHARE",
                follows="Nothing was indexed.",
                remedy="Give a name and a number, such as --split val=0.2 --split test=0.1.",
            ) from None
    return shares


def _parse_options(values: Iterable[str]) -> dict[str, str]:
    from mien.errors import ConfigError

    options = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(
                f"--option {text!r} is not NAME=VALUE",
                follows="Nothing was indexed.",
                remedy="Give a name and a value, such as --option songs=yes.",
            )
        options[name] = value
    return options


def _print_index(index: Index, out: Path, all_: bool) -> None:
    from mien.cli import console

    screen, table = console.stdout(), console.table()
    for name, value in index.summary():
        table.add_row(name, value)
    screen.print(table, markup=False)
    problems = [problem for problem in index.problems if all_ or problem.severity != "note"]
    for problem in problems:
        screen.print(str(problem), markup=False)
    if hidden := len(index.problems) - len(problems):
        screen.print(f"and {hidden} notes (--all prints them; {out} holds them)", markup=False)
    screen.print(f"{len(index.entries)} clips in {out}", markup=False)


def extract_(
    index: IndexArgument,
    encoder: Annotated[
        list[str], typer.Option(metavar="NAME[=SOURCE]", help="An encoder, with its weights if needed. Repeatable.")
    ],
    store: Annotated[Path, typer.Option(metavar="DIR", help="The folder of the feature store; created if needed.")],
    workers: Annotated[int, typer.Option(min=1, help="Number of processes; with --ray, of actors.")] = 1,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Run on a Ray cluster: its address, or auto.")
    ] = None,
    gpus: Annotated[float, typer.Option(help="GPUs of each Ray actor; may be a fraction.")] = 0.0,
    faces: Annotated[
        str, typer.Option(help="video (detect faces) or crops (the corpus's own cropped faces).")
    ] = "video",
    dtype: Annotated[str, typer.Option(help="Type of the stored values: float16 or float32.")] = "float16",
    device: Annotated[
        str, typer.Option(help="auto (a GPU if there is one, else the CPU), cpu, cuda or cuda:N.")
    ] = "auto",
    root: RootOption = None,
    replace: Annotated[
        bool, typer.Option(help="Recompute features that another version or other settings computed.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compute the features of a corpus that the store lacks.

    Writes one file for each clip and encoder into the store, which is created if needed. If it is interrupted, run the
    same command again: it computes what is missing.

    Exit code: 0 success, 1 some clips failed (STORE/failures.jsonl gives the reasons), 2 wrong usage.

    \b
    Examples:
      mien extract index.jsonl --encoder face-geometry --encoder voice-prosody --store features
      mien extract index.jsonl --encoder voice-prosody --store features --workers 4
    """
    from mien.datasets.index import Index
    from mien.extract import extract

    with extraction_progress(quiet=as_json) as progress:
        report = extract(
            Index.load(index, root),
            encoder,
            store,
            workers=workers,
            ray=ray,
            gpus=gpus,
            faces=faces,
            dtype=dtype,
            device=device,
            replace=replace,
            progress=progress,
        )
    _print_report(report, store, as_json)
    if report.failures:
        raise typer.Exit(1)


def _print_report(report: ExtractionReport, store: Path, as_json: bool) -> None:
    from mien.cli import console

    if as_json:
        print(json.dumps(asdict(report)))
        return
    for failure in report.failures:
        console.stderr().print(f"failed: {failure}", markup=False)
    parts = [f"{report.made} files computed in {_duration(report.elapsed_s)}", f"{report.there} already stored"]
    if report.failures:
        parts.append(f"{len(report.failures)} failed, listed in {store / 'failures.jsonl'}")
    console.stdout().print(", ".join(parts), markup=False)


def _duration(seconds: float) -> str:
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"


def progress_text(state: ExtractionProgress) -> str:
    """Progress as one line: clips, rate, speed relative to real time, time left, failures."""
    left = f", {_duration(state.remaining_s)} left" if state.remaining_s is not None else ""
    failed = f", {state.failed} failed" if state.failed else ""
    rate = f"{state.clips_per_minute:.1f} clips/min, {state.speed:.1f}× real time"
    return f"{state.clips} of {state.total} clips, {rate}{left}{failed}"


@contextmanager
def extraction_progress(*, quiet: bool = False) -> Iterator[Callable[[ExtractionProgress], None]]:
    """Show the progress of an extraction, as `console.status` does."""
    from mien.cli import console

    with console.status("extracting", quiet=quiet) as update:
        yield lambda state: update(progress_text(state), state.media_s, state.media_total_s)


@store_app.command("ls")
def ls(store: StoreArgument, as_json: JsonOption = False) -> None:
    """List the encoders of a store, with clips, rows and sizes.

    \b
    Examples:
      mien store ls features
      mien store ls features --json
    """
    from mien.cli import console
    from mien.downloads import human_size

    rows = _open_store(store).ls()
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    numbers = ("clips", "rows", "valid", "dim", "size")
    table = console.table("encoder", "clips", "rows", "valid", "dim", "type", "size", "remarks", right=numbers)
    for row in rows:
        remarks = [f"{row.kinds} kinds mixed"] * (row.kinds > 1) + [f"{row.broken} broken"] * bool(row.broken)
        valid = f"{100 * row.valid_rows / row.rows:.1f} %" if row.rows else ""
        cells = (row.encoder, f"{row.clips:,}", f"{row.rows:,}", valid, str(row.dim), row.dtype)
        table.add_row(*cells, human_size(row.bytes), ", ".join(remarks))
    console.stdout().print(table, markup=False)


@store_app.command()
def verify(store: StoreArgument, as_json: JsonOption = False) -> None:
    """Verify the checksum of every file of a store.

    Reads every byte and prints the damaged files. Exit code: 0 none is damaged, else 1.

    \b
    Examples:
      mien store verify features
      mien store verify features --json
    """
    from mien.cli import console

    features = _open_store(store)
    damaged = list(features.verify())
    if as_json:
        print(json.dumps([{"path": str(file.path), "what": file.what} for file in damaged], indent=2))
    else:
        for file in damaged:
            console.stdout().print(file.what, markup=False)
        count = sum(row.clips + row.broken for row in features.ls())
        console.stdout().print(f"{count} files, {len(damaged)} of them damaged", markup=False)
    if damaged:
        raise typer.Exit(1)


@store_app.command()
def gc(
    store: StoreArgument,
    index: Annotated[
        Path | None, typer.Option(metavar="INDEX", help="Also remove features of clips that this index lacks.")
    ] = None,
    broken: Annotated[bool, typer.Option(help="Also remove files that cannot be opened.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be removed.")] = False,
) -> None:
    """Remove leftover and unwanted files from a store.

    Removes the temporary files of processes that were killed, and what the options name. Prints each removed file.

    \b
    Examples:
      mien store gc features
      mien store gc features --index index.jsonl --broken --dry-run
    """
    from mien.cli import console
    from mien.datasets.index import Index
    from mien.downloads import human_size

    clips = {entry.id for entry in Index.load(index).entries} if index else None
    removals = _open_store(store).gc(keep=clips, broken=broken, dry_run=dry_run)
    for removal in removals:
        console.stdout().print(f"{removal.path}: {removal.reason}", markup=False)
    verb = "would be removed" if dry_run else "removed"
    console.stdout().print(f"{len(removals)} files {verb}, {human_size(sum(r.bytes for r in removals))}", markup=False)


def _open_store(folder: Path) -> FeatureStore:
    from mien.errors import ConfigError
    from mien.store import FeatureStore

    if not folder.is_dir():
        raise ConfigError(
            f"{folder} is not a folder",
            follows="Nothing was read.",
            remedy="Name the folder that was given to mien extract as --store.",
        )
    return FeatureStore(folder)
