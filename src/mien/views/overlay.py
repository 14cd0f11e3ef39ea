"""The recording again, with what mien says drawn on it: a box a face, the expression with its probability,
and what it rests on. The sound and the times of the pictures are kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import polars as pl

from mien.atomic import atomic_path, make_folder
from mien.errors import OutputError
from mien.media.video import frames, probe, write_video
from mien.views.palette import EXPRESSION, UNNAMED, rgb

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_DARK, _WHITE, _DIM = (18, 20, 24), (255, 255, 255), (150, 156, 164)
#: Height of a label over the height of the picture: readable when the video fills half a screen. Our choice.
TAG = 0.042


@dataclass(frozen=True, slots=True)
class Mark:
    """What is drawn for one subject in one frame. name: of the subject, "" where there is only one. box: `(4,)`
    pixels, or None where the face was not seen."""

    name: str
    box: np.ndarray | None
    expression: str | None
    confidence: float
    evidence: str

    @property
    def text(self) -> str:
        words = f"{self.expression} {self.confidence:.0%}" if self.expression else "nothing named"
        return f"{self.name}  {words}" if self.name else words


def overlay(path: Path, table: pl.DataFrame, *, media: Path) -> Path:
    """Writes the drawn recording: MP4 (H.264, AAC), or PNG for a still image (the suffix of path is
    replaced).

    Args:
        table: a timeline's table (see mien.timeline.table.SCHEMA) of this very media.

    Returns:
        The path written.

    Raises:
        OutputError: the media has no pictures, or the file cannot be written. MediaError: it cannot be read.
    """
    kind = probe(media).kind
    if kind == "audio" or table["frame"].null_count() == len(table):
        raise OutputError(
            f"{media} has no pictures to draw on",
            follows="no overlay was written",
            remedy="leave --overlay out for sound, or use --report",
        )
    if kind == "image":
        path = path.with_suffix(".png")
        picture = draw(next(iter(frames(media))).image, next(marks(table)))
        with atomic_path(path) as scratch:
            scratch.write_bytes(cv2.imencode(".png", picture[..., ::-1])[1].tobytes())
        return path
    times = table.unique("frame").sort("frame")["time_s"].to_list()
    drawn = (draw(frame.image, seen) for frame, seen in zip(frames(media), marks(table), strict=False))
    make_folder(path)
    write_video(path, drawn, times=times, audio=media)
    return path


def marks(table: pl.DataFrame) -> Iterator[list[Mark]]:
    """What to draw in each frame, frame after frame."""
    table = table.sort("frame", "subject")
    boxes = table.select("x1", "y1", "x2", "y2").cast(pl.Float64).fill_null(float("nan")).to_numpy()
    frame = table["frame"].to_numpy()
    several = table["subject"].n_unique() > 1
    columns = [table[name].to_list() for name in ("subject", "expression", "confidence", "evidence")]
    starts = np.flatnonzero(np.diff(frame, prepend=-1))
    for a, b in zip(starts, np.append(starts[1:], len(frame)), strict=True):
        yield [
            Mark(
                str(subject) if several else "",
                boxes[i] if np.isfinite(boxes[i]).all() else None,
                expression,
                confidence,
                evidence,
            )
            for i, (subject, expression, confidence, evidence) in enumerate(
                zip(*(c[a:b] for c in columns), strict=True), start=int(a)
            )
        ]


def draw(image: np.ndarray, seen: list[Mark]) -> np.ndarray:
    """A copy of `(height, width, 3)` uint8 RGB with the marks on it; faces not in view are listed below."""
    image = np.ascontiguousarray(image).copy()
    height = max(20, round(image.shape[0] * TAG))
    line = max(2, round(height / 12))
    unseen = 0
    for mark in seen:
        tag = _tag(mark.text, mark.evidence, mark.expression or "", height)
        if mark.box is None:
            unseen += 1
            _blend(image, tag, 0, image.shape[0] - unseen * height)
            continue
        x1, y1, x2, y2 = (int(v) for v in np.rint(mark.box))
        tint = rgb(EXPRESSION[mark.expression] if mark.expression else UNNAMED)
        cv2.rectangle(image, (x1, y1), (x2, y2), _DARK, line + 2, cv2.LINE_AA)
        cv2.rectangle(image, (x1, y1), (x2, y2), tint, line, cv2.LINE_AA)
        _blend(image, tag, x1, y1 - height if y1 >= height else y2)
    return image


@lru_cache(maxsize=256)
def _tag(text: str, evidence: str, expression: str, height: int) -> np.ndarray:
    """A colour bar, words, then the evidence: `face` and `voice`, bright and underlined where they were
    there.

    Drawn three times as large and reduced: OpenCV's stroke letters are ragged at the size of a small video.
    """
    big = 3 * height
    scale, thick = big / 34, max(1, round(big / 20))
    tint = rgb(EXPRESSION.get(expression, UNNAMED))
    words = [(text, scale * 0.78, _WHITE, False)]
    for kind in ("face", "voice"):
        there = evidence in (kind, "both")
        words.append((kind, scale * 0.62, _WHITE if there else _DIM, there))
    widths = [cv2.getTextSize(word, _FONT, size, thick)[0][0] for word, size, _, _ in words]
    pad = round(big * 0.28)
    tag = np.full((big, sum(widths) + pad * 5, 3), _DARK, np.uint8)
    tag[:, : pad // 2] = tint
    at = round(pad * 1.4)
    for (word, size, colour, there), wide in zip(words, widths, strict=True):
        cv2.putText(tag, word, (at, round(big * 0.67)), _FONT, size, colour, thick, cv2.LINE_AA)
        if there:
            cv2.line(tag, (at, round(big * 0.86)), (at + wide, round(big * 0.86)), tint, max(3, big // 16))
        at += wide + round(pad * 1.2)
    return cv2.resize(tag, (tag.shape[1] // 3, height), interpolation=cv2.INTER_AREA)


def _blend(image: np.ndarray, tag: np.ndarray, x: int, y: int) -> None:
    """Lays the tag on the image, moved inside it and cut where it is larger; the picture shines through."""
    rows, columns = image.shape[:2]
    x = min(max(x, 0), max(0, columns - tag.shape[1]))
    y = min(max(y, 0), max(0, rows - tag.shape[0]))
    patch = image[y : y + tag.shape[0], x : x + tag.shape[1]]
    cv2.addWeighted(patch, 0.15, tag[: patch.shape[0], : patch.shape[1]], 0.85, 0, dst=patch)
