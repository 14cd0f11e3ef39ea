"""ONNX face networks with a card, as encoders and as predictors that need no training.

`encode_crops` returns the network's outputs side by side, unchanged, so that they can be stored. `interpret` converts
them to mien's expressions, valence and arousal.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from mien import downloads
from mien.encoders import cards
from mien.encoders.protocol import Crop
from mien.errors import ConfigError
from mien.onnx_session import open_session


class OnnxFace:
    """ONNX network over aligned face crops as a `CropEncoder`, and its predictions.

    Args:
        source: name of a built-in card (`face-api`, `fer`, `hsemotion`), path of a card, or path of an ONNX file with a
            card beside it.
        name: name of the encoder in the feature store; None takes the card's name.
        device: `cpu`, or `cuda` if onnxruntime was built for it.
        margin: extra border around the face (`mien.encoders.protocol.Crop`); None takes the card's.
        batch_size: crops per call of the network.
        threads: number of CPU threads; None takes OMP_NUM_THREADS, or all cores.

    Raises:
        ConfigError: the card is not valid, or does not fit its network.
        ArtefactError: the network is missing or unreadable.
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
        self._session = open_session(path, device=device, threads=threads)
        self._input = self._session.get_inputs()[0]
        self._check_input(path)
        self._check_outputs(path)
        self._fixed_batch = isinstance(self._input.shape[0], int)
        self.crop = Crop(self.card.size, self.card.margin if margin is None else margin, self.card.down)
        self.dim = len(self._run(np.zeros((1, self.card.size, self.card.size, 3), np.uint8))[0])
        self._check_columns(path)
        self.provenance: Mapping[str, str] = {
            "network": self.card.name,
            "revision": downloads.digest_of(path, "sha256")[:23],
            "layer": "outputs side by side" + (f": {', '.join(self.card.outputs)}" if self.card.outputs else ""),
            "preprocessing": self._preprocessing(),
            "crop": f"aligned by five points, {self.crop.size} px, margin {self.crop.margin:g}"
            + (f", down {self.crop.down:g}" if self.crop.down else ""),
            "version": "1",
        }

    def encode_crops(self, crops: np.ndarray) -> np.ndarray:
        """Encode crops: `(batch, size, size, 3)` uint8 RGB of any size -> `(batch, dim)` float32."""
        size = 1 if self._fixed_batch else self.batch_size
        rows = [self._run(crops[i : i + size]) for i in range(0, len(crops), size)]
        return np.concatenate(rows) if rows else np.zeros((0, self.dim), np.float32)

    def interpret(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Convert outputs to mien's classes, valence and arousal.

        Args:
            values: `(batch, dim)` from `encode_crops`.

        Returns:
            Probabilities `(batch, 8)` in the order of `EXPRESSIONS`, 0 for classes that the network lacks; valence and
            arousal `(batch, 2)` in [-1, 1], NaN if the network has none.

        Raises:
            ConfigError: the card has no labels.
        """
        return cards.interpret(self.card, values)

    def predict(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Encode crops and interpret the outputs; see `encode_crops` and `interpret`."""
        return self.interpret(self.encode_crops(crops))

    def _run(self, crops: np.ndarray) -> np.ndarray:
        outputs = self._session.run(self.card.outputs or None, {self._input.name: self._prepare(crops)})
        return np.concatenate([o.reshape(len(crops), -1) for o in outputs], axis=1).astype(np.float32)

    def _prepare(self, crops: np.ndarray) -> np.ndarray:
        card = self.card
        if crops.shape[1:3] != (card.size, card.size):
            method = cv2.INTER_AREA if crops.shape[1] > card.size else cv2.INTER_LINEAR
            crops = np.stack([cv2.resize(crop, (card.size, card.size), interpolation=method) for crop in crops])
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
        """Raise ConfigError unless the network's only input has the shape that the card states."""
        card, side = self.card, self.card.size
        stated = (card.channels, side, side) if card.layout == "nchw" else (side, side, card.channels)
        actual = self._input.shape
        fits = (
            len(actual) == 4
            and all(
                not isinstance(length, int) or length == expected  # a dimension of any length has a name
                for length, expected in zip(actual[1:], stated, strict=True)
            )
        )
        if not fits or len(self._session.get_inputs()) != 1:
            raise ConfigError(
                f"The card of {path} states the input (batch, {', '.join(map(str, stated))}); it takes {actual}.",
                follows="No encoder was created.",
                remedy="Correct size, colour or layout in the card.",
            )

    def _check_outputs(self, path: Path) -> None:
        """Raise ConfigError unless the network has all outputs that the card names."""
        known = [output.name for output in self._session.get_outputs()]
        lacking = [name for name in self.card.outputs if name not in known]
        if lacking:
            raise ConfigError(
                f"The card of {path} names the outputs {', '.join(lacking)}; the network has {', '.join(known)}.",
                follows="No encoder was created.",
                remedy="Correct outputs in the card.",
            )

    def _check_columns(self, path: Path) -> None:
        """Raise ConfigError unless the outputs have all columns that the card names."""
        columns = [len(self.card.labels) - 1, self.card.valence, self.card.arousal]
        last = max(c for c in columns if c is not None)
        if last >= self.dim:
            raise ConfigError(
                f"The card of {path} names column {last}; the network's outputs have columns 0 to {self.dim - 1}.",
                follows="No encoder was created.",
                remedy="Correct labels, valence or arousal in the card.",
            )
