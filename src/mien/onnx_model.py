"""A checkpoint's network in ONNX Runtime: prediction without torch.

Importing torch takes longer than reading a minute of video, so a checkpoint may hold its network a second time:

    network.onnx     windows of streams -> logits and valence-arousal, and the embedding of a system that has one; any
                     number of windows at once
    network.json     the inference settings, and the hash of the weights that the network was exported from

`mien.onnx_export.export` writes both files. Predictions equal those of the torch network to 1e-4 (tested).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from mien import json_object, saved_state
from mien.errors import ConfigError
from mien.inference import InferenceSettings, InputFeature, StreamPrediction, embed_streams, predict_streams
from mien.mouth_filter import VoiceMask
from mien.onnx_session import open_session
from mien.records import Stream

NETWORK, ABOUT = "network.onnx", "network.json"
#: The manifest of a checkpoint folder.
CHECKPOINT = "checkpoint.json"
FORMAT = 1
#: Checkpoints inside the package, each a folder of that name. They stand here because this file needs no torch.
SHIPPED = ("starter",)


def shipped_folder(name: str) -> Path:
    """Folder of a checkpoint inside the package, which need not exist."""
    return Path(str(resources.files("mien") / name))


@dataclass(slots=True)
class OnnxModel:
    """A trained system in ONNX Runtime on the CPU; a `mien.inference.StreamModel`."""

    settings: InferenceSettings
    network: OnnxSession

    @property
    def labels(self) -> list[str]:
        """Class names in the order of the probabilities."""
        return self.settings.labels

    @property
    def features(self) -> dict[str, InputFeature]:
        """Modality -> input."""
        return self.settings.features

    def predict_streams(
        self, streams: Mapping[str, Stream], start_s: float, stop_s: float, *, batch: int = 16
    ) -> StreamPrediction:
        """See `mien.inference.predict_streams`."""
        return predict_streams(self.network, self.settings, streams, start_s, stop_s, batch)

    def embed_streams(self, streams: Mapping[str, Stream]) -> Stream:
        """Features of one subject for a next stage, see `mien.inference.embed_streams`.

        Raises ConfigError if the network was exported without an embedding: its system has none.
        """
        if not self.network.has_embedding:
            raise ConfigError(
                "the exported network has no features for a next stage",
                follows="Nothing was computed.",
                remedy="Use a checkpoint of the recipes va_face, va_behaviour or va_voice.",
            )
        return embed_streams(self.network.embed, self.settings, streams)


class OnnxSession:
    """An ONNX file as a `mien.inference.Network`.

    A modality that is left out is passed as missing. Where the network takes windows of one length only, shorter ones
    are padded with missing tokens: it was exported so because that does not change their prediction.

    Args:
        data: the file. threads: of ONNX Runtime.
    """

    def __init__(self, data: bytes, settings: InferenceSettings, *, threads: int = 2) -> None:
        self._session = open_session(data, threads=threads, keep_memory=False)
        self._features = settings.network_features
        self._scores = tuple(f"{task}_logits" for task in settings.scores)
        length = self._session.get_inputs()[0].shape[1]
        self._tokens = length if isinstance(length, int) else None
        #: Whether `embed` can be called.
        self.has_embedding = "embedding" in [output.name for output in self._session.get_outputs()]

    def __call__(self, values: dict[str, np.ndarray], valid: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """See `mien.inference.Network`."""
        return tuple(self._run(("logits", "valence_arousal", *self._scores), values, valid))

    def embed(self, values: dict[str, np.ndarray], valid: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """See `mien.inference.EmbeddingNetwork`. Only if `has_embedding`."""
        embedding, known = self._run(("embedding", "embedding_valid"), values, valid)
        return embedding, known

    def _run(
        self, outputs: tuple[str, ...], values: dict[str, np.ndarray], valid: dict[str, np.ndarray]
    ) -> list[np.ndarray]:
        windows, tokens = next(iter(valid.values())).shape
        length = self._tokens or tokens
        inputs: dict[str, np.ndarray] = {}
        for name, feature in self._features.items():
            full = np.zeros((windows, length, feature.dim), np.float32)
            known = np.zeros(full.shape[:2], bool)
            if name in valid:
                full[:, :tokens], known[:, :tokens] = values[name], valid[name]
            inputs |= {name: full, f"{name}_valid": known}
        return [output[:, :tokens] for output in self._session.run(list(outputs), inputs)]


def describe(settings: InferenceSettings, weights_sha256: str, network: bytes) -> bytes:
    """The content of network.json. weights_sha256: of the weights that the network was exported from."""
    facts = {"format": FORMAT, "weights": weights_sha256, "network": hashlib.sha256(network).hexdigest()}
    return (json.dumps(facts | asdict(settings), indent=2) + "\n").encode()


def fits(folder: Path, weights_sha256: str) -> bool:
    """Whether the folder holds an ONNX network that was exported from the weights of `weights_sha256`."""
    try:
        facts = json_object.parse(_path(folder, ABOUT).read_bytes())
    except (OSError, ValueError, ConfigError):
        return False
    return bool(
        facts.get("format") == FORMAT and facts.get("weights") == weights_sha256 and _path(folder, NETWORK).is_file()
    )


def load(folder: Path, weights_sha256: str) -> OnnxModel | None:
    """The ONNX network in a checkpoint folder.

    Returns None if there is none, or if it was exported from other weights than those of `weights_sha256`, as after
    training again into the same folder.

    Raises ConfigError if network.json is damaged, or the network is not the file that it describes.
    """
    try:
        text, data = _read(folder, ABOUT), _read(folder, NETWORK)
    except OSError:
        return None
    try:
        facts = json_object.parse(text)
    except ValueError as error:
        raise _damaged(folder, str(error)) from error
    if facts.pop("format", None) != FORMAT or facts.pop("weights", None) != weights_sha256:
        return None
    if facts.pop("network", None) != hashlib.sha256(data).hexdigest():
        raise ConfigError(
            f"checkpoint {folder}: {NETWORK} is not the file that {ABOUT} describes (sha256 differs)",
            follows="It is damaged or half-copied.",
            remedy=f"Copy the whole folder again, or delete {NETWORK}: prediction then uses the weights themselves.",
        )
    try:
        settings = _settings(facts)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(folder, f"{type(error).__name__}: {error}") from error
    _check_labels(folder, settings)
    return OnnxModel(settings, OnnxSession(data, settings))


def _settings(facts: dict[str, Any]) -> InferenceSettings:
    """The settings of network.json. Raises KeyError, TypeError, ValueError or AttributeError for other content."""
    facts["features"] = {name: InputFeature(**feature) for name, feature in facts["features"].items()}
    if facts.pop("hamming", False):  # exports before the setting `kernel`
        facts["kernel"] = "hamming"
    facts["scores"] = tuple(facts.get("scores", ()))
    if facts.get("voice_mask"):
        facts["voice_mask"] = VoiceMask(**facts["voice_mask"])
    settings = InferenceSettings(**facts)
    for name in ("window_s", "rate_hz", "hop_s", "temperature"):
        if not (isinstance(value := getattr(settings, name), int | float) and 0 < value < 1e6):
            raise ValueError(f"{name} is {value!r}")
    for name in ("triangular", "trailing", "expression", "valence_arousal"):
        if not isinstance(value := getattr(settings, name), bool):
            raise ValueError(f"{name} is {value!r}")
    return settings


def _check_labels(folder: Path, settings: InferenceSettings) -> None:
    """Raise ConfigError if the labels are not those of the checkpoint."""
    if not (folder / CHECKPOINT).is_file():
        return
    labels = saved_state.read(folder, CHECKPOINT).facts.get("labels")
    if labels is not None and list(settings.labels) != labels:
        raise _damaged(folder, f"its labels {settings.labels} are not those of {CHECKPOINT}, {labels}")


def _path(folder: Path, name: str) -> Path:
    """Where a file of a checkpoint folder is, or of a folder that holds a network alone."""
    return saved_state.read(folder, CHECKPOINT).path(name) if (folder / CHECKPOINT).is_file() else folder / name


def _read(folder: Path, name: str) -> bytes:
    if (folder / CHECKPOINT).is_file():
        return saved_state.read(folder, CHECKPOINT).read(name)
    return (folder / name).read_bytes()


def _damaged(folder: Path, what: str) -> ConfigError:
    return ConfigError(
        f"{folder / ABOUT}: cannot be read: {what}",
        follows="It is damaged, or was changed by hand. Nothing was predicted.",
        remedy=f"Copy the whole folder again, or delete {ABOUT}: prediction then uses the weights themselves.",
    )
