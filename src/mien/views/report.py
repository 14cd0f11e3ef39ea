"""Report page: one self-contained HTML file with a recording and the charts of its timeline.

The page holds styles, script, numbers and the recording, and loads nothing from the network. It is written in pieces,
so that memory does not grow with the recording.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import polars as pl
from markupsafe import Markup

from mien import __version__
from mien.atomic import atomic_path
from mien.clock import row_durations
from mien.errors import OutputError
from mien.labels import EXPRESSIONS, probability_column
from mien.printable import printable
from mien.records import SubjectSummary
from mien.views.embed import EmbeddedMedia, embed_media
from mien.views.extracts import face_thumbnails, waveform
from mien.views.palette import class_colours, text_colour
from mien.views.parts import parts_of
from mien.views.render import load_template, read_source
from mien.views.words import count, format_time, people_in

#: Most rows of a subject in the page, 11 minutes at 30 frames a second, and of all subjects; beyond it neighbours are
#: averaged. Our choice, because a wide screen has about 1,500 columns.
MAX_ROWS, MAX_ROWS_OF_ALL = 20_000, 100_000
#: Bytes of the recording per script element, a multiple of 3 so that each piece is complete base64.
PIECE = 3 << 20
_MARKER = "<!-- the recording -->"
#: Start of the page's line that holds the faces, as JSON.
_THUMBNAILS = '<script type="application/json" id="thumbnails">'
#: Index of the expression of a row without evidence.
_NO_EXPRESSION = 255
#: Marks missing valence and arousal in the page's data.
_NO_VALUE = -128
_EVIDENCE_BITS = {"none": 0, "voice": 1, "face": 2, "both": 3}
NO_WAVE = np.zeros(0, np.uint8)
#: Bits above those of evidence: speech of the subject, possibly of the subject.
_SPEECH_BITS = {"own": 4, "shared": 8, "other": 0, None: 0}


class Peak(NamedTuple):
    """The moment at which a class that is predicted somewhere is most probable. confidence: its probability there."""

    expression: str
    time_s: float
    confidence: float


def write_report(
    path: Path,
    table: pl.DataFrame,
    summaries: Sequence[SubjectSummary],
    *,
    classes: Sequence[str] = EXPRESSIONS,
    name: str = "",
    media: Path | None = None,
    notes: Sequence[str] = (),
    info: Mapping[str, Any] | None = None,
) -> Path:
    """Writes the report page, for the user alone unless the folder says otherwise (`mien.scratch.private_mode`).

    A timeline without any expression has a page of valence and arousal, and the other way round.

    Args:
        table: a timeline's table (see `mien.timeline.columns.schema`).
        summaries: one per subject, from `mien.timeline.summary.summarise`.
        classes: class names of the timeline.
        name: title of the page.
        media: recording to embed, downscaled. With None the page can open it from the reader's disk.
        notes: warnings to show.
        info: facts of the run; `info["media"]` holds kind, width, height in pixels, duration_s if known, and
            audio_track, the number of the sound track, if one was chosen.

    Raises:
        OutputError: the table has no rows, or the page cannot be written. MediaError: media cannot be read.
    """
    if table.is_empty():
        raise OutputError(
            f"{path}: the timeline has no rows",
            follows="No report was written.",
            remedy="Check that the recording has a face or a voice.",
        )
    info = info or {}
    track = info.get("media", {}).get("audio_track")
    with atomic_path(path, private=True) as scratch, ExitStack() as stack:
        embedded = stack.enter_context(_embed(media, path, track)) if media else None
        thumbnails = face_thumbnails(embedded, table, _image_size(table, info)) if embedded else {}
        is_still = _kind(table, info) == "image"
        wave = NO_WAVE if media is None or is_still else waveform(media, _duration(table, info), audio_track=track)
        page = _render(table, summaries, classes, name, notes, info, embedded, thumbnails, wave)
        head, tail = page.split(_MARKER)
        with scratch.open("w", encoding="utf-8") as file:
            file.write(head)
            if embedded:
                _write_media(embedded, file)
            file.write(tail)
    return path


def _render(
    table: pl.DataFrame,
    summaries: Sequence[SubjectSummary],
    classes: Sequence[str],
    name: str,
    notes: Sequence[str],
    info: Mapping[str, Any],
    embedded: EmbeddedMedia | None,
    thumbnails: Mapping[int, str],
    wave: np.ndarray,
) -> str:
    kind = _kind(table, info)
    subjects = [rows for _, rows in sorted(table.group_by("subject"), key=lambda item: item[0])]
    duration = _duration(table, info)
    width, height = _image_size(table, info)
    colours, parts = class_colours(classes), parts_of(table)
    limit = min(MAX_ROWS, MAX_ROWS_OF_ALL // len(subjects))
    data = {
        "kind": kind,
        "duration": duration,
        "width": width,
        "height": height,
        "parts": parts._asdict(),
        "expressions": [{"name": e, "colour": colours[e], "ink": text_colour(colours[e])} for e in classes],
        "media": {
            "type": embedded.mime if embedded else "",
            # After the last frame only the audio clock moves the cursor.
            "pictures": _largest(table["time_s"]) or 0.0,
        },
        "wave": _base64(wave, np.uint8),
        "subjects": [_pack(rows.sort("time_s"), classes, width, height, limit) for rows in subjects],
    }
    name, notes = printable(name) or "Timeline", [printable(note) for note in notes]
    return load_template("report.html").render(
        title=f"{name} · mien",
        name=name,
        facts=_facts(table, summaries, kind, duration, info),
        thumbnails=Markup(json.dumps(thumbnails)),
        faces=thumbnails,
        peaks={rows["subject"][0]: find_peaks(rows, classes) for rows in subjects},
        notes=notes,
        kind=kind,
        duration=duration,
        summaries=summaries,
        colours=colours,
        parts=parts,
        format_time=format_time,
        format_signed=_format_signed,
        stride=max(_stride(len(rows), limit) for rows in subjects),
        processing_time=_processing_time(info),
        model=info.get("model", ""),
        version=__version__,
        embedded=embedded is not None,
        # An unescaped "<" would let a value end the script element.
        data=Markup(json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")),
        media_marker=Markup(_MARKER),
        css=read_source("base.css", "report.css"),
        mapping=read_source("mapping.js", "drawing.js"),
        script=read_source("report.js"),
    )


def read_thumbnails(report: Path) -> dict[int, str]:
    """Faces of a report page: subject -> picture as a data URL. Empty for a page without them, or that is missing."""
    try:
        with report.open(encoding="utf-8") as file:
            for line in file:
                if line.startswith(_THUMBNAILS):
                    faces = json.loads(line.removeprefix(_THUMBNAILS).partition("</script>")[0])
                    return {int(subject): str(picture) for subject, picture in faces.items()}
    except (OSError, ValueError):
        pass
    return {}


# --- facts -------------------------------------------------------------------------------------------------


def _kind(table: pl.DataFrame, info: Mapping[str, Any]) -> str:
    if kind := info.get("media", {}).get("kind"):
        return str(kind)
    if table["frame"].null_count() == len(table):
        return "audio"
    return "image" if table["frame"].n_unique() == 1 else "video"


def _duration(table: pl.DataFrame, info: Mapping[str, Any]) -> float:
    rows = table.filter(pl.col("subject") == table["subject"][0]).sort("time_s")["time_s"].to_numpy()
    stop = float(rows[-1] + row_durations(rows)[-1])
    return max(stop, float(info.get("media", {}).get("duration_s") or 0.0)) if len(rows) > 1 else stop


def _image_size(table: pl.DataFrame, info: Mapping[str, Any]) -> tuple[float, float]:
    """Width and height of the upright image in pixels; estimated from the boxes if `info` lacks them."""
    facts = info.get("media", {})
    if facts.get("width") and facts.get("height"):
        return float(facts["width"]), float(facts["height"])
    return _largest(table["x2"]) or 1.0, _largest(table["y2"]) or 1.0


def _largest(column: pl.Series) -> float | None:
    known = column.drop_nulls().to_numpy()
    return float(known.max()) if len(known) else None


def find_peaks(rows: pl.DataFrame, classes: Sequence[str]) -> list[Peak]:
    """The peak of each class that one subject's rows name, in order of time."""
    peaks = []
    for name in classes:
        named = rows.filter(pl.col("expression") == name)
        if len(named):
            best = named.row(int(named["confidence"].arg_max() or 0), named=True)
            peaks.append(Peak(name, best["time_s"], best["confidence"]))
    return sorted(peaks, key=lambda peak: peak.time_s)


