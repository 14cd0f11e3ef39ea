"""The report: ONE self-contained HTML page with the recording beside what mien says of it.

The page asks the network for nothing: styles, script, numbers and the recording itself are inside it. It is
written piece by piece, so that memory does not grow with the recording.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import jinja2
import numpy as np
import polars as pl
from markupsafe import Markup

from mien import __version__
from mien.atomic import atomic_path
from mien.clock import row_durations
from mien.errors import OutputError
from mien.labels import EXPRESSIONS, column
from mien.records import SubjectSummary
from mien.views.embed import Embedded, embedded
from mien.views.palette import EXPRESSION, readable_on
from mien.views.terminal import clock

#: Rows a subject may have in the page before neighbours are averaged: 11 minutes at 30 frames a second. More
#: would not be seen (a wide screen has 1,500 columns) and would only make the page heavy: our choice.
MOST_ROWS = 20_000
#: Bytes of the recording per piece of the page, a multiple of 3 so that each piece is whole base64.
PIECE = 3 << 20
_MARK = "<!-- the recording -->"
_NONE = 255
_EVIDENCE_BITS = {"none": 0, "voice": 1, "face": 2, "both": 3}


def page(
    path: Path,
    table: pl.DataFrame,
    summaries: Sequence[SubjectSummary],
    *,
    name: str = "",
    media: Path | None = None,
    notes: Sequence[str] = (),
    info: Mapping[str, Any] | None = None,
) -> Path:
    """Writes the page.

    Args:
        table: a timeline's table (see mien.timeline.table.SCHEMA), of at least one row.
        summaries: one for each subject of the table (`mien.timeline.summary.summarise`).
        media: the recording to put inside, made small enough; None leaves it out, and the page then offers to
            open it from the reader's own disk.
        info: facts of the run; `info["media"]` gives kind, width, height and duration_s where they are known.

    Raises:
        OutputError: nothing to show, or the page cannot be written. MediaError: media cannot be read.
    """
    if table.is_empty():
        raise OutputError(f"{path}: the timeline has no rows", follows="no report was written")
    info = info or {}
    with atomic_path(path) as scratch, ExitStack() as stack:
        inside = stack.enter_context(_embedded(media, path)) if media else None
        head, tail = _text(table, summaries, name, notes, info, inside).split(_MARK)
        with scratch.open("w", encoding="utf-8") as file:
            file.write(head)
            if inside:
                _pour(inside, file)
            file.write(tail)
    return path


def _text(
    table: pl.DataFrame,
    summaries: Sequence[SubjectSummary],
    name: str,
    notes: Sequence[str],
    info: Mapping[str, Any],
    inside: Embedded | None,
) -> str:
    kind = _kind(table, info)
    subjects = [rows for _, rows in sorted(table.group_by("subject"), key=lambda item: item[0])]
    duration = _duration(table, info)
    width, height = _extent(table, info)
    packed = [_packed(rows.sort("time_s"), width, height) for rows in subjects]
    data = {
        "kind": kind,
        "duration": duration,
        "width": width,
        "height": height,
        "expressions": [{"name": e, "colour": EXPRESSION[e], "ink": readable_on(EXPRESSION[e])} for e in EXPRESSIONS],
        "media": {
            "type": inside.mime if inside else "",
            # Where the pictures end: from there on only the sound tells the cursor where it is.
            "pictures": float(table["time_s"].max() or 0.0),  # type: ignore[arg-type]
        },
        "subjects": packed,
    }
    return (
        _environment()
        .get_template("report.html")
        .render(
            name=name or "Timeline",
            facts=_facts(table, kind, duration, info),
            notes=notes,
            kind=kind,
            duration=duration,
            summaries=summaries,
            colours=EXPRESSION,
            clock=clock,
            signed=_signed,
            stride=max(_stride(len(rows)) for rows in subjects),
            spent=_spent(info),
            model=info.get("model", ""),
            version=__version__,
            embedded=inside is not None,
            # "<" would let a value end the script element it stands in.
            data=Markup(json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")),
            media_marker=Markup(_MARK),
            **{key: Markup(_source(file)) for key, file in _PARTS.items()},
        )
    )


_PARTS = {"css": "report.css", "mapping": "mapping.js", "script": "report.js"}


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("mien.views"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )


def _source(file: str) -> str:
    return (Path(__file__).parent / "templates" / file).read_text(encoding="utf-8")


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


def _extent(table: pl.DataFrame, info: Mapping[str, Any]) -> tuple[float, float]:
    """Width and height of the upright picture, which boxes are relative to; guessed from the boxes without it."""
    facts = info.get("media", {})
    if facts.get("width") and facts.get("height"):
        return float(facts["width"]), float(facts["height"])
    return float(table["x2"].max() or 1.0), float(table["y2"].max() or 1.0)  # type: ignore[arg-type]


def _facts(table: pl.DataFrame, kind: str, duration: float, info: Mapping[str, Any]) -> list[str]:
    subjects = table["subject"].n_unique()
    facts = [f"{subjects} subject{'s' * (subjects != 1)}", f"{len(table):,} row{'s' * (len(table) != 1)}"]
    if kind != "image":
        facts.insert(0, clock(duration))
    media = info.get("media", {})
    if media.get("width"):
        facts.append(f"{media['width']} × {media['height']}")
    if info.get("model"):
        facts.append(f"model {info['model']}")
    return facts


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}".replace("-", "−")


def _spent(info: Mapping[str, Any]) -> str:
    seconds = dict(info.get("seconds", {}))
    total = seconds.pop("total", None)
    if total is None:
        return ""
    parts = ", ".join(f"{stage} {value:.2f}" for stage, value in seconds.items())
    return f"{total:.2f} s" + (f" (stages run side by side, seconds each: {parts})" if parts else "")


# --- numbers -----------------------------------------------------------------------------------------------


def _stride(rows: int) -> int:
    return -(-rows // MOST_ROWS)


def _packed(rows: pl.DataFrame, width: float, height: float) -> dict[str, Any]:
    """One subject's rows as base64 of small numbers: probabilities in 255ths, valence and arousal in 127ths,
    boxes in 65535ths of the picture. About 30 bytes a row."""
    k = _stride(len(rows))
    probabilities = _means(rows.select(column(e) for e in EXPRESSIONS).to_numpy(), k)
    affect = _means(rows.select("valence", "arousal").to_numpy(), k)
    known = np.isfinite(probabilities).all(axis=1)
    named = np.where(known, np.nan_to_num(probabilities).argmax(axis=1), _NONE)
    # A box or a piece of evidence has no mean: the row in the middle speaks for its neighbours.
    middle = rows[np.minimum(np.arange(0, len(rows), k) + k // 2, len(rows) - 1)]
    first = rows[np.arange(0, len(rows), k)]
    boxes = middle.select("x1", "y1", "x2", "y2").to_numpy() / [width, height, width, height]
    return {
        "id": int(rows["subject"][0]),
        "n": len(first),
        "times": _base64(first["time_s"].to_numpy(), np.float32),
        "frames": _base64(middle["frame"].fill_null(-1).to_numpy(), np.int32),
        "p": _base64(np.rint(np.nan_to_num(probabilities) * 255), np.uint8),
        "named": _base64(named, np.uint8),
        "va": _base64(np.rint(np.clip(np.nan_to_num(affect), -1, 1) * 127), np.int8),
        "evidence": _base64(np.array([_EVIDENCE_BITS[e] for e in middle["evidence"]]), np.uint8),
        "boxes": _base64(np.rint(np.clip(np.nan_to_num(boxes), 0, 1) * 65535), np.uint16),
    }


def _means(values: np.ndarray, k: int) -> np.ndarray:
    """Means of k rows each, over those that are not NaN; NaN where none is."""
    if k == 1:
        return values
    values = values.astype(np.float64)
    starts = np.arange(0, len(values), k)
    there = np.isfinite(values)
    sums, counts = (
        np.add.reduceat(np.where(there, values, 0), starts),
        np.add.reduceat(there.astype(int), starts),
    )
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def _base64(values: np.ndarray, kind: type[np.generic]) -> str:
    little = np.ascontiguousarray(values).astype(np.dtype(kind).newbyteorder("<"))
    return base64.b64encode(little.tobytes()).decode("ascii")


# --- the recording -----------------------------------------------------------------------------------------


@contextmanager
def _embedded(media: Path, page_path: Path) -> Iterator[Embedded]:
    try:
        with embedded(media, page_path.parent) as inside:
            yield inside
    except OutputError as error:
        raise OutputError(
            f"{page_path} could not be written, because the recording that belongs into it could not: {error.what}",
            follows=error.follows,
            remedy=f"{error.remedy} --no-embed leaves the recording out.",
        ) from error


def _pour(inside: Embedded, page_file: IO[str]) -> None:
    for text in _pieces(inside.path):
        page_file.write(f'<script type="text/plain" class="media">{text}</script>\n')


def _pieces(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield base64.b64encode(piece).decode("ascii")
