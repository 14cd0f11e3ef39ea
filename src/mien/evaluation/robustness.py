"""Scores against damage: `curve` scores systems under conditions, each a transform of recordings.

A condition changes what goes in and nothing else: labels, clips and what is asked stay. All systems see the same
damaged recordings, and stronger levels of a kind add to the damage of weaker ones (same seed), so that curves compare
systems and levels, not luck.

Conditions here work on stored streams (validity, features, times); `mien.evaluation.corruptions` damages pictures and
sound, which is slower and closer to the world, since the encoders then see the damage.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
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
#: (item, randomness of that item, the same at every level) -> damaged item
Transform = Callable[[Item, np.random.Generator], Item]
#: Shortest and longest stretch without a face, in seconds: a blink of the detector to a turned head.
BURST_S = (0.2, 5.0)
SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
NOISE = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
SHIFTS_S = (-1.0, -0.5, -0.2, 0.0, 0.2, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Condition(Generic[Item]):
    """One point of a curve. corruption: the curve's name; level: where on its axis (inf for none, where less is worse,
    as of decibels); unit: of the level; label: how the level is called, if not by its number.

    A transform that has nothing to do gives back the item itself: it is then predicted once for all curves.
    """

    corruption: str
    level: float
    unit: str
    transform: Transform[Item]
    label: str = ""


def unchanged(item: Item, rng: np.random.Generator) -> Item:
    """The transform of a condition without damage."""
    return item


# --- the engine --------------------------------------------------------------------------------------------


def curve(
    conditions: Iterable[Condition[Item]],
    items: Sequence[Item],
    models: Mapping[str, Callable[[Any], ClipPrediction]],
    *,
    prepare: Callable[[Item], Any] | None = None,
    classes: Sequence[str] = EXPRESSIONS,
    over: Sequence[int] | None = None,
    reference: str | None = None,
    draws: int = 1000,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> pl.DataFrame:
    """Scores each model under each condition.

    Args:
        items: recordings (or footage): anything that transforms and models take.
        models: name -> what it says about an item (`streams_model` makes one of a checkpoint), or about what
            `prepare` makes of it.
        prepare: done once for all models: footage to encoded recording, for one.
        over: classes of the macro mean, see `bootstrap.expression`.
        reference: a model that the others are compared with, paired by clip.
        progress: told how many conditions of how many are done.

    Returns a row per condition and model, in the order given: `corruption, level, label, unit, model, macro_f1, low,
    high, accuracy, va_score, clips, frames`, and with a reference `difference, difference_low, difference_high`: the
    reference's macro F1 minus the model's. Scores of what nobody labelled are NaN.
    """
    every = list(conditions)
    scores = bootstrap.scores_of(classes, range(len(classes)) if over is None else over)
    rows: list[dict[str, object]] = []
    clean: dict[int, dict[str, ClipPrediction]] = {}
    for done, condition in enumerate(every, 1):
        found: dict[str, list[ClipPrediction]] = {name: [] for name in models}
        for number, item in enumerate(items):
            damaged = condition.transform(item, _rng(seed, condition.corruption, number))
            said = clean.get(number) if damaged is item else None
            if said is None:
                given = prepare(damaged) if prepare else damaged
                said = {name: says(given) for name, says in models.items()}
            if damaged is item:
                clean[number] = said
            for name, prediction in said.items():
                found[name].append(prediction)
        rows += _scored(condition, found, scores, classes, reference, draws, seed)
        if progress:
            progress(done, len(every))
    return pl.DataFrame(rows, infer_schema_length=None)


def _scored(
    condition: Condition[Item],
    found: Mapping[str, list[ClipPrediction]],
    scores: bootstrap.Scores,
    classes: Sequence[str],
    reference: str | None,
    draws: int,
    seed: int,
) -> list[dict[str, object]]:
    counts = {name: _grouped_confusions(clips, len(classes)) for name, clips in found.items()}
    rows = []
    for name, clips in found.items():
        said = bootstrap.intervals(counts[name], scores, draws=draws, seed=seed)
        affect = bootstrap.affect_scores(bootstrap.affect_moments(clips).sum(axis=0))
        labelled = int(counts[name].sum())
        macro = said["macro_f1"] if labelled else bootstrap.Interval(*[float("nan")] * 3)
        row: dict[str, object] = {
            "corruption": condition.corruption,
            "level": float(condition.level),
            "label": condition.label or f"{condition.level:g}",
            "unit": condition.unit,
            "model": name,
            "macro_f1": macro.value,
            "low": macro.low,
            "high": macro.high,
            "accuracy": said["accuracy"].value,
            "va_score": float(affect["va_score"]),
            "clips": len(clips),
            "frames": labelled,
        }
        if reference is not None:
            gap = bootstrap.difference(counts[reference], counts[name], scores, draws=draws, seed=seed)["macro_f1"]
            row |= {"difference": gap.value, "difference_low": gap.low, "difference_high": gap.high}
        rows.append(row)
    return rows


def _grouped_confusions(clips: Sequence[ClipPrediction], classes: int) -> np.ndarray:
    counts = bootstrap.confusions([c.expression for c in clips], [c.chosen for c in clips], classes=classes)
    return bootstrap.grouped(counts, [c.group or c.id for c in clips])


def across_seeds(tables: Sequence[pl.DataFrame], level: float = bootstrap.LEVEL) -> pl.DataFrame:
    """Tables of `curve`, one for each training seed, as one: means of the scores, and as `low, high`, `va_low,
    va_high` and `difference_low, difference_high` the t-interval over seeds of the mean. For one table: that table."""
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
    reach = float(stats.t.ppf((1 + level) / 2, n - 1)) / n**0.5
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
            half = pl.col(f"{name} spread") * reach
            out = out.with_columns((pl.col(name) - half).alias(low), (pl.col(name) + half).alias(high))
    return out.drop([c for c in out.columns if c.endswith(" spread")])


def streams_model(says: PredictStreams, *modalities: str) -> Callable[[Recording], ClipPrediction]:
    """A model for `curve` from a checkpoint's `predict_streams`. modalities: what it is given, all by default;
    `streams_model(says, "voice")` is the voice-only system of a fused checkpoint."""

    def model(recording: Recording) -> ClipPrediction:
        if recording.clip.labels is None:
            raise ValueError(f"clip {recording.clip.id!r} has no labels, so it cannot be scored")
        kept = {n: s for n, s in recording.streams.items() if not modalities or n in modalities}
        return predict(says, replace(recording, streams=kept))

    return model


def _rng(seed: int, corruption: str, number: int) -> np.random.Generator:
    """An item's randomness under a corruption: the same at every level, so that levels nest."""
    return np.random.default_rng([seed, zlib.crc32(corruption.encode()), number])