def _span(summaries: Sequence[SubjectSummary], duration: float, info: Mapping[str, Any]) -> str:
    """The duration, or of a section its first and last second, and the duration of the recording."""
    if not info.get("section"):
        return format_time(duration)
    start, stop = min(s.start_s for s in summaries), max(s.stop_s for s in summaries)
    return f"{format_time(start)} to {format_time(stop)} of {format_time(duration)}"


def _facts(
    table: pl.DataFrame, summaries: Sequence[SubjectSummary], kind: str, duration: float, info: Mapping[str, Any]
) -> list[str]:
    facts = [people_in(summaries, pictures=kind != "audio"), count(len(table), "row")]
    if kind != "image":
        facts.insert(0, _span(summaries, duration, info))
    media = info.get("media", {})
    if media.get("width"):
        facts.append(f"{media['width']} × {media['height']}")
    if info.get("model"):
        facts.append(f"model {info['model']}")
    return facts


def _format_signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}".replace("-", "−")


def _processing_time(info: Mapping[str, Any]) -> str:
    seconds = dict(info.get("seconds", {}))
    total = seconds.pop("total", None)
    if total is None:
        return ""
    parts = ", ".join(f"{stage} {value:.2f}" for stage, value in seconds.items())
    return f"{total:.2f} s" + (f" (stages run in parallel, seconds each: {parts})" if parts else "")


