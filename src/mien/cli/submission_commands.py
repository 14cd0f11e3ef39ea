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
    VerifyOption,
    WeightsOption,
)

if TYPE_CHECKING:
    import numpy as np

    from mien.evaluation.calibration import Calibration
    from mien.evaluation.predictions import ClipPrediction
    from mien.submission import Issue, SubmissionReport, Template


#: Challenges to which neither a calibration nor the classes of the predictions matter.
_UNCALIBRATED = ("au", "emi")


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    app.command(no_args_is_help=True)(submit)
    app.command(no_args_is_help=True)(validate)


def submit(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN",
            help="The folder of a checkpoint or ensemble, or a table of predictions (.parquet). Several are averaged.",
        ),
    ],
    sample: SampleOption,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The submission file to write.")],
    weights: WeightsOption = None,
    index: OptionalIndexOption = None,
    store: OptionalStoreOption = None,
    root: RootOption = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Calibration in place of the recipe's smoothing; by default RUN/calibration.json if any.",
        ),
    ] = None,
    fill: Annotated[
        bool, typer.Option("--fill", help="Also write clips that were predicted in part or not at all.")
    ] = False,
    verify: VerifyOption = True,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Write a challenge submission and validate it.

    Writes the rows of the organisers' sample file, in its order, with predictions, and then validates the file as mien
    validate does. A checkpoint needs --index and --store. A frame without evidence gets the nearest predicted frame of
    its clip. With --fill, a clip without any prediction gets Neutral, or 0.

    Compound expressions (CE) are derived from expressions; action units (AU) and mimicry intensity (EMI) need a system
    that is trained for them. A calibration does not apply to the last two.

    Several checkpoints, or several tables, are averaged with --weights. The calibration that mien evaluate writes into
    a checkpoint or ensemble replaces the smoothing of its recipe; it is not applied to tables or to several runs.

    Exit code: 0 no errors, 1 errors in the submission, 2 wrong usage.

    \b
    Examples:
      mien submit runs/fused --sample CVPR_expr_sample.txt --out expr.txt --index aw2.jsonl --store features
      mien submit test.parquet --sample CVPR_va_sample.txt --out va.txt
      mien submit a.parquet b.parquet --weights 0.6,0.4 --sample CVPR_va_sample.txt --out va.txt
      mien submit runs/units --sample CVPR_au_sample.txt --out au.txt --index aw2.jsonl --store features
    """
    from mien.ensemble import parse_weights
    from mien.submission import (
        AU,
        CE,
        EMI,
        EXPR,
        VA,
        read_sample,
        validate,
        write_au,
        write_ce,
        write_emi,
        write_expr,
        write_va,
    )

    template = read_sample(sample)
    shares = parse_weights(weights)
    clips = _predict(runs, shares, template, index, store, root, calibration, verify, device, as_json)
    writers = {EXPR: write_expr, VA: write_va, AU: write_au, CE: write_ce, EMI: write_emi}
    values = {clip.id: _values(clip, template.kind) for clip in clips}
    report = writers[template.kind](out, values, sample, fill=fill)
    issues = validate(out, sample)
    if as_json:
        record = {**asdict(report), "path": str(report.path), "notes": report.notes()}
        print(json.dumps({**record, "faults": [asdict(issue) for issue in issues]}, indent=2))
    else:
        _print_report(report)
        _print_issues(issues, out)
    _exit_on_error(issues)


def _values(clip: ClipPrediction, kind: str) -> np.ndarray:
    """Predicted values that a submission file is written from: one row for each frame, for EMI one row.

    Raises ConfigError for a clip without the scores of the challenge.
    """
    from mien.errors import ConfigError
    from mien.evaluation.score_tasks import compound_probabilities
    from mien.labels import SCORE_TASKS
    from mien.submission import AU, CE, EMI, VA

    if kind in (AU, EMI) and kind not in clip.scores:
        raise ConfigError(
            f"the predictions of {clip.id!r} hold no {SCORE_TASKS[kind].title}",
            follows="Nothing was written.",
            remedy=f"Evaluate or submit a system that was trained with objective.{SCORE_TASKS[kind].objective}=1.",
        )
    if kind == EMI:
        return clip.mean_scores(EMI)
    if kind == CE:
        return compound_probabilities(clip.probabilities)
    if kind == AU:
        return clip.scores[AU]
    return clip.valence_arousal if kind == VA else clip.probabilities


def validate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The submission file.")],
    sample: SampleOption,
    kind: Annotated[
        str | None, typer.Option(help="The track: expr, va, au, ce or emi; by default that of the sample.")
    ] = None,
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
    from mien.submission.template import HEADERS

    if kind is not None and kind not in HEADERS:
        raise ConfigError(
            f"--kind {kind!r} is none of {', '.join(HEADERS)}",
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
    runs: list[Path],
    weights: list[float] | None,
    template: Template,
    index: Path | None,
    store: Path | None,
    root: Path | None,
    calibration: Path | None,
    verify: bool,
    device: str,
    quiet: bool,
) -> list[ClipPrediction]:
    """Predictions of the sample's clips, from tables or by checkpoints; those of a single run are calibrated."""
    from mien.errors import ConfigError

    calibrate = _calibration(runs, calibration, template.kind)
    tables = [run for run in runs if run.is_file()]
    if len(tables) == len(runs):
        return _average_tables(runs, weights, template.kind)
    if tables:
        raise ConfigError(
            f"{tables[0]} is a table of predictions, and other runs are folders",
            follows="Nothing was written.",
            remedy="Give tables only, or checkpoints only; `mien evaluate` writes a checkpoint's table.",
        )
    if index is None or store is None:
        missing = " and ".join(name for name, value in (("--index", index), ("--store", store)) if value is None)
        names = " ".join(map(str, runs))
        raise ConfigError(
            f"{missing} is missing, which {names} needs to predict the sample's {len(template.clip_ids)} clips",
            follows="Nothing was written.",
            remedy=f"Run `mien submit {names} --sample {template.path} --out FILE --index INDEX --store DIR`.",
        )
    return list(_predict_from_store(runs, weights, template, index, store, root, calibrate, verify, device, quiet))


