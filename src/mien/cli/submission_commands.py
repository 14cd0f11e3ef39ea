"""`mien submit` and `mien validate`: challenge files, written and checked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mien.evaluation.calibration import Calibration
    from mien.evaluation.predictions import ClipPrediction
    from mien.submission import Issue, Template, Written

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Adds these commands to the command line."""
    app.command(no_args_is_help=True)(submit)
    app.command(no_args_is_help=True)(validate)


def submit(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A trained run, or a table of predictions (.parquet).")],
    sample: Annotated[Path, typer.Option(metavar="FILE", help="The organisers' sample file: EXPR's or VA's.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The submission.")],
    index: Annotated[Path | None, typer.Option(help="What `mien index` wrote.")] = None,
    store: Annotated[Path | None, typer.Option(metavar="DIR", help="Features of the test clips.")] = None,
    root: Annotated[Path | None, typer.Option(help="Where the corpus lies now, if it was moved.")] = None,
    calibration: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Smoothing and class bias; by default RUN/calibration.json.")
    ] = None,
    fill: Annotated[bool, typer.Option("--fill", help="Also fill clips that were predicted in part or not.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Write a challenge submission: the sample's rows, in its order, then checked like any other.

    A frame without evidence takes the nearest predicted frame of its clip; a clip without any is Neutral, or 0, 0.

    \b
    Examples:
      mien submit runs/fused --sample CVPR_expr_sample.txt --out expr.txt --index aw2.jsonl --store features
      mien submit test.parquet --sample CVPR_va_sample.txt --out va.txt
    """
    from mien.submission import EXPR, read_sample, validate, write_expr, write_va

    asked = read_sample(sample)
    clips = _predictions(run, asked, index, store, root, calibration, device, as_json)
    if asked.kind == EXPR:
        written = write_expr(out, {c.id: c.probabilities for c in clips}, sample, fill=fill)
    else:
        written = write_va(out, {c.id: c.valence_arousal for c in clips}, sample, fill=fill)
    faults = validate(out, sample)
    if as_json:
        record = {**asdict(written), "path": str(written.path), "notes": written.notes()}
        print(json.dumps({**record, "faults": [asdict(fault) for fault in faults]}, indent=2))
    else:
        _tell(written)
        _show(faults, out)
    if any(fault.severity == "error" for fault in faults):
        raise typer.Exit(1)


def validate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The submission.")],
    sample: Annotated[Path, typer.Option(metavar="FILE", help="The organisers' sample file.")],
    kind: Annotated[str | None, typer.Option(help="expr or va; by default the sample's.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check a challenge submission against the official sample, and explain every fault by its line.

    Exit code: 0 nothing wrong, or only warnings; 1 errors; 2 no such file or sample.

    \b
    Example:
      mien validate expr.txt --sample CVPR_expr_sample.txt
    """
    from mien.errors import ConfigError
    from mien.submission import validate as check

    if kind not in (None, "expr", "va"):
        raise ConfigError(f"--kind {kind!r} is neither expr nor va", remedy="leave it out: the sample says it")
    faults = check(file, sample, kind)
    if as_json:
        print(json.dumps([asdict(fault) for fault in faults], indent=2))
    else:
        _show(faults, file)
    if any(fault.severity == "error" for fault in faults):
        raise typer.Exit(1)


def _predictions(
    run: Path,
    asked: Template,
    index: Path | None,
    store: Path | None,
    root: Path | None,
    calibration: Path | None,
    device: str,
    quiet: bool,
) -> list[ClipPrediction]:
    from mien.errors import ConfigError
    from mien.evaluation import predictions
    from mien.evaluation.calibration import FILE, Calibration
    from mien.labels import EXPRESSIONS
    from mien.submission.template import fits

    given = calibration or (run / FILE if (run / FILE).is_file() else None)
    correct = Calibration.load(given) if given else None
    if run.is_file():
        found, labels = predictions.load(run)
        fits(labels, EXPRESSIONS)
        return [correct(clip) for clip in found] if correct else found
    if index is None or store is None:
        lacks = " and ".join(name for name, value in (("--index", index), ("--store", store)) if value is None)
        raise ConfigError(
            f"to predict the sample's {len(asked.clip_ids)} clips with {run}, {lacks} is needed",
            follows="nothing was written",
            remedy=f"mien submit {run} --sample {asked.path} --out FILE --index INDEX --store DIR",
        )
    return list(_from_store(run, asked, index, store, root, correct, device, quiet))


def _from_store(
    run: Path,
    asked: Template,
    index: Path,
    store: Path,
    root: Path | None,
    correct: Calibration | None,
    device: str,
    quiet: bool,
) -> Iterator[ClipPrediction]:
    from mien import checkpoint
    from mien.cli import console
    from mien.datasets.index import Index
    from mien.evaluation.predict_clips import predict_clips
    from mien.labels import EXPRESSIONS
    from mien.store import FeatureStore
    from mien.submission.template import fits

    found = Index.load(index, root)
    known = {entry.id for entry in found.entries}
    loaded = checkpoint.load(run, checkpoint.torch_device(device))
    fits(loaded.labels, EXPRESSIONS)
    clips = [clip for clip in asked.clip_ids if clip in known]
    with console.progress("predicting clips", quiet=quiet) as bar:
        yield from predict_clips(
            loaded,
            found,
            FeatureStore(store),
            clips,
            calibration=correct,
            progress=lambda done: bar(done, len(clips)),
        )


def _tell(written: Written) -> None:
    from mien.cli import console

    console.out().print(f"{written.path}  {written.rows:,} rows of {written.clips:,} clips", markup=False)
    for note in written.notes():
        console.out().print(f"note  {note}", style="yellow", markup=False)


def _show(faults: list[Issue], path: Path) -> None:
    from rich.text import Text

    from mien.cli import console

    out = console.out()
    kinds = dict.fromkeys((fault.severity, fault.kind) for fault in faults)
    for severity, kind in kinds:
        mine = [fault for fault in faults if (fault.severity, fault.kind) == (severity, kind)]
        rows = sum(fault.rows for fault in mine)
        style = "bold red" if severity == "error" else "yellow"
        count = f"  {rows:,} rows" if rows > 1 else ""
        out.print(Text.assemble((severity, style), "  ", (kind, "bold"), (count, "dim")))
        for fault in mine:
            out.print(Text(f"       {fault}"))
        out.print(Text(f"       {mine[0].follows}", style="dim"))
        out.print(Text.assemble("       ", ("try  ", "bold green"), mine[0].remedy))
    errors = sum(severity == "error" for severity, _ in kinds)
    warnings = len(kinds) - errors
    if not faults:
        out.print(f"{path}: no fault found", markup=False)
    else:
        words = [f"{n} kind{'s' * (n > 1)} of {name}" for n, name in ((errors, "error"), (warnings, "warning")) if n]
        out.print(f"{path}: {', '.join(words)}", markup=False)
