"""A trained network that predicts without torch.

Importing torch takes longer than reading a minute of video, so a checkpoint may hold its network a second time:

    network.onnx     streams' windows -> logits, valence and arousal; ONNX, any number of windows at once
    network.json     what prediction needs to know of the recipe, and which weights the network was made of

`mien.checkpoint.export` writes the two, `load` reads them and runs them through ONNX Runtime on the CPU. The numbers
are those of the torch network to 1e-5 (tested). The way from streams to a soft vote (`predict_streams`) is the same
for both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mien.errors import ConfigError
from mien.inference import InferenceSettings, InputFeature, Network, predict_streams
from mien.records import Stream

NETWORK, ABOUT = "network.onnx", "network.json"
FORMAT = 1


@dataclass(slots=True)
class OnnxModel:
    """A network on ONNX Runtime, asked as `mien.checkpoint.Checkpoint` is."""

    settings: InferenceSettings
    network: Network

    @property
    def labels(self) -> list[str]:
        return self.settings.labels

    @property
    def features(self) -> dict[str, InputFeature]:
        return self.settings.features

    def predict_streams(
        self, streams: Mapping[str, Stream], start_s: float, stop_s: float, *, batch: int = 16
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See `predict_streams`."""
        return predict_streams(self.network, self.settings, streams, start_s, stop_s, batch)


class OnnxSession:
    """The ONNX file as a `Network`. Modalities left out are given as missing; windows shorter than those it was
    exported with are padded with missing tokens, which changes nothing (safe attention, invariant 4)."""

    def __init__(self, data: bytes, settings: InferenceSettings, *, threads: int = 2) -> None:
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


def about(settings: InferenceSettings, weights_sha256: str, network: bytes) -> bytes:
    """The content of network.json."""
    facts = {"format": FORMAT, "weights": weights_sha256, "network": hashlib.sha256(network).hexdigest()}
    return (json.dumps(facts | asdict(settings), indent=2) + "\n").encode()


def load(folder: Path, weights_sha256: str) -> OnnxModel | None:
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
    facts["features"] = {name: InputFeature(**feature) for name, feature in facts["features"].items()}
    settings = InferenceSettings(**facts)
    return OnnxModel(settings, OnnxSession(data, settings))