def _calibration(runs: list[Path], given: Path | None, kind: str) -> Calibration | None:
    """The calibration to apply: that of the option, else that of a single run, if it has one."""
    from mien.errors import ConfigError
    from mien.evaluation import saved_calibration

    if kind in _UNCALIBRATED:
        if given is not None:
            raise ConfigError(
                f"--calibration {given} smooths expressions, valence and arousal, and the sample is {kind.upper()}'s",
                follows="Nothing was written.",
                remedy="Omit --calibration: the smoothing of the recipe (vote.smooth_seconds) applies.",
            )
        return None
    if len(runs) == 1 and runs[0].is_dir():
        return saved_calibration.load(runs[0], given)
    if given is not None:
        reason = "an average of several is submitted" if len(runs) > 1 else "a table holds smoothed predictions"
        raise ConfigError(
            f"--calibration {given} corrects the unsmoothed predictions of one model, and {reason}",
            follows="Nothing was written.",
            remedy="Omit --calibration, or submit the folder of the model that it was fitted for: `mien ensemble` "
            "makes one folder of several.",
        )
    return None


def _average_tables(tables: list[Path], weights: list[float] | None, kind: str) -> list[ClipPrediction]:
    from mien.errors import ConfigError
    from mien.evaluation import predictions
    from mien.evaluation.ensemble_weights import average_predictions
    from mien.labels import EXPRESSIONS
    from mien.submission.template import check_classes

    if len(tables) == 1 and weights is not None:
        raise ConfigError(
            f"--weights was given for a single table, {tables[0]}",
            follows="Nothing was written.",
            remedy="Omit --weights, or give several tables.",
        )
    members = []
    for table in tables:
        clips, labels = predictions.load(table)
        if kind not in _UNCALIBRATED:
            check_classes(labels, EXPRESSIONS)
        members.append(clips)
    return average_predictions(members, weights) if len(members) > 1 else members[0]


def _predict_from_store(
    runs: list[Path],
    weights: list[float] | None,
    template: Template,
    index_path: Path,
    store: Path,
    root: Path | None,
    calibration: Calibration | None,
    verify: bool,
    device: str,
    quiet: bool,
) -> Iterator[ClipPrediction]:
    from mien import checkpoint
    from mien.cli import console
    from mien.datasets.index import Index
    from mien.evaluation.load_model import load_model
    from mien.evaluation.predict_clips import predict_clips
    from mien.evaluation.score_tasks import check_task
    from mien.labels import EXPRESSIONS
    from mien.store import FeatureStore
    from mien.submission.template import check_classes

    index = Index.load(index_path, root)
    indexed = {entry.id for entry in index.entries}
    trained = load_model(runs, checkpoint.torch_device(device), weights)
    check_task(trained, template.kind, ", ".join(map(str, runs)), follows="Nothing was written.")
    if template.kind not in _UNCALIBRATED:
        check_classes(trained.labels, EXPRESSIONS)
    clips = [clip for clip in template.clip_ids if clip in indexed]
    with console.progress("predicting clips", quiet=quiet, unit="clips") as bar:
        yield from predict_clips(
            trained,
            index,
            FeatureStore(store),
            clips,
            calibration=calibration,
            verify=verify,
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