# --- numbers -----------------------------------------------------------------------------------------------


def _stride(rows: int, limit: int = MAX_ROWS) -> int:
    return -(-rows // limit)


def _pack(
    rows: pl.DataFrame, classes: Sequence[str], width: float, height: float, limit: int = MAX_ROWS
) -> dict[str, Any]:
    """One subject's rows as base64 integers, about 30 bytes per row with eight classes.

    Units: probabilities 1/255, valence and arousal 1/127 (-128: missing), boxes 1/65535 of the image size.
    """
    k = _stride(len(rows), limit)
    probabilities = _means(rows.select(map(probability_column, classes)).to_numpy(), k)
    affect = _means(rows.select("valence", "arousal").to_numpy(), k)
    known = np.isfinite(probabilities).all(axis=1)
    expression = np.where(known, np.nan_to_num(probabilities).argmax(axis=1), _NO_EXPRESSION)
    # Boxes and evidence cannot be averaged: take the middle row of each group.
    middle = rows[np.minimum(np.arange(0, len(rows), k) + k // 2, len(rows) - 1)]
    first = rows[np.arange(0, len(rows), k)]
    boxes = middle.select("x1", "y1", "x2", "y2").to_numpy() / [width, height, width, height]
    return {
        "id": int(rows["subject"][0]),
        "n": len(first),
        "times": _base64(first["time_s"].to_numpy(), np.float32),
        "frames": _base64(middle["frame"].fill_null(-1).to_numpy(), np.int32),
        "p": _base64(np.rint(np.nan_to_num(probabilities) * 255), np.uint8),
        "named": _base64(expression, np.uint8),
        "va": _base64(np.where(np.isfinite(affect), np.rint(np.clip(affect, -1, 1) * 127), _NO_VALUE), np.int8),
        "evidence": _base64(
            np.array([_EVIDENCE_BITS[e] + _SPEECH_BITS[s] for e, s in middle.select("evidence", "speech").iter_rows()]),
            np.uint8,
        ),
        "boxes": _base64(np.rint(np.clip(np.nan_to_num(boxes), 0, 1) * 65535), np.uint16),
    }


def _means(values: np.ndarray, k: int) -> np.ndarray:
    """Means of k rows each, ignoring NaN; NaN if all are NaN."""
    if k == 1:
        return values
    values = values.astype(np.float64)
    starts = np.arange(0, len(values), k)
    finite = np.isfinite(values)
    sums = np.add.reduceat(np.where(finite, values, 0), starts)
    counts = np.add.reduceat(finite.astype(int), starts)
    means: np.ndarray = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return means


def _base64(values: np.ndarray, kind: type[np.generic]) -> str:
    little = np.ascontiguousarray(values).astype(np.dtype(kind).newbyteorder("<"))
    return base64.b64encode(little.tobytes()).decode("ascii")


# --- the recording -----------------------------------------------------------------------------------------


@contextmanager
def _embed(media: Path, page_path: Path, audio_track: int | None) -> Iterator[EmbeddedMedia]:
    try:
        with embed_media(media, page_path.parent, audio_track=audio_track) as embedded:
            yield embedded
    except OutputError as error:
        raise OutputError(
            f"{page_path} could not be written, because the recording could not be embedded: {error.what}",
            follows=error.follows,
            remedy=f"{error.remedy} Use --no-embed to omit the recording.".strip(),
        ) from error


def _write_media(embedded: EmbeddedMedia, page_file: IO[str]) -> None:
    with embedded.path.open("rb") as file:
        while piece := file.read(PIECE):
            text = base64.b64encode(piece).decode("ascii")
            page_file.write(f'<script type="text/plain" class="media">{text}</script>\n')
