"""From streams to predictions over time: token clock, windows, network, soft vote, smoothing.

The same code runs a network in torch (`mien.checkpoint`) and in ONNX Runtime (`mien.onnx_model`). It imports neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np

from mien import clock, soft_vote
from mien.labels import SCORE_TASKS
from mien.memory import GrowingArray
from mien.mouth_filter import VoiceMask, mask_streams
from mien.records import FACE, Stream, Window

#: A network on windows: modality -> values `(window, token, dim)` float32 and modality -> valid `(window, token)` bool;
#: returns logits `(window, token, classes)`, valence-arousal `(window, token, 2)`, and for each score task of the
#: settings logits `(window, token, columns)`, all float32.
Network = Callable[[dict[str, np.ndarray], dict[str, np.ndarray]], tuple[np.ndarray, ...]]
#: The embedding of a network on windows, for a next stage: the same arguments; returns values `(window, token, dim)`
#: float32 and `(window, token)` bool, where they are known.
EmbeddingNetwork = Callable[[dict[str, np.ndarray], dict[str, np.ndarray]], tuple[np.ndarray, np.ndarray]]
#: How far from a valid input an embedding is valid, in seconds. Our choice: a face or a voice is evidence for the
#: second around it.
EMBEDDING_REACH_S = 1.0


@dataclass(frozen=True, slots=True)
class InputFeature:
    """One input of a network: the name of its encoder, the width of its features, and the encoder's options."""

    encoder: str
    dim: int
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EncoderInput(InputFeature):
    """An input as prediction encodes it.

    folder: of the network that encodes it, if that is no registered encoder: the checkpoint of a trained face network,
        the file of an ONNX network or of its card, or an encoder exported to ONNX.
    predictions: the encoder gives the predictions of that network, not its embedding. provenance: of the training
    features, to compare with the encoder's; empty if unknown.
    """

    folder: Path | None = None
    predictions: bool = False
    provenance: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InferenceSettings:
    """Inference settings of a trained system.

    labels: class names in the order of the logits. features: modality -> input. window_s, rate_hz: length of a window
    in seconds and tokens a second, as trained. hop_s, triangular, trailing, smooth_s, kernel, temperature: soft vote
    and smoothing, see `mien.config.Vote`. expression, valence_arousal: whether the system was trained to predict them.
    scores: score tasks (`mien.labels.SCORE_TASKS`) that it was trained for.
    voice_mask: see `mien.mouth_filter`.
    """

    labels: list[str]
    features: dict[str, InputFeature]
    window_s: float
    rate_hz: float
    hop_s: float
    triangular: bool
    smooth_s: float | Mapping[Any, float]
    temperature: float
    trailing: bool = False
    kernel: soft_vote.Kernel = "mean"
    expression: bool = True
    valence_arousal: bool = True
    scores: Sequence[str] = ()
    voice_mask: VoiceMask | None = None

    @property
    def network_features(self) -> dict[str, InputFeature]:
        """The features that the network reads: all but the opening of the mouth, which masks the voice."""
        mouth = self.voice_mask.mouth if self.voice_mask else None
        return {name: feature for name, feature in self.features.items() if name != mouth}

    @property
    def tokens(self) -> int:
        """Tokens in a window."""
        return clock.token_count(self.window_s, self.rate_hz)


class _Prediction(NamedTuple):
    times: np.ndarray
    probabilities: np.ndarray
    valence_arousal: np.ndarray


