"""Export checkpoints to ONNX, so that prediction needs no torch (`mien.onnx_model`)."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mien import onnx_model
from mien.atomic import write_bytes
from mien.checkpoint import ABOUT, Checkpoint, load, locate, read_json
from mien.errors import ConfigError, OutputError


def export(source: str | Path, *, out: Path | None = None) -> Path:
    """Export a checkpoint's network to ONNX, so that prediction needs no torch (`mien.onnx_model`); returns the file.

    Args:
        source: checkpoint folder, or a shipped name. out: folder to write to; by default the checkpoint's.

    Raises:
        ConfigError: `source` is no checkpoint, or the extra `mien[export]` is not installed.
        OutputError: the folder cannot be written.
    """
    checkpoint, own = load(source), locate(source)
    folder = out or own
    try:
        folder.mkdir(parents=True, exist_ok=True)
        data = _to_onnx(checkpoint)
        write_bytes(folder / onnx_model.NETWORK, data)
        about = onnx_model.describe(checkpoint.settings, read_json(own / ABOUT)["sha256"], data)
        write_bytes(folder / onnx_model.ABOUT, about)
    except OSError as error:
        raise OutputError(
            f"checkpoint {folder}: {onnx_model.NETWORK} cannot be written: {error.strerror or error}",
            follows="The network was not exported.",
            remedy="Free some space, or give another folder, and try again.",
        ) from error
    return folder / onnx_model.NETWORK


class _PositionalNetwork(nn.Module):
    """The network with positional tensors, as ONNX needs them: values and validity of each modality in turn."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        values, valid = (dict(zip(self.names, inputs[i::2], strict=True)) for i in (0, 1))
        out = self.model(values, valid)
        return out.logits, out.valence_arousal


def _to_onnx(checkpoint: Checkpoint) -> bytes:
    """The network as an ONNX file; the number of windows is dynamic."""
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise ConfigError(
            "exporting to ONNX needs the packages onnx and onnxscript, which are not installed",
            follows="Nothing was written.",
            remedy="Run `pip install 'mien[export]'`.",
        ) from None
    settings = checkpoint.settings
    shapes = {name: (3, settings.tokens, feature.dim) for name, feature in settings.features.items()}
    inputs = [x for shape in shapes.values() for x in (torch.zeros(shape), torch.ones(shape[:2], dtype=torch.bool))]
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _PositionalNetwork(checkpoint.model.cpu(), list(shapes)).eval(),
            tuple(inputs),
            dynamo=True,
            verbose=False,
            input_names=[name for modality in shapes for name in (modality, f"{modality}_valid")],
            output_names=["logits", "valence_arousal"],
            dynamic_shapes=(tuple({0: torch.export.Dim("window")} for _ in inputs),),
        )
    assert program is not None
    return _without_metadata(program.model_proto)


def _without_metadata(network: Any) -> bytes:
    """An onnx.ModelProto as bytes, without the exporter's metadata (stack traces with local paths), so that the same
    weights give the same bytes everywhere."""
    graph = network.graph
    for part in (
        network,
        graph,
        *network.functions,
        *graph.node,
        *(node for function in network.functions for node in function.node),
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
    ):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    data: bytes = network.SerializeToString(deterministic=True)
    return data
