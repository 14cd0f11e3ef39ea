"""A trained system in one folder that explains itself.

    weights.safetensors   tensors by name, the input statistics among them
    recipe.yaml           the resolved recipe, every key written out
    checkpoint.json       format, class labels, versions, sha256 of the weights
    metrics.json          what was measured, as the training run left it
    network.onnx, .json   if exported: the network without torch (`mien.onnx_model`)

Never a pickle: nothing in the folder is code, and loading runs none. `load("starter")` is the one shipped
with mien.
"""

from __future__ import annotations

import hashlib
import json
import platform
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as write_tensors
from torch import Tensor, nn

from mien import config, inference, models, onnx_model
from mien.atomic import write_bytes
from mien.errors import ConfigError, OutputError
from mien.records import Stream

FORMAT = 1
WEIGHTS, RECIPE, ABOUT, METRICS = "weights.safetensors", "recipe.yaml", "checkpoint.json", "metrics.json"
#: Checkpoints inside the package, each a folder of that name.
SHIPPED = ("starter",)
_PICKLES = {".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle", ".joblib"}


@dataclass(slots=True)
class Checkpoint:
    """A system ready to predict. labels: class names in the order of the probabilities. metrics,
    versions: as saved."""

    model: nn.Module
    recipe: config.Recipe
    labels: list[str]
    metrics: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def normalisation(self) -> dict[str, tuple[Tensor, Tensor]]:
        """modality -> mean and deviation `(dim,)` of its training values."""
        statistics: dict[str, tuple[Tensor, Tensor]] = self.model.normalisation()  # type: ignore[operator]
        return statistics

    def to(self, device: str | torch.device) -> Checkpoint:
        """The same on another device."""
        self.model.to(device)
        return self

    @property
    def features(self) -> dict[str, inference.InputFeature]:
        """modality -> the encoder and the width of what the model reads."""
        return self.settings.features

    @property
    def settings(self) -> inference.InferenceSettings:
        """What prediction needs to know of the recipe."""
        recipe = models.complete(self.recipe)
        windows, vote = recipe.windows, recipe.vote
        return inference.InferenceSettings(
            labels=self.labels,
            features={name: inference.InputFeature(f.encoder, f.dim or 0) for name, f in recipe.features.items()},
            window_s=windows.seconds,
            rate_hz=windows.rate_hz,
            hop_s=vote.hop_seconds,
            triangular=vote.triangular,
            smooth_s=vote.smooth_seconds,
            temperature=vote.temperature,
            trailing=vote.trailing,
            hamming=vote.hamming,
        )

    def predict_streams(
        self, streams: Mapping[str, Stream], start_s: float, stop_s: float, *, batch: int = 64
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What one subject shows from `start_s` to `stop_s` seconds; see `mien.inference.answer`."""
        self.model.eval()
        return inference.predict_streams(self._network, self.settings, streams, start_s, stop_s, batch)

    @torch.inference_mode()
    def _network(self, values: dict[str, np.ndarray], valid: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        device = next(self.model.parameters()).device
        out = self.model(
            {name: torch.from_numpy(v).to(device) for name, v in values.items()},
            {name: torch.from_numpy(v).to(device) for name, v in valid.items()},
        )
        return out.logits.float().cpu().numpy(), out.valence_arousal.float().cpu().numpy()


def torch_device(name: str) -> str:
    """`auto` as the device it means here."""
    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def save(
    folder: Path,
    model: nn.Module,
    recipe: config.Recipe,
    labels: list[str] | None = None,
    metrics: Mapping[str, Any] | None = None,
    *,
    half: bool = False,
) -> Path:
    """Write a checkpoint folder; each file is written beside and renamed.

    half: store weights in float16 (loading gives float32); input statistics stay float32. Labels are the
    recipe's unless given. Raises OutputError if the folder cannot be written.
    """
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    if half:
        exact = {k for k, _ in model.named_buffers()}
        state = {k: v.half() if v.is_floating_point() and k not in exact else v for k, v in state.items()}
    weights = write_tensors(state)
    about = {
        "format": FORMAT,
        "labels": labels or recipe.corpus.labels,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "versions": _versions(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / WEIGHTS, weights)
        write_bytes(folder / RECIPE, config.dump(models.complete(recipe)).encode())
        write_metrics(folder, metrics or {})
        write_bytes(folder / ABOUT, (json.dumps(about, indent=2) + "\n").encode())
    except OSError as error:
        raise OutputError(
            f"checkpoint {folder}: cannot be written: {error.strerror or error}",
            remedy="Give another folder, or make room and try again.",
        ) from error
    return folder


def export(source: str | Path, *, out: Path | None = None) -> Path:
    """Write a checkpoint's network as ONNX beside its weights, so that predicting needs no torch; see
    `mien.onnx_model`. Returns the file's path. Needs the `export` extra.

    Raises ConfigError if the checkpoint is none or the extra is missing; OutputError if the folder cannot be written.
    """
    checkpoint, own = load(source), _folder(source)
    folder = out or own
    try:
        folder.mkdir(parents=True, exist_ok=True)
        data = _onnx(checkpoint)
        write_bytes(folder / onnx_model.NETWORK, data)
        about = onnx_model.about(checkpoint.settings, _json(own / ABOUT)["sha256"], data)
        write_bytes(folder / onnx_model.ABOUT, about)
    except OSError as error:
        raise OutputError(
            f"checkpoint {folder}: {onnx_model.NETWORK} cannot be written: {error.strerror or error}",
            remedy="Make room, or name another folder, and try again.",
        ) from error
    return folder / onnx_model.NETWORK


class _Flat(nn.Module):
    """The model with tensors by position, as ONNX wants them: values and validity of each modality in turn."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        values, valid = (dict(zip(self.names, inputs[i::2], strict=True)) for i in (0, 1))
        out = self.model(values, valid)
        return out.logits, out.valence_arousal


def _onnx(checkpoint: Checkpoint) -> bytes:
    """The network as an ONNX file whose first axis, windows, is free."""
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise ConfigError(
            "writing ONNX needs the packages onnx and onnxscript, which are not installed",
            remedy="pip install 'mien[export]'",
        ) from None
    settings = checkpoint.settings
    shapes = {name: (3, settings.tokens, feature.dim) for name, feature in settings.features.items()}
    inputs = [x for shape in shapes.values() for x in (torch.zeros(shape), torch.ones(shape[:2], dtype=torch.bool))]
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Flat(checkpoint.model.cpu(), list(shapes)).eval(),
            tuple(inputs),
            dynamo=True,
            verbose=False,
            input_names=[name for modality in shapes for name in (modality, f"{modality}_valid")],
            output_names=["logits", "valence_arousal"],
            dynamic_shapes=(tuple({0: torch.export.Dim("window")} for _ in inputs),),
        )
    assert program is not None
    return _bare(program.model_proto)


