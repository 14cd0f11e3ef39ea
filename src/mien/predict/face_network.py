"""Networks over single face images as models of a recording: card networks, and trained `cnn_static` and
`dynamic_threshold`.

`hsemotion`, `fer` and `face-api` are built in; any other ONNX network over a face crop works with a card beside it
(`mien.encoders.cards`). The predictions are averaged over a third of a second, because single-frame networks flicker
faster than expressions change (our choice).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from mien import clock, soft_vote
from mien.encode.create_encoders import FACE_NETWORKS
from mien.errors import ConfigError
from mien.inference import EncoderInput, InferenceSettings, StreamPrediction
from mien.records import FACE, Stream

#: Networks with a built-in card, and the file suffixes of networks and cards.
NAMES, SUFFIXES = FACE_NETWORKS, (".onnx", ".yaml", ".yml")
#: Width in seconds of the moving average over the predictions.
SMOOTH_S = 1 / 3
#: Predictions per second where there is no face stream.
_RATE_HZ = 10.0

#: Encoder values `(n, dim)` -> probabilities `(n, classes)` and valence and arousal `(n, 2)`, NaN where not predicted.
Interpret = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class FaceNetworkModel:
    """A network over single faces as a `mien.inference.StreamModel`: one prediction per face, smoothed over time.

    Args:
        feature: the encoder whose values `interpret` reads. labels: class names in the order of the probabilities.
        valence_arousal: whether the network predicts them.
    """

    def __init__(
        self, feature: EncoderInput, labels: Sequence[str], interpret: Interpret, *, valence_arousal: bool
    ) -> None:
        self.features: Mapping[str, EncoderInput] = {FACE: feature}
        self.labels = list(labels)
        self._interpret = interpret
        self.settings = InferenceSettings(
            labels=self.labels, features={FACE: feature}, window_s=1 / _RATE_HZ, rate_hz=_RATE_HZ, hop_s=1 / _RATE_HZ,
            triangular=False, smooth_s=SMOOTH_S, temperature=1.0, valence_arousal=valence_arousal,
        )  # fmt: skip

    def predict_streams(
        self, streams: Mapping[str, Stream], start_s: float, stop_s: float, *, batch: int = 16
    ) -> StreamPrediction:
        """Predict one subject at the times of its face stream; NaN where there is no face."""
        stream = streams.get(FACE)
        times = clock.token_times(start_s, stop_s, _RATE_HZ) if stream is None else np.asarray(stream.times, float)
        probabilities, affect = np.full((len(times), len(self.labels)), np.nan), np.full((len(times), 2), np.nan)
        if stream is not None and stream.valid.any():
            probabilities[stream.valid], affect[stream.valid] = self._interpret(stream.values[stream.valid])
        return StreamPrediction(
            times, soft_vote.smooth(probabilities, times, SMOOTH_S), soft_vote.smooth(affect, times, SMOOTH_S)
        )

    def embed_streams(self, streams: Mapping[str, Stream]) -> Stream:
        """Not available: raises ConfigError."""
        raise ConfigError(
            "a network over single faces has no features for a next stage over streams",
            follows="Nothing was computed.",
            remedy="Use it as a face encoder.",
        )


def card_model(source: str) -> FaceNetworkModel:
    """The model of a card network.

    Args:
        source: a built-in network (`hsemotion`, `fer`, `face-api`), a card (YAML), or an ONNX file with a card beside
            it.

    Raises:
        ConfigError: the card is missing or invalid, or its network has no labels to predict.
        ArtefactError: the network has not been downloaded; the error names the command.
    """
    from mien.encoders import cards

    card, _ = cards.find(source)
    columns = max(len(card.labels), 1 + max(card.valence or 0, card.arousal or 0))
    cards.interpret(card, np.ones((1, columns), np.float32))  # raises ConfigError for a card without labels
    feature = EncoderInput(card.name, 0, folder=None if source in cards.names() else Path(source))
    return FaceNetworkModel(
        feature, card.class_names, lambda values: cards.interpret(card, values),
        valence_arousal=card.valence is not None or card.arousal is not None,
    )  # fmt: skip


def checkpoint_model(folder: Path, labels: Sequence[str], *, valence_arousal: bool) -> FaceNetworkModel:
    """The model of a trained image system. labels: its classes. valence_arousal: whether it predicts them."""

    def interpret(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits = values[:, : len(labels)].astype(np.float64)
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        affect = values[:, len(labels) :] if valence_arousal else np.full((len(values), 2), np.nan)
        return scores / scores.sum(axis=1, keepdims=True), affect

    feature = EncoderInput(folder.name, 0, folder=folder, predictions=True)
    return FaceNetworkModel(feature, labels, interpret, valence_arousal=valence_arousal)
