"""Scores of checkpoints on recordings, pooled over frames, and corruptions of recordings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from mien import clock, config
from mien.checkpoint import Checkpoint
from mien.evaluation import metrics, robustness
from mien.labels import NEUTRAL
from mien.records import VOICE, Recording
from mien.synthetic.scenario import seeded_rng

#: Corrupts one recording; the number is the seed.
Corruption = Callable[[Recording, int], Recording]


def remove_stream(modality: str) -> Corruption:
    """Corruption that removes a whole stream."""

    def corrupt(recording: Recording, number: int) -> Recording:
        return replace(recording, streams={n: s for n, s in recording.streams.items() if n != modality})

    return corrupt


def drop_in_bursts(modality: str, share: float) -> Corruption:
    """Corruption that invalidates a share of the valid samples of a stream, in bursts of 0.2 to 5 s."""
    corrupt = robustness.drop_samples(modality, share)
    return lambda recording, number: corrupt(recording, seeded_rng(number, "bursts", modality))


@dataclass(frozen=True, slots=True)
class Scores:
    """Expression scores. f1: `(classes,)`. missing: share of frames without a prediction."""

    macro_f1: float
    f1: np.ndarray
    missing: float


def score_recordings(
    checkpoint: Checkpoint, recordings: Sequence[Recording], corrupt: Corruption | None = None
) -> Scores:
    """Score a checkpoint on all labelled frames of recordings.

    A frame without a prediction counts as Neutral: the most frequent class, and what a user would assume.
    """
    predictions, truth = [], []
    for number, recording in enumerate(recordings):
        labels = recording.clip.labels
        assert labels is not None
        streams = (corrupt(recording, number) if corrupt else recording).streams
        streams = {n: s for n, s in streams.items() if n in checkpoint.recipe.features}
        stop = float(labels.times[-1]) + (float(np.median(np.diff(labels.times))) if len(labels.times) > 1 else 0.0)
        times, probabilities, _ = checkpoint.predict_streams(streams, 0.0, max(stop, 0.01))
        predictions.append(clock.interpolate(probabilities, times, labels.times))
        truth.append(labels.expression)
    p, y = np.concatenate(predictions), np.concatenate(truth)
    missing = np.isnan(p).any(axis=1)
    predicted = np.where(missing, NEUTRAL, np.argmax(np.nan_to_num(p), axis=1))
    classes = len(checkpoint.labels)
    f1 = metrics.f1_per_class(y, predicted, classes=classes)
    return Scores(float(metrics.macro_f1(y, predicted, classes=classes)), f1, float(missing.mean()))


def classify_utterances(checkpoint: Checkpoint, utterances: Sequence[Recording]) -> np.ndarray:
    """`(utterance,)` class of the mean probability over the valid voice of each recording; -1 without valid voice."""
    classes = np.full(len(utterances), -1)
    for i, recording in enumerate(utterances):
        stream = recording.streams[VOICE]
        if not stream.valid.any():
            continue
        stop = float(stream.times[-1] + (stream.times[-1] - stream.times[0]) / max(1, len(stream.times) - 1) / 2)
        times, probabilities, _ = checkpoint.predict_streams({VOICE: stream}, 0.0, stop)
        voiced = clock.interpolate(probabilities, times, stream.times[stream.valid])
        classes[i] = int(np.nanmean(voiced, axis=0).argmax())
    return classes


def with_vote(checkpoint: Checkpoint, **vote: float | bool) -> Checkpoint:
    """Return the checkpoint with changed options of soft vote and smoothing, such as `hop_seconds`."""
    return replace(checkpoint, recipe=config.changed(checkpoint.recipe, vote=vote))


def format_interval(values: Sequence[float], *, signed: bool = False) -> str:
    """Format the mean and its 95 % t-interval over seeds as a table cell; a single value has no interval."""
    mean, n = float(np.mean(values)), len(values)
    text = f"{mean:+.3f}" if signed else f"{mean:.3f}"
    if n == 1:
        return f"{text} (one seed)"
    half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5)
    return f"{text} ± {half:.3f}"
