"""Trained systems ready to predict recordings: a network, the encoders that it reads, and its stages.

A checkpoint folder (`mien.checkpoint`) may also hold

    inputs.json      for each input: the encoder, and the provenance of the features that the system was trained on
    encoders/NAME/   an encoder exported to ONNX (`mien.encoders.exported`), which runs without torch on the CPU
    stages/NAME/     the complete checkpoint that computes the input NAME, with stages of its own if it has some

so that one folder can be copied and used. A stage over streams (`va_streams`) computes features from the streams of
its own encoders; a stage over images (`cnn_static`, `dynamic_threshold`) is a face encoder. Nothing here imports torch
before it is needed.
"""

from __future__ import annotations

import filecmp
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mien import extras, json_object, onnx_model, saved_state
from mien.atomic import write_bytes
from mien.errors import ConfigError
from mien.inference import EncoderInput, InferenceSettings, InputFeature, StreamModel, StreamPrediction
from mien.onnx_model import SHIPPED, shipped_folder
from mien.records import Stream
from mien.scratch import scratch_folder

INPUTS, STAGES, ENCODERS = "inputs.json", "stages", "encoders"
#: The card of an exported image system.
FACE_CARD = "network.yaml"
ABOUT, RECIPE = "checkpoint.json", "recipe.yaml"
#: Description of an exported image system as the encoder of a next stage (`mien.encoders.exported`).
FACE_ENCODER = "encoder.json"
#: What of a checkpoint folder is needed to use it.
_PARTS = (
    "weights.safetensors", RECIPE, ABOUT, "metrics.json", INPUTS, onnx_model.NETWORK, onnx_model.ABOUT, FACE_CARD,
    FACE_ENCODER, "calibration.json", ENCODERS, STAGES,
)  # fmt: skip
#: Encoder name of recipes that are trained on images themselves.
PIXELS = "pixels"


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A network with the stages that compute some of its inputs; a `mien.inference.StreamModel`.

    features: what is encoded from a recording. The inputs of a stage have keys such as `face.voice`: modality of the
    network, then modality of the stage. network: reads the streams of `settings.features`. stages: modality -> stage.
    """

    network: StreamModel
    features: Mapping[str, InputFeature]
    stages: Mapping[str, TrainedModel]

    @property
    def labels(self) -> list[str]:
        """Class names in the order of the probabilities."""
        return self.network.labels

    @property
    def settings(self) -> InferenceSettings:
        """Windows, soft vote, and what is predicted."""
        return self.network.settings

    def direct_streams(self, streams: Mapping[str, Stream]) -> dict[str, Stream]:
        """The streams that the network reads, from those of `features`: stages are run, other streams passed on."""
        direct = {name: stream for name, stream in streams.items() if name in self.settings.features}
        for modality, stage in self.stages.items():
            if inputs := _with_prefix(streams, modality):
                direct[modality] = stage.embed_streams(inputs)
        return direct

    def predict_streams(
        self, streams: Mapping[str, Stream], start_s: float, stop_s: float, *, batch: int = 16
    ) -> StreamPrediction:
        """Predict one subject from the streams of `features`, or from those that the network reads."""
        return self.network.predict_streams(self.direct_streams(streams), start_s, stop_s, batch=batch)

    def embed_streams(self, streams: Mapping[str, Stream]) -> Stream:
        """Features of one subject for a next stage; see `mien.inference.StreamModel.embed_streams`."""
        return self.network.embed_streams(self.direct_streams(streams))


def _with_prefix(streams: Mapping[str, Stream], modality: str) -> dict[str, Stream]:
    prefix = f"{modality}."
    return {name.removeprefix(prefix): stream for name, stream in streams.items() if name.startswith(prefix)}


def locate(model: str | Path) -> Path:
    """Folder of a model: that of a shipped name, else the path. It need not exist."""
    return shipped_folder(str(model)) if str(model) in SHIPPED else Path(model)


def load(model: str | Path, device: str = "cpu", *, onnx: bool = True) -> TrainedModel:
    """Load a checkpoint with its stages.

    Args:
        model: folder, or a shipped name.
        device: torch device of the networks.
        onnx: take the exported ONNX network where a folder holds one; it runs on the CPU.

    Raises:
        ConfigError: no checkpoint, a damaged one, or a stage is missing.
    """
    folder = locate(model)
    network = _load_onnx(folder) if onnx else None
    if network is None:
        extras.require(
            "torch", f"the checkpoint {folder}, which has no ONNX network of its weights,",
            follows="It was not loaded.", instead="Or run `mien export` on the folder where torch is installed.",
        )  # fmt: skip
        from mien import checkpoint

        network = checkpoint.load(model, device)
    return attach(network, folder, device, onnx=onnx)


def attach(network: StreamModel, folder: Path, device: str = "cpu", *, onnx: bool = False) -> TrainedModel:
    """Join a loaded network with the stages in its folder. Raises ConfigError as `load` does."""
    direct = network.settings.features
    stages = {
        modality: load(folder / STAGES / feature.encoder, device, onnx=onnx)
        for modality, feature in direct.items()
        if _input_kind(folder / STAGES / feature.encoder) == "streams"
    }
    return TrainedModel(network, encoder_inputs(folder, direct), stages)


def has_face_card(folder: Path) -> bool:
    """Whether a folder holds the exported network of an image system, of its current weights, with its card."""
    import yaml

    try:
        saved_state.settle(folder, ABOUT)  # the card is read beside its network
        card = yaml.safe_load(_read(folder, FACE_CARD))
        return bool(card["exported_from"] == _weights_sha256(folder) and (folder / onnx_model.NETWORK).is_file())
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, RecursionError):
        return False


def has_onnx(folder: Path) -> bool:
    """Whether a folder holds an exported ONNX network of its current weights."""
    return onnx_model.fits(folder, _weights_sha256(folder))


def _weights_sha256(folder: Path) -> str:
    """The hash of the weights in checkpoint.json; "" without the file. Raises ConfigError for a damaged one."""
    if not (folder / ABOUT).is_file():
        return ""
    return str(saved_state.read(folder, ABOUT).facts.get("sha256", ""))


def _read(folder: Path, name: str) -> bytes:
    """A file of a checkpoint folder, compared with its digest. Raises OSError, and ConfigError if it is another one."""
    if (folder / ABOUT).is_file():
        return saved_state.read(folder, ABOUT).read(name)
    return (folder / name).read_bytes()


def _load_onnx(folder: Path) -> StreamModel | None:
    weights = _weights_sha256(folder)
    return onnx_model.load(folder, weights) if weights else None


def read_features(model: str | Path) -> dict[str, EncoderInput] | None:
    """What a checkpoint reads from a recording, without loading its network; None if that cannot be read.

    Raises ConfigError if a stage is missing.
    """
    folder = locate(model)
    direct = _direct_features(folder)
    return None if direct is None else encoder_inputs(folder, direct)


def _direct_features(folder: Path) -> dict[str, InputFeature] | None:
    """The inputs of the network in a folder: from network.json, which is fast to read, else from its recipe."""
    try:
        features = json_object.parse(_read(folder, onnx_model.ABOUT))["features"]
        return {name: InputFeature(**feature) for name, feature in features.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    try:
        recipe = _read_recipe(folder)
        features, given = dict(recipe["features"]), recipe.get("mouth_filter") or {}
        if given and given.get("use") != "mask":  # prediction does not read the opening of the mouth
            features.pop(given["mouth"], None)
        return {n: InputFeature(f["encoder"], f.get("dim") or 0, f.get("options") or {}) for n, f in features.items()}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read_recipe(folder: Path) -> dict[str, Any]:
    """The recipe as plain values, unchecked. Raises OSError and ValueError."""
    import yaml

    try:
        return dict(yaml.safe_load(_read(folder, RECIPE)))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from error


def is_image_model(model: str | Path) -> bool:
    """Whether a folder holds the checkpoint of a system over single images."""
    return _input_kind(locate(model)) == "images"


def _input_kind(folder: Path) -> str | None:
    """`streams` or `images`: what the checkpoint in a folder reads; None for a folder without checkpoint."""
    if not (folder / ABOUT).is_file():
        return None
    if (folder / FACE_ENCODER).is_file():  # without reading its recipe, since importing yaml takes time at start-up
        return "images"
    direct = _direct_features(folder) or {}
    return "images" if any(feature.encoder == PIXELS for feature in direct.values()) else "streams"


def encoder_inputs(folder: Path, direct: Mapping[str, InputFeature]) -> dict[str, EncoderInput]:
    """What has to be encoded for a network with the inputs `direct`: stages are replaced by what they read.

    Raises ConfigError for a stage that the folder lacks, or that is not the one the network was trained on.
    """
    trained = read_inputs(folder)
    inputs: dict[str, EncoderInput] = {}
    for modality, feature in direct.items():
        provenance = trained.get(modality, {})
        stage = folder / STAGES / feature.encoder
        kind = _input_kind(stage)
        if kind is not None:
            _check_stage(stage, provenance)
        if kind == "streams":
            nested = encoder_inputs(stage, _direct_features(stage) or {})
            inputs |= {f"{modality}.{name}": value for name, value in nested.items()}
        elif kind == "images":
            inputs[modality] = EncoderInput(
                feature.encoder, feature.dim, feature.options, folder=stage, provenance=provenance
            )
        elif is_stage(provenance):
            raise ConfigError(
                f"{folder}: the stage {feature.encoder!r}, a checkpoint of {provenance['network']}, is missing "
                f"({STAGES}/{feature.encoder})",
                follows="Its features cannot be computed from a recording. Nothing was predicted.",
                remedy=f"Copy the whole folder, or put the stage's folder there "
                f"(its weights have the sha256 {provenance['revision'][:16]}...).",
            )
        else:
            exported = folder / ENCODERS / str(feature.options.get("name", feature.encoder))
            inputs[modality] = EncoderInput(
                feature.encoder, feature.dim, _with_source(feature.options, provenance), provenance=provenance,
                folder=exported if (exported / "encoder.json").is_file() else None,
            )  # fmt: skip
    return inputs


def _with_source(options: Mapping[str, Any], provenance: Mapping[str, str]) -> Mapping[str, Any]:
    """Encoder options with the folder of the weights that training used, if it is here and none is named."""
    source = provenance.get("network", "")
    is_folder = "/" in source and (Path(source) / "config.json").is_file()
    return {**options, "source": source} if is_folder and "source" not in options else options


def _check_stage(stage: Path, provenance: Mapping[str, str]) -> None:
    if not is_stage(provenance):
        return
    weights = _weights_sha256(stage)
    if weights != provenance["revision"]:
        raise ConfigError(
            f"{stage}: the weights (sha256 {weights[:16]}...) are not those that the next stage was trained on "
            f"({provenance['revision'][:16]}...)",
            follows="Its features would mean something else. Nothing was predicted.",
            remedy="Copy the stage again, or train the next stage again.",
        )


def is_stage(provenance: Mapping[str, str]) -> bool:
    """Whether features of this provenance were computed by a checkpoint of mien, not by a registered encoder."""
    return provenance.get("made_by") == "checkpoint"


def stage_provenance(system: str, weights_sha256: str, layer: str) -> dict[str, str]:
    """Provenance of features that a checkpoint computes. system: name in `mien.models`."""
    return {"network": system, "revision": weights_sha256, "layer": layer, "made_by": "checkpoint"}


def read_inputs(folder: Path) -> dict[str, dict[str, str]]:
    """Modality -> provenance of the training features; empty if the folder does not say. Raises ConfigError."""
    try:
        facts = json_object.parse(_read(folder, INPUTS))
        return {modality: dict(fact["provenance"]) for modality, fact in facts.items()}
    except FileNotFoundError:
        if (folder / ABOUT).is_file() and INPUTS in saved_state.read(folder, ABOUT).files:
            raise ConfigError(
                f"{folder / INPUTS} is missing, and {ABOUT} names it",
                follows="Nothing was predicted: the inputs of the network might be others.",
                remedy="Copy the whole folder again.",
            ) from None
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{folder / INPUTS}: cannot be read: {error}",
            follows="Nothing was predicted.",
            remedy="Copy the whole folder again.",
        ) from error


def write_inputs(folder: Path, features: Mapping[str, str], provenance: Mapping[str, Mapping[str, str]]) -> None:
    """Write inputs.json of a checkpoint, with its digest. See `inputs_file`. Raises OSError."""
    saved_state.update(folder, ABOUT, {INPUTS: inputs_file(features, provenance)})


def inputs_file(features: Mapping[str, str], provenance: Mapping[str, Mapping[str, str]]) -> bytes:
    """The content of inputs.json. features: modality -> encoder. provenance: of the training features, by modality."""
    facts = {
        modality: {"encoder": encoder, "provenance": dict(provenance.get(modality, {}))}
        for modality, encoder in features.items()
    }
    return (json.dumps(facts, indent=2) + "\n").encode()


def find_stage(provenance: Mapping[str, str], places: Iterator[Path]) -> Path | None:
    """The first of `places` that holds the checkpoint with the weights that `provenance` names."""
    for place in places:
        with suppress(ConfigError):  # a damaged one
            if _weights_sha256(place) == provenance["revision"]:
                return place
    return None


def copy_stage(source: Path, folder: Path, name: str) -> None:
    """Copy a stage's checkpoint into a checkpoint folder; its own stages come with it. Raises OSError."""
    copy_checkpoint(source, folder / STAGES / name)


