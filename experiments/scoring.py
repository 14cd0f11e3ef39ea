"""Macro F1 of checkpoints on recordings, pooled over frames, and of ways to spoil recordings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy import stats

from mien import clock, config
from mien.checkpoint import Checkpoint
from mien.evaluation import metrics, robustness
from mien.labels import NEUTRAL
from mien.records import FACE, VOICE, Recording
from mien.synthetic.scenario import entropy

#: Spoils one recording; the number seeds what is random about it.
Condition = Callable[[Recording, int], Recording]


def without(modality: str) -> Condition:
    """The whole stream is gone."""

    def spoil(recording: Recording, number: int) -> Recording:
        return replace(recording, streams={n: s for n, s in recording.streams.items() if n != modality})

    return spoil


def bursts(modality: str, share: float) -> Condition:
    """A share of the stream's valid values gone, in bursts of 0.2 to 5 s (`evaluation.robustness.missing`)."""
    spoil = robustness.missing(modality, share)
    return lambda recording, number: spoil(recording, entropy(number, "bursts", modality))


def score(
    checkpoint: Checkpoint, made: Sequence[Recording], condition: Condition | None = None
) -> Mapping[str, float | np.ndarray]:
    """Pooled over all labelled frames: `macro_f1`, `f1` per class, `ccc` of valence and arousal, `nan` the share of
    frames without an answer. Those count as Neutral: the commonest class, and what a user would assume."""
    said, truth, affect, places = [], [], [], []
    for number, recording in enumerate(made):
        labels = recording.clip.labels
        assert labels is not None
        streams = (condition(recording, number) if condition else recording).streams
        streams = {n: s for n, s in streams.items() if n in checkpoint.recipe.features}
        stop = float(labels.times[-1]) + (float(np.median(np.diff(labels.times))) if len(labels.times) > 1 else 0.0)
        times, probabilities, va = checkpoint.predict_streams(streams, 0.0, max(stop, 0.01))
        said.append(clock.at(probabilities, times, labels.times))
        affect.append(clock.at(va, times, labels.times))
        truth.append(labels.expression)
        places.append(labels.valence_arousal)
    p, y, v, t = (np.concatenate(a) for a in (said, truth, affect, places))
    none = np.isnan(p).any(axis=1)
    named = np.where(none, NEUTRAL, np.argmax(np.nan_to_num(p), axis=1))
    known = np.isfinite(t).all(axis=1)
    v = np.nan_to_num(v)
    classes = len(checkpoint.labels)
    return {
        "macro_f1": float(metrics.macro_f1(y, named, classes=classes)),
        "f1": metrics.f1_per_class(y, named, classes=classes),
        "ccc": metrics.va_score(t, v) if known.any() else float("nan"),
        "nan": float(none.mean()),
    }


def said_of_utterances(checkpoint: Checkpoint, made: Sequence[Recording]) -> np.ndarray:
    """`(utterance,)` the class of the mean probability over each recording's valid voice; -1 if nothing was heard."""
    out = np.full(len(made), -1)
    for i, recording in enumerate(made):
        stream = recording.streams[VOICE]
        if not stream.valid.any():
            continue
        stop = float(stream.times[-1] + (stream.times[-1] - stream.times[0]) / max(1, len(stream.times) - 1) / 2)
        times, p, _ = checkpoint.predict_streams({VOICE: stream}, 0.0, stop)
        heard = clock.at(p, times, stream.times[stream.valid])
        out[i] = int(np.nanmean(heard, axis=0).argmax())
    return out


def with_vote(checkpoint: Checkpoint, **vote: float | bool) -> Checkpoint:
    """The same weights, voted and smoothed otherwise."""
    return replace(checkpoint, recipe=config.changed(checkpoint.recipe, vote=vote))


def interval(values: Sequence[float], *, signed: bool = False) -> str:
    """Mean and its 95 % t-interval over seeds, as a table's cell."""
    mean, n = float(np.mean(values)), len(values)
    half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5) if n > 1 else 0.0
    return (f"{mean:+.3f}" if signed else f"{mean:.3f}") + f" ± {half:.3f}"


__all__ = ["FACE", "VOICE", "Condition", "bursts", "interval", "said_of_utterances", "score", "with_vote", "without"]
