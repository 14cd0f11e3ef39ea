"""A trained network that predicts without torch.

Importing torch takes longer than reading a minute of video, so a checkpoint may hold its network a second time:

    network.onnx     streams' windows -> logits, valence and arousal; ONNX, any number of windows at once
    network.json     what prediction needs to know of the recipe, and which weights the network was made of

`mien.checkpoint.export` writes the two, `load` reads them and runs them through ONNX Runtime on the CPU. The numbers
are those of the torch network to 1e-5 (tested). The way from streams to a soft vote (`answer`) is the same for both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mien import clock
from mien.errors import ConfigError
from mien.records import Stream, Window

NETWORK, ABOUT = "network.onnx", "network.json"
FORMAT = 1

#: Windows in, answers out: modality -> values `(window, token, dim)` float32 and modality -> valid `(window, token)`
#: bool; returns logits `(window, token, classes)` and valence-arousal `(window, token, 2)`, both float32.
Network = Callable[[dict[str, np.ndarray], dict[str, np.ndarray]], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, slots=True)
class Reads:
    """One modality's input: the encoder's name and the width of its values."""

    encoder: str
    dim: int


@dataclass(frozen=True, slots=True)
class Settings:
    """How a network is asked. labels: class names in the order of the logits. features: modality -> what it reads.
    window_s, rate_hz: the window and the token clock the network was trained on. hop_s, triangular, trailing,
    smooth_s, hamming, temperature: of the soft vote, see `mien.config.Vote`."""

    labels: list[str]
    features: dict[str, Reads]
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


def answer(
    network: Network, settings: Settings, streams: Mapping[str, Stream], start_s: float, stop_s: float, batch: int = 16
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


def _check(settings: Settings, streams: Mapping[str, Stream]) -> None:
    for name, stream in streams.items():
        feature = settings.features.get(name)
        if feature is None:
            raise ValueError(f"no input {name!r} in this checkpoint; it reads {sorted(settings.features)}")
        if stream.dim != feature.dim:
            raise ValueError(
                f"the {name} stream has {stream.dim} values a sample; this checkpoint was trained on "
                f"{feature.dim} from the encoder {feature.encoder!r}"
            )


@dataclass(slots=True)
class Portable:
    """A network on ONNX Runtime, asked as `mien.checkpoint.Checkpoint` is."""

    settings: Settings
    network: Network

    @property
    def labels(self) -> list[str]:
        return self.settings.labels

    @property
    def features(self) -> dict[str, Reads]:
        return self.settings.features

    def predict_streams(
        self, streams: Mapping[str, Stream], start_s: float, stop_s: float, *, batch: int = 16
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See `answer`."""
        return answer(self.network, self.settings, streams, start_s, stop_s, batch)


class Session:
    """The ONNX file as a `Network`. Modalities left out are given as missing; windows shorter than those it was
    exported with are padded with missing tokens, which changes nothing (safe attention, invariant 4)."""

    def __init__(self, data: bytes, settings: Settings, *, threads: int = 2) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        self._settings = settings

    def __call__(self, values: dict[str, np.ndarray], valid: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        windows, tokens = next(iter(valid.values())).shape
        inputs: dict[str, np.ndarray] = {}
        for name, feature in self._settings.features.items():
            full = np.zeros((windows, self._settings.tokens, feature.dim), np.float32)
            known = np.zeros(full.shape[:2], bool)
            if name in valid:
                full[:, :tokens], known[:, :tokens] = values[name], valid[name]
            inputs |= {name: full, f"{name}_valid": known}
        logits, affect = self._session.run(["logits", "valence_arousal"], inputs)
        return logits[:, :tokens], affect[:, :tokens]


def about(settings: Settings, weights_sha256: str, network: bytes) -> bytes:
    """The content of network.json."""
    facts = {"format": FORMAT, "weights": weights_sha256, "network": hashlib.sha256(network).hexdigest()}
    return (json.dumps(facts | asdict(settings), indent=2) + "\n").encode()


def load(folder: Path, weights_sha256: str) -> Portable | None:
    """The portable network in a checkpoint folder; None if there is none, or it was made of other weights than
    those of `weights_sha256` (as after training again into the same folder).

    Raises ConfigError if the network is not the file that network.json describes.
    """
    try:
        facts: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        data = (folder / NETWORK).read_bytes()
    except (OSError, ValueError):
        return None
    if facts.pop("format", None) != FORMAT or facts.pop("weights", None) != weights_sha256:
        return None
    if facts.pop("network") != hashlib.sha256(data).hexdigest():
        raise ConfigError(
            f"checkpoint {folder}: {NETWORK} is not the file that {ABOUT} describes (sha256 differs)",
            follows="It is damaged or half-copied.",
            remedy=f"Copy the whole folder again, or delete {NETWORK}: prediction then uses the weights themselves.",
        )
    facts["features"] = {name: Reads(**feature) for name, feature in facts["features"].items()}
    settings = Settings(**facts)
    return Portable(settings, Session(data, settings))
