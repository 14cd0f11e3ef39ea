"""From streams to a prediction over time: token clock, windows, network, soft vote, smoothing.

The same function serves a network in torch (`mien.checkpoint`) and one in ONNX Runtime (`mien.onnx_model`). It imports
neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from mien import clock
from mien.records import Stream, Window

#: Windows in, answers out: modality -> values `(window, token, dim)` float32 and modality -> valid `(window, token)`
#: bool; returns logits `(window, token, classes)` and valence-arousal `(window, token, 2)`, both float32.
Network = Callable[[dict[str, np.ndarray], dict[str, np.ndarray]], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, slots=True)
class InputFeature:
    """One modality's input: the encoder's name and the width of its values."""

    encoder: str
    dim: int


@dataclass(frozen=True, slots=True)
class InferenceSettings:
    """How a network is asked. labels: class names in the order of the logits. features: modality -> what it reads.
    window_s, rate_hz: the window and the token clock the network was trained on. hop_s, triangular, trailing,
    smooth_s, hamming, temperature: of the soft vote, see `mien.config.Vote`."""

    labels: list[str]
    features: dict[str, InputFeature]
    window_s: float
    rate_hz: float
    hop_s: float
    triangular: bool
    smooth_s: float
    temperature: float
    trailing: bool = False
    hamming: bool = False

    @property
    def tokens(self) -> int:
        """Tokens in a window."""
        return clock.tokens_in(self.window_s, self.rate_hz)


def predict_streams(
    network: Network,
    settings: InferenceSettings,
    streams: Mapping[str, Stream],
    start_s: float,
    stop_s: float,
    batch: int = 16,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What one subject shows from `start_s` to `stop_s` seconds: windows, soft vote, smoothing.

    Args:
        streams: modality -> stream; any may be left out. Raises ValueError for a modality the network does not
            have, or one of another width.
        batch: windows computed at once; bounds memory, not the result.

    Returns times `(time,)` seconds at the token rate; probabilities `(time, classes)`; valence and arousal
    `(time, 2)` in [-1, 1]. Both are NaN where no window that covers the time held a valid value.
    """
    _check(settings, streams)
    times = clock.token_times(start_s, stop_s, settings.rate_hz)
    tokens = {name: clock.resample(s, times, settings.rate_hz) for name, s in streams.items()}
    hop = min(settings.tokens, clock.tokens_in(settings.hop_s, settings.rate_hz))
    cut = clock.windows(len(times), settings.tokens, hop)
    heard = [w for w in cut if any(valid[w.start : w.stop].any() for _, valid in tokens.values())]
    classes = len(settings.labels)
    said = np.full((len(times), classes + 2), np.nan)
    if heard:
        rows = _windows(network, heard, tokens, batch, settings.temperature)
        said = clock.vote(rows, len(times), triangular=settings.triangular, trailing=settings.trailing)
    said = clock.smooth(said, times, settings.smooth_s, hamming=settings.hamming)
    return times, said[:, :classes], said[:, classes:]


def _windows(
    network: Network,
    cut: list[Window],
    tokens: Mapping[str, tuple[np.ndarray, np.ndarray]],
    batch: int,
    temperature: float,
) -> Iterator[tuple[Window, np.ndarray]]:
    for first in range(0, len(cut), batch):
        part = cut[first : first + batch]
        index = np.array([range(w.start, w.stop) for w in part])
        logits, affect = network(
            {name: values[index] for name, (values, _) in tokens.items()},
            {name: valid[index] for name, (_, valid) in tokens.items()},
        )
        soft = np.exp((logits - logits.max(axis=-1, keepdims=True)) / temperature)
        rows = np.concatenate((soft / soft.sum(axis=-1, keepdims=True), affect), axis=-1)
        yield from zip(part, rows, strict=True)


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
