"""Ensembles: several trained systems that predict as one, by a weighted mean of their predictions.

`combine` makes one `mien.inference.StreamModel` of several, in torch or ONNX Runtime; this file imports neither.
`mien.ensemble_folder` stores an ensemble.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mien import clock
from mien.errors import ConfigError
from mien.inference import InferenceSettings, InputFeature, StreamModel, StreamPrediction
from mien.labels import SCORE_TASKS
from mien.records import Stream

# --- averaging -----------------------------------------------------------------------------------------------


def average(values: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Weighted mean of predictions `(time, k)` of several members, per time over the members that have one there.

    A row with a value that is not finite counts as missing. Returns `(time, k)` float64; NaN where no member with a
    weight above 0 has a prediction.
    """
    total = np.zeros(values[0].shape)
    share = np.zeros((len(values[0]), 1))
    for member, weight in zip(values, weights, strict=True):
        known = np.isfinite(member).all(axis=1, keepdims=True)
        total += np.where(known, weight * np.where(known, member, 0.0), 0.0)
        share += weight * known
    mean: np.ndarray = np.divide(total, share, out=np.full_like(total, np.nan), where=share > 0)
    return mean


def check_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    """Weights of `count` members, divided by their sum; None gives equal ones.

    Raises ConfigError for another number of weights, a negative or infinite one, or only zeros.
    """
    if weights is None:
        return [1 / count] * count
    text = ",".join(f"{w:g}" for w in weights)
    valid = all(math.isfinite(w) and w >= 0 for w in weights) and sum(weights) > 0
    if len(weights) != count or not valid:
        reason = f"{len(weights)} weights for {count} members" if valid else "a weight is negative, or all are 0"
        raise ConfigError(
            f"weights {text}: {reason}",
            follows="Nothing was predicted.",
            remedy=f"Give {count} numbers of 0 or more in the order of the members, such as "
            f"{','.join(['1'] * count)}, or omit the weights for equal ones.",
        )
    return [w / sum(weights) for w in weights]


