"""A checkpoint's network in ONNX Runtime: prediction without torch.

Importing torch takes longer than reading a minute of video, so a checkpoint may hold its network a second time:

    network.onnx     windows of streams -> logits and valence-arousal; any number of windows at once
    network.json     the inference settings, and the hash of the weights that the network was exported from

`mien.onnx_export.export` writes both files. Predictions equal those of the torch network to 1e-5 (tested).
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

from mien.errors import ConfigError
from mien.inference import InferenceSettings, InputFeature, Network, StreamPrediction, predict_streams
from mien.records import Stream

NETWORK, ABOUT = "network.onnx", "network.json"
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
    network: Network

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
        """See `mien.inference.StreamModel.embed_streams`."""
        raise ConfigError(
            "the exported network has no features for a next stage",
            follows="Nothing was computed.",
            remedy="Use the checkpoint's weights.",
        )


class OnnxSession:
    """An ONNX file as a `mien.inference.Network`.

    A modality that is left out is passed as missing. Windows shorter than those of the export are padded with missing
    tokens, which does not change their prediction (invariant 4 of safe attention).

    Args:
        data: the file. threads: of ONNX Runtime.
    """

    def __init__(self, data: bytes, settings: InferenceSettings, *, threads: int = 2) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        self._settings = settings

    def __call__(self, values: dict[str, np.ndarray], valid: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """See `mien.inference.Network`."""
        windows, tokens = next(iter(valid.values())).shape
        inputs: dict[str, np.ndarray] = {}
        for name, feature in self._settings.features.items():
            full = np.zeros((windows, self._settings.tokens, feature.dim), np.float32)
            known = np.zeros(full.shape[:2], bool)
            if name in valid:
                full[:, :tokens], known[:, :tokens] = values[name], valid[name]
            inputs |= {name: full, f"{name}_valid": known}
        logits, valence_arousal = self._session.run(["logits", "valence_arousal"], inputs)
        return logits[:, :tokens], valence_arousal[:, :tokens]


def describe(settings: InferenceSettings, weights_sha256: str, network: bytes) -> bytes:
    """The content of network.json. weights_sha256: of the weights that the network was exported from."""
    facts = {"format": FORMAT, "weights": weights_sha256, "network": hashlib.sha256(network).hexdigest()}
    return (json.dumps(facts | asdict(settings), indent=2) + "\n").encode()


def fits(folder: Path, weights_sha256: str) -> bool:
    """Whether the folder holds an ONNX network that was exported from the weights of `weights_sha256`."""
    try:
        facts = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(
        facts.get("format") == FORMAT and facts.get("weights") == weights_sha256 and (folder / NETWORK).is_file()
    )


def load(folder: Path, weights_sha256: str) -> OnnxModel | None:
    """The ONNX network in a checkpoint folder.

    Returns None if there is none, or if it was exported from other weights than those of `weights_sha256`, as after
    training again into the same folder.

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
    facts["features"] = {name: InputFeature(**feature) for name, feature in facts["features"].items()}
    settings = InferenceSettings(**facts)
    return OnnxModel(settings, OnnxSession(data, settings))
