"""Face networks in ONNX with a card beside them: as encoders, and as predictors that need no training.

What `encode_crops` gives are the network's outputs side by side, untouched, so that they can be stored;
`interpret` turns them into mien's expressions, valence and arousal.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mien import hub
from mien.encoders import cards
from mien.encoders.protocol import Crop
from mien.errors import ArtefactError, ConfigError
from mien.labels import EXPRESSIONS


class OnnxFace:
    """An ONNX network over aligned face crops, as a `CropEncoder`, and its predictions.

    Args:
        source: a built-in card (`hsemotion`, `fer`), a card, or an `.onnx` file with a card beside it.
        name: what it is called in the store; None takes the card's name.
        device: `cpu`, or `cuda` where onnxruntime was built for it.
        threads: of the CPU; None takes OMP_NUM_THREADS, or else every core.

    Raises:
        ConfigError: a card with faults, or one that does not fit its network. ArtefactError: no network there,
            or a file that is none.
    """

    modality = "face"
    rate_hz: float | None = None
    receptive_field_s = 0.0

    def __init__(
        self,
        source: str,
        *,
        name: str | None = None,
        device: str = "cpu",
        margin: float | None = None,
        batch_size: int = 32,
        threads: int | None = None,
    ) -> None:
        self.card, path = cards.find(source)
        self.name, self.licence, self.batch_size = name or self.card.name, self.card.licence, batch_size
        self._session = _session(path, device, threads)
        self._input = self._session.get_inputs()[0]
        self._check_input(path)
        self._one_by_one = isinstance(self._input.shape[0], int)
        self.crop = Crop(self.card.size, self.card.margin if margin is None else margin)
        self.dim = len(self._run(np.zeros((1, self.card.size, self.card.size, 3), np.uint8))[0])
        self._check_columns(path)
        self.provenance: Mapping[str, str] = {
            "network": self.card.name,
            "revision": hub.digest_of(path, "sha256")[:23],
            "layer": "outputs side by side",
            "preprocessing": self._preprocessing(),
            "crop": f"aligned by five points, {self.crop.size} px, margin {self.crop.margin:g}",
            "version": "1",
        }

    def encode_crops(self, crops: np.ndarray) -> np.ndarray:
        """crops: `(batch, size, size, 3)` uint8 RGB, of any size. Returns `(batch, dim)` float32."""
        size = 1 if self._one_by_one else self.batch_size
        rows = [self._run(crops[i : i + size]) for i in range(0, len(crops), size)]
        return np.concatenate(rows) if rows else np.zeros((0, self.dim), np.float32)

    def interpret(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """values: `(batch, dim)` from `encode_crops`. Returns probabilities `(batch, 8)` in the order of
        `EXPRESSIONS`, 0 for those the network does not know, and valence and arousal `(batch, 2)` in [-1, 1],
        NaN where it has none."""
        card = self.card
        if not card.labels:
            raise ConfigError(
                f"{card.name} predicts nothing: its card has no labels.", remedy="Use it as an encoder, or add labels."
            )
        scores = values[:, : len(card.labels)].astype(np.float64)
        if card.scores == "logits":
            scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares = scores / scores.sum(axis=1, keepdims=True)
        probabilities = np.zeros((len(values), len(EXPRESSIONS)), np.float32)
        for column, expression in enumerate(card.expressions):
            probabilities[:, expression] += shares[:, column]
        valence_arousal = np.full((len(values), 2), np.nan, np.float32)
        for i, place in enumerate((card.valence, card.arousal)):
            if place is not None:
                valence_arousal[:, i] = values[:, place].clip(-1, 1)
        return probabilities, valence_arousal

    def predict(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`interpret` of `encode_crops`."""
        return self.interpret(self.encode_crops(crops))

    def _run(self, crops: np.ndarray) -> np.ndarray:
        outputs = self._session.run(None, {self._input.name: self._prepared(crops)})
        return np.concatenate([o.reshape(len(crops), -1) for o in outputs], axis=1).astype(np.float32)

    def _prepared(self, crops: np.ndarray) -> np.ndarray:
        card = self.card
        if crops.shape[1:3] != (card.size, card.size):
            shrink = crops.shape[1] > card.size
            how = cv2.INTER_AREA if shrink else cv2.INTER_LINEAR
            crops = np.stack([cv2.resize(crop, (card.size, card.size), interpolation=how) for crop in crops])
        if card.colour == "grey":
            crops = np.stack([cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY) for crop in crops])[..., None]
        elif card.colour == "bgr":
            crops = crops[..., ::-1]
        mean, std = np.array(card.mean, np.float32), np.array(card.std, np.float32)
        pixels = (crops.astype(np.float32) / 255 - mean) / std
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2) if card.layout == "nchw" else pixels)

    def _preprocessing(self) -> str:
        card = self.card
        return f"{card.colour}, {card.layout}, (x / 255 - {card.mean}) / {card.std}"

    def _check_input(self, path: Path) -> None:
        card, side = self.card, self.card.size
        image = (card.channels, side, side) if card.layout == "nchw" else (side, side, card.channels)
        found = self._input.shape
        fits = len(found) == 4 and all(
            not isinstance(f, int) or f == wanted for f, wanted in zip(found[1:], image, strict=True)
        )
        if not fits or len(self._session.get_inputs()) != 1:
            raise ConfigError(
                f"The card of {path} says that it takes (batch, {', '.join(map(str, image))}); it takes {found}.",
                follows="No encoder was made.",
                remedy="Correct size, colour or layout in the card.",
            )

    def _check_columns(self, path: Path) -> None:
        columns = [len(self.card.labels) - 1, self.card.valence, self.card.arousal]
        most = max(c for c in columns if c is not None)
        if most >= self.dim:
            raise ConfigError(
                f"The card of {path} names column {most}; the network's outputs have columns 0 to {self.dim - 1}.",
                follows="No encoder was made.",
                remedy="Correct labels, valence or arousal in the card.",
            )


def _session(path: Path, device: str, threads: int | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads if threads is not None else int(os.environ.get("OMP_NUM_THREADS", "0"))
    options.log_severity_level = 3
    wanted = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
    here = onnxruntime.get_available_providers()
    providers = [p for p in [*wanted, "CPUExecutionProvider"] if p in here]
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # its errors have no common class but Exception
        raise ArtefactError(
            f"{path} is no network that onnxruntime can read: {str(error).splitlines()[0]}",
            follows="No encoder was made.",
            remedy="It may be truncated; fetch it again.",
        ) from error