def parse_weights(text: str | None) -> list[float] | None:
    """Numbers of an option such as `0.7,0.3`; None stays None. Raises ConfigError for anything else."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"--weights {text!r} is not a list of numbers",
            follows="Nothing was started.",
            remedy="Give one number per model, separated by commas: --weights 0.7,0.3.",
        ) from None


def _order(name: str, labels: Sequence[str], first_name: str, first: Sequence[str]) -> list[int]:
    """Positions in `labels` of the classes of `first`. Raises ConfigError for another set of classes."""
    if set(labels) != set(first) or len(labels) != len(first):
        only_here = ", ".join(sorted(set(labels) - set(first))) or "none"
        only_first = ", ".join(sorted(set(first) - set(labels))) or "none"
        raise ConfigError(
            f"{name} and {first_name} predict different classes: only {name} has {only_here}; "
            f"only {first_name} has {only_first}",
            follows="Their probabilities cannot be averaged. Nothing was predicted.",
            remedy="Combine checkpoints that were trained on the same classes (corpus.labels).",
        )
    return [list(labels).index(label) for label in first]


# --- the model -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EnsembleModel:
    """Several trained systems as one; a `mien.inference.StreamModel`. Create it with `combine`.

    members, names, weights: one entry per member; the weights sum to 1. settings: those of all members together.
    orders: for each member, the positions of the ensemble's classes among its own; None if it predicts none.
    """

    members: tuple[StreamModel, ...]
    names: tuple[str, ...]
    weights: tuple[float, ...]
    settings: InferenceSettings
    orders: tuple[list[int] | None, ...]

    @property
    def labels(self) -> list[str]:
        """Class names in the order of the probabilities: that of the first member that predicts expressions."""
        return self.settings.labels

    @property
    def features(self) -> dict[str, InputFeature]:
        """`NUMBER.MODALITY` -> input, with members numbered from 0."""
        return self.settings.features

    def member_streams(self, number: int, streams: Mapping[str, Stream]) -> dict[str, Stream]:
        """The streams of one member, under its own names of the modalities."""
        prefix = f"{number}."
        return {name.removeprefix(prefix): s for name, s in streams.items() if name.startswith(prefix)}

    def predict_streams(
        self, streams: Mapping[str, Stream], start_s: float, stop_s: float, *, batch: int = 16
    ) -> StreamPrediction:
        """Predict one subject with every member, and average the predictions.

        The result has the times of the member with the highest token rate; the others are interpolated.

        Args:
            streams: `NUMBER.MODALITY` -> stream, see `features`; any may be left out.

        Raises ValueError for an unknown name, or as `mien.inference.predict_streams` does.
        """
        for name in streams:
            if name not in self.features:
                raise ValueError(f"no input {name!r} in this ensemble; it reads {sorted(self.features)}")
        predictions = [
            # a member with weight 0 is not computed; without streams it costs nothing, and gives its times
            member.predict_streams(
                self.member_streams(number, streams) if self.weights[number] else {}, start_s, stop_s, batch=batch
            )
            for number, member in enumerate(self.members)
        ]
        rates = [member.settings.rate_hz for member in self.members]
        times = predictions[rates.index(max(rates))].times
        expressions, affects = [], []
        for member, prediction, order in zip(self.members, predictions, self.orders, strict=True):
            expression = np.full((len(times), len(self.labels)), np.nan)
            if order is not None:
                expression = clock.interpolate(prediction.probabilities[:, order], prediction.times, times)
            affect = np.full((len(times), 2), np.nan)
            if member.settings.valence_arousal:
                affect = clock.interpolate(prediction.valence_arousal, prediction.times, times)
            expressions.append(expression)
            affects.append(affect)
        scores = {}
        for task in self.settings.scores:
            parts = [
                clock.interpolate(p.scores[task], p.times, times)
                if task in p.scores
                else np.full((len(times), len(SCORE_TASKS[task].columns)), np.nan)
                for p in predictions
            ]
            scores[task] = average(parts, self.weights)
        return StreamPrediction(times, average(expressions, self.weights), average(affects, self.weights), scores)

    def embed_streams(self, streams: Mapping[str, Stream]) -> Stream:
        """Raises ConfigError: an ensemble has no features for a next stage."""
        raise ConfigError(
            f"the ensemble of {', '.join(self.names)} has no features for a next stage",
            follows="Nothing was computed.",
            remedy="Derive features with one of its members.",
        )


def prefixed_features(members: Sequence[Mapping[str, InputFeature]]) -> dict[str, InputFeature]:
    """The inputs of several members under `NUMBER.MODALITY`, with members numbered from 0."""
    return {
        f"{number}.{modality}": feature
        for number, features in enumerate(members)
        for modality, feature in features.items()
    }


def combine(
    models: Sequence[StreamModel], names: Sequence[str], weights: Sequence[float] | None = None
) -> EnsembleModel:
    """One model of several: predictions are averaged with `weights` (default: equal; they are divided by their sum).

    Members may predict expressions, valence and arousal, and score tasks; each output is averaged over those that
    predict it.
    The classes are those of the first member with expressions; a member with another order is reordered.

    Args:
        names: of the members, for errors.

    Raises:
        ConfigError: members with different classes, a member that reads images, or unusable weights.
        ValueError: no member.
    """
    if not models:
        raise ValueError("an ensemble needs at least one member")
    shares = check_weights(weights, len(models))
    for model, name in zip(models, names, strict=True):
        if getattr(getattr(model, "model", None), "input_kind", "streams") != "streams":
            raise ConfigError(
                f"{name} was trained on single images, and an ensemble averages systems over streams",
                follows="Nothing was predicted.",
                remedy=f"Omit {name}, or use it alone, or as the face encoder of a system over streams.",
            )
    with_classes = [number for number, model in enumerate(models) if model.settings.expression]
    first = with_classes[0] if with_classes else 0
    labels = list(models[first].labels)
    orders = tuple(
        _order(names[number], model.labels, names[first], labels) if number in with_classes else None
        for number, model in enumerate(models)
    )
    fastest = max((model.settings for model in models), key=lambda s: s.rate_hz)
    settings = replace(
        fastest,
        labels=labels,
        features=prefixed_features([model.features for model in models]),
        window_s=max(model.settings.window_s for model in models),
        expression=bool(with_classes),
        valence_arousal=any(model.settings.valence_arousal for model in models),
        scores=tuple(task for task in SCORE_TASKS if any(task in model.settings.scores for model in models)),
    )
    return EnsembleModel(tuple(models), tuple(names), tuple(shares), settings, orders)
