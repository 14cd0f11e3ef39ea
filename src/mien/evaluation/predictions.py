"""What a system said about recordings, frame by frame beside the truth: what every score is computed from.

Predictions come from any function with the signature of `Checkpoint.predict_streams`. A table of them is kept as
one Parquet file, so that scoring, calibration, submissions and anybody's own analysis start from the same rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from mien import clock
from mien.atomic import atomic_path
from mien.errors import ConfigError
from mien.labels import EXPRESSIONS, NEUTRAL, UNLABELLED, column
from mien.records import Recording, Stream

#: `(streams, start_s, stop_s)` -> times `(token,)` seconds, probabilities `(token, classes)`, valence and arousal
#: `(token, 2)`; NaN where there was no evidence. `Checkpoint.predict_streams` is one.
PredictStreams = Callable[[Mapping[str, Stream], float, float], tuple[np.ndarray, np.ndarray, np.ndarray]]
FORMAT = "mien-predictions-1"
_TRUTH = ("truth", "truth_valence", "truth_arousal")


@dataclass(frozen=True, slots=True)
class ClipPrediction:
    """One clip. id, group: of the clip, and what must not be torn apart when clips are drawn or split (the subject).

    times: `(frame,)` seconds. probabilities: `(frame, classes)`, valence_arousal: `(frame, 2)`, both NaN where there
    was no evidence. expression: `(frame,)` true class, -1 unlabelled; true_valence_arousal: `(frame, 2)`, NaN
    unlabelled.
    """

    id: str
    times: np.ndarray
    probabilities: np.ndarray
    valence_arousal: np.ndarray
    expression: np.ndarray
    true_valence_arousal: np.ndarray
    group: str = ""

    @property
    def answered(self) -> np.ndarray:
        """`(frame, classes)` probabilities, every frame answered (see `nearest_known`); Neutral where the clip has
        none."""
        known = np.isfinite(self.probabilities).all(axis=1)
        if not known.any():
            return np.tile(np.eye(self.probabilities.shape[1])[NEUTRAL], (len(self.times), 1))
        return self.probabilities[nearest_known(known)]

    @property
    def chosen(self) -> np.ndarray:
        """`(frame,)` the likeliest class of each frame, every frame answered."""
        return self.answered.argmax(axis=1)

    @property
    def affect(self) -> np.ndarray:
        """`(frame, 2)` valence and arousal, every frame answered; 0, 0 where the clip has none."""
        known = np.isfinite(self.valence_arousal).all(axis=1)
        if not known.any():
            return np.zeros((len(self.times), 2))
        return self.valence_arousal[nearest_known(known)]


def nearest_known(known: np.ndarray) -> np.ndarray:
    """`(frame,)` for each frame the position of the nearest one that is `known` `(frame,)`, of two the earlier.

    The one rule for frames without evidence, in scores as in submissions: the nearest predicted frame of the clip
    speaks for them; a clip without any is Neutral, or 0, 0. Our choice: expressions last, and an unanswered frame
    counts as a wrong one. Raises ValueError where nothing is known.
    """
    places = np.flatnonzero(known)
    if not len(places):
        raise ValueError("no frame is known, so none is the nearest")
    return places[clock.nearest(places, np.arange(len(known)))]


def predict(says: PredictStreams, recording: Recording, *, times: np.ndarray | None = None) -> ClipPrediction:
    """One recording's frames as a system sees them, asked from 0 (or the first frame, if that is earlier) to the end
    of the last frame, whatever the streams hold: what is damaged does not change what is asked.

    Args:
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
    tokens, probabilities, affect = says(recording.streams, start_s, stop_s)
    truth, true_affect = np.full(n, UNLABELLED, np.int64), np.full((n, 2), np.nan)
    if labels is not None:
        rows = min(n, len(labels.times))
        truth[:rows], true_affect[:rows] = labels.expression[:rows], labels.valence_arousal[:rows]
    return ClipPrediction(
        clip.id,
        np.asarray(times, float),
        clock.at(probabilities, tokens, times),
        clock.at(affect, tokens, times),
        truth,
        true_affect,
        clip.subject or clip.id,
    )