class StreamPrediction(_Prediction):
    """A prediction over time. times: `(time,)` seconds, at the token rate. probabilities: `(time, classes)`.
    valence_arousal: `(time, 2)` in [-1, 1]. Both are NaN where no window that covers the time had a valid value.

    scores: score task -> `(time, columns)` in [0, 1], NaN likewise. Few systems have any, so it is no item of the
    tuple: `times, probabilities, valence_arousal = prediction` holds for every system.
    """

    scores: Mapping[str, np.ndarray]

    def __new__(
        cls,
        times: np.ndarray,
        probabilities: np.ndarray,
        valence_arousal: np.ndarray,
        scores: Mapping[str, np.ndarray] = MappingProxyType({}),
    ) -> StreamPrediction:
        """Create a prediction; arguments as the attributes."""
        prediction = super().__new__(cls, times, probabilities, valence_arousal)
        prediction.scores = dict(scores)
        return prediction


class StreamModel(Protocol):
    """A trained system ready to predict streams: a `Checkpoint` in torch, or an `OnnxModel`."""

    @property
    def labels(self) -> list[str]:
        """Class names in the order of the probabilities."""

    @property
    def settings(self) -> InferenceSettings:
        """Windows, soft vote, and what is predicted."""

    @property
    def features(self) -> Mapping[str, InputFeature]:
        """What is encoded from a recording: name -> input."""

    def predict_streams(
        self, streams: Mapping[str, Stream], start_s: float, stop_s: float, *, batch: int = 16
    ) -> StreamPrediction:
        """Predict one subject from its streams, see `predict_streams`."""

    def embed_streams(self, streams: Mapping[str, Stream]) -> Stream:
        """Features of one subject for a next stage, see `embed_streams`. Raises ConfigError if the system has none."""


def all_settings(model: StreamModel) -> Iterator[InferenceSettings]:
    """The settings of a model, of its stages, and of the members of an ensemble."""
    yield model.settings
    for part in (*getattr(model, "stages", {}).values(), *getattr(model, "members", ())):
        yield from all_settings(part)


def predict_streams(
    network: Network,
    settings: InferenceSettings,
    streams: Mapping[str, Stream],
    start_s: float,
    stop_s: float,
    batch: int = 16,
) -> StreamPrediction:
    """Predict one subject from `start_s` to `stop_s` seconds.

    Args:
        streams: modality -> stream; any may be left out.
        batch: windows computed at once; it bounds memory and does not change the result.

    With `settings.trailing`, the first windows reach back before the start, so that a token's prediction never depends
    on tokens more than a hop later. There the first face is repeated (arXiv 2603.11971, public code), as missing if it
    is, and other modalities are missing (our choice, because sound cannot be held like a picture).

    Raises ValueError for a modality that the network does not have, or a stream of another width.
    """
    _check(settings, streams)
    streams = mask_streams(streams, settings.voice_mask)
    times = clock.token_times(start_s, stop_s, settings.rate_hz)
    hop = min(settings.tokens, clock.token_count(settings.hop_s, settings.rate_hz))
    before = settings.tokens - min(hop, len(times)) if settings.trailing else 0
    tokens = _Tokens(streams, times, settings.rate_hz, before)
    windows = soft_vote.windows(before + len(times), settings.tokens, hop)
    parts = soft_vote.new_parts(windows, before) if settings.trailing else windows
    kept = [
        (window, part)
        for window, part in zip(windows, parts, strict=True)
        if tokens.is_valid[window.start : window.stop].any()
    ]
    widths = [len(settings.labels), 2, *(len(SCORE_TASKS[task].columns) for task in settings.scores)]
    voted = np.full((len(times), sum(widths)), np.nan)
    if kept:
        rows = _predict_windows(network, [window for window, _ in kept], tokens, batch, settings.temperature)
        used = (
            (Window(part.start - before, part.stop - before), values[part.start - window.start :])
            for (_, part), (window, values) in zip(kept, rows, strict=True)
        )
        voted = soft_vote.vote(used, len(times), triangular=settings.triangular)
    smoothed = soft_vote.smooth(voted, times, _smoothing_widths(settings, voted.shape[1]), kernel=settings.kernel)
    probabilities, valence_arousal, *scores = np.split(smoothed, np.cumsum(widths)[:-1], axis=1)
    if settings.kernel == "median":  # of each class on its own
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    return StreamPrediction(times, probabilities, valence_arousal, dict(zip(settings.scores, scores, strict=True)))


