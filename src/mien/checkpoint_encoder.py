"""Encoders by spec, trained ones included: a checkpoint trained on single face images, and an encoder tuned by
`mien tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mien.config import Recipe
from mien.datasets.image_datasets import TRAINED_LICENCE, crop_framing
from mien.encoders import registry
from mien.encoders.protocol import Crop, Encoder
from mien.encoders.tuned import create_tuned, find_tuned
from mien.errors import ConfigError
from mien.trained_model import stage_provenance


def create_encoder(spec: str, *, device: str = "cpu") -> Encoder:
    """The encoder that a spec names: `NAME[=SOURCE][,OPTION=VALUE...]` of `mien.encoders.registry`, the folder of a
    checkpoint that was trained on face images, or a tuned encoder: `FOLDER[,OPTION=VALUE...]` or `NAME=FOLDER[,...]`.

    Raises ConfigError and ArtefactError as `registry.create` does.
    """
    name, source, _ = registry.parse_spec(spec)
    if source is None and (Path(name) / "checkpoint.json").is_file():
        return CheckpointEncoder(name, device=device)
    tuned = find_tuned(name, source)
    return registry.create(spec, device=device) if tuned is None else create_tuned(spec, tuned, device=device)


def image_stage_provenance(recipe: Recipe, weights_sha256: str, layer: str = "embedding") -> dict[str, str]:
    """Provenance of features of a trained face-image network, in torch or exported."""
    margin, down = crop_framing(recipe)
    size = next(iter(recipe.features.values())).dim
    return {
        **stage_provenance(recipe.model.name, weights_sha256, layer),
        "crop": f"aligned by five points, {size} px, margin {margin:g}, down {down:g}",
    }


class CheckpointEncoder:
    """A trained face-image network (`dynamic_threshold`, `cnn_static`) as a `CropEncoder`: its embedding of each crop.

    Args:
        folder: the checkpoint. device: `cpu`, `cuda`, `cuda:N`. predictions: give, in place of the embedding, the
            logits, followed by valence and arousal if the network predicts them.

    Raises:
        ConfigError: the checkpoint cannot be loaded, or its system does not embed images.
    """

    modality = "face"
    rate_hz: float | None = None
    receptive_field_s = 0.0
    licence = TRAINED_LICENCE
    batch_size = 64

    def __init__(self, folder: str | Path, *, device: str = "cpu", predictions: bool = False) -> None:
        import torch  # here, because an extraction process for sound alone does not need it

        from mien import checkpoint

        loaded = checkpoint.load(folder, device)
        if loaded.model.input_kind != "images" or loaded.model.embedding_dim is None:
            raise ConfigError(
                f"{folder} holds a checkpoint of {loaded.recipe.model.name}, which does not embed face images",
                follows="No encoder was made.",
                remedy="Use a checkpoint of dynamic_threshold or cnn_static.",
            )
        self._model: Any = loaded.model.eval()
        self.device, self._predictions = torch.device(device), predictions
        width = len(loaded.labels) + 2 * loaded.model.predicts_valence_arousal
        self.name, self.dim = Path(folder).resolve().name, width if predictions else loaded.model.embedding_dim
        size = next(iter(loaded.recipe.features.values())).dim or 112
        self.crop = Crop(size, *crop_framing(loaded.recipe))
        layer = "predictions" if predictions else "embedding"
        self.provenance = image_stage_provenance(loaded.recipe, checkpoint.weights_digest(Path(folder)), layer)

    def encode_crops(self, crops: np.ndarray) -> np.ndarray:
        """`(n, size, size, 3)` uint8 RGB -> `(n, dim)` float32."""
        import torch

        with torch.inference_mode():
            images = torch.from_numpy(np.ascontiguousarray(crops.transpose(0, 3, 1, 2))).to(self.device)
            if self._predictions:
                values = torch.cat([part for part in self._model.predict(images) if part is not None], dim=1)
            else:
                values = self._model.embed(images)
            vectors: np.ndarray = values.float().cpu().numpy()
        return vectors
