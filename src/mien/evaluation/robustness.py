"""Robustness curves: scores of systems under corruptions of their input.

A condition changes the input only; labels, clips and the predicted span stay. All systems see the same corrupted
recordings, and the stronger levels of a corruption contain the weaker ones (same seed), so curves compare systems and
levels rather than random draws.

Conditions here corrupt stored streams (validity, features, times). `mien.evaluation.corruptions` corrupts video and
audio before encoding, which is slower and more realistic.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
import polars as pl
from scipy import stats

from mien.evaluation import bootstrap
from mien.evaluation.predictions import ClipPrediction, PredictStreams, predict
from mien.labels import EXPRESSIONS
from mien.records import FACE, VOICE, Recording, Stream

Item = TypeVar("Item")
#: Function (item, generator seeded per item and equally for every level) -> corrupted item.
Transform = Callable[[Item, np.random.Generator], Item]
#: Shortest and longest burst of missing samples in seconds, from a missed detection to a turned head. Our choice.
BURST_S = (0.2, 5.0)
#: Levels of `stream_conditions`: share of samples missing, noise in standard deviations, shift in seconds.
SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
NOISE = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
SHIFTS_S = (-1.0, -0.5, -0.2, 0.0, 0.2, 0.5, 1.0)
_EXPRESSION_SCORES = ("macro_f1", "low", "high", "accuracy", "difference", "difference_low", "difference_high")
_AFFECT_SCORES = ("va_score",)


@dataclass(frozen=True, slots=True)
class Condition(Generic[Item]):
    """One level of one corruption: a point of a robustness curve.

    Attributes:
        corruption: name of the curve.
        level: position on the curve's axis; inf for no corruption where lower is worse, as in decibels.
        unit: unit of the level.
        transform: applies the corruption. It returns the item itself for no corruption, so that the item is predicted
            once for all curves.
        label: text of the level, by default its number.
    """

    corruption: str
    level: float
    unit: str
    transform: Transform[Item]
    label: str = ""


def no_corruption(item: Item, rng: np.random.Generator) -> Item:
    """Transform that returns the item itself."""
    return item


# --- scoring -------------------------------------------------------------------------------------------------


def score_conditions(
    conditions: Iterable[Condition[Item]],
    items: Sequence[Item],
    models: Mapping[str, Callable[[Any], ClipPrediction]],
    *,
    prepare: Callable[[Item], Any] | None = None,
    classes: Sequence[str] = EXPRESSIONS,
    over: Sequence[int] | None = None,
    reference: str | None = None,
    without_expression: Collection[str] = (),
    without_valence_arousal: Collection[str] = (),
    draws: int = 1000,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> pl.DataFrame:
    """Scores each model under each condition.

    Args:
        items: recordings or footage, whatever the transforms accept.
        models: name -> function from an item (or from the result of `prepare`) to its prediction, see
            `stream_predictor`.
        prepare: applied to each corrupted item once for all models, such as encoding footage.
        over: classes in the macro mean, see `bootstrap.expression_intervals`.
        reference: model that the others are compared with, paired by clip.
        without_expression, without_valence_arousal: models that do not predict it; these scores are NaN for them.
        draws: bootstrap resamples.
        progress: called with the number of finished conditions and of all conditions.

    Returns:
        One row per condition and model, in the given order: `corruption, level, label, unit, model, macro_f1, low,
        high, accuracy, va_score, clips, frames`; with a reference also `difference, difference_low, difference_high`,
        the macro F1 of the reference minus that of the model. Scores without labels, or of what a model does not
        predict, are NaN.
    """
    pending = list(conditions)
    scores = bootstrap.expression_scores(classes, range(len(classes)) if over is None else over)
    rows: list[dict[str, object]] = []
    uncorrupted: dict[int, dict[str, ClipPrediction]] = {}
    for done, condition in enumerate(pending, 1):
        predictions: dict[str, list[ClipPrediction]] = {name: [] for name in models}
        for number, item in enumerate(items):
            corrupted = condition.transform(item, _rng(seed, condition.corruption, number))
            by_model = uncorrupted.get(number) if corrupted is item else None
            if by_model is None:
                prepared = prepare(corrupted) if prepare else corrupted
                by_model = {name: model(prepared) for name, model in models.items()}
            if corrupted is item:
                uncorrupted[number] = by_model
            for name, prediction in by_model.items():
                predictions[name].append(prediction)
        for row in _score_condition(condition, predictions, scores, classes, reference, draws, seed):
            missing = {
                *(_EXPRESSION_SCORES if row["model"] in without_expression else ()),
                *(_AFFECT_SCORES if row["model"] in without_valence_arousal else ()),
            }
            rows.append({name: float("nan") if name in missing else value for name, value in row.items()})
        if progress:
            progress(done, len(pending))
    return pl.DataFrame(rows, infer_schema_length=None)


def _score_condition(
    condition: Condition[Item],
    predictions: Mapping[str, list[ClipPrediction]],
    scores: bootstrap.Scores,
    classes: Sequence[str],
    reference: str | None,
    draws: int,
    seed: int,
) -> list[dict[str, object]]:
    counts = {name: _grouped_confusions(clips, len(classes)) for name, clips in predictions.items()}
    rows = []
    for name, clips in predictions.items():
        expression = bootstrap.intervals(counts[name], scores, draws=draws, seed=seed)
        affect = bootstrap.affect_scores(bootstrap.affect_moments(clips).sum(axis=0))
        labelled = int(counts[name].sum())
        macro = expression["macro_f1"] if labelled else bootstrap.Interval(*[float("nan")] * 3)
        row: dict[str, object] = {
            "corruption": condition.corruption,
            "level": float(condition.level),
            "label": condition.label or f"{condition.level:g}",
            "unit": condition.unit,
            "model": name,
            "macro_f1": macro.value,
            "low": macro.low,
            "high": macro.high,
            "accuracy": expression["accuracy"].value,
            "va_score": float(affect["va_score"]),
            "clips": len(clips),
            "frames": labelled,
        }
        if reference is not None:
            gaps = bootstrap.paired_difference(counts[reference], counts[name], scores, draws=draws, seed=seed)
            gap = gaps["macro_f1"]
            row |= {"difference": gap.value, "difference_low": gap.low, "difference_high": gap.high}
        rows.append(row)
    return rows


def _grouped_confusions(clips: Sequence[ClipPrediction], classes: int) -> np.ndarray:
    counts = bootstrap.confusions([c.true_class for c in clips], [c.predicted_class for c in clips], classes=classes)
    return bootstrap.sum_by_group(counts, [c.group or c.id for c in clips])


def aggregate_seeds(tables: Sequence[pl.DataFrame], level: float = bootstrap.LEVEL) -> pl.DataFrame:
    """Averages tables of `score_conditions` over training seeds, one table per seed.

    Scores become means over seeds; `low, high`, `va_low, va_high` and `difference_low, difference_high` become the ends
    of the t-interval of the mean. One table is returned as it is.
    """
    if len(tables) == 1:
        return tables[0]
    keys = ["corruption", "level", "label", "unit", "model"]
    means = [c for c in ("macro_f1", "accuracy", "va_score", "difference") if c in tables[0].columns]
    ends = [
        ("macro_f1", "low", "high"),
        ("va_score", "va_low", "va_high"),
        ("difference", "difference_low", "difference_high"),
    ]
    n = len(tables)
    half_width = float(stats.t.ppf((1 + level) / 2, n - 1)) / n**0.5
    grouped = pl.concat(tables).group_by(keys, maintain_order=True)
    out = grouped.agg(
        *(pl.col(c).mean() for c in means),
        *(pl.col(c).std().alias(f"{c} spread") for c, _, _ in ends if c in means),
        pl.col("clips").first(),
        pl.col("frames").first(),
        seeds=pl.len(),
    )
    for name, low, high in ends:
        if name in means:
            half = pl.col(f"{name} spread") * half_width
            out = out.with_columns((pl.col(name) - half).alias(low), (pl.col(name) + half).alias(high))
    return out.drop([c for c in out.columns if c.endswith(" spread")])


def stream_predictor(predict_streams: PredictStreams, *modalities: str) -> Callable[[Recording], ClipPrediction]:
    """Model for `score_conditions` from a checkpoint's `predict_streams`.

    Args:
        modalities: streams the model receives, all by default; `stream_predictor(f, "voice")` is voice only.

    The model raises ValueError for a recording without labels.
    """

    def model(recording: Recording) -> ClipPrediction:
        if recording.clip.labels is None:
            raise ValueError(f"clip {recording.clip.id!r} has no labels, so it cannot be scored")
        streams = {n: s for n, s in recording.streams.items() if not modalities or n in modalities}
        return predict(predict_streams, replace(recording, streams=streams))

    return model


def _rng(seed: int, corruption: str, number: int) -> np.random.Generator:
    """Random generator of an item under a corruption, the same for every level, so that levels are nested."""
    return np.random.default_rng([seed, zlib.crc32(corruption.encode()), number])


# --- conditions on stored streams ----------------------------------------------------------------------------


def drop_samples(modality: str, share: float, burst_s: tuple[float, float] = BURST_S) -> Transform[Recording]:
    """Transform that drops a share of a stream's valid samples, in bursts of `burst_s` seconds (log-uniform).

    The recording is cut into segments of such lengths. They are dropped in random order, the last one in part, so that
    the share is exact to one sample and a larger share drops a superset. Dropped values are zeroed as well as invalid,
    so that a system that ignores validity cannot use them.
    """

    def transform(recording: Recording, rng: np.random.Generator) -> Recording:
        return _change_stream(recording, modality, lambda stream: _drop_bursts(stream, share, burst_s, rng))

    return transform if share > 0 else no_corruption


def _drop_bursts(stream: Stream, share: float, burst_s: tuple[float, float], rng: np.random.Generator) -> Stream:
    if not len(stream.times):
        return stream
    low, high = np.log(burst_s)
    span = float(stream.times[-1] - stream.times[0])
    lengths = np.exp(rng.uniform(low, high, int(span / burst_s[0]) + 2))
    # A random first cut, or every recording would begin with a whole segment.
    cuts = stream.times[0] - rng.uniform(0, lengths[0]) + np.cumsum(lengths)
    segment = np.searchsorted(cuts, stream.times, side="right")
    order = rng.permutation(len(lengths) + 1)[segment]
    valid = np.flatnonzero(stream.valid)
    is_dropped = np.zeros(len(stream.times), bool)
    is_dropped[valid[np.argsort(order[valid], kind="stable")][: round(share * len(valid))]] = True
    return replace(stream, values=np.where(is_dropped[:, None], 0.0, stream.values), valid=stream.valid & ~is_dropped)


def add_feature_noise(modality: str, level: float) -> Transform[Recording]:
    """Transform that adds Gaussian noise to a stream's features, `level` standard deviations of each feature."""

    def transform(recording: Recording, rng: np.random.Generator) -> Recording:
        def change(stream: Stream) -> Stream:
            if not stream.valid.any():
                return stream
            spread = stream.values[stream.valid].std(axis=0)
            noise = rng.standard_normal(stream.values.shape) * (level * spread)
            return replace(stream, values=(stream.values + noise).astype(stream.values.dtype))

        return _change_stream(recording, modality, change)

    return transform if level > 0 else no_corruption


