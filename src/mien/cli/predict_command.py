"""`mien predict`: predict the timelines of recordings."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from mien.cli import batch, console, provenance
from mien.cli.inputs import MediaJob, PassedOver, plan_jobs
from mien.cli.options import BlendshapesOption, FeaturesOption, GazeOption, LandmarksOption, WeightsOption
from mien.cli.predict_jobs import (
    Channels,
    Format,
    JobResult,
    Outcome,
    PredictOptions,
    in_processes,
    one_by_one,
    without_done,
)
from mien.cli.provenance import RunFacts
from mien.errors import MienError
from mien.printable import printable
from mien.views.words import count

#: Up to this many inputs get a full summary each; more get one line each.
MAX_FULL_SUMMARIES = 3
#: Most inputs passed over that are named on the screen.
MAX_PASSED = 5


# Over 60 lines, because Typer reads the options from the signature.
def predict(
    media: Annotated[
        list[Path],
        typer.Argument(metavar="MEDIA|FOLDER...", help="Videos, sound files, pictures, or folders of them."),
    ],
    model: Annotated[
        list[str],
        typer.Option(
            help="starter, the folder of a trained checkpoint or ensemble, or a network over single faces (hsemotion, "
            "fer, face-api, an ONNX file), which is joined with the starter's voice. Several checkpoints predict as "
            "one: --model RUN --model RUN."
        ),
    ] = ["starter"],  # noqa: B006 (Typer copies it)
    weights: WeightsOption = None,
    out: Annotated[
        Path, typer.Option(metavar="OUT", help="Folder for the results, with one folder for each input.")
    ] = Path("mien-out"),
    format: Annotated[
        Format,
        typer.Option(
            help="File format of the timeline: a table (csv, parquet, jsonl), or a CSV table and beside it a file for "
            "ELAN (eaf), Praat (textgrid), players (vtt, srt), BORIS (boris: a project; boris-events: a table), Label "
            "Studio or speaker diarisation (rttm)."
        ),
    ] = Format.csv,
    report: Annotated[
        bool, typer.Option("--report", help="Also write report.html: the recording with charts.")
    ] = False,
    features: FeaturesOption = False,
    gaze: GazeOption = False,
    blendshapes: BlendshapesOption = False,
    landmarks: LandmarksOption = False,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also write overlay.mp4, the video with boxes and labels.")
    ] = False,
    no_embed: Annotated[
        bool, typer.Option("--no-embed", help="Do not embed the recording in the report; the file is smaller.")
    ] = False,
    no_face: Annotated[bool, typer.Option("--no-face", help="Use the voice alone.")] = False,
    no_voice: Annotated[bool, typer.Option("--no-voice", help="Use the face alone.")] = False,
    max_faces: Annotated[
        int, typer.Option(min=1, max=64, help="Most people tracked at once in a video; stills have no limit.")
    ] = 4,
    no_reid: Annotated[
        bool,
        typer.Option(
            "--no-reid", help="Number people by position alone: who returns, or is seen after a cut, gets a new number."
        ),
    ] = False,
    audio_track: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Sound track to use, from 1. By default that of the recording, or one with clearly more speech.",
        ),
    ] = None,
    audio_channels: Annotated[
        Channels,
        typer.Option(
            help="mix: one sound for everyone. split: each channel is a person, as in calls recorded with one speaker "
            "on each; for sound alone."
        ),
    ] = Channels.MIX,
    min_quality: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Do not read faces of a lower quality (column quality: 1 clear and frontal; 0 turned away, covered, "
            "upside down, blurred or tiny). 0 reads all; those below 0.5 are marked uncertain.",
        ),
    ] = 0.0,
    device: Annotated[
        str,
        typer.Option(
            help="cpu, cuda, cuda:N, or auto: ONNX on the CPU if the model has it, else a GPU if there is one."
        ),
    ] = "auto",
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Classes to predict instead of the model's, for prompted_tcn: a text file with one label, or "
            "label: prompt, per line.",
        ),
    ] = None,
    start: Annotated[float, typer.Option(min=0, metavar="S", help="First second of the recording to predict.")] = 0.0,
    end: Annotated[
        float | None, typer.Option(min=0, metavar="S", help="Second of the recording to end before; default: its end.")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            metavar="HZ",
            help="At most this many rows per second and person in the timeline's file; default: all. Each is the first "
            "row of its interval, not a mean. Report and overlay use all rows.",
        ),
    ] = None,
    face_rate: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            metavar="HZ",
            help="Read faces so many times a second, and more often while one moves; each frame keeps its rows, "
            "interpolated between two readings. Default: 12 for the starter, 15 while it sees several people; every "
            "frame for models that read each.",
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            min=1,
            max=64,
            help="Predict so many inputs at once, each in a process of its own (200 MB each with the starter). On two "
            "cores, 2 finish a folder of videos sooner than 1.",
        ),
    ] = 1,
    skip_done: Annotated[
        bool,
        typer.Option(
            "--skip-done",
            help="Skip inputs whose results are in OUT already, from the same recording, model, version and options.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of summaries.")] = False,
) -> None:
    """Predict each person's expression, valence and arousal.

    Writes OUT/<stem>/timeline.csv for each input, with one row per video frame and person (10 rows per second without
    video): the most probable expression, the probability of each class of the model (eight for the starter), valence
    and arousal from -1 to 1, and the evidence (face, voice, both or none). What the model does not predict is empty.
    docs/TIMELINE.md explains the columns. timeline.json beside it states model, hashes, options and notes.

    Of several inputs, or a folder, OUT/timelines.csv is one table with a column for the file, and OUT/index.html a
    page that links to all results. Faces are stored only in the reports that you ask for.

    Networks that are not here yet are downloaded, after a line that says what and from where. MIEN_OFFLINE=1 forbids
    downloads.

    \b
    Examples:
      mien predict clip.mp4 --report
      mien predict holiday/ --report --skip-done --workers 2 --out results
      mien predict lecture.mp4 --start 600 --end 660 --rate 5
      mien predict interview.wav --json
      mien predict talk.mp4 --format eaf
      mien predict talk.mp4 --features --format parquet
      mien predict talk.mp4 --gaze --blendshapes --landmarks
      mien predict call.wav --audio-channels split
      mien predict talk.mp4 --model runs/mine --overlay --no-voice
      mien predict talk.mp4 --model runs/prompted_tcn --prompts moods.txt
      mien predict talk.mp4 --model runs/a --model runs/b --weights 0.7,0.3

    Exit code: 0 success, 1 an input failed (the others are finished), 2 wrong usage.
    """
    if no_face and no_voice:
        raise typer.BadParameter("--no-face and --no-voice together leave nothing to predict from")
    console.hide_log()
    if end is not None and end <= start:
        raise typer.BadParameter(f"--end {end:g} is not after --start {start:g}")
    plan = plan_jobs(media, out)
    outcome = Outcome(failed=[_report_error(error, error.what, as_json) for error in plan.errors])
    _print_passed(plan.passed, as_json)
    written: batch.BatchFiles | None = None
    if plan.jobs:
        from mien.atomic import check_folder
        from mien.scratch import remove_abandoned

        check_folder(out)  # fail now rather than after an hour of work
        for folder in (path for path in out.iterdir() if path.is_dir()):
            remove_abandoned(folder)
        jobs = provenance.choose_folders(plan.jobs)
        _print_renamed(jobs, as_json)
        from mien.ensemble import parse_weights
        from mien.memory import share_heap
        from mien.predict import load

        share_heap()

        settings: dict[str, Any] = {
            "model": model,
            "device": device,
            "max_faces": max_faces,
            "weights": parse_weights(weights),
            "prompts": prompts,
            "reidentify": not no_reid,
        }
        predictor = load(**settings)
        added = {"gaze": gaze, "blendshapes": blendshapes, "landmarks": landmarks}
        measured = tuple(name for name, wanted in added.items() if wanted) or features
        options = PredictOptions(
            format, report, not no_embed, overlay, not no_face, not no_voice, as_json, start, end, rate, audio_track,
            audio_channels is Channels.SPLIT, min_quality, face_rate, measured,
        )  # fmt: skip
        run = RunFacts(
            predictor.name,
            provenance.weights_of(model),
            {
                "face": options.face,
                "voice": options.voice,
                "max_faces": max_faces,
                "reid": not no_reid,
                "audio_track": audio_track,
                "audio_channels": str(audio_channels),
                "min_quality": min_quality,
                "face_rate": face_rate,
                "features": measured if isinstance(measured, bool) else list(measured),
                "start": start,
                "end": end,
                "rate": rate,
                "weights": weights,
                "prompts": prompts.read_text(encoding="utf-8") if prompts else None,
            },
        )
        if skip_done:
            jobs = without_done(jobs, options, run, outcome)
        several = workers > 1 and len(jobs) > 1
        results = (
            in_processes(jobs, options, run, settings, workers)
            if several
            else one_by_one(jobs, predictor, options, run)
        )
        _report_results(results, options, outcome, total=len(jobs))
        if len(jobs) > 1 or any(path.is_dir() for path in media):
            written = batch.write(out, run, format.table, passed=plan.passed, failed=outcome.failed)
    _finish(outcome, plan.passed, written, as_json)


def _report_results(
    results: Iterable[tuple[MediaJob, JobResult | Exception]], options: PredictOptions, outcome: Outcome, *, total: int
) -> None:
    """Print each result and record it in `outcome`. An error of one job does not stop the others."""
    for job, result in results:
        if isinstance(result, JobResult):
            outcome.results.append(result.record())
            if not options.as_json:
                _print_result(result, brief=total > MAX_FULL_SUMMARIES)
            continue
        if isinstance(result, MienError):
            if result.exit_code == 2:
                raise result  # a wrong model or option would fail for the other inputs as well
            error: MienError = result
        elif os.environ.get("MIEN_DEBUG") or total == 1:
            raise result
        else:
            error = _unexpected_error(job, result)
        outcome.failed.append(_report_error(error, str(job.media), options.as_json))


def _print_result(result: JobResult, *, brief: bool) -> None:
    screen = console.stdout()
    if brief:
        estimate = _brief_estimate(result)
        more = len(result.summaries) - 1
        others = f" and {more} more subject{'s' * (more > 1)}" if more > 0 else ""
        screen.print(f"{printable(result.media)}: {count(result.rows, 'row')}, {estimate}{others}", markup=False)
        for note in result.notes:
            screen.print(f"  note  {note}", style="yellow", markup=False)
        screen.print(f"  timeline {printable(result.files['timeline'])}", markup=False)
        return
    screen.print(result.timeline.summary())
    for note in result.notes[len(result.timeline.notes) :]:
        screen.print(f"note  {note}", style="yellow", markup=False)
    screen.print()
    for name, path in result.files.items():
        thinned = (
            f"  ({count(result.rows, 'row')})" if name == "timeline" and result.rows < len(result.timeline) else ""
        )
        screen.print(f"{name:12}{printable(path)}{thinned}", markup=False)
    screen.print()


def _brief_estimate(result: JobResult) -> str:
    """A short text on the first subject. For a picture, the expression and its confidence; otherwise the two most
    frequent expressions. Without expressions, mean valence and arousal; without these, the two highest mean scores."""
    from mien.views.parts import parts_of

    first = result.summaries[0] if result.summaries else None
    means = {name: mean for name, mean in first.scores.items() if mean is not None} if first else {}
    if first and means and not first.shares and first.valence is None:
        highest = sorted(means, key=lambda name: -means[name])[:2]
        return ", ".join(f"{name} {means[name]:.2f}" for name in highest)
    if first is None or parts_of(result.timeline.table).expression:
        if first and len(first.stretches) == 1 and first.stop_s <= first.start_s:
            return f"{first.stretches[0].expression}, confidence {first.stretches[0].confidence:.0%}"
        shares = list(first.shares.items()) if first else []
        return ", ".join(f"{name} {share:.0%}" for name, share in shares[:2]) or "no expression"
    if first.valence is None or first.arousal is None:
        return "no valence, no arousal"
    return f"valence {first.valence:+.2f}, arousal {first.arousal:+.2f}"


def _report_error(error: MienError, media: str, quiet: bool) -> dict[str, str]:
    if not quiet:
        console.print_error(error)
    return {"media": media, "what": error.what, "follows": error.follows, "remedy": error.remedy}


def _unexpected_error(job: MediaJob, error: Exception) -> MienError:
    return MienError(
        f"{printable(job.media)}: {type(error).__name__}: {error}",
        follows="This is a bug in mien. The other inputs are not affected.",
        remedy=f"Run `MIEN_DEBUG=1 mien predict '{printable(job.media)}'` for the traceback, and please report it.",
    )


def _print_renamed(jobs: list[MediaJob], quiet: bool) -> None:
    renamed = [job for job in jobs if job.folder.name != job.media.stem]
    if renamed and not quiet:
        screen = console.stderr()
        screen.print("other recordings share a name, so results go to:", style="yellow")
        for job in renamed:
            screen.print(f"  {printable(job.media)} -> {printable(job.folder)}", markup=False)


def _print_passed(passed: list[PassedOver], quiet: bool) -> None:
    """Print how many inputs are passed over, and the first of them by name."""
    if not passed or quiet:
        return
    screen = console.stderr()
    screen.print(f"passed over {count(len(passed), 'input')}:", style="yellow")
    for item in passed[:MAX_PASSED]:
        screen.print(f"  {printable(item.path)} ({item.reason})", markup=False)
    if len(passed) > MAX_PASSED:
        screen.print(f"  and {len(passed) - MAX_PASSED} more (--json names all)", markup=False)


def _finish(outcome: Outcome, passed: list[PassedOver], written: batch.BatchFiles | None, as_json: bool) -> None:
    """Print the JSON object, or the files of the whole folder and the list of failures. Exit with 1 if one failed."""
    failed, total = outcome.failed, len(outcome.results) + len(outcome.skipped) + len(outcome.failed)
    if as_json:
        record = asdict(outcome) | {"passed_over": [{"path": str(p.path), "reason": p.reason} for p in passed]}
        if written:
            record |= {"table": written.table, "index": written.index, "left_out_of_table": written.left_out}
        console.print_json(record)
    else:
        _print_batch(written, len(outcome.skipped))
        if failed and total > 1:
            screen = console.stderr()
            screen.print(f"{len(failed)} of {count(total, 'input')} failed:", style="bold red")
            for item in failed:
                screen.print(f"  {item['what'].splitlines()[0]}", markup=False)
    if failed:
        raise typer.Exit(1)


def _print_batch(written: batch.BatchFiles | None, skipped: int) -> None:
    screen = console.stdout()
    if skipped:
        screen.print(f"{count(skipped, 'input')} skipped: finished by an earlier run")
    if written is None or written.index is None:
        return
    if written.left_out:
        screen.print(
            f"note  the table leaves out {count(len(written.left_out), 'recording')} in this folder, damaged or "
            "predicted by another model or version, or with other options",
            style="yellow",
        )
    screen.print(f"{'table':12}{written.table or 'none'}", markup=False)
    screen.print(f"{'index':12}{written.index}", markup=False)
