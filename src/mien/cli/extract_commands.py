"""`mien index`, `mien extract`, `mien store`: from a corpus on disk to stored features."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mien.datasets.index import Index
    from mien.extract import ExtractionProgress, Report

store_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="The feature store: what it holds, whether every byte is as written, and clearing up.",
)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
StoreFolder = Annotated[Path, typer.Argument(metavar="STORE", help="The folder of features.")]


def register(app: typer.Typer) -> None:
    """Adds these commands to the command line."""
    app.command(name="index", no_args_is_help=True)(index_)
    app.command(name="extract", no_args_is_help=True)(extract_)
    app.add_typer(store_app, name="store")


def index_(
    corpus: Annotated[str, typer.Argument(help="aff-wild2, synthetic, folder or emodb.")],
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="The folder that holds it.")],
    out: Annotated[Path, typer.Option(help="Where the index goes.")] = Path("index.jsonl"),
    table: Annotated[Path | None, typer.Option(help="For `folder`: the CSV of labels.")] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SHARE", help="New splits by subject, such as val=0.2; the rest is train."),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="List notes too, not only errors and warnings.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find the clips, splits and labels of a corpus, and everything that is wrong with it.

    \b
    Example:
      mien index aff-wild2 /data/Aff-Wild2 --out affwild2.jsonl
      mien index folder my-videos --table my-videos/labels.csv
    """
    from mien.cli import console
    from mien.datasets.index import index

    with console.progress("looking at recordings", quiet=as_json) as bar:
        found = index(corpus, root, table=table, progress=lambda done, total: bar(done, total))
    if split:
        found = found.split_by(_shares(split))
    found.save(out)
    if as_json:
        print(json.dumps({"index": str(out), **dict(found.table()), "problems": [asdict(p) for p in found.problems]}))
        return
    _show_index(found, out, all_)


def _shares(split: list[str]) -> dict[str, float]:
    from mien.errors import ConfigError

    shares = {}
    for text in split:
        name, _, share = text.partition("=")
        try:
            shares[name] = float(share)
        except ValueError:
            raise ConfigError(
                f"--split {text!r} is not NAME=SHARE", remedy="--split val=0.2 --split test=0.1"
            ) from None
    return shares


def _show_index(found: Index, out: Path, all_: bool) -> None:
    from rich.table import Table

    from mien.cli import console

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for name, value in found.table():
        table.add_row(name, value)
    console.out().print(table, markup=False)
    shown = [p for p in found.problems if all_ or p.severity != "note"]
    for problem in shown:
        console.out().print(str(problem), markup=False)
    if hidden := len(found.problems) - len(shown):
        console.out().print(f"and {hidden} notes (--all lists them; {out} holds them)", markup=False)
    console.out().print(f"{len(found.entries)} clips in {out}", markup=False)


