"""A network over single faces joined with the voice of another model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mien import clock
from mien.inference import (
    EMBEDDING_REACH_S,
    InferenceSettings,
    InputFeature,
    StreamModel,
    StreamPrediction,
)
from mien.records import VOICE, Stream

#: Weight of the voice in `pool`, where there are both. Our choice, as the voice is less reliable than a face;
#: `mien bench real --pair` compares weights.
VOICE_WEIGHT = 0.5
#: Least probability in a logarithm: a class that one reader excludes is unlikely, not impossible.
_FLOOR = 1e-4


def pool(face: np.ndarray, voice: np.ndarray, weight: float = VOICE_WEIGHT) -> np.ndarray:
    """Log-linear pool of two predictions: `p_c ~ face_c voice_c^weight`, as in `mien.models.late_fusion`.

    Args:
        face, voice: probabilities `(time, classes)`. A class that the face never predicts (0) stays out. Where one of
            them is NaN the other stands alone.
    """
    log = np.log(np.maximum(face, _FLOOR)) + weight * np.log(np.maximum(voice, _FLOOR))
    both = np.exp(log - log.max(axis=-1, keepdims=True)) * (face > 0)
    both = both / np.maximum(both.sum(axis=-1, keepdims=True), _FLOOR)
    return _or_alone(face, voice, both)


def _or_alone(face: np.ndarray, voice: np.ndarray, both: np.ndarray) -> np.ndarray:
    """`both`, but the face where the voice is NaN, and the voice where the face is."""
    joined: np.ndarray = np.where(np.isnan(face), voice, np.where(np.isnan(voice), face, both))
    return joined


class FaceWithVoice:
    """A `mien.inference.StreamModel` that joins a face model with the voice part of another model by `pool`; valence
    and arousal are averaged.

    Where only one of them has evidence, its prediction stands alone. The voice counts within a second of speech
    (`mien.inference.EMBEDDING_REACH_S`), because a window of the voice model is longer than an expression.

    Args:
        face: reads faces. voice: also reads `voice`, and predicts all classes of `face`.
        weight: of the voice where there is a face too.

    Attributes:
        members: the two models.
    """

    def __init__(self, face: StreamModel, voice: StreamModel, weight: float = VOICE_WEIGHT) -> None:
        self._face, self._voice, self._weight = face, voice, weight
        self.members = (face, voice)
        self._order = [voice.labels.index(label) for label in face.labels]
        self.labels = face.labels
        self.features: Mapping[str, InputFeature] = {**face.features, VOICE: voice.features[VOICE]}
        self.settings: InferenceSettings = replace(face.settings, features=dict(self.features))

    def predict_streams(
        self, streams: Mapping[str, Stream], start_s: float, stop_s: float, *, batch: int = 16
    ) -> StreamPrediction:
        """Predict one subject at the times of its face stream, or of the voice model where it has none."""
        face_streams = {name: stream for name, stream in streams.items() if name != VOICE}
        face = self._face.predict_streams(face_streams, start_s, stop_s, batch=batch)
        voice = streams.get(VOICE)
        if voice is None or not voice.valid.any():
            return face
        heard = self._voice.predict_streams({VOICE: voice}, start_s, stop_s, batch=batch)
        times = face.times if face_streams else heard.times
        near = _is_near(voice.times[voice.valid], times)[:, None]
        classes = np.where(near, clock.interpolate(heard.probabilities[:, self._order], heard.times, times), np.nan)
        affect = np.where(near, clock.interpolate(heard.valence_arousal, heard.times, times), np.nan)
        if not face_streams:
            return StreamPrediction(times, classes, affect)
        mean_affect = _or_alone(face.valence_arousal, affect, (face.valence_arousal + affect) / 2)
        return StreamPrediction(times, pool(face.probabilities, classes, self._weight), mean_affect, face.scores)

    def embed_streams(self, streams: Mapping[str, Stream]) -> Stream:
        """Not available: raises ConfigError."""
        return self._face.embed_streams(streams)


def _is_near(speech: np.ndarray, times: np.ndarray) -> np.ndarray:
    """`(time,)` bool: whether speech is within reach. speech: `(n,)` seconds, n >= 1."""
    nearest: np.ndarray = np.abs(speech[clock.nearest(speech, times)] - times) <= EMBEDDING_REACH_S
    return nearest
