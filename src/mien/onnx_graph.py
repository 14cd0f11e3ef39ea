"""Write torch networks as ONNX files: torch's exporter without its messages, the same bytes everywhere, and a check.

GRU and LSTM become the operators of ONNX; torch's exporter would write them as loops over time.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mien import extras
from mien.errors import ConfigError

#: Largest accepted difference between the outputs in ONNX Runtime and in torch, relative to the largest output (at
#: least 1). Our choice: rounding in float32 stays a hundred times below it.
TOLERANCE = 1e-4
#: Bytes of weights from which they are kept in a file of their own: a protobuf message holds less than 2 GiB.
EXTERNAL_FROM = 1_900_000_000
#: Weights from which storing them in half saves more than the node that restores them takes.
_HALVE_FROM = 256
#: Order of the gates in the weights of ONNX (`zrh` of GRU, `iofc` of LSTM), as indices of torch's (`rzn`, `ifgo`).
_GATES = {"GRU": (1, 0, 2), "LSTM": (0, 3, 1, 2)}


def to_onnx(
    network: nn.Module,
    inputs: Sequence[Tensor],
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic: Sequence[Mapping[int, Any]],
    *,
    halves: bool = True,
) -> Any:
    """Export a network in evaluation mode on the CPU; returns an `onnx.ModelProto` that names no path.

    Args:
        network: takes the inputs by position and returns a tensor or a tuple of tensors. It is not changed.
        halves: store weights that are float16 numbers as float16.
        inputs: examples. dynamic: for each input, axis -> name or `torch.export.Dim` of an axis of any length.

    Raises:
        ConfigError: the extra `mien[export]` is not installed.
    """
    require_exporter()
    if any(isinstance(module, nn.RNNBase) for module in network.modules()):
        network = copy.deepcopy(network)
        _replace_recurrent(network)
    with torch.inference_mode(), silence():
        program = torch.onnx.export(
            network,
            tuple(inputs),
            dynamo=True,
            verbose=False,
            input_names=list(input_names),
            output_names=list(output_names),
            dynamic_shapes=_per_argument(network, dynamic),
            custom_translation_table=_translations(),
        )
    assert program is not None
    model = program.model_proto
    _clear_metadata(model)
    if halves:
        _store_halves(model)
    return model


def _store_halves(model: Any) -> None:
    """Store weights that are float16 numbers as float16, in place: those of a checkpoint that was saved in half.

    A Cast restores them to float32 when the network is loaded, so nothing changes but the size of the file.
    """
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < _HALVE_FROM:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if not np.array_equal(halves.astype(np.float32), values):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(halves, f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    for cast in reversed(casts):
        model.graph.node.insert(0, cast)


def require_exporter() -> None:
    """Raise ConfigError if the packages of the extra `mien[export]` are not installed."""
    extras.require("onnx", "exporting to ONNX", follows="Nothing was written.")
    extras.require("onnxscript", "exporting to ONNX", follows="Nothing was written.")


def write_network(model: Any, path: Path) -> Path:
    """Write an `onnx.ModelProto` into a new file, with its weights in `PATH.data` if they exceed `EXTERNAL_FROM`;
    returns the path. The model then refers to that file.

    Raises OSError.
    """
    import onnx

    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) < EXTERNAL_FROM:
        path.write_bytes(model.SerializeToString(deterministic=True))
    else:
        onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data")
    return path


def check_outputs(what: str, expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> None:
    """Compare the outputs of a network in torch and in ONNX Runtime for the same input.

    Raises:
        ConfigError: they differ by more than `TOLERANCE`, or in shape. `what` names the network in the text.
    """
    for a, b in zip(expected, found, strict=True):
        scale = max(1.0, float(np.abs(a).max(initial=0.0)))
        error = float(np.abs(a - b).max(initial=0.0)) / scale if a.shape == b.shape else np.inf
        if not error <= TOLERANCE:
            raise ConfigError(
                f"{what}: its ONNX network differs from the torch network by {error:.1e}; {TOLERANCE:g} is allowed",
                follows="It was not written.",
                remedy="Use the checkpoint without an ONNX network, and report this with its recipe.yaml.",
            )


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """No warnings, log records or prints of the exporter: they are about its internals."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _per_argument(network: nn.Module, dynamic: Sequence[Mapping[int, Any]]) -> tuple[Any, ...]:
    """The dynamic axes in the structure of the arguments of `forward`, which may be `*inputs`."""
    axes = tuple(dict(d) for d in dynamic)
    return (axes,) if network.forward.__code__.co_flags & 0x04 else axes  # 0x04: takes *args


