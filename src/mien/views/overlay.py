"""Overlay: a copy of the recording with face boxes, expressions, probabilities and evidence drawn on it.

Audio and frame times are kept.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import polars as pl

from mien.atomic import atomic_path, make_folder
from mien.errors import OutputError
from mien.labels import EXPRESSIONS
from mien.media.audio import SAMPLE_RATE, blocks
from mien.media.mp4_writer import storable, write_frames
from mien.media.sound_runs import runs
from mien.media.video import frames, probe
from mien.records import Frame
from mien.views.palette import NO_EXPRESSION, VALENCE_AROUSAL, class_colours, rgb
from mien.views.parts import parts_of

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_DARK, _WHITE, _DIM = (18, 20, 24), (255, 255, 255), (150, 156, 164)
#: x1, y1, x2, y2 in pixels. Name and colour of each class in a legend.
Box = tuple[int, int, int, int]
Legend = Sequence[tuple[str, str]]
#: Largest label height over image height, readable if the video fills half a screen; label height over box height; and
#: smallest label height in pixels. Our choice.
LABEL_HEIGHT, LABEL_OF_BOX, MIN_LABEL = 0.042, 0.22, 13
#: With more faces than this in some frame, labels are numbers and a legend names the colours. Our choice.
CROWD = 6
#: Where a label may be, best first: corner of the box that it touches, in shares of the box, and of the label.
_PLACES = ((0, 0, 0, -1), (0, 1, 0, 0), (0, 0, 0, 0), (0, 1, 0, -1), (1, 0, -1, -1), (1, 0, 0, 0), (0, 0, -1, 0))


@dataclass(frozen=True, slots=True)
class Annotation:
    """Annotation of one subject in one frame.

    Attributes:
        name: of the subject, "" if there is only one.
        box: `(4,)` x1, y1, x2, y2 in pixels, None for a voice without a face.
        estimate: text of the expression with its probability, or of valence and arousal.
        colour: of box and label, `#rrggbb`.
        evidence: `both`, `face`, `voice` or `none`; "" where the recording has no speech, so that none is shown.
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


