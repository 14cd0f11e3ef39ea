"""Export pretrained image and speech encoders to ONNX, for `mien.encoders.exported`.

The exported encoder is compared with the torch encoder before it takes its place.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from mien import downloads, onnx_graph
from mien.encoders import int8 as torch_int8
from mien.encoders.audio_chunks import SAMPLE_RATE
from mien.encoders.exported import ABOUT, FORMAT, NETWORK, ExportedImageEncoder, ExportedSpeechEncoder, open_exported
from mien.encoders.images import ImageEncoder
from mien.encoders.protocol import Encoder
from mien.encoders.speech import SpeechEncoder
from mien.errors import ConfigError, OutputError
from mien.scratch import temporary_path

#: Largest accepted relative error of features in float32. Our choice: a tenth of that of bfloat16.
TOLERANCE = 1e-3
#: Operators whose weights are kept in 8 bits.
_QUANTISED = ("MatMul", "Gemm")


def export_encoder(encoder: Encoder, folder: Path, *, int8: bool = False) -> Path:
    """Export an encoder into a folder; returns the network's file.

    Args:
        encoder: an `ImageEncoder` or `SpeechEncoder` in float32 on the CPU.
        folder: replaced if it exists.
        int8: keep the weights of matrix products in 8 bits (`quantize_dynamic` of onnxruntime).

    Raises:
        ConfigError: another kind of encoder, or of another precision; its processor resizes crops of their own size;
            or the ONNX network differs from the torch network by more than `TOLERANCE`, in 8 bits by more than
            `mien.encoders.int8.TOLERANCE`.
        OutputError: the folder cannot be written.
    """
    about = _describe(encoder)
    if int8:
        about["provenance"]["precision"] = "int8, dynamic"
    temporary = temporary_path(folder)
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        _write(encoder, temporary, about, int8)
        _check(encoder, temporary, torch_int8.TOLERANCE if int8 else TOLERANCE)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    except OSError as error:
        raise OutputError(
            f"exported encoder {folder}: cannot be written: {error.strerror or error}",
            follows="The encoder was not exported.",
            remedy="Free some space, or give another folder, and try again.",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder / NETWORK


def _describe(encoder: Encoder) -> dict[str, Any]:
    """The content of encoder.json, without the hashes. Raises ConfigError."""
    about: dict[str, Any] = {
        "format": FORMAT,
        "name": encoder.name,
        "modality": encoder.modality,
        "dim": encoder.dim,
        "rate_hz": encoder.rate_hz,
        "receptive_field_s": encoder.receptive_field_s,
        "licence": encoder.licence,
        "provenance": dict(encoder.provenance),
    }
    if encoder.provenance.get("precision", "float32") != "float32":
        raise _refuse(encoder, f"it runs in {encoder.provenance['precision']}", "Create it with precision=float32.")
    if isinstance(encoder, SpeechEncoder):
        chunking = encoder.chunking
        about |= {"kind": "speech", "batch_size": encoder.batch_size}
        about["audio"] = {
            "sample_rate": SAMPLE_RATE,
            "hop": chunking.grid.hop,
            "field": chunking.grid.field,
            "length": chunking.length,
            "context": chunking.context,
            "normalise": chunking.normalise,
        }
        return about
    if not isinstance(encoder, ImageEncoder):
        raise _refuse(encoder, "only image and speech encoders can be exported", "Predict with the torch encoder.")
    preprocessing = encoder.preprocessing
    if len(encoder.scales) > 1:
        raise _refuse(encoder, "it averages several crops of each face", "Predict with the torch encoder.")
    if not preprocessing.crops_only:
        raise _refuse(
            encoder, f"its processor resizes crops of {encoder.crop.size} px too", "Predict with the torch encoder."
        )
    scale, shift = preprocessing.affine
    about |= {"kind": "image", "batch_size": encoder.batch_size}
    about["image"] = {
        "input_size": encoder.crop.size,
        "output_size": preprocessing.output_size,
        "scale": scale,
        "shift": shift,
        "margin": encoder.crop.margin,
        "down": encoder.crop.down,
    }
    return about


class _Network(nn.Module):
    """A function of tensors, with the network that it runs."""

    def __init__(self, network: nn.Module, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.function = network, function

    def forward(self, values: Tensor) -> Tensor:
        return self.function(values)


def _write(encoder: Encoder, folder: Path, about: dict[str, Any], int8: bool) -> None:
    """Write network.onnx and encoder.json."""
    assert isinstance(encoder, ImageEncoder | SpeechEncoder)
    any_length = torch.export.Dim.DYNAMIC
    if isinstance(encoder, ImageEncoder):
        example, axes = torch.rand(2, 3, *[encoder.preprocessing.output_size] * 2), {0: any_length}
    else:
        example, axes = 0.1 * torch.randn(2, SAMPLE_RATE), {0: any_length, 1: any_length}
    network = _Network(encoder.network, encoder.embed).eval()
    model = onnx_graph.to_onnx(network, [example], ["input"], ["features"], [axes])
    if int8:
        if not {node.op_type for node in model.graph.node} & set(_QUANTISED):
            raise _refuse(encoder, "it has no matrix products to keep in 8 bits", "Omit --int8.")
        del model.graph.value_info[:]  # inferred shapes, some of which quantisation contradicts
        _quantise(onnx_graph.write_network(model, folder / "float32.onnx"), folder / NETWORK)
        for path in folder.glob("float32.onnx*"):
            path.unlink()
    else:
        onnx_graph.write_network(model, folder / NETWORK)
    files = {
        path.name: downloads.digest_of(path, "sha256").removeprefix("sha256:") for path in sorted(folder.iterdir())
    }
    (folder / ABOUT).write_text(json.dumps(about | {"files": files}, indent=2) + "\n", encoding="utf-8")


def _quantise(source: Path, target: Path) -> None:
    """Write a network with 8-bit weights, one scale for each output of a matrix product."""
    from onnxruntime import quantization

    with onnx_graph.silence():
        quantization.quantize_dynamic(
            source,
            target,
            op_types_to_quantize=list(_QUANTISED),
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
        )


def _check(encoder: Encoder, folder: Path, tolerance: float) -> None:
    """Compare features of pictures without content, or of noise. Raises ConfigError above the tolerance."""
    exported = open_exported(folder)
    generator = np.random.default_rng(0)
    if isinstance(encoder, ImageEncoder) and isinstance(exported, ExportedImageEncoder):
        size = (encoder.crop.size, encoder.crop.size)
        small = generator.integers(0, 256, (5, 9, 9, 3), dtype=np.uint8)
        crops = np.stack([cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC) for picture in small])
        pairs = [(encoder.encode_crops(crops), exported.encode_crops(crops))]
    else:
        assert isinstance(encoder, SpeechEncoder)
        assert isinstance(exported, ExportedSpeechEncoder)
        pairs = []
        for seconds in (1.3, 2.0):
            samples = generator.normal(size=round(seconds * SAMPLE_RATE)).astype(np.float32)
            samples *= 0.2 * np.abs(np.sin(np.arange(len(samples)) / 4000)).astype(np.float32)
            (a,), (b,) = (list(e.encode_audio([(0.0, samples)])) for e in (encoder, exported))
            pairs.append((a.values, b.values))
    error = max(float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(a)), 1e-30) for a, b in pairs)
    if not error <= tolerance:
        precision = exported.provenance.get("precision", "float32")
        raise _refuse(
            encoder,
            f"in ONNX ({precision}) it differs from the torch encoder by {error:.1%}; {tolerance:.1%} is allowed",
            "Omit --int8." if precision != "float32" else "Predict with the torch encoder.",
        )


def _refuse(encoder: Encoder, why: str, remedy: str) -> ConfigError:
    return ConfigError(
        f"the encoder {encoder.name} cannot be exported: {why}", follows="It was not exported.", remedy=remedy
    )
