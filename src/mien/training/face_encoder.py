"""A run trained on pictures as a face encoder: `mien extract --encoder RUN`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mien import checkpoint
from mien.encoders.protocol import Crop
from mien.errors import ConfigError
from mien.training.picture_material import framing


class TrainedFaces:
    """The vectors of a trained extractor (`dynamic_threshold`, `cnn_static`) over aligned crops."""

    modality = "face"
    rate_hz: float | None = None
    receptive_field_s = 0.0
    licence = "as its training pictures allow"
    batch_size = 64

    def __init__(self, folder: str, *, device: str = "cpu") -> None:
        loaded = checkpoint.load(folder, device)
        if not hasattr(loaded.model, "dim") or not hasattr(loaded.model, "embed"):
            raise ConfigError(
                f"{folder} is a run of {loaded.recipe.model.name}, which looks at no pictures",
                follows="no encoder was made",
                remedy="give a run of dynamic_threshold or cnn_static",
            )
        model: Any = loaded.model.eval()
        self._model = model
        self._device = device
        self.name, self.dim = Path(folder).resolve().name, int(model.dim)
        size = next(iter(loaded.recipe.features.values())).dim or 112
        self.crop = Crop(size, *framing(loaded.recipe))
        weights = hashlib.sha256((Path(folder) / checkpoint.WEIGHTS).read_bytes()).hexdigest()
        self.provenance = {
            "network": loaded.recipe.model.name, "revision": weights, "layer": "embedding",
            "crop": f"aligned by five points, {size} px, margin {self.crop.margin:g}, down {self.crop.down:g}",
        }  # fmt: skip

    @torch.inference_mode()
    def encode_crops(self, crops: np.ndarray) -> np.ndarray:
        """`(n, size, size, 3)` uint8 -> `(n, dim)` float32."""
        pictures = torch.from_numpy(np.ascontiguousarray(crops.transpose(0, 3, 1, 2))).to(self._device)
        vectors: np.ndarray = self._model.embed(pictures).float().cpu().numpy()
        return vectors


def create(source: str | None = None, *, device: str = "cpu") -> TrainedFaces:
    """The factory that `mien.encoders.registry` names."""
    if source is None:
        raise ConfigError("no run was named", remedy="--encoder RUN, the folder of a trained run")
    return TrainedFaces(source, device=device)