def extract_(
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="What `mien index` wrote.")],
    encoder: Annotated[list[str], typer.Option(metavar="NAME[=SOURCE]", help="An encoder; say it again for another.")],
    store: Annotated[Path, typer.Option(metavar="DIR", help="Where features go.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes; with --ray, actors.")] = 1,
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Run on Ray: auto, or a cluster.")] = None,
    gpus: Annotated[float, typer.Option(help="Of each Ray actor; may be a fraction.")] = 0.0,
    faces: Annotated[str, typer.Option(help="video: find faces; crops: take the corpus's own.")] = "video",
    dtype: Annotated[str, typer.Option(help="Of stored values: float16 or float32.")] = "float16",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    root: Annotated[Path | None, typer.Option(help="Where the corpus lies now, if it was moved.")] = None,
    replace: Annotated[bool, typer.Option(help="Make anew what was made in another way.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compute the features that a store does not hold yet. Killed or failed, it goes on where it stopped.

    \b
    Example:
      mien extract index.jsonl --encoder face-geometry --encoder voice-prosody --store features --workers 2
    """
    from mien.cli import console
    from mien.datasets.index import Index
    from mien.extract import extract

    with following(quiet=as_json) as follow:
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
            progress=follow,
        )
    if as_json:
        print(json.dumps(asdict(report)))
    else:
        for failure in report.failures:
            console.err().print(f"failed: {failure}", markup=False)
        console.out().print(_said(report, store), markup=False)
    if report.failures:
        raise typer.Exit(1)


def _said(report: Report, store: Path) -> str:
    parts = [f"{report.made} files made in {_span(report.elapsed_s)}", f"{report.there} were there"]
    if report.failures:
        parts.append(f"{len(report.failures)} failed, listed in {store / 'failures.jsonl'}")
    return ", ".join(parts)


def _span(seconds: float) -> str:
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"


def told(now: ExtractionProgress) -> str:
    """Progress as one line: clips, rate, speed against real time, time left."""
    left = f", {_span(now.left_s)} left" if now.left_s is not None else ""
    failed = f", {now.failed} failed" if now.failed else ""
    rate = f"{now.clips_per_minute:.1f} clips/min, {now.speed:.1f}× real time"
    return f"{now.clips} of {now.total} clips, {rate}{left}{failed}"


@contextmanager
def following(*, quiet: bool = False) -> Iterator[Callable[[ExtractionProgress], None] | None]:
    """How extraction goes on: a bar on a terminal, plain lines elsewhere, nothing if quiet."""
    from mien.cli import console

    if quiet:
        yield None
    elif not sys.stderr.isatty():
        last = time.monotonic()

        def line(now: ExtractionProgress) -> None:
            nonlocal last
            if time.monotonic() - last >= console.EVERY_S:
                last = time.monotonic()
                print(f"extracting: {told(now)}", file=sys.stderr, flush=True)

        yield line
    else:
        from rich import progress as rich

        columns: Any = (rich.BarColumn(), rich.TextColumn("{task.description}"))
        with rich.Progress(*columns, console=console.err(), transient=True) as bars:
            task = bars.add_task("starting", total=None)
            yield lambda now: bars.update(task, completed=now.media_s, total=now.media_total_s, description=told(now))


@store_app.command("ls")
def ls(store: StoreFolder, as_json: AsJson = False) -> None:
    """What a store holds, by encoder."""
    from rich.table import Table

    from mien.cli import console
    from mien.hub import human_size

    rows = _there(store).ls()
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("encoder", "clips", "rows", "valid", "dim", "type", "size", "remarks"):
        table.add_column(title, justify="left" if title in ("encoder", "type", "remarks") else "right")
    for row in rows:
        remarks = [f"{row.kinds} kinds mixed"] * (row.kinds > 1) + [f"{row.broken} broken"] * bool(row.broken)
        valid = f"{100 * row.valid_rows / row.rows:.1f} %" if row.rows else ""
        cells = (row.encoder, f"{row.clips:,}", f"{row.rows:,}", valid, str(row.dim), row.dtype)
        table.add_row(*cells, human_size(row.bytes), ", ".join(remarks))
    console.out().print(table, markup=False)


@store_app.command()
def verify(store: StoreFolder, as_json: AsJson = False) -> None:
    """Read every byte of every file; exit code 1 if one is not what was written."""
    from mien.cli import console

    faults = list(_there(store).verify())
    if as_json:
        print(json.dumps([{"path": str(f.path), "what": f.what} for f in faults], indent=2))
    else:
        for fault in faults:
            console.out().print(fault.what, markup=False)
        count = sum(row.clips + row.broken for row in _there(store).ls())
        console.out().print(f"{count} files, {len(faults)} of them damaged", markup=False)
    if faults:
        raise typer.Exit(1)


@store_app.command()
def gc(
    store: StoreFolder,
    index: Annotated[Path | None, typer.Option(help="Remove features of clips that this index does not name.")] = None,
    broken: Annotated[bool, typer.Option(help="Remove files that cannot be opened.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Clear up: what killed processes left; on demand broken files, and clips that are no longer wanted."""
    from mien.cli import console
    from mien.datasets.index import Index
    from mien.hub import human_size

    keep = {entry.id for entry in Index.load(index).entries} if index else None
    gone = _there(store).gc(keep=keep, broken=broken, dry_run=dry_run)
    for removal in gone:
        console.out().print(f"{removal.path}: {removal.reason}", markup=False)
    verb = "would go" if dry_run else "removed"
    console.out().print(f"{len(gone)} files {verb}, {human_size(sum(r.bytes for r in gone))}", markup=False)


def _there(folder: Path) -> Any:
    from mien.errors import ConfigError
    from mien.store import FeatureStore

    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder of features", remedy="mien store ls STORE")
    return FeatureStore(folder)
