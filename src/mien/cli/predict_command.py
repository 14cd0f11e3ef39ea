"""`mien predict`: predict the timelines of recordings."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mien.cli import console
from mien.cli.inputs import MediaJob, plan_jobs
from mien.cli.options import WeightsOption
from mien.errors import MienError

if TYPE_CHECKING:
    from mien.predict import Predictor
    from mien.records import SubjectSummary
    from mien.timeline.table import Timeline

#: Up to this many inputs get a full summary each; more get one line each.
MAX_FULL_SUMMARIES = 3


class Format(StrEnum):
    """File format of a Timeline."""

    csv = "csv"
    parquet = "parquet"
    jsonl = "jsonl"


class Channels(StrEnum):
    """What the channels of a sound are."""

    MIX = "mix"
    SPLIT = "split"


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """How to predict each input, and what to write for it."""

    format: Format
    report: bool
    embed: bool
    overlay: bool
    face: bool
    voice: bool
    audio_track: int | None
    split_channels: bool
    as_json: bool
    min_quality: float = 0.0


@dataclass(frozen=True, slots=True)
class JobResult:
    """What was predicted and written for one input. files: `timeline`, `report`, `overlay` -> path."""

    media: Path
    timeline: Timeline
    summaries: list[SubjectSummary]
    files: dict[str, Path]
    notes: list[str]
    seconds: dict[str, float]

    def record(self) -> dict[str, Any]:
        """The result as JSON prints it."""
        subjects = [{k: v for k, v in asdict(s).items() if k != "stretches"} for s in self.summaries]
        return {
            "media": str(self.media),
            **{name: str(path) for name, path in self.files.items()},
            "rows": len(self.timeline),
            "subjects": subjects,
            "notes": self.notes,
            "seconds": self.seconds,
        }


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
    format: Annotated[Format, typer.Option(help="File format of the timeline.")] = Format.csv,
    report: Annotated[
        bool, typer.Option("--report", help="Also write report.html: the recording with charts.")
    ] = False,
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
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of summaries.")] = False,
) -> None:
    """Predict each person's expression, valence and arousal.

    Writes OUT/<stem>/timeline.csv for each input, with one row per video frame and person (10 rows per second without
    video): the most probable expression, the probability of each class of the model (eight for the starter), valence
    and arousal from -1 to 1, and the evidence (face, voice, both or none). What the model does not predict is empty.
    docs/TIMELINE.md explains the columns.

    \b
    Examples:
      mien predict clip.mp4 --report
      mien predict holiday/ --format parquet --out results
      mien predict interview.wav --json
      mien predict call.wav --audio-channels split
      mien predict talk.mp4 --model runs/mine --overlay --no-voice
      mien predict talk.mp4 --model runs/prompted_tcn --prompts moods.txt
      mien predict talk.mp4 --model runs/a --model runs/b --weights 0.7,0.3

    Exit code: 0 success, 1 an input failed (the others are finished), 2 wrong usage.
    """
    if no_face and no_voice:
        raise typer.BadParameter("--no-face and --no-voice together leave nothing to predict from")
    # After each small product numpy's threads would wait in a loop, and take the processor from those that decode.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    console.hide_log()
    jobs, errors = plan_jobs(media, out)
    failed = [_report_error(error, error.what, as_json) for error in errors]
    results: list[dict[str, Any]] = []
    if jobs:
        from mien.atomic import check_folder

        check_folder(out)  # fail now rather than after an hour of work
        _print_renamed(jobs, as_json)
        from mien.ensemble import parse_weights
        from mien.predict import load

        predictor = load(
            model,
            device=device,
            max_faces=max_faces,
            weights=parse_weights(weights),
            prompts=prompts,
            reidentify=not no_reid,
        )
        options = PredictOptions(
            format, report, not no_embed, overlay, not no_face, not no_voice, audio_track,
            audio_channels is Channels.SPLIT, as_json, min_quality,
        )  # fmt: skip
        _predict_jobs(jobs, predictor, options, results, failed)
    _finish(results, failed, as_json)


def _predict_jobs(
    jobs: list[MediaJob],
    predictor: Predictor,
    options: PredictOptions,
    results: list[dict[str, Any]],
    failed: list[dict[str, str]],
) -> None:
    """Predict every job, and append to `results` or `failed`. An error of one job does not stop the others."""
    for number, job in enumerate(jobs, start=1):
        title = job.media.name if len(jobs) == 1 else f"[{number}/{len(jobs)}] {job.media.name}"
        try:
            result = _predict_job(job, predictor, options, title)
        except MienError as error:
            if error.exit_code == 2:
                raise  # a wrong model or option would fail for the other inputs as well
            failed.append(_report_error(error, str(job.media), options.as_json))
        except Exception as error:
            if os.environ.get("MIEN_DEBUG") or len(jobs) == 1:
                raise
            failed.append(_report_error(_unexpected_error(job, error), str(job.media), options.as_json))
        else:
            results.append(result.record())
            if not options.as_json:
                _print_result(result, brief=len(jobs) > MAX_FULL_SUMMARIES)


def _predict_job(job: MediaJob, predictor: Predictor, options: PredictOptions, title: str) -> JobResult:
    start = time.perf_counter()
    with console.progress(title, quiet=options.as_json) as progress:
        timeline = predictor.predict(
            job.media,
            face=options.face,
            voice=options.voice,
            min_quality=options.min_quality,
            audio_track=options.audio_track,
            split_channels=options.split_channels,
            progress=progress,
        )
    predicted = time.perf_counter()
    files = {"timeline": timeline.write(job.folder / f"timeline.{options.format}")}
    if options.report:
        files["report"] = timeline.report(job.folder / "report.html", embed=options.embed)
    notes = list(timeline.notes)
    if options.overlay and timeline.table["frame"].null_count() < len(timeline):
        files["overlay"] = timeline.overlay(job.folder / "overlay.mp4")
    elif options.overlay:
        notes.append("no overlay was written, because there are no pictures to draw on")
    summaries = timeline.summaries()
    seconds = {
        **timeline.info.get("seconds", {}),
        "write": round(time.perf_counter() - predicted, 3),
        "all": round(time.perf_counter() - start, 3),
    }
    return JobResult(job.media, timeline, summaries, files, notes, seconds)


def _print_result(result: JobResult, *, brief: bool) -> None:
    screen = console.stdout()
    if brief:
        estimate = _brief_estimate(result)
        more = len(result.summaries) - 1
        others = f" and {more} more subject{'s' * (more > 1)}" if more > 0 else ""
        screen.print(f"{result.media}: {len(result.timeline)} rows, {estimate}{others}", markup=False)
        for note in result.notes:
            screen.print(f"  note  {note}", style="yellow", markup=False)
        screen.print(f"  timeline {result.files['timeline']}", markup=False)
        return
    screen.print(result.timeline.summary())
    for note in result.notes[len(result.timeline.notes) :]:
        screen.print(f"note  {note}", style="yellow", markup=False)
    screen.print()
    for name, path in result.files.items():
        screen.print(f"{name:9}{path}", markup=False)
    screen.print()


def _brief_estimate(result: JobResult) -> str:
    """The first subject in a few words: the two most frequent expressions, or mean valence and arousal."""
    from mien.views.parts import parts_of

    first = result.summaries[0] if result.summaries else None
    if first is None or parts_of(result.timeline.table).expression:
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
        f"{job.media}: {type(error).__name__}: {error}",
        follows="This is a bug in mien. The other inputs are not affected.",
        remedy=f"Run `MIEN_DEBUG=1 mien predict '{job.media}'` for the traceback, and please report it.",
    )


def _print_renamed(jobs: list[MediaJob], quiet: bool) -> None:
    renamed = [job for job in jobs if job.folder.name != job.media.stem]
    if renamed and not quiet:
        screen = console.stderr()
        screen.print("several inputs share a name, so their results go to:", style="yellow")
        for job in renamed:
            screen.print(f"  {job.media} -> {job.folder}", markup=False)


def _finish(results: list[dict[str, Any]], failed: list[dict[str, str]], as_json: bool) -> None:
    """Print the JSON object or the list of failures, and exit with 1 if an input failed."""
    total = len(results) + len(failed)
    if as_json:
        print(json.dumps({"results": results, "failed": failed}, indent=2, ensure_ascii=False, default=str))
    elif failed and total > 1:
        screen = console.stderr()
        screen.print(f"{len(failed)} of {total} inputs failed:", style="bold red")
        for item in failed:
            screen.print(f"  {item['what'].splitlines()[0]}", markup=False)
    if failed:
        raise typer.Exit(1)
