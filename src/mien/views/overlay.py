"""Overlay: a copy of the recording with face boxes, expressions, probabilities and evidence drawn on it.

Audio and frame times are kept.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import polars as pl

from mien.atomic import atomic_path, make_folder
from mien.errors import OutputError
from mien.labels import EXPRESSIONS
from mien.media.video import frames, probe, write_video
from mien.views.palette import NO_EXPRESSION, VALENCE_AROUSAL, class_colours, rgb
from mien.views.parts import parts_of

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_DARK, _WHITE, _DIM = (18, 20, 24), (255, 255, 255), (150, 156, 164)
#: Label height over image height: readable if the video fills half a screen. Our choice.
LABEL_HEIGHT = 0.042


@dataclass(frozen=True, slots=True)
class Annotation:
    """Annotation of one subject in one frame.

    Attributes:
        name: of the subject, "" if there is only one.
        box: `(4,)` x1, y1, x2, y2 in pixels, None without a face.
        estimate: text of the expression with its probability, or of valence and arousal.
        colour: of box and label, `#rrggbb`.
        evidence: `both`, `face`, `voice` or `none`.
    """

    name: str
    box: np.ndarray | None
    estimate: str
    colour: str
    evidence: str

    @property
    def text(self) -> str:
        """Text of the label."""
        return f"{self.name}  {self.estimate}" if self.name else self.estimate


def write_overlay(path: Path, table: pl.DataFrame, *, media: Path, classes: Sequence[str] = EXPRESSIONS) -> Path:
    """Writes the annotated recording as MP4 (H.264, AAC), or as PNG for an image (the suffix of `path` is replaced).

    Args:
        table: a timeline's table (see `mien.timeline.table.schema`) of this media.
        classes: its class names.

    Returns:
        The path written.

    Raises:
        OutputError: the media has no pictures, or the file cannot be written. MediaError: it cannot be read.
    """
    kind = probe(media).kind
    table = table.filter(pl.col("frame").is_not_null())  # the sound may go on without pictures
    if kind == "audio" or table.is_empty():
        raise OutputError(
            f"{media} has no video frames to draw on",
            follows="No overlay was written.",
            remedy="Omit --overlay for audio, or use --report.",
        )
    if kind == "image":
        path = path.with_suffix(".png")
        image = draw(next(iter(frames(media))).image, next(frame_annotations(table, classes)))
        with atomic_path(path) as temporary:
            temporary.write_bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())
        return path
    times = table.unique("frame").sort("frame")["time_s"].to_list()
    annotations = frame_annotations(table, classes)
    images = (draw(frame.image, shown) for frame, shown in zip(frames(media), annotations, strict=False))
    make_folder(path)
    write_video(path, images, times=times, audio=media)
    return path


def frame_annotations(table: pl.DataFrame, classes: Sequence[str] = EXPRESSIONS) -> Iterator[list[Annotation]]:
    """Yields the annotations of each frame, in frame order.

    Labels show the expression; where the timeline has none in any row, valence and arousal.
    """
    table = table.sort("frame", "subject")
    boxes = table.select("x1", "y1", "x2", "y2").cast(pl.Float64).fill_null(float("nan")).to_numpy()
    frame = table["frame"].to_numpy()
    several = table["subject"].n_unique() > 1
    estimates = _expression_texts(table, classes) if parts_of(table).expression else _valence_arousal_texts(table)
    subjects, evidence = table["subject"].to_list(), table["evidence"].to_list()

    def annotation(i: int) -> Annotation:
        box = boxes[i] if np.isfinite(boxes[i]).all() else None
        return Annotation(str(subjects[i]) if several else "", box, *estimates[i], evidence[i])

    starts = np.flatnonzero(np.diff(frame, prepend=-1))
    for a, b in zip(starts, np.append(starts[1:], len(frame)), strict=True):
        yield [annotation(i) for i in range(a, b)]


def _expression_texts(table: pl.DataFrame, classes: Sequence[str]) -> list[tuple[str, str]]:
    """Text and colour of each row's expression. A name without any letter or digit that the font has is `class N`, its
    number in `classes` from 1."""
    colours = class_colours(classes)
    names = {
        name: name if any(c.isalnum() for c in _ascii(name)) else f"class {number}"
        for number, name in enumerate(classes, 1)
    }
    rows = zip(table["expression"].to_list(), table["confidence"].to_list(), strict=True)
    return [(f"{names[e]} {c:.0%}", colours[e]) if e else ("no expression", NO_EXPRESSION) for e, c in rows]


def _valence_arousal_texts(table: pl.DataFrame) -> list[tuple[str, str]]:
    """Text and colour of each row's valence and arousal."""
    rows = zip(table["valence"].to_list(), table["arousal"].to_list(), strict=True)
    return [
        ("no valence, no arousal", NO_EXPRESSION)
        if v is None or a is None
        else (f"valence {v:+.2f}, arousal {a:+.2f}", VALENCE_AROUSAL)
        for v, a in rows
    ]


