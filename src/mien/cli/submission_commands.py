"""`mien submit` and `mien validate`: write and check submission files of the ABAW challenge."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mien.cli.options import (
    DeviceOption,
    JsonOption,
    OptionalIndexOption,
    OptionalStoreOption,
    RootOption,
    SampleOption,
)

if TYPE_CHECKING:
    from mien.evaluation.calibration import Calibration
    from mien.evaluation.predictions import ClipPrediction
    from mien.submission import Issue, SubmissionReport, Template


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    app.command(no_args_is_help=True)(submit)
    app.command(no_args_is_help=True)(validate)


def submit(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="The folder of a checkpoint, or a table of predictions (.parquet)."),
    ],
    sample: SampleOption,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The submission file to write.")],
    index: OptionalIndexOption = None,
    store: OptionalStoreOption = None,
    root: RootOption = None,
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Smoothing and class bias to apply; by default RUN/calibration.json if any."),
    ] = None,
    fill: Annotated[
        bool, typer.Option("--fill", help="Also write clips that were predicted in part or not at all.")
    ] = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Write a challenge submission and validate it.

    Writes the rows of the organisers' sample file, in its order, with predictions, and then validates the file as mien
    validate does. A checkpoint needs --index and --store. A frame without evidence gets the nearest predicted frame of
    its clip. With --fill, a clip without any prediction gets Neutral, or valence and arousal 0.

    Exit code: 0 no errors, 1 errors in the submission, 2 wrong usage.

    \b
    Examples:
      mien submit runs/fused --sample CVPR_expr_sample.txt --out expr.txt --index aw2.jsonl --store features
      mien submit test.parquet --sample CVPR_va_sample.txt --out va.txt
    """
    from mien.submission import EXPR, read_sample, validate, write_expr, write_va

    template = read_sample(sample)
    clips = _predict(run, template, index, store, root, calibration, device, as_json)
    if template.kind == EXPR:
        report = write_expr(out, {c.id: c.probabilities for c in clips}, sample, fill=fill)
    else:
        report = write_va(out, {c.id: c.valence_arousal for c in clips}, sample, fill=fill)
    issues = validate(out, sample)
    if as_json:
        record = {**asdict(report), "path": str(report.path), "notes": report.notes()}
        print(json.dumps({**record, "faults": [asdict(issue) for issue in issues]}, indent=2))
    else:
        _print_report(report)
        _print_issues(issues, out)
    _exit_on_error(issues)


def validate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The submission file.")],
    sample: SampleOption,
    kind: Annotated[str | None, typer.Option(help="The track: expr or va; by default that of the sample.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Validate a challenge submission against the sample file.

    Prints every error and warning with its line and how to fix it. Writes nothing.

    Exit code: 0 no errors, 1 errors in the submission, 2 a missing file or wrong usage.

    \b
    Examples:
      mien validate expr.txt --sample CVPR_expr_sample.txt
      mien validate va.txt --sample CVPR_va_sample.txt --json
    """
    from mien.errors import ConfigError
    from mien.submission import validate as validate_file

    if kind not in (None, "expr", "va"):
        raise ConfigError(
            f"--kind {kind!r} is neither expr nor va",
            follows="Nothing was validated.",
            remedy="Omit --kind: the sample file determines it.",
        )
    issues = validate_file(file, sample, kind)
    if as_json:
        print(json.dumps([asdict(issue) for issue in issues], indent=2))
    else:
        _print_issues(issues, file)
    _exit_on_error(issues)


def _exit_on_error(issues: list[Issue]) -> None:
    if any(issue.severity == "error" for issue in issues):
        raise typer.Exit(1)


def _predict(
    run: Path,
    template: Template,
    index: Path | None,
    store: Path | None,
    root: Path | None,
    calibration: Path | None,
    device: str,
    quiet: bool,
) -> list[ClipPrediction]:
    """Calibrated predictions of the sample's clips, from a table or by a checkpoint."""
    from mien.errors import ConfigError
    from mien.evaluation import predictions
    from mien.evaluation.calibration import FILE_NAME, Calibration
    from mien.labels import EXPRESSIONS
    from mien.submission.template import check_classes

    path = calibration or (run / FILE_NAME if (run / FILE_NAME).is_file() else None)
    calibrate = Calibration.load(path) if path else None
    if run.is_file():
        clips, labels = predictions.load(run)
        check_classes(labels, EXPRESSIONS)
        return [calibrate(clip) for clip in clips] if calibrate else clips
    if index is None or store is None:
        missing = " and ".join(name for name, value in (("--index", index), ("--store", store)) if value is None)
        raise ConfigError(
            f"{missing} is missing, which {run} needs to predict the sample's {len(template.clip_ids)} clips",
            follows="Nothing was written.",
            remedy=f"Run `mien submit {run} --sample {template.path} --out FILE --index INDEX --store DIR`.",
        )
    return list(_predict_from_store(run, template, index, store, root, calibrate, device, quiet))


def _predict_from_store(
    run: Path,
    template: Template,
    index_path: Path,
    store: Path,
    root: Path | None,
    calibration: Calibration | None,
    device: str,
    quiet: bool,
) -> Iterator[ClipPrediction]:
    from mien import checkpoint
    from mien.cli import console
    from mien.datasets.index import Index
    from mien.evaluation.predict_clips import predict_clips
    from mien.labels import EXPRESSIONS
    from mien.store import FeatureStore
    from mien.submission.template import check_classes

    index = Index.load(index_path, root)
    indexed = {entry.id for entry in index.entries}
    trained = checkpoint.load(run, checkpoint.torch_device(device))
    check_classes(trained.labels, EXPRESSIONS)
    clips = [clip for clip in template.clip_ids if clip in indexed]
    with console.progress("predicting clips", quiet=quiet, unit="clips") as bar:
        yield from predict_clips(
            trained,
            index,
            FeatureStore(store),
            clips,
            calibration=calibration,
            progress=lambda done: bar(done, len(clips)),
        )


def _print_report(report: SubmissionReport) -> None:
    from mien.cli import console

    console.stdout().print(f"{report.path}  {report.rows:,} rows of {report.clips:,} clips", markup=False)
    for note in report.notes():
        console.stdout().print(f"note  {note}", style="yellow", markup=False)


def _print_issues(issues: list[Issue], path: Path) -> None:
    """Print the issues by kind: the lines, the consequence, and the fix."""
    from rich.text import Text

    from mien.cli import console

    screen = console.stdout()
    kinds = dict.fromkeys((issue.severity, issue.kind) for issue in issues)
    for severity, kind in kinds:
        group = [issue for issue in issues if (issue.severity, issue.kind) == (severity, kind)]
        rows = sum(issue.rows for issue in group)
        style = "bold red" if severity == "error" else "yellow"
        count = f"  {rows:,} rows" if rows > 1 else ""
        screen.print(Text.assemble((severity, style), "  ", (kind, "bold"), (count, "dim")))
        for issue in group:
            screen.print(Text(f"       {issue}"))
        screen.print(Text(f"       {group[0].follows}", style="dim"))
        screen.print(Text.assemble("       ", ("try  ", "bold green"), group[0].remedy))
    errors = sum(severity == "error" for severity, _ in kinds)
    counts = [(errors, "error"), (len(kinds) - errors, "warning")]
    summary = ", ".join(f"{n} kind{'s' * (n > 1)} of {name}" for n, name in counts if n) or "no fault found"
    screen.print(f"{path}: {summary}", markup=False)
