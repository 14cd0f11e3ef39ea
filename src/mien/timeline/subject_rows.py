"""The rows of one subject, from predictions and what was measured, as columns of a timeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from mien.labels import EXPRESSIONS, probability_column, score_columns
from mien.timeline.class_names import check_classes
from mien.timeline.columns import BOX, QUALITY, schema

#: Rows made into a table at once: on the way there they take six times its memory.
_AT_ONCE = 16_384


def subject_rows(
    subject: int,
    times: np.ndarray,
    *,
    probabilities: np.ndarray,
    valence_arousal: np.ndarray,
    voice: np.ndarray,
    classes: Sequence[str] = EXPRESSIONS,
    speech: np.ndarray | None = None,
    face: np.ndarray | None = None,
    boxes: np.ndarray | None = None,
    frames: np.ndarray | None = None,
    quality: Mapping[str, np.ndarray] | None = None,
    scores: Mapping[str, np.ndarray] | None = None,
) -> pl.DataFrame:
    """Builds the table of one subject from arrays over its rows.

    Args:
        times: `(row,)` seconds, increasing.
        probabilities: `(row, classes)`. NaN rows, without evidence in reach, become null with confidence 0.
        valence_arousal: `(row, 2)` in [-1, 1], or NaN.
        voice: `(row,)` bool, whether there is speech that may be the subject's.
        classes: class names in the order of `probabilities`.
        speech: `(row,)` str, one of SPEECH, or empty for no speech; by default `shared` wherever there is voice.
        face: `(row,)` bool, whether a face was detected in the frame.
        boxes: `(row, 4)` x1, y1, x2, y2 in pixels of the upright frame, ignored without a face.
        frames: `(row,)` int frame numbers, -1 for rows without a picture, where the column is null; None: no pictures.
        quality: column of QUALITY -> `(row,)` values, NaN where unknown; `uncertain` is bool, and null without an
            estimate. Columns that are not given are null.
        scores: score task -> `(row, columns)` in [0, 1], NaN where unknown; None without score tasks.

    Raises:
        ValueError: `probabilities` has another number of classes.
        ConfigError: two classes have the same column, see `Timeline`.
    """
    n, names = len(times), check_classes(classes)
    if probabilities.shape != (n, len(names)):
        raise ValueError(f"{n} rows of {len(names)} classes need as many probabilities; got {probabilities.shape}")
    face = np.zeros(n, bool) if face is None else face
    speech = np.where(voice, "shared", "") if speech is None else speech
    frames = np.full(n, -1) if frames is None else frames
    known = np.isfinite(probabilities).all(axis=1)
    predicted = known if known.any() else np.ones(n, bool)  # a model of valence and arousal alone has no probabilities

    def table(part: slice) -> pl.DataFrame:
        return _table(
            subject, times[part], names, probabilities[part], valence_arousal[part], known[part], predicted[part],
            face[part], voice[part], speech[part], None if boxes is None else boxes[part], frames[part],
            None if quality is None else {name: values[part] for name, values in quality.items()},
            {task: values[part] for task, values in (scores or {}).items()},
        )  # fmt: skip

    if n <= _AT_ONCE:
        return table(slice(n))
    return pl.concat([table(slice(start, start + _AT_ONCE)) for start in range(0, n, _AT_ONCE)])


def _table(
    subject: int,
    times: np.ndarray,
    names: Sequence[str],
    probabilities: np.ndarray,
    valence_arousal: np.ndarray,
    known: np.ndarray,
    predicted: np.ndarray,
    face: np.ndarray,
    voice: np.ndarray,
    speech: np.ndarray,
    boxes: np.ndarray | None,
    frames: np.ndarray,
    quality: Mapping[str, np.ndarray] | None,
    scores: Mapping[str, np.ndarray],
) -> pl.DataFrame:
    """The table of consecutive rows, see `subject_rows`. known: rows with probabilities. predicted: rows with valence
    and arousal."""
    n = len(times)
    boxes = np.full((n, 4), np.nan) if boxes is None else np.where(face[:, None], boxes, np.nan)
    best = np.where(known[:, None], probabilities, -1).argmax(axis=1)
    evidence = np.array(["none", "voice", "face", "both"])[2 * face.astype(int) + voice.astype(int)]
    data: dict[str, Any] = {
        "time_s": times,
        "frame": [f if f >= 0 else None for f in frames.tolist()],
        "subject": np.full(n, subject),
        **{name: boxes[:, i] for i, name in enumerate(BOX)},
        "evidence": evidence.tolist(),
        "speech": [value or None for value in speech.tolist()],
        "expression": [names[b] if k else None for b, k in zip(best, known, strict=True)],
        **{name: np.where(known, probabilities[:, i], np.nan) for i, name in enumerate(map(probability_column, names))},
        "valence": np.where(predicted, valence_arousal[:, 0], np.nan),
        "arousal": np.where(predicted, valence_arousal[:, 1], np.nan),
        "confidence": np.where(known, probabilities[np.arange(n), best], 0.0),
        **{
            name: quality[name] if quality and name in quality else pl.repeat(None, n, dtype=kind, eager=True)
            for name, kind in QUALITY.items()
        },
        **{c: v[:, i] for task, v in scores.items() for i, c in enumerate(score_columns(task))},
    }
    if quality is not None and "uncertain" in quality:
        estimates = np.concatenate([valence_arousal, *scores.values()], axis=1)
        estimated = known | np.isfinite(estimates).any(axis=1)
        flags = zip(quality["uncertain"].tolist(), estimated, strict=True)
        data["uncertain"] = pl.Series([u if e else None for u, e in flags], dtype=pl.Boolean)
    return pl.DataFrame([_column(name, data[name], kind) for name, kind in schema(names, scores).items()])


def _column(name: str, values: Any, kind: pl.DataType) -> pl.Series:
    """A column of the table; NaN becomes null."""
    if isinstance(values, np.ndarray) and kind.is_float():
        return pl.Series(name, values, nan_to_null=True).cast(kind)
    return pl.Series(name, values, dtype=kind)