def _clear_metadata(model: Any) -> None:
    """Remove the exporter's metadata (stack traces with local paths), so that equal weights give equal bytes."""
    graph = model.graph
    for part in (
        model,
        graph,
        *model.functions,
        *graph.node,
        *(node for function in model.functions for node in function.node),
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
    ):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


@torch.library.custom_op("mien::gru", mutates_args=())
def _gru(values: Tensor, weight: Tensor, recurrent: Tensor, bias: Tensor) -> Tensor:
    raise NotImplementedError("mien::gru exists for export only")


@torch.library.custom_op("mien::lstm", mutates_args=())
def _lstm(values: Tensor, weight: Tensor, recurrent: Tensor, bias: Tensor) -> Tensor:
    raise NotImplementedError("mien::lstm exists for export only")


@_gru.register_fake
@_lstm.register_fake
def _states(values: Tensor, weight: Tensor, recurrent: Tensor, bias: Tensor) -> Tensor:
    """values `(time, batch, width)` -> `(time, batch, hidden)`."""
    return values.new_empty(values.shape[0], values.shape[1], recurrent.shape[2])


class _Recurrent(nn.Module):
    """Layers of GRU or LSTM over `(batch, time, width)`, from the state zero. Can be exported only, not run."""

    def __init__(self, module: nn.RNNBase) -> None:
        super().__init__()
        self._operator: Any = torch.ops.mien.gru if module.mode == "GRU" else torch.ops.mien.lstm
        self._layers = module.num_layers
        for layer in range(module.num_layers):

            def rows(part: str, layer: int = layer) -> Tensor:
                gates = getattr(module, f"{part}_l{layer}").detach().chunk(len(_GATES[module.mode]))
                return torch.cat([gates[i] for i in _GATES[module.mode]])

            self.register_buffer(f"weight{layer}", rows("weight_ih")[None])
            self.register_buffer(f"recurrent{layer}", rows("weight_hh")[None])
            self.register_buffer(f"bias{layer}", torch.cat((rows("bias_ih"), rows("bias_hh")))[None])

    def forward(self, values: Tensor) -> tuple[Tensor, None]:
        values = values.transpose(0, 1)
        for layer in range(self._layers):
            values = self._operator(values, *(self.get_buffer(f"{p}{layer}") for p in ("weight", "recurrent", "bias")))
        return values.transpose(0, 1), None


def _replace_recurrent(network: nn.Module) -> None:
    """Replace every `nn.GRU` and `nn.LSTM` by its ONNX operator, in place.

    Raises NotImplementedError for one that is bidirectional, without biases, or not `batch_first`.
    """
    for parent in list(network.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, nn.RNNBase) and module.mode in _GATES:
                if module.bidirectional or not module.bias or not module.batch_first:
                    raise NotImplementedError(f"{name}: only batch_first, one direction and biases are exported")
                setattr(parent, name, _Recurrent(module))


def _translations() -> dict[Any, Any]:
    """How torch's exporter writes the operators of `_Recurrent`."""
    import onnxscript

    op: Any = onnxscript.opset18

    def gru(values: Any, weight: Any, recurrent: Any, bias: Any) -> Any:
        size = recurrent.shape[2]
        states, _ = op.GRU(values, weight, recurrent, bias, hidden_size=size, linear_before_reset=1)
        return op.Squeeze(states, op.Constant(value_ints=[1]))

    def lstm(values: Any, weight: Any, recurrent: Any, bias: Any) -> Any:
        states, _, _ = op.LSTM(values, weight, recurrent, bias, hidden_size=recurrent.shape[2])
        return op.Squeeze(states, op.Constant(value_ints=[1]))

    return {torch.ops.mien.gru.default: gru, torch.ops.mien.lstm.default: lstm}
