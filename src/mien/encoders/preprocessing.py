"""Crops to a network's input exactly as its own image processor makes it, in batches and on any device.

What a processor does to a picture has two parts: geometry (resize, cut the middle out), and a function of
each value alone (rescale, normalise, per channel). The second is asked of the processor once, for all 256
values; it is linear, so it becomes one multiplication and one addition on the device. Geometry is skipped
where the crop already has the right size, and else left to the processor, because a resize by another library
differs by more than rounding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mien.errors import ArtefactError


class Preprocessing:
    """Reads `preprocessor_config.json` in a checkpoint's folder.

    input_size: side in pixels of the crop that needs no resizing; give crops of this size. output_size: side
    of what the network sees (smaller where its processor cuts the middle out).
    """

    def __init__(self, folder: Path) -> None:
        from transformers import AutoImageProcessor

        try:
            self._processor: Any = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
        except (OSError, ValueError) as error:
            raise ArtefactError(
                f"{folder} has no readable preprocessor_config.json, so what the network expects is unknown.",
                follows="No encoder was made.",
                remedy="Save the processor beside the weights (`save_pretrained`), or download all files.",
            ) from error
        self._scale, self._shift = self._affine()
        self.input_size = self._input_size()
        probe = np.random.default_rng(0).integers(0, 256, (self.input_size, self.input_size, 3), np.uint8)
        shown = self._geometry(probe[None])
        self.output_size = shown.shape[1]
        self._offset = (self.input_size - self.output_size) // 2
        self._only_cut = np.array_equal(shown, self._cut(probe[None]))

    def __call__(self, crops: np.ndarray, device: torch.device) -> Tensor:
        """`(batch, size, size, 3)` uint8 RGB -> `(batch, 3, output_size, output_size)` float32."""
        ready = self._only_cut and crops.shape[1:3] == (self.input_size, self.input_size)
        shown = self._cut(crops) if ready else self._geometry(crops)
        pixels = torch.from_numpy(np.ascontiguousarray(shown)).to(device).permute(0, 3, 1, 2)
        return torch.addcmul(self._shift.to(device), pixels.float(), self._scale.to(device)).contiguous()

    def __str__(self) -> str:
        """For provenance: what it does, not how the processor's class is called this year."""
        affine = " ".join(f"{v:.6g}" for v in (*self._scale.flatten().tolist(), *self._shift.flatten().tolist()))
        resample = getattr(self._processor, "resample", None)
        sizes = f"{self.input_size} px, resample {int(resample or 0)}, middle {self.output_size} px"
        return f"{sizes}, scale and shift {affine}"

    def _cut(self, crops: np.ndarray) -> np.ndarray:
        stop = self._offset + self.output_size
        return crops[:, self._offset : stop, self._offset : stop]

    def _geometry(self, crops: np.ndarray) -> np.ndarray:
        """Resize and cut alone, by the processor: uint8 in, uint8 out, `(batch, size, size, 3)`."""
        options = {"do_rescale": False, "do_normalize": False}
        if hasattr(self._processor, "include_top"):  # EfficientNet's second normalisation
            options["include_top"] = False
        made = self._processor(list(crops), return_tensors="np", input_data_format="channels_last", **options)
        return made["pixel_values"].transpose(0, 2, 3, 1)

    def _affine(self) -> tuple[Tensor, Tensor]:
        ramp = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
        made = self._processor(
            [ramp],
            return_tensors="np",
            input_data_format="channels_last",
            do_resize=False,
            do_center_crop=False,
        )
        table = made["pixel_values"][0].reshape(3, 256).astype(np.float64)
        scale, shift = (table[:, 255] - table[:, 0]) / 255, table[:, 0]
        if np.abs(table - (scale[:, None] * np.arange(256) + shift[:, None])).max() > 1e-5:
            raise ArtefactError(
                f"{type(self._processor).__name__} does not map values linearly, which mien expects.",
                follows="No encoder was made.",
            )
        return tuple(torch.tensor(v, dtype=torch.float32).view(3, 1, 1) for v in (scale, shift))  # type: ignore[return-value]

    def _input_size(self) -> int:
        size = self._processor.size
        if size.get("shortest_edge"):
            side, share = size["shortest_edge"], getattr(self._processor, "crop_pct", None)
            # ConvNeXt's rule, which ResNet uses: under 384 px, resize by 1 / crop_pct and cut the middle out.
            return int(side / share) if share and side < 384 else side
        if size.get("height") != size.get("width"):
            raise ArtefactError(
                f"The network takes pictures of {dict(size)}; face crops are square.",
                follows="No encoder was made.",
            )
        return int(size["height"])
