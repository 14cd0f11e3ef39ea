"""`mien predict`: media in, timelines and pictures of them out."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mien.cli import console
from mien.cli.inputs import MediaJob, expand
from mien.errors import MienError

if TYPE_CHECKING:
    from mien.predict import Predictor
    from mien.predict.pretrained_face import PretrainedFacePredictor
    from mien.timeline.table import Timeline

#: Up to this many inputs each get their whole summary; more get one line each.
FEW = 3


class Format(StrEnum):
    csv = "csv"
    parquet = "parquet"
    jsonl = "jsonl"


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """What to write for each input."""

    format: str
    report: bool
    embed: bool
    overlay: bool


def predict(
    media: Annotated[
        list[Path],
        typer.Argument(metavar="MEDIA|FOLDER...", help="Videos, sound files, pictures, or folders of them."),
    ],
    model: Annotated[
        str,
        typer.Option(help="starter, the folder of a trained checkpoint, or a face network: hsemotion, fer, net.onnx."),
    ] = "starter",
    out: Annotated[Path, typer.Option(help="Where results go, one folder an input.")] = Path("mien-out"),
    format: Annotated[Format, typer.Option(help="Of the timeline.")] = Format.csv,
    report: Annotated[bool, typer.Option("--report", help="Also one HTML page to look at.")] = False,
    overlay: Annotated[bool, typer.Option("--overlay", help="Also the video with boxes and labels on it.")] = False,
    no_embed: Annotated[bool, typer.Option("--no-embed", help="Leave the recording out of the page.")] = False,
    no_face: Annotated[bool, typer.Option("--no-face", help="Use the voice alone.")] = False,
    no_voice: Annotated[bool, typer.Option("--no-voice", help="Use the face alone.")] = False,
    max_faces: Annotated[int, typer.Option(min=1, max=64, help="People followed at once.")] = 4,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of summaries.")] = False,
) -> None:
    """What each person shows, at every moment: a timeline from face and voice.

    Writes OUT/<stem>/timeline.csv: a row per frame and subject, with the expression, eight probabilities,
    valence, arousal, and what they rest on (face, voice, both, none). docs/TIMELINE.md explains the columns.

    \b
    Examples:
      mien predict clip.mp4 --report
      mien predict holiday/ --format parquet --out results
      mien predict interview.wav --json
      mien predict talk.mp4 --model runs/mine --overlay --no-voice

    Exit code: 0 done, 1 an input failed (the others are finished), 2 usage.
    """
    if no_face and no_voice:
        raise typer.BadParameter("--no-face and --no-voice together leave nothing to predict from")
    console.hide_log()
    jobs, errors = expand(media, out)
    failed = [_told(error, str(error.what), as_json) for error in errors]
    results: list[dict[str, Any]] = []
    if jobs:
        from mien.atomic import check_folder

        check_folder(out)  # better known before an hour of work than after it
        _say_renamed(jobs, as_json)
        from mien.predict import load

        predictor = load(model, device=device, max_faces=max_faces)
        wanted = Wanted(format.value, report, not no_embed, overlay)
        for number, job in enumerate(jobs, start=1):
            title = f"{job.media.name}" if len(jobs) == 1 else f"[{number}/{len(jobs)}] {job.media.name}"
            try:
                result, timeline = _one(predictor, job, wanted, title, not no_face, not no_voice, as_json)
            except MienError as error:
                if error.exit_code == 2:
                    raise  # the model or an option, not this input: the next one would fail alike
                failed.append(_told(error, str(job.media), as_json))
            except Exception as error:
                if os.environ.get("MIEN_DEBUG") or len(jobs) == 1:
                    raise
                failed.append(_told(_unforeseen(job, error), str(job.media), as_json))
            else:
                results.append(result)
                if not as_json:
                    _tell(timeline, result, brief=len(jobs) > FEW)
    _end(results, failed, as_json)


def _one(
    predictor: Predictor | PretrainedFacePredictor,
    job: MediaJob,
    wanted: Wanted,
    title: str,
    face: bool,
    voice: bool,
    quiet: bool,
) -> tuple[dict[str, Any], Timeline]:
    began = time.perf_counter()
    with console.progress(title, quiet=quiet) as progress:
        timeline = predictor.predict(job.media, face=face, voice=voice, progress=progress)
    predicted = time.perf_counter()
    written = {"timeline": timeline.write(job.folder / f"timeline.{wanted.format}")}
    if wanted.report:
        written["report"] = timeline.report(job.folder / "report.html", embed=wanted.embed)
    notes = list(timeline.notes)
    if wanted.overlay and timeline.table["frame"].null_count() < len(timeline):
        written["overlay"] = timeline.overlay(job.folder / "overlay.mp4")
    elif wanted.overlay:
        notes.append("there are no pictures to draw on, so no overlay was written")
    result = {
        "media": str(job.media),
        **{key: str(path) for key, path in written.items()},
        "rows": len(timeline),
        "subjects": [
            {k: v for k, v in dataclasses.asdict(d).items() if k != "stretches"} for d in timeline.summaries()
        ],
        "notes": notes,
        "seconds": {
            **timeline.info.get("seconds", {}),
            "write": round(time.perf_counter() - predicted, 3),
            "all": round(time.perf_counter() - began, 3),
        },
    }
    return result, timeline


def _tell(timeline: Timeline, result: dict[str, Any], *, brief: bool) -> None:
    screen = console.out()
    if brief:
        first: dict[str, Any] = next(iter(result["subjects"]), {"shares": {}})
        most = ", ".join(f"{name} {share:.0%}" for name, share in list(first["shares"].items())[:2])
        others = len(result["subjects"]) - 1
        more = f" and {others} more subject{'s' * (others > 1)}" if others > 0 else ""
        screen.print(f"{result['media']}: {result['rows']} rows, {most or 'nothing named'}{more}")
        for note in result["notes"]:
            screen.print(f"  note  {note}", style="yellow", markup=False)
    else:
        screen.print(timeline.summary())
        for note in result["notes"][len(timeline.notes) :]:
            screen.print(f"note  {note}", style="yellow", markup=False)
        screen.print()
    for key in ("timeline", "report", "overlay"):
        if key in result and (not brief or key == "timeline"):
            screen.print(f"{'  ' if brief else ''}{key:9}{result[key]}", markup=False)
    if not brief:
        screen.print()


def _told(error: MienError, media: str, quiet: bool) -> dict[str, str]:
    if not quiet:
        console.show(error)
    return {"media": media, "what": error.what, "follows": error.follows, "remedy": error.remedy}


def _unforeseen(job: MediaJob, error: Exception) -> MienError:
    return MienError(
        f"{job.media}: {type(error).__name__}: {error}",
        follows="this is a fault of mien's, not of yours; the other inputs are not touched by it",
        remedy=f"MIEN_DEBUG=1 mien predict '{job.media}' shows where; please report it",
    )


def _say_renamed(jobs: list[MediaJob], quiet: bool) -> None:
    renamed = [job for job in jobs if job.folder.name != job.media.stem]
    if renamed and not quiet:
        screen = console.err()
        screen.print("several inputs share a name, so their results go to:", style="yellow")
        for job in renamed:
            screen.print(f"  {job.media} -> {job.folder}", markup=False)


def _end(results: list[dict[str, Any]], failed: list[dict[str, str]], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"results": results, "failed": failed}, indent=2, ensure_ascii=False, default=str))
    elif failed and len(results) + len(failed) > 1:
        screen = console.err()
        screen.print(f"{len(failed)} of {len(results) + len(failed)} inputs failed:", style="bold red")
        for item in failed:
            screen.print(f"  {item['what'].splitlines()[0]}", markup=False)
    if failed:
        raise typer.Exit(1)