# --- files -------------------------------------------------------------------------------------------------


def save(path: Path, predictions: Iterable[ClipPrediction], classes: Sequence[str] = EXPRESSIONS) -> Path:
    """Writes Parquet: one row a frame, columns `clip, group, time_s`, a probability a class (`p_neutral`, ...),
    `valence, arousal, truth, truth_valence, truth_arousal`; what is not there is null.

    Raises OutputError.
    """
    path = Path(path)
    parts = [_table(p, classes) for p in predictions]
    table = pl.concat(parts) if parts else pl.DataFrame()
    about = json.dumps({"format": FORMAT, "classes": list(classes)})
    with atomic_path(path) as temporary:
        try:
            table.write_parquet(temporary, metadata={"mien": about})
        except pl.exceptions.PolarsError as error:  # a full disk, among others
            raise OSError(str(error)) from error
    return path


def _table(prediction: ClipPrediction, classes: Sequence[str]) -> pl.DataFrame:
    p, n = prediction, len(prediction.times)
    floats = {
        **{column(name): p.probabilities[:, i] for i, name in enumerate(classes)},
        "valence": p.valence_arousal[:, 0],
        "arousal": p.valence_arousal[:, 1],
        "truth_valence": p.true_valence_arousal[:, 0],
        "truth_arousal": p.true_valence_arousal[:, 1],
    }
    return pl.DataFrame(
        [
            pl.repeat(p.id, n, dtype=pl.String, eager=True).alias("clip"),
            pl.repeat(p.group, n, dtype=pl.String, eager=True).alias("group"),
            pl.Series("time_s", p.times, dtype=pl.Float64),
            *(pl.Series(name, np.asarray(v, np.float32)).fill_nan(None) for name, v in floats.items()),
            pl.Series("truth", p.expression, dtype=pl.Int16),
        ]
    ).with_columns(truth=pl.when(pl.col("truth") >= 0).then("truth"))


def load(path: Path) -> tuple[list[ClipPrediction], list[str]]:
    """What `save` wrote, and the names of the classes. Raises ConfigError for any other file."""
    try:
        about = json.loads(pl.read_parquet_metadata(path)["mien"])
        table = pl.read_parquet(path)
        if about["format"] != FORMAT:
            raise KeyError(about["format"])
        classes = list(about["classes"])
    except (OSError, KeyError, ValueError, pl.exceptions.PolarsError) as error:
        raise ConfigError(
            f"{path} is not a table of predictions ({type(error).__name__}: {error})",
            follows="nothing was computed",
            remedy="give a file that `mien evaluate` or mien.evaluation.predictions.save wrote",
        ) from None
    return [_prediction(rows, classes) for rows in table.partition_by("clip", maintain_order=True)], classes


def _prediction(rows: pl.DataFrame, classes: Sequence[str]) -> ClipPrediction:
    def floats(*names: str) -> np.ndarray:
        return rows.select(pl.col(n).cast(pl.Float64).fill_null(np.nan) for n in names).to_numpy()

    return ClipPrediction(
        rows["clip"][0],
        rows["time_s"].to_numpy(),
        floats(*map(column, classes)),
        floats("valence", "arousal"),
        rows["truth"].fill_null(UNLABELLED).to_numpy().astype(np.int64),
        floats("truth_valence", "truth_arousal"),
        rows["group"][0],
    )


def with_values(
    prediction: ClipPrediction, probabilities: np.ndarray | None = None, valence_arousal: np.ndarray | None = None
) -> ClipPrediction:
    """The same clip with other answers."""
    changes = {"probabilities": probabilities, "valence_arousal": valence_arousal}
    return replace(prediction, **{name: value for name, value in changes.items() if value is not None})  # type: ignore[arg-type]
