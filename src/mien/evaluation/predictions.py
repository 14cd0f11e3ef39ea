"""Frame-by-frame predictions with ground truth: the input of scores, calibration and submissions.

Predictions come from any function with the signature of `Checkpoint.predict_streams`. `save` and `load` store them as
one Parquet table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from mien import clock, json_object
from mien.atomic import atomic_path
from mien.errors import ConfigError
from mien.inference import scores_of
from mien.labels import EXPRESSIONS, NEUTRAL, SCORE_TASKS, UNLABELLED, probability_column
from mien.records import Recording, Stream
from mien.timeline import parquet_digest
from mien.timeline.read_file import UNREADABLE, source_of

#: Function `(streams, start_s, stop_s)` -> times `(token,)` in seconds, probabilities `(token, classes)`, valence and
#: arousal `(token, 2)`, such as `Checkpoint.predict_streams`. NaN means no evidence.
PredictStreams = Callable[[Mapping[str, Stream], float, float], tuple[np.ndarray, np.ndarray, np.ndarray]]
FORMAT = "mien-predictions-1"
_TRUTH = "truth "


@dataclass(frozen=True, slots=True)
class ClipPrediction:
    """Predictions and ground truth of one clip.

    Attributes:
        id: the clip's id.
        times: `(frame,)` seconds.
        probabilities: `(frame, classes)` predicted, NaN without evidence.
        valence_arousal: `(frame, 2)` predicted, in [-1, 1], NaN without evidence.
        true_class: `(frame,)` class index, -1 for unlabelled.
        true_valence_arousal: `(frame, 2)` in [-1, 1], NaN for unlabelled.
        group: clips of one group (subject) stay together in resampling and cross-validation.
        scores, true_scores: score task -> `(frame, columns)` in [0, 1], predicted and labelled; NaN without evidence
            and where unlabelled. Tasks that are not predicted, or not labelled, are left out.
    """

    id: str
    times: np.ndarray
    probabilities: np.ndarray
    valence_arousal: np.ndarray
    true_class: np.ndarray
    true_valence_arousal: np.ndarray
    group: str = ""
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    true_scores: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def filled_probabilities(self) -> np.ndarray:
        """Probabilities `(frame, classes)` without gaps, see `nearest_valid`; Neutral if no frame has evidence."""
        valid = np.isfinite(self.probabilities).all(axis=1)
        neutral = np.eye(self.probabilities.shape[1])[NEUTRAL]
        return _fill(self.probabilities, valid, neutral)

    @property
    def predicted_class(self) -> np.ndarray:
        """Most probable class of each frame, `(frame,)`, without gaps."""
        classes: np.ndarray = self.filled_probabilities.argmax(axis=1)
        return classes

    @property
    def filled_valence_arousal(self) -> np.ndarray:
        """Valence and arousal `(frame, 2)` without gaps; 0, 0 if no frame has evidence."""
        return _fill(self.valence_arousal, np.isfinite(self.valence_arousal).all(axis=1), np.zeros(2))

    def filled_scores(self, task: str) -> np.ndarray:
        """Scores `(frame, columns)` of a task without gaps; 0 if no frame has evidence."""
        scores = self.scores[task]
        return _fill(scores, np.isfinite(scores).all(axis=1), np.zeros(scores.shape[1]))

    def mean_scores(self, task: str) -> np.ndarray:
        """Mean `(columns,)` of the scores over frames with evidence, for tasks with one label a clip; NaN without."""
        scores = self.scores[task]
        known = np.isfinite(scores).all(axis=1)
        return np.asarray(scores[known].mean(axis=0) if known.any() else np.full(scores.shape[1], np.nan))


def _fill(values: np.ndarray, valid: np.ndarray, default: np.ndarray) -> np.ndarray:
    if not valid.any():
        return np.tile(default, (len(values), 1))
    filled: np.ndarray = values[nearest_valid(valid)]
    return filled


def nearest_valid(valid: np.ndarray) -> np.ndarray:
    """Index of the nearest valid frame for each frame, `(frame,)` bool -> `(frame,)` int; the earlier one on ties.

    Scores and submissions use this rule for frames without evidence: they take the nearest prediction of the clip, and
    a clip without any is Neutral, or 0, 0. Our choice, because expressions last and a frame without a prediction
    counts as wrong.

    Raises ValueError if no frame is valid.
    """
    indices = np.flatnonzero(valid)
    if not len(indices):
        raise ValueError("no frame is valid, so there is no nearest one")
    nearest: np.ndarray = indices[clock.nearest(indices, np.arange(len(valid)))]
    return nearest


def predict(
    predict_streams: PredictStreams, recording: Recording, *, times: np.ndarray | None = None
) -> ClipPrediction:
    """Predicts every frame of one recording.

    The predicted span runs from 0 s (or the first frame, if earlier) to the end of the last frame. It does not depend
    on the streams, so corrupted streams are scored on the same span.

    Args:
        predict_streams: the system.
        times: `(frame,)` seconds to predict at; None takes those of the labels.

    Raises ValueError if there are neither times nor labels.
    """
    clip = recording.clip
    labels = clip.labels
    if times is None:
        if labels is None:
            raise ValueError(f"clip {clip.id!r} has no labels, so times must say where to predict")
        times = labels.times
    n = len(times)
    step = clock.median_step(times)
    start_s, stop_s = (min(0.0, float(times[0])), float(times[-1]) + step) if n else (0.0, 0.0)
    prediction = predict_streams(recording.streams, start_s, stop_s)
    tokens, probabilities, affect = prediction
    truth, true_affect = np.full(n, UNLABELLED, np.int64), np.full((n, 2), np.nan)
    true_scores: dict[str, np.ndarray] = {}
    if labels is not None:
        rows = min(n, len(labels.times))
        truth[:rows], true_affect[:rows] = labels.expression[:rows], labels.valence_arousal[:rows]
        for task, values in labels.scores.items():
            true_scores[task] = np.full((n, values.shape[1]), np.nan)
            true_scores[task][:rows] = values[:rows]
    return ClipPrediction(
        clip.id,
        np.asarray(times, float),
        clock.interpolate(probabilities, tokens, times),
        clock.interpolate(affect, tokens, times),
        truth,
        true_affect,
        clip.subject or clip.id,
        {task: clock.interpolate(scores, tokens, times) for task, scores in scores_of(prediction).items()},
        true_scores,
    )


def save(path: Path, predictions: Iterable[ClipPrediction], classes: Sequence[str] = EXPRESSIONS) -> Path:
    """Writes predictions as Parquet, one row per frame, missing values as null.

    Columns: `clip, group, time_s`, one probability per class (`p_neutral`, ...), `valence, arousal, truth,
    truth_valence, truth_arousal`, and for each score task of any clip its columns, such as `au AU1` and `truth au AU1`.
    Raises OutputError.
    """
    path = Path(path)
    parts = [_table(p, classes) for p in predictions]
    table = pl.concat(parts, how="diagonal") if parts else pl.DataFrame()
    metadata = {"mien": json.dumps({"format": FORMAT, "classes": list(classes)}), **parquet_digest.METADATA}
    with atomic_path(path) as temporary:
        try:
            table.write_parquet(temporary, metadata=metadata)
        except pl.exceptions.PolarsError as error:  # polars wraps OSErrors such as a full disk
            raise OSError(str(error)) from error
        parquet_digest.add(temporary)
    return path


def _table(prediction: ClipPrediction, classes: Sequence[str]) -> pl.DataFrame:
    p, n = prediction, len(prediction.times)
    floats = {
        **{probability_column(name): p.probabilities[:, i] for i, name in enumerate(classes)},
        "valence": p.valence_arousal[:, 0],
        "arousal": p.valence_arousal[:, 1],
        "truth_valence": p.true_valence_arousal[:, 0],
        "truth_arousal": p.true_valence_arousal[:, 1],
        **{name: v[:, i] for task, v in p.scores.items() for i, name in enumerate(_score_columns(task))},
        **{name: v[:, i] for task, v in p.true_scores.items() for i, name in enumerate(_score_columns(task, _TRUTH))},
    }
    return pl.DataFrame(
        [
            pl.repeat(p.id, n, dtype=pl.String, eager=True).alias("clip"),
            pl.repeat(p.group, n, dtype=pl.String, eager=True).alias("group"),
            pl.Series("time_s", p.times, dtype=pl.Float64),
            *(pl.Series(name, np.asarray(v, np.float32)).fill_nan(None) for name, v in floats.items()),
            pl.Series("truth", p.true_class, dtype=pl.Int16),
        ]
    ).with_columns(truth=pl.when(pl.col("truth") >= 0).then("truth"))


def _score_columns(task: str, prefix: str = "") -> list[str]:
    return [f"{prefix}{task} {column}" for column in SCORE_TASKS[task].columns]


def load(path: Path) -> tuple[list[ClipPrediction], list[str]]:
    """Reads predictions and class names from a file of `save`. Raises ConfigError for any other file."""
    try:
        parquet_digest.verify(path)
        about = json_object.parse(pl.read_parquet_metadata(source_of(path))["mien"])
        table = pl.read_parquet(source_of(path), glob=False)
        if about["format"] != FORMAT:
            raise KeyError(about["format"])
        classes = list(about["classes"])
    except (KeyError, *UNREADABLE) as error:
        raise ConfigError(
            f"{path} is not a table of predictions ({type(error).__name__}: {error})",
            follows="Nothing was computed.",
            remedy="Give a file written by `mien evaluate` or mien.evaluation.predictions.save.",
        ) from None
    return [_prediction(rows, classes) for rows in table.partition_by("clip", maintain_order=True)], classes


def _prediction(rows: pl.DataFrame, classes: Sequence[str]) -> ClipPrediction:
    def floats(*names: str) -> np.ndarray:
        return rows.select(pl.col(n).cast(pl.Float64).fill_null(np.nan) for n in names).to_numpy()

    return ClipPrediction(
        rows["clip"][0],
        rows["time_s"].to_numpy(),
        floats(*map(probability_column, classes)),
        floats("valence", "arousal"),
        rows["truth"].fill_null(UNLABELLED).to_numpy().astype(np.int64),
        floats("truth_valence", "truth_arousal"),
        rows["group"][0],
        _scores(rows),
        _scores(rows, _TRUTH),
    )


def _scores(rows: pl.DataFrame, prefix: str = "") -> dict[str, np.ndarray]:
    """Scores of the tasks whose columns the rows have, unless all of them are empty."""
    found = {}
    for task in SCORE_TASKS:
        names = _score_columns(task, prefix)
        if set(names) <= set(rows.columns):
            values = rows.select(pl.col(name).cast(pl.Float64).fill_null(np.nan) for name in names).to_numpy()
            if np.isfinite(values).any():
                found[task] = values
    return found