# --- conditions on stored streams ----------------------------------------------------------------------------


def missing(modality: str, share: float, burst_s: tuple[float, float] = BURST_S) -> Transform[Recording]:
    """Takes a share of a stream's valid samples away, in bursts of `burst_s` seconds (log-uniform).

    The recording is cut into stretches of such lengths, which go in random order until the share is gone; the last
    one goes in part. So the share is met to one sample, and what is gone at 10 % is gone at 50 % too. A value that
    went is zero as well as invalid: a system that forgets to look at validity must not see it.
    """

    def transform(recording: Recording, rng: np.random.Generator) -> Recording:
        return _changed(recording, modality, lambda stream: _bursts(stream, share, burst_s, rng))

    return transform if share > 0 else unchanged


def _bursts(stream: Stream, share: float, burst_s: tuple[float, float], rng: np.random.Generator) -> Stream:
    if not len(stream.times):
        return stream
    low, high = np.log(burst_s)
    span = float(stream.times[-1] - stream.times[0])
    lengths = np.exp(rng.uniform(low, high, int(span / burst_s[0]) + 2))
    # A random first cut, or every recording would begin with a whole stretch.
    cuts = stream.times[0] - rng.uniform(0, lengths[0]) + np.cumsum(lengths)
    stretch = np.searchsorted(cuts, stream.times, side="right")
    turn = rng.permutation(len(lengths) + 1)[stretch]
    places = np.flatnonzero(stream.valid)
    going = places[np.argsort(turn[places], kind="stable")][: round(share * len(places))]
    gone = np.zeros(len(stream.times), bool)
    gone[going] = True
    return replace(stream, values=np.where(gone[:, None], 0.0, stream.values), valid=stream.valid & ~gone)


def noisy(modality: str, level: float) -> Transform[Recording]:
    """Adds Gaussian noise to a stream's features, `level` deviations of each feature over the recording."""

    def transform(recording: Recording, rng: np.random.Generator) -> Recording:
        def change(stream: Stream) -> Stream:
            if not stream.valid.any():
                return stream
            spread = stream.values[stream.valid].std(axis=0)
            noise = rng.standard_normal(stream.values.shape) * (level * spread)
            return replace(stream, values=(stream.values + noise).astype(stream.values.dtype))

        return _changed(recording, modality, change)

    return transform if level > 0 else unchanged


def shifted(modality: str, seconds: float) -> Transform[Recording]:
    """Moves a stream in time; positive seconds make it late."""

    def transform(recording: Recording, rng: np.random.Generator) -> Recording:
        return _changed(recording, modality, lambda stream: replace(stream, times=stream.times + seconds))

    return transform if seconds else unchanged


def _changed(recording: Recording, modality: str, change: Callable[[Stream], Stream]) -> Recording:
    if modality not in recording.streams:
        return recording
    return replace(recording, streams={**recording.streams, modality: change(recording.streams[modality])})


def stream_conditions(
    *,
    shares: Sequence[float] = SHARES,
    noise: Sequence[float] = NOISE,
    shifts_s: Sequence[float] = SHIFTS_S,
) -> list[Condition[Recording]]:
    """The stored-stream part of `mien evaluate --robustness`: missing face frames, silence, noise on the features of
    either, and sound that is late or early. Silence here is what it leaves of a voice stream: nothing valid."""
    percent = [(share, round(100 * share)) for share in shares]
    return [
        *(Condition("face frames missing", p, "%", missing(FACE, s)) for s, p in percent),
        *(Condition("voice silent", p, "%", missing(VOICE, s)) for s, p in percent),
        *(Condition("noise on face features", n, "deviations", noisy(FACE, n)) for n in noise),
        *(Condition("noise on voice features", n, "deviations", noisy(VOICE, n)) for n in noise),
        *(Condition("voice late", s, "s", shifted(VOICE, s)) for s in shifts_s),
    ]