def write_overlay(
    path: Path,
    table: pl.DataFrame,
    *,
    media: Path,
    classes: Sequence[str] = EXPRESSIONS,
    audio_track: int | None = None,
) -> Path:
    """Writes the annotated recording as MP4 (H.264, AAC), or as PNG for an image (the suffix of `path` is replaced).

    Only the user may read it, unless the folder says otherwise (`mien.scratch.private_mode`).

    Args:
        table: a timeline's table (see `mien.timeline.columns.schema`) of this media.
        classes: its class names.
        audio_track: number of the sound track, from 1; None: the one that `probe` chooses.

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
    legend = _legend(table, classes)
    annotations = frame_annotations(table, classes)
    if kind == "image":
        path = path.with_suffix(".png")
        image = draw(next(iter(frames(media))).image, next(annotations)[1], legend)
        with atomic_path(path, private=True) as temporary:
            temporary.write_bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())
        return path
    times = table.unique("frame").sort("frame")["time_s"].to_list()
    first = int(table["frame"].min() or 0)  # type: ignore[arg-type]
    start, sound = (0.0, media) if first == 0 else (times[0], _sound_from(media, audio_track, times[0], times[-1]))
    images = _draw_frames(frames(media), annotations, legend)
    make_folder(path)
    timed = storable(zip((t - start for t in times), images, strict=True))
    write_frames(path, timed, audio=sound, audio_track=audio_track, private=True)
    return path


def _draw_frames(
    decoded: Iterable[Frame], annotations: Iterator[tuple[int, list[Annotation]]], legend: Legend
) -> Iterator[np.ndarray]:
    """The frames that the timeline has, drawn on; those before a section are decoded and dropped."""
    wanted = next(annotations, None)
    for frame in decoded:
        if wanted is None:
            return
        if frame.index == wanted[0]:
            yield draw(frame.image, wanted[1], legend)
            wanted = next(annotations, None)


def _sound_from(media: Path, audio_track: int | None, start_s: float, stop_s: float) -> np.ndarray | None:
    """The sound of a section, 16 kHz, up to its first hole; None without sound there."""
    parts: list[np.ndarray] = []
    for run in runs(blocks(media, track=audio_track)):
        for block_s, samples in run:
            first, last = (max(0, round((t - block_s) * SAMPLE_RATE)) for t in (start_s, stop_s))
            parts.append(samples[first:last])
        if any(len(part) for part in parts):
            break
    sound = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    return sound if len(sound) else None


def _legend(table: pl.DataFrame, classes: Sequence[str]) -> Legend:
    """Names and colours of the classes that occur, if some frame shows a crowd; else nothing."""
    faces = table.drop_nulls("x1").group_by("frame").len()["len"].to_numpy()
    if faces.max(initial=0) <= CROWD or not parts_of(table).expression:
        return ()
    occurring, colours = set(table["expression"].drop_nulls().unique()), class_colours(classes)
    return tuple((text, colours[name]) for name, text in _names(classes).items() if name in occurring)


def frame_annotations(
    table: pl.DataFrame, classes: Sequence[str] = EXPRESSIONS
) -> Iterator[tuple[int, list[Annotation]]]:
    """Yields number and annotations of each frame, in order.

    Labels show the expression; where the timeline has none in any row, valence and arousal. A person who is not seen
    has an annotation only while their own voice is heard, or the voice of the only subject.
    """
    table = table.sort("frame", "subject")
    boxes = table.select("x1", "y1", "x2", "y2").cast(pl.Float64).fill_null(float("nan")).to_numpy()
    frame = table["frame"].to_numpy()
    several = table["subject"].n_unique() > 1
    estimates = _expression_texts(table, classes) if parts_of(table).expression else _valence_arousal_texts(table)
    subjects, evidence, speech = (table[name].to_list() for name in ("subject", "evidence", "speech"))
    has_voice = any(e in ("voice", "both") for e in evidence)
    is_seen = np.isfinite(boxes).all(axis=1)

    def annotation(i: int) -> Annotation:
        box = boxes[i] if is_seen[i] else None
        return Annotation(str(subjects[i]) if several else "", box, *estimates[i], evidence[i] if has_voice else "")

    def is_shown(i: int) -> bool:
        return bool(is_seen[i]) or (evidence[i] == "voice" and (not several or speech[i] == "own"))

    starts = np.flatnonzero(np.diff(frame, prepend=-1))
    for a, b in zip(starts, np.append(starts[1:], len(frame)), strict=True):
        yield int(frame[a]), [annotation(i) for i in range(a, b) if is_shown(i)]


def _names(classes: Sequence[str]) -> dict[str, str]:
    """Class -> its name as the font can write it: one without any letter or digit that the font has is `class N`, its
    number in `classes` from 1."""
    return {
        name: name if any(c.isalnum() for c in _ascii(name)) else f"class {number}"
        for number, name in enumerate(classes, 1)
    }


def _expression_texts(table: pl.DataFrame, classes: Sequence[str]) -> list[tuple[str, str]]:
    """Text and colour of each row's expression."""
    colours, names = class_colours(classes), _names(classes)
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


def draw(image: np.ndarray, annotated: list[Annotation], legend: Legend = ()) -> np.ndarray:
    """Copy of an image `(height, width, 3)` uint8 RGB with boxes and labels.

    A label is as large as its box allows. Labels do not overlap: where a full label has no room, the number alone is
    written, and where that has none, the box stands without a label. Voices without a face are stacked in the lower
    left corner.

    Args:
        legend: names and colours for the lower edge; labels are then numbers.
    """
    image = np.ascontiguousarray(image).copy()
    largest = max(20, round(image.shape[0] * LABEL_HEIGHT))
    taken: list[Box] = []
    if legend:
        taken += _draw_legend(image, legend, max(MIN_LABEL, round(largest * 0.8)))
    seen = [a for a in annotated if a.box is not None]
    for annotation in seen:
        x1, y1, x2, y2 = _corners(annotation)
        line = max(1, min(round(largest / 12), round((y2 - y1) / 40)))
        cv2.rectangle(image, (x1, y1), (x2, y2), _DARK, line + 2, cv2.LINE_AA)
        cv2.rectangle(image, (x1, y1), (x2, y2), rgb(annotation.colour), line, cv2.LINE_AA)
    boxes = [_corners(a) for a in seen]
    for annotation in sorted(seen, key=lambda a: -_height(a)):
        height = min(largest, max(MIN_LABEL, round(_height(annotation) * LABEL_OF_BOX)))
        number = _label(_ascii(annotation.name), "", annotation.colour, height) if annotation.name else None
        full = None if legend and number is not None else _full_label(annotation, height)
        for label in (full, number):
            others = [box for box in boxes if box != _corners(annotation)]
            if label is not None and (place := _find_place(label, _corners(annotation), taken, others, image.shape)):
                _blend(image, label, *place)
                taken.append((*place, place[0] + label.shape[1], place[1] + label.shape[0]))
                break
    bottom = image.shape[0] - sum(box[3] - box[1] for box in taken[:1] if legend)
    for row, annotation in enumerate(a for a in annotated if a.box is None):
        _blend(image, _full_label(annotation, largest), 0, bottom - (row + 1) * largest)
    return image