def _smoothing_widths(settings: InferenceSettings, columns: int) -> float | list[float]:
    """Width of the smoothing in seconds: one, or one for each class, for valence, arousal and each score; scores have
    that of the classes."""
    width = settings.smooth_s
    if isinstance(width, int | float):
        return width
    widths = [width.get("expression", 0.0)] * columns
    classes = len(settings.labels)
    widths[classes : classes + 2] = [width.get(name, 0.0) for name in ("valence", "arousal")]
    return widths


def trained_outputs(
    model: StreamModel, streams: Mapping[str, Stream], start_s: float, stop_s: float
) -> StreamPrediction:
    """`model.predict_streams` with NaN for what the system was not trained to predict."""
    prediction = model.predict_streams(streams, start_s, stop_s)
    times, probabilities, valence_arousal = prediction
    if not model.settings.expression:
        probabilities = np.full_like(probabilities, np.nan)
    if not model.settings.valence_arousal:
        valence_arousal = np.full_like(valence_arousal, np.nan)
    return StreamPrediction(times, probabilities, valence_arousal, scores_of(prediction))


def scores_of(prediction: tuple[np.ndarray, np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
    """Scores of a prediction by task; none if it is a plain tuple."""
    return dict(prediction.scores) if isinstance(prediction, StreamPrediction) else {}


class _Tokens:
    """Streams on a token clock, resampled in parts, because an hour of the voice's features takes 80 MB.

    Args:
        times: centres of the tokens in seconds. before: tokens in front of them, whose number is counted from the first
            of these: the first face is repeated there, other modalities are missing.

    Attributes:
        is_valid: `(before + token,)` bool, whether any stream is valid.
    """

    def __init__(self, streams: Mapping[str, Stream], times: np.ndarray, rate_hz: float, before: int = 0) -> None:
        self._times, self._before = times, before
        self._streams = {name: clock.Resampler(stream, rate_hz) for name, stream in streams.items()}
        self._part: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._start = self._stop = 0
        self.is_valid = np.zeros(before + len(times), bool)
        for name, stream in self._streams.items():
            valid = stream.valid(times)
            self.is_valid |= np.pad(valid, (before, 0), mode="edge") if name == FACE else np.pad(valid, (before, 0))

    def read(self, start: int, stop: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Modality -> values `(stop - start, dim)` and validity of the tokens `[start, stop)`, for windows in order."""
        if start < self._start or stop > self._stop:
            self._start, self._stop = start, min(max(stop, start + soft_vote.PART), len(self.is_valid))
            self._part = {name: self._resample(name) for name in self._streams}
        inside = slice(start - self._start, stop - self._start)
        return {name: (values[inside], valid[inside]) for name, (values, valid) in self._part.items()}

    def _resample(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        first, last = max(0, self._start - self._before), max(1, self._stop - self._before)
        missing = max(0, self._before - self._start)
        values, valid = self._streams[name](self._times[first:last])
        if missing:
            repeat: dict[str, Any] = {"mode": "edge"} if name == FACE else {}
            values, valid = np.pad(values, ((missing, 0), (0, 0)), **repeat), np.pad(valid, (missing, 0), **repeat)
        return values[: self._stop - self._start], valid[: self._stop - self._start]


def _predict_windows(
    network: Network,
    windows: list[Window],
    tokens: _Tokens,
    batch: int,
    temperature: float,
) -> Iterator[tuple[Window, np.ndarray]]:
    """Each window with its probabilities, valence-arousal and scores side by side, `(token, columns)`."""
    for first in range(0, len(windows), batch):
        part = windows[first : first + batch]
        read = tokens.read(part[0].start, part[-1].stop)
        index = np.array([range(w.start, w.stop) for w in part]) - part[0].start
        logits, valence_arousal, *score_logits = network(
            {name: values[index] for name, (values, _) in read.items()},
            {name: valid[index] for name, (_, valid) in read.items()},
        )
        soft = np.exp((logits - logits.max(axis=-1, keepdims=True)) / temperature)
        scores = [0.5 + 0.5 * np.tanh(values / 2) for values in score_logits]  # the sigmoid, without overflow
        rows = np.concatenate((soft / soft.sum(axis=-1, keepdims=True), valence_arousal, *scores), axis=-1)
        yield from zip(part, rows, strict=True)


def embed_streams(network: EmbeddingNetwork, settings: InferenceSettings, streams: Mapping[str, Stream]) -> Stream:
    """Features of one subject for a next stage, averaged where windows overlap.

    A token is valid within `EMBEDDING_REACH_S` of a valid input (within one input period, if that is longer): a window
    with a face in one corner says little about the other.

    Args:
        streams: modality -> stream; any may be left out.

    Returns a stream at the token rate from 0 s to the end of the longest input, without provenance.

    Raises ValueError as `predict_streams` does.
    """
    _check(settings, streams)
    streams = mask_streams(streams, settings.voice_mask)
    ends = [stream.times[-1] for stream in streams.values() if len(stream.times)]
    times = clock.token_times(0.0, float(max(ends, default=0.0)) + 0.5 / settings.rate_hz, settings.rate_hz)
    if not streams:
        return Stream(np.zeros((len(times), 0), np.float32), times, np.zeros(len(times), bool))
    tokens = _Tokens(streams, times, settings.rate_hz)
    hop = min(settings.tokens, clock.token_count(settings.hop_s, settings.rate_hz))
    is_near = _is_near_input(streams.values(), times)

    def embeddings() -> Iterator[tuple[Window, np.ndarray]]:
        for window in soft_vote.windows(len(times), settings.tokens, hop):
            if window.start and not is_near[window.start : window.stop].any():
                continue  # no token of it becomes valid; hours without data would take as long as hours with it
            read = tokens.read(window.start, window.stop)
            values, known = network(
                {name: values[None] for name, (values, _) in read.items()},
                {name: valid[None] for name, (_, valid) in read.items()},
            )
            yield window, np.where(known[0][:, None], values[0], np.nan)

    joined: GrowingArray | None = None
    valid = np.zeros(0, bool)
    for voted in soft_vote.vote_in_parts(embeddings(), len(times)):
        if joined is None:
            joined = GrowingArray(voted.shape[1])
        part = np.isfinite(voted).all(axis=1) & is_near[len(valid) : len(valid) + len(voted)]
        joined.extend(np.where(part[:, None], voted, 0.0).astype(np.float32))
        valid = np.append(valid, part)
    assert joined is not None, "the first window is always read"
    return Stream(joined.array(), times, valid)


def _is_near_input(streams: Iterable[Stream], times: np.ndarray) -> np.ndarray:
    """`(token,)` bool: whether a valid input is within `EMBEDDING_REACH_S`."""
    near = np.zeros(len(times), bool)
    for stream in streams:
        valid_times = stream.times[np.asarray(stream.valid)]
        if len(valid_times):
            reach = max(EMBEDDING_REACH_S, clock.median_step(stream.times))
            near |= np.abs(valid_times[clock.nearest(valid_times, times)] - times) <= reach + 1e-6
    return near


def _check(settings: InferenceSettings, streams: Mapping[str, Stream]) -> None:
    for name, stream in streams.items():
        feature = settings.features.get(name)
        if feature is None:
            raise ValueError(f"no input {name!r} in this checkpoint; it reads {sorted(settings.features)}")
        if stream.dim != feature.dim:
            raise ValueError(
                f"the {name} stream has {stream.dim} values a sample; this checkpoint was trained on "
                f"{feature.dim} from the encoder {feature.encoder!r}"
            )