def draw(image: np.ndarray, annotated: list[Annotation]) -> np.ndarray:
    """Copy of an image `(height, width, 3)` uint8 RGB with boxes and labels.

    Labels of subjects without a face are stacked in the lower left corner.
    """
    image = np.ascontiguousarray(image).copy()
    height = max(20, round(image.shape[0] * LABEL_HEIGHT))
    line = max(2, round(height / 12))
    without_face = 0
    for annotation in annotated:
        label = _label(_ascii(annotation.text), annotation.evidence, annotation.colour, height)
        if annotation.box is None:
            without_face += 1
            _blend(image, label, 0, image.shape[0] - without_face * height)
            continue
        x1, y1, x2, y2 = (int(v) for v in np.rint(annotation.box))
        tint = rgb(annotation.colour)
        cv2.rectangle(image, (x1, y1), (x2, y2), _DARK, line + 2, cv2.LINE_AA)
        cv2.rectangle(image, (x1, y1), (x2, y2), tint, line, cv2.LINE_AA)
        _blend(image, label, x1, y1 - height if y1 >= height else y2)
    return image


def _ascii(text: str) -> str:
    """The text without accents; other letters outside ASCII, which OpenCV's font lacks, become question marks."""
    letters = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
    return "".join(c for c in letters if not unicodedata.combining(c)).encode("ascii", "replace").decode("ascii")


@lru_cache(maxsize=256)
def _label(text: str, evidence: str, colour: str, height: int) -> np.ndarray:
    """Image of a label: a colour bar, the text, and `face` and `voice`, bright and underlined if they are evidence.

    Drawn three times as large and reduced, because OpenCV's stroke fonts are ragged at the size of a small video.
    """
    large = 3 * height
    scale, thick = large / 34, max(1, round(large / 20))
    tint = rgb(colour)
    words = [(text, scale * 0.78, _WHITE, False)]
    for kind in ("face", "voice"):
        is_evidence = evidence in (kind, "both")
        words.append((kind, scale * 0.62, _WHITE if is_evidence else _DIM, is_evidence))
    widths = [cv2.getTextSize(word, _FONT, size, thick)[0][0] for word, size, _, _ in words]
    pad = round(large * 0.28)
    label = np.full((large, sum(widths) + pad * 5, 3), _DARK, np.uint8)
    label[:, : pad // 2] = tint
    x = round(pad * 1.4)
    for (word, size, ink, is_underlined), width in zip(words, widths, strict=True):
        cv2.putText(label, word, (x, round(large * 0.67)), _FONT, size, ink, thick, cv2.LINE_AA)
        if is_underlined:
            cv2.line(label, (x, round(large * 0.86)), (x + width, round(large * 0.86)), tint, max(3, large // 16))
        x += width + round(pad * 1.2)
    return cv2.resize(label, (label.shape[1] // 3, height), interpolation=cv2.INTER_AREA)


def _blend(image: np.ndarray, label: np.ndarray, x: int, y: int) -> None:
    """Blends a label into the image at x, y, moved inside the image and cropped to it."""
    rows, columns = image.shape[:2]
    x = min(max(x, 0), max(0, columns - label.shape[1]))
    y = min(max(y, 0), max(0, rows - label.shape[0]))
    patch = image[y : y + label.shape[0], x : x + label.shape[1]]
    cv2.addWeighted(patch, 0.15, label[: patch.shape[0], : patch.shape[1]], 0.85, 0, dst=patch)