def _corners(annotation: Annotation) -> Box:
    """The box in whole pixels."""
    assert annotation.box is not None
    x1, y1, x2, y2 = (int(v) for v in np.rint(annotation.box))
    return x1, y1, x2, y2


def _height(annotation: Annotation) -> int:
    _, y1, _, y2 = _corners(annotation)
    return y2 - y1


def _full_label(annotation: Annotation, height: int) -> np.ndarray:
    return _label(_ascii(annotation.text), annotation.evidence, annotation.colour, height)


def _find_place(
    label: np.ndarray, box: Box, taken: Sequence[Box], others: Sequence[Box], shape: tuple[int, ...]
) -> tuple[int, int] | None:
    """Upper left corner of a label beside its box that overlaps no other label, and no other box if possible."""
    tall, wide = label.shape[:2]
    width, height = box[2] - box[0], box[3] - box[1]
    free = []
    for right, down, by_width, by_height in _PLACES:
        x = round(box[0] + right * width + by_width * wide)
        y = round(box[1] + down * height + by_height * tall)
        x, y = min(max(x, 0), max(0, shape[1] - wide)), min(max(y, 0), max(0, shape[0] - tall))
        area = (x, y, x + wide, y + tall)
        if not any(_overlap(area, other) for other in taken):
            free.append((x, y, any(_overlap(area, other) for other in others)))
    return min(free, key=lambda place: place[2])[:2] if free else None


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _draw_legend(image: np.ndarray, legend: Legend, height: int) -> list[Box]:
    """Draws names and colours along the lower edge, in as many rows as they need; returns the area."""
    rows: list[list[np.ndarray]] = [[]]
    for name, colour in legend:
        label = _label(_ascii(name), "", colour, height)
        if rows[-1] and sum(part.shape[1] for part in rows[-1]) + label.shape[1] > image.shape[1]:
            rows.append([])
        rows[-1].append(label)
    top = max(0, image.shape[0] - height * len(rows))
    for number, row in enumerate(rows):
        x = 0
        for label in row:
            _blend(image, label, x, top + number * height)
            x += label.shape[1]
    return [(0, top, image.shape[1], image.shape[0])]


def _ascii(text: str) -> str:
    """The text without accents; other letters outside ASCII, which OpenCV's font lacks, become question marks."""
    letters = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
    return "".join(c for c in letters if not unicodedata.combining(c)).encode("ascii", "replace").decode("ascii")


@lru_cache(maxsize=256)
def _label(text: str, evidence: str, colour: str, height: int) -> np.ndarray:
    """Image of a label: a colour bar, the text, and `face` and `voice`, bright and underlined if they are evidence;
    without evidence "" the text alone.

    Drawn three times as large and reduced, because OpenCV's stroke fonts are ragged at the size of a small video.
    """
    large = 3 * height
    scale, thick = large / 34, max(1, round(large / 20))
    tint = rgb(colour)
    words = [(text, scale * 0.78, _WHITE, False)]
    for kind in ("face", "voice") if evidence else ():
        is_evidence = evidence in (kind, "both")
        words.append((kind, scale * 0.62, _WHITE if is_evidence else _DIM, is_evidence))
    widths = [cv2.getTextSize(word, _FONT, size, thick)[0][0] for word, size, _, _ in words]
    pad = round(large * 0.28)
    label = np.full((large, sum(widths) + pad * (5 if evidence else 3), 3), _DARK, np.uint8)
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
