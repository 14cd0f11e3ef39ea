"""Preprocess face crops exactly as a network's own image processor does, in batches and on any device.

An image processor of transformers does two things: geometry (resize, central crop), and a function of each value alone
(rescale, normalise, per channel). The second is read from the processor once, for all 256 values. It is linear, so it
becomes one multiplication and one addition on the device. Geometry is skipped where the crop already has the right
size, and otherwise left to the processor, because another library's resize differs by more than rounding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mien.encoders.pretrained import load_processor
from mien.errors import ArtefactError


class Preprocessing:
    """Preprocessing that preprocessor_config.json in a folder of weights describes.

    Attributes:
        input_size: side in pixels of crops that need no resizing.
        output_size: side of the network's input; smaller if the processor takes a central crop.
        crops_only: for crops of `input_size`, the geometry is a central crop and nothing else.

    Raises:
        ArtefactError: the file is missing or unreadable, the processor is not linear in the values, or its input is not
            square.
    """

    def __init__(self, folder: Path) -> None:
        self._processor: Any = load_processor(folder, "AutoImageProcessor", backend="pil")
        self._scale, self._shift = self._affine()
        self.input_size = self._input_size()
        probe = np.random.default_rng(0).integers(0, 256, (1, self.input_size, self.input_size, 3), np.uint8)
        processed = self._geometry(probe)
        self.output_size = processed.shape[1]
        self._offset = (self.input_size - self.output_size) // 2
        self.crops_only = np.array_equal(processed, self._central_crop(probe))

    def __call__(self, crops: np.ndarray, device: torch.device) -> Tensor:
        """Preprocess crops: `(batch, size, size, 3)` uint8 RGB -> `(batch, 3, output_size, output_size)` float32."""
        skip_resize = self.crops_only and crops.shape[1:3] == (self.input_size, self.input_size)
        images = self._central_crop(crops) if skip_resize else self._geometry(crops)
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2)
        return torch.addcmul(self._shift.to(device), pixels.float(), self._scale.to(device)).contiguous()

    @property
    def affine(self) -> tuple[list[float], list[float]]:
        """Scale and shift of each channel: the network reads `scale * value + shift` of values 0 to 255."""
        return self._scale.flatten().tolist(), self._shift.flatten().tolist()

    def __str__(self) -> str:
        """Description for provenance. It names no class of transformers, because those are renamed between versions."""
        affine = " ".join(f"{v:.6g}" for v in (*self._scale.flatten().tolist(), *self._shift.flatten().tolist()))
        resample = getattr(self._processor, "resample", None)
        sizes = f"{self.input_size} px, resample {int(resample or 0)}, middle {self.output_size} px"
        return f"{sizes}, scale and shift {affine}"

    def _central_crop(self, crops: np.ndarray) -> np.ndarray:
        stop = self._offset + self.output_size
        return crops[:, self._offset : stop, self._offset : stop]

    def _geometry(self, crops: np.ndarray) -> np.ndarray:
        """Resize and central crop by the processor: uint8 in, uint8 out, `(batch, size, size, 3)`."""
        options = {"do_rescale": False, "do_normalize": False}
        if hasattr(self._processor, "include_top"):  # EfficientNet's second normalisation
            options["include_top"] = False
        return self._process(list(crops), **options).transpose(0, 2, 3, 1)

    def _affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift per channel, `(3, 1, 1)` each, from the processor's output for a ramp of all 256 values."""
        ramp = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
        table = self._process([ramp], do_resize=False, do_center_crop=False)[0].reshape(3, 256).astype(np.float64)
        scale, shift = (table[:, 255] - table[:, 0]) / 255, table[:, 0]
        if np.abs(table - (scale[:, None] * np.arange(256) + shift[:, None])).max() > 1e-5:
            raise ArtefactError(
                f"{type(self._processor).__name__} does not map pixel values linearly, which mien requires.",
                follows="No encoder was created.",
                remedy="Use weights whose processor only rescales and normalises pixels.",
            )
        scales, shifts = (torch.tensor(v, dtype=torch.float32).view(3, 1, 1) for v in (scale, shift))
        return scales, shifts

    def _process(self, images: list[np.ndarray], **options: bool) -> np.ndarray:
        """The processor's output, `(batch, 3, size, size)`."""
        output = self._processor(images, return_tensors="np", input_data_format="channels_last", **options)
        pixels: np.ndarray = output["pixel_values"]
        return pixels

    def _input_size(self) -> int:
        size = self._processor.size
        if size.get("shortest_edge"):
            side, share = size["shortest_edge"], getattr(self._processor, "crop_pct", None)
            # ConvNeXt's rule, which ResNet uses: below 384 px, resize by 1 / crop_pct, then take the central crop.
            return int(side / share if share and side < 384 else side)
        if size.get("height") != size.get("width"):
            raise ArtefactError(
                f"The network takes pictures of {dict(size)}; face crops are square.",
                follows="No encoder was created.",
                remedy="Use a network with a square input.",
            )
        return int(size["height"])
