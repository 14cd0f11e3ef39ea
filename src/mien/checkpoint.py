"""Save and load a trained system: one folder with weights, recipe, labels, versions and metrics.

    weights.safetensors   tensors by name, with the input normalisation
    recipe.yaml           the resolved recipe, every key written out
    checkpoint.json       format, class labels, versions, sha256 of the weights and of every other file that changes an
                          answer, and one digest over all of it (`mien.saved_state`)
    metrics.json          what the training run measured
    network.onnx, .json   if exported: the network for prediction without torch (`mien.onnx_model`)
    calibration.json      if fitted: `mien.evaluation.calibration`

A save replaces all of it in one step: a process that is killed leaves the earlier checkpoint or the new one. There are
no pickles: nothing in the folder is code. `load("starter")` loads the checkpoint shipped with mien.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as write_tensors
from torch import Tensor, nn

from mien import config, inference, json_object, models, saved_state
from mien.atomic import write_bytes
from mien.errors import ConfigError, OutputError
from mien.layers.system import StreamSystem, System
from mien.mouth_filter import VoiceMask
from mien.network_lock import NETWORK_LOCK
from mien.onnx_model import SHIPPED, shipped_folder
from mien.records import Stream

FORMAT = 2
WEIGHTS, RECIPE, ABOUT, METRICS = "weights.safetensors", "recipe.yaml", "checkpoint.json", "metrics.json"
_PICKLES = {".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle", ".joblib"}


@dataclass(slots=True)
class Checkpoint:
    """A trained system in torch, ready to predict; a `mien.inference.StreamModel`.

    labels: class names in the order of the probabilities. metrics, versions: as saved.
    """

    model: System[Any]
    recipe: config.Recipe
    labels: list[str]
    metrics: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def normalisation(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Modality -> mean and deviation of its training values, each `(dim,)`."""
        return self.model.normalisation()

    def to(self, device: str | torch.device) -> Checkpoint:
        """Move the network to another device; returns self."""
        self.model.to(device)
        return self

    @property
    def features(self) -> dict[str, inference.InputFeature]:
        """Modality -> input: its encoder and width."""
        return self.settings.features

    @property
    def settings(self) -> inference.InferenceSettings:
        """The inference settings of the recipe."""
        recipe = models.complete(self.recipe)
        windows, vote = recipe.windows, recipe.vote
        width = vote.smooth_seconds
        return inference.InferenceSettings(
            labels=self.labels,
            features={
                name: inference.InputFeature(f.encoder, f.dim or 0, f.options)
                for name, f in recipe.predicted_from.items()
            },
            window_s=windows.seconds,
            rate_hz=windows.rate_hz,
            hop_s=vote.hop_seconds,
            triangular=vote.triangular,
            smooth_s={str(k): v for k, v in width.items()} if isinstance(width, dict) else width,
            temperature=vote.temperature,
            trailing=vote.trailing,
            kernel=vote.kernel,
            expression=self.model.predicts_expression,
            valence_arousal=self.model.predicts_valence_arousal,
            scores=self.model.score_tasks,
            voice_mask=voice_mask(recipe),
        )

    def predict_streams(
        self, streams: Mapping[str, Stream], start_s: float, stop_s: float, *, batch: int = 64
    ) -> inference.StreamPrediction:
        """Predict one subject from `start_s` to `stop_s` seconds, see `mien.inference.predict_streams`."""
        self.model.eval()
        return inference.predict_streams(self._network, self.settings, streams, start_s, stop_s, batch)

    def embed_streams(self, streams: Mapping[str, Stream]) -> Stream:
        """Features of one subject for a next stage, see `mien.inference.embed_streams`: the embedding of the system,
        for valence-arousal streams with their two predictions last.

        Raises ConfigError for a system without an embedding over streams.
        """
        if self.model.input_kind != "streams" or self.model.embedding_dim is None:
            raise ConfigError(
                f"{self.recipe.model.name} has no features for a next stage",
                follows="Nothing was computed.",
                remedy="Use a checkpoint of the recipes va_face, va_behaviour or va_voice.",
            )
        self.model.eval()
        return inference.embed_streams(self._embedding, self.settings, streams)

    @torch.inference_mode()
    def _embedding(self, values: dict[str, np.ndarray], valid: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        device, model = next(self.model.parameters()).device, cast(StreamSystem, self.model)
        embedding, known = model.embed(
            {name: torch.from_numpy(v).to(device) for name, v in values.items()},
            {name: torch.from_numpy(v).to(device) for name, v in valid.items()},
        )
        return embedding.float().cpu().numpy(), known.cpu().numpy()

    @torch.inference_mode()
    def _network(self, values: dict[str, np.ndarray], valid: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        device = next(self.model.parameters()).device
        out = self.model(
            {name: torch.from_numpy(v).to(device) for name, v in values.items()},
            {name: torch.from_numpy(v).to(device) for name, v in valid.items()},
        )
        outputs = (out.logits, out.valence_arousal, *(out.score_logits[task] for task in self.model.score_tasks))
        return tuple(output.float().cpu().numpy() for output in outputs)


def voice_mask(recipe: config.Recipe) -> VoiceMask | None:
    """How training and prediction mask the voice by the opening of the mouth; None if the recipe does not."""
    given = recipe.mouth_filter
    if given is None or given.use != "mask":
        return None
    return VoiceMask(given.voice, given.mouth, given.opening, keep_unseen=given.unseen == "keep")


def torch_device(name: str) -> str:
    """Torch device of a name: `auto` is CUDA where there is one, otherwise the CPU."""
    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def save(
    folder: Path,
    model: System[Any],
    recipe: config.Recipe,
    labels: list[str] | None = None,
    metrics: Mapping[str, Any] | None = None,
    *,
    half: bool = False,
    files: Mapping[str, bytes] | None = None,
) -> Path:
    """Write a checkpoint folder in one step; returns the folder. A killed process leaves the earlier checkpoint, whole.

    Args:
        labels: class names; by default the recipe's.
        metrics: for metrics.json.
        half: store weights in float16 (loading gives float32); buffers stay as they are.
        files: further files under the digest, by name.

    Raises OutputError if the folder cannot be written.
    """
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    if half:
        exact = {k for k, _ in model.named_buffers()}
        state = {k: v.half() if v.is_floating_point() and k not in exact else v for k, v in state.items()}
    weights = write_tensors(state)
    about = {
        "format": FORMAT,
        "labels": labels or recipe.corpus.labels,
        "valence_arousal": model.predicts_valence_arousal,
        "architecture": model.architecture(),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "versions": _versions(),
    }
    try:
        content = {
            WEIGHTS: weights,
            RECIPE: config.dump(models.complete(recipe)).encode(),
            METRICS: json_bytes(metrics or {}),
        }
        saved_state.save(folder, ABOUT, about, content | dict(files or {}))
    except OSError as error:
        raise OutputError(
            f"checkpoint {folder}: cannot be written: {error.strerror or error}",
            follows="An earlier checkpoint in it is unchanged.",
            remedy="Give another folder, or free some space and try again.",
        ) from error
    return folder


def weights_digest(folder: Path) -> str:
    """SHA-256 of a checkpoint's weights, as hexadecimal. Raises OSError, and ConfigError for a damaged folder."""
    return hashlib.sha256(saved_state.read(folder, ABOUT).path(WEIGHTS).read_bytes()).hexdigest()


def write_metrics(folder: Path, metrics: Mapping[str, Any], manifest: str = ABOUT) -> None:
    """Replace metrics.json of a checkpoint folder, or of one with another manifest. Raises OSError."""
    if (folder / manifest).is_file():
        saved_state.update(folder, manifest, {METRICS: json_bytes(metrics)})
    else:
        write_bytes(folder / METRICS, json_bytes(metrics))


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """Encode a dictionary as indented JSON, as in the files of a checkpoint."""
    return (json.dumps(dict(content), indent=2) + "\n").encode()


def load(source: str | Path, device: str | torch.device = "cpu") -> Checkpoint:
    """Load a checkpoint from a folder, or a shipped one by name, ready to predict.

    Args:
        device: `cpu`, `cuda`, `cuda:N` or a torch device.

    Raises ConfigError for a folder that does not exist, a pickle, a missing or damaged file, another format, or
    weights of another architecture than the recipe describes.
    """
    return saved_state.load(locate(source), ABOUT, lambda state: _load(state, device))


def _load(state: saved_state.State, device: str | torch.device) -> Checkpoint:
    folder, about = state.folder, _checked(state)
    writer = about["versions"].get("mien", "?")
    if about.get("format") != FORMAT:
        raise ConfigError(
            f"checkpoint {folder}: {ABOUT} has format {about.get('format')!r}, this mien reads format {FORMAT}",
            follows="It was not loaded.",
            remedy=f"It was written with mien {writer}: install that version, or train again.",
        )
    recipe = config.parse(state.read(RECIPE), origin=str(folder / RECIPE), check=models.problems)
    if not state.digest and about["labels"] != list(recipe.corpus.labels):
        raise ConfigError(
            f"checkpoint {folder}: the labels of {ABOUT} ({', '.join(about['labels'])}) are not those of {RECIPE} "
            f"({', '.join(recipe.corpus.labels)})",
            follows="One of the files is damaged or from another training run. It was not loaded.",
            remedy="Copy the whole folder again.",
        )
    data = state.read(WEIGHTS)
    if hashlib.sha256(data).hexdigest() != about["sha256"]:
        raise ConfigError(
            f"checkpoint {folder}: {WEIGHTS} is not the file that {ABOUT} describes (sha256 differs)",
            follows="It is damaged, half-copied, or from another training run.",
            remedy="Copy the whole folder again.",
        )
    try:
        tensors = {k: v.float() if v.is_floating_point() else v for k, v in read_tensors(data).items()}
    except SafetensorError as error:
        raise ConfigError(
            f"checkpoint {folder}: {WEIGHTS} is not a safetensors file: {error}",
            follows="It was not loaded.",
            remedy="Copy the whole folder again.",
        ) from error
    architecture = about.get("architecture") or {}
    with NETWORK_LOCK:
        model = models.build(config.changed(recipe, model=architecture) if architecture else recipe)
    _check_shapes(folder, model, tensors)
    model.load_state_dict(tensors)
    model.eval().to(device)
    return Checkpoint(model, recipe, list(about["labels"]), read_json(state.path(METRICS)), dict(about["versions"]))


def _checked(state: saved_state.State) -> dict[str, Any]:
    """The content of checkpoint.json with values of the types that `save` writes. Raises ConfigError."""
    about = {"versions": {}, "architecture": {}, "sha256": "", "labels": [], **state.facts}
    kinds = {"versions": dict, "architecture": dict, "sha256": str, "labels": list}
    wrong = [name for name, kind in kinds.items() if not isinstance(about[name], kind)]
    if wrong or not all(isinstance(label, str) for label in about["labels"]):
        raise ConfigError(
            f"{state.folder / ABOUT}: {(wrong or ['labels'])[0]} has a value of another type",
            follows="The checkpoint was not loaded.",
            remedy="Copy the whole folder again.",
        )
    return about


def locate(source: str | Path) -> Path:
    """The folder of a checkpoint or of a shipped name. Raises ConfigError as `load` does."""
    shipped = str(source) in SHIPPED
    folder = shipped_folder(str(source)) if shipped else Path(source)
    if shipped and not (folder / ABOUT).exists():
        raise ConfigError(
            f"the checkpoint {str(source)!r} is not in this installation of mien ({folder})",
            follows="An installed package has it; a working copy has it after training.",
            remedy=f"Install mien again, or run `make {source}` in the working copy.",
        )
    pickles = [folder] if folder.is_file() else []
    if folder.is_dir() and not (folder / WEIGHTS).exists():
        pickles = sorted(p for p in folder.iterdir() if p.suffix.lower() in _PICKLES)
    if pickles and pickles[0].suffix.lower() in _PICKLES:
        raise ConfigError(
            f"{pickles[0]}: a pickle, which may run any code when it is loaded",
            follows="mien reads safetensors only; the file was not opened.",
            remedy="In the environment that wrote it, save its state_dict with safetensors.torch.save_file; "
            "or train again with `mien train`.",
        )
    if not folder.is_dir():
        what = "a file, not a checkpoint folder" if folder.is_file() else "no such checkpoint"
        raise ConfigError(
            f"model {str(source)!r}: {what}{config.nearest(str(source), SHIPPED)}",
            follows="Nothing was loaded.",
            remedy=f"Give a folder that `mien train` wrote, or a shipped name: {', '.join(SHIPPED)}.",
        )
    missing = missing_files(folder)
    if missing:
        raise ConfigError(
            f"checkpoint {folder}: {', '.join(missing)} missing",
            follows="The folder is incomplete, or not a checkpoint.",
            remedy="Copy the whole folder again, or train with `mien train`.",
        )
    return folder


def missing_files(folder: Path) -> list[str]:
    """Names of the files that a checkpoint folder needs and lacks. Raises ConfigError for a damaged checkpoint.json."""
    if not (folder / ABOUT).is_file():
        return [name for name in (WEIGHTS, RECIPE, ABOUT, METRICS) if not (folder / name).is_file()]
    state = saved_state.read(folder, ABOUT)
    return [name for name in (WEIGHTS, RECIPE, METRICS) if not state.path(name).is_file()]


def _check_shapes(folder: Path, model: nn.Module, state: Mapping[str, Tensor]) -> None:
    expected = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in state.items()}
    lines = [
        *(f"missing {k} {expected[k]}" for k in expected if k not in found),
        *(f"unknown {k} {found[k]}" for k in found if k not in expected),
        *(
            f"{k} is {found[k]}, the recipe needs {expected[k]}"
            for k in expected
            if k in found and expected[k] != found[k]
        ),
    ]
    if lines:
        more = f"\n  and {len(lines) - 5} more" if len(lines) > 5 else ""
        raise ConfigError(
            f"checkpoint {folder}: the weights are of another architecture than {RECIPE} describes:\n"
            + "\n".join(f"  {line}" for line in lines[:5])
            + more,
            follows="They were not loaded.",
            remedy=f"Put back the {RECIPE} that was saved with these weights.",
        )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a checkpoint. Raises ConfigError if it cannot be read."""
    try:
        return json_object.parse(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: cannot be read: {error}",
            follows="The checkpoint was not loaded.",
            remedy="Copy the whole folder again.",
        ) from error


def _versions() -> dict[str, str]:
    from mien import __version__

    return {
        "mien": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