def _bare(network: Any) -> bytes:
    """An onnx.ModelProto without what the exporter notes beside it (stack traces with the paths of this machine):
    the same weights give the same bytes everywhere."""
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


def write_metrics(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Replace the metrics of a checkpoint folder."""
    write_bytes(folder / METRICS, (json.dumps(dict(metrics), indent=2) + "\n").encode())


def load(source: str | Path, device: str | torch.device = "cpu") -> Checkpoint:
    """The checkpoint in a folder, or the shipped one of that name, ready to predict.

    Raises ConfigError: no such folder, a pickle, a file missing or damaged, a newer format, weights of
    another architecture than the recipe describes.
    """
    folder = _folder(source)
    about = _json(folder / ABOUT)
    writer = about.get("versions", {}).get("mien", "?")
    if about.get("format") != FORMAT:
        raise ConfigError(
            f"checkpoint {folder}: format {about.get('format')!r}, this mien reads format {FORMAT}",
            remedy=f"It was written with mien {writer}: install that version.",
        )
    recipe = config.load(folder / RECIPE, check=models.problems)
    data = (folder / WEIGHTS).read_bytes()
    if hashlib.sha256(data).hexdigest() != about["sha256"]:
        raise ConfigError(
            f"checkpoint {folder}: {WEIGHTS} is not the file that {ABOUT} describes (sha256 differs)",
            follows="It is damaged, half-copied, or from another training run.",
            remedy="Copy the whole folder again.",
        )
    try:
        state = {k: v.float() if v.is_floating_point() else v for k, v in read_tensors(data).items()}
    except SafetensorError as error:
        raise ConfigError(f"checkpoint {folder}: {WEIGHTS} is not a safetensors file: {error}") from error
    model = models.build(recipe)
    _fits(folder, model, state)
    model.load_state_dict(state)
    model.eval().to(device)
    return Checkpoint(model, recipe, list(about["labels"]), _json(folder / METRICS), dict(about["versions"]))


def _folder(source: str | Path) -> Path:
    shipped = str(source) in SHIPPED
    folder = Path(str(resources.files("mien") / str(source))) if shipped else Path(source)
    if shipped and not (folder / WEIGHTS).exists():
        raise ConfigError(
            f"the checkpoint {str(source)!r} is not in this installation of mien ({folder})",
            follows="Packages from the index have it; a working copy has it once it was trained.",
            remedy=f"Install mien again, or run `make {source}` in the working copy.",
        )
    stray = [folder] if folder.is_file() else []
    if folder.is_dir() and not (folder / WEIGHTS).exists():
        stray = sorted(p for p in folder.iterdir() if p.suffix.lower() in _PICKLES)
    if stray and stray[0].suffix.lower() in _PICKLES:
        raise ConfigError(
            f"{stray[0]}: a pickle, which may run any code when it is loaded",
            follows="mien reads safetensors only; the file was not opened.",
            remedy="In the environment that wrote it, save its state_dict with safetensors.torch.save_file; "
            "or train again with `mien train`.",
        )
    if not folder.is_dir():
        what = "a file, not a checkpoint folder" if folder.is_file() else "no such checkpoint"
        raise ConfigError(
            f"model {str(source)!r}: {what}{config.nearest(str(source), SHIPPED)}",
            remedy=f"Give a folder that `mien train` wrote, or a shipped name: {', '.join(SHIPPED)}.",
        )
    missing = [name for name in (WEIGHTS, RECIPE, ABOUT, METRICS) if not (folder / name).is_file()]
    if missing:
        raise ConfigError(
            f"checkpoint {folder}: {', '.join(missing)} missing",
            follows="The folder is incomplete, or no checkpoint.",
            remedy="Copy the whole folder again, or train with `mien train`.",
        )
    return folder


def _fits(folder: Path, model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    theirs = {k: tuple(v.shape) for k, v in state.items()}
    lines = [
        *(f"missing {k} {own[k]}" for k in own if k not in theirs),
        *(f"unknown {k} {theirs[k]}" for k in theirs if k not in own),
        *(f"{k} is {theirs[k]}, the recipe needs {own[k]}" for k in own if k in theirs and own[k] != theirs[k]),
    ]
    if lines:
        more = f"\n  and {len(lines) - 5} more" if len(lines) > 5 else ""
        raise ConfigError(
            f"checkpoint {folder}: the weights are of another architecture than {RECIPE} describes:\n"
            + "\n".join(f"  {line}" for line in lines[:5])
            + more,
            remedy=f"Put back the {RECIPE} that was saved with these weights.",
        )


def _json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}", remedy="Copy the whole folder again.") from error
    return read if isinstance(read, dict) else {}


def _versions() -> dict[str, str]:
    from mien import __version__

    return {
        "mien": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