def shift_stream(modality: str, seconds: float) -> Transform[Recording]:
    """Transform that shifts a stream in time; positive seconds delay it."""

    def transform(recording: Recording, rng: np.random.Generator) -> Recording:
        return _change_stream(recording, modality, lambda stream: replace(stream, times=stream.times + seconds))

    return transform if seconds else no_corruption


def _change_stream(recording: Recording, modality: str, change: Callable[[Stream], Stream]) -> Recording:
    if modality not in recording.streams:
        return recording
    return replace(recording, streams={**recording.streams, modality: change(recording.streams[modality])})


def stream_conditions(
    *,
    shares: Sequence[float] = SHARES,
    noise: Sequence[float] = NOISE,
    shifts_s: Sequence[float] = SHIFTS_S,
) -> list[Condition[Recording]]:
    """Conditions of `mien evaluate --robustness` on stored streams.

    Missing face frames, silence (no valid voice samples), noise on the features of either, and late or early voice.
    """
    percent = [(share, round(100 * share)) for share in shares]
    return [
        *(Condition("face frames missing", p, "%", drop_samples(FACE, s)) for s, p in percent),
        *(Condition("voice silent", p, "%", drop_samples(VOICE, s)) for s, p in percent),
        *(Condition("noise on face features", n, "deviations", add_feature_noise(FACE, n)) for n in noise),
        *(Condition("noise on voice features", n, "deviations", add_feature_noise(VOICE, n)) for n in noise),
        *(Condition("voice late", s, "s", shift_stream(VOICE, s)) for s in shifts_s),
    ]