def copy_checkpoint(source: Path, target: Path) -> None:
    """Copy what of a checkpoint folder is needed to use it, with its stages and exported networks.

    A new folder is complete or absent. In a folder that exists, the copies of each checkpoint replace an earlier one in
    one step, its stages first; other files stay. Raises OSError.
    """
    if source.resolve() == target.resolve():
        return
    with suppress(OSError):  # a folder that may only be read is copied as it is
        saved_state.settle(source, ABOUT)
    files = [p.relative_to(source) for part in _PARTS for p in _files(source / part)]
    if not target.exists():
        with scratch_folder(_with_parent(target)) as scratch:
            for name in files:
                (scratch / "new" / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / name, scratch / "new" / name)
            (scratch / "new").rename(target)
        return
    folders = {name.parent for name in files if name.name == ABOUT}
    for folder in sorted(folders, key=lambda f: -len(f.parts)):
        names = [n.name for n in files if n.parent == folder and n.name != ABOUT]
        saved_state.copy(source / folder, target / folder, ABOUT, names)
    for name in files:
        if name.parent not in folders and not _same(source / name, target / name):
            write_bytes(_with_parent(target / name), (source / name).read_bytes())


def _with_parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _same(one: Path, other: Path) -> bool:
    return other.is_file() and filecmp.cmp(one, other, shallow=False)


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path] if path.is_file() else []
