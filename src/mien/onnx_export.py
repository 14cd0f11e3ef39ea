"""Export checkpoints to ONNX, so that prediction needs no torch.

    network.onnx       of a system over streams, for `mien.onnx_model`, with network.json;
                       of a system over face images, for `mien.encoders.onnx_face`, with the card network.yaml
    encoders/NAME/     if asked for: a pretrained encoder that the run reads, for `mien.encoders.exported`

Every network is compared with torch, on random input in ONNX Runtime, before it is written.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from mien import onnx_graph, onnx_model, saved_state
from mien.atomic import write_bytes
from mien.checkpoint import ABOUT, Checkpoint, load, locate, read_json
from mien.checkpoint_encoder import image_stage_provenance
from mien.datasets.image_datasets import TRAINED_LICENCE, crop_framing
from mien.encoders import exported, registry
from mien.encoders.export_encoder import export_encoder
from mien.errors import ConfigError, OutputError
from mien.labels import EXPRESSIONS
from mien.layers.system import ImageSystem, StreamSystem
from mien.records import FACE
from mien.trained_model import encoder_inputs

#: The card of an exported image system, beside its network.
CARD = "network.yaml"
#: Folders in a checkpoint: exported encoders, and further checkpoints that it reads.
ENCODERS, STAGES = "encoders", "stages"
#: Share of images in which a network in 8 bits must have the class of the original. Our choice: a change of class in
#: one image of fifty is below the difference between two trainings.
INT8_AGREEMENT = 0.97
#: Output of an image system for a next stage; the other outputs are its predictions.
EMBEDDING = "embedding"
#: Kinds of `mien.encoders.registry.KINDS` whose networks are exported.
_EXPORTED_KINDS = ("image", "waveform")


@dataclass(slots=True)
class Exported:
    """What `export_run` wrote: the networks' files, and the encoders that still need torch, each with the reason."""

    files: list[Path] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def export_run(source: str | Path, *, out: Path | None = None, encoders: bool = False, int8: bool = False) -> Exported:
    """Export a checkpoint and every checkpoint in its folder `stages`, see `export`.

    Args:
        source, out: as in `export`; a stage is written to the same place in `out`.
        encoders: export the pretrained encoders of each checkpoint too.
        int8: with 8-bit weights in the encoders.

    Raises:
        ConfigError, OutputError: as `export` and `mien.encoders.export_encoder.export_encoder`.
        ArtefactError: weights of an encoder are not here.
    """
    own, done = locate(source), Exported()
    folder = out or own
    onnx_graph.require_exporter()
    if encoders:  # first, because their weights may be missing
        _export_encoders(load(source), own, folder, int8, done)
    done.files.append(export(source, out=out))
    for stage in sorted(path.parent for path in (own / STAGES).glob(f"*/{ABOUT}")):
        below = export_run(stage, out=folder / STAGES / stage.name, encoders=encoders, int8=int8)
        done.files += below.files
        done.left_out |= below.left_out
    return done


def export_int8(folder: Path, crops: np.ndarray) -> float:
    """Replace the exported network of an image system by one in 8 bits, calibrated on images like those it will read.

    Weights have one scale for each channel, and 7 of the 8 bits, so that processors without VNNI do not saturate.

    Args:
        folder: a checkpoint exported by `export`. crops: `(n, size, size, 3)` uint8 RGB, a few hundred.

    Returns the share of the images in which both networks have the same class.

    Raises:
        ConfigError: `folder` holds no exported image system, or they agree in less than `INT8_AGREEMENT`.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    checkpoint = load(folder)
    card = yaml.safe_load((folder / CARD).read_text(encoding="utf-8"))
    about = json.loads((folder / exported.ABOUT).read_text(encoding="utf-8"))
    images = crops.transpose(0, 3, 1, 2).astype(np.float32)
    batches = iter([{"images": images[i : i + 32]} for i in range(0, len(images), 32)])
    reader = type("Images", (quantization.CalibrationDataReader,), {"get_next": lambda self: next(batches, None)})()
    with tempfile.TemporaryDirectory() as temporary, onnx_graph.silence():
        work = Path(temporary)
        (work / "float.onnx").write_bytes(_image_network(checkpoint, halves=False))
        quant_pre_process(work / "float.onnx", work / "prepared.onnx")
        quantization.quantize_static(
            work / "prepared.onnx", work / "int8.onnx", reader, quant_format=quantization.QuantFormat.QDQ,
            per_channel=True, reduce_range=True, activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8, op_types_to_quantize=["Conv", "Add", "Relu"],
        )  # fmt: skip
        data = (work / "int8.onnx").read_bytes()
    agreement = _class_agreement((folder / onnx_model.NETWORK).read_bytes(), data, images)
    if agreement < INT8_AGREEMENT:
        raise ConfigError(
            f"{folder}: in 8 bits the network has another class in {1 - agreement:.1%} of the images; "
            f"{1 - INT8_AGREEMENT:.0%} is allowed",
            follows="The network in 8 bits was not written.",
            remedy="Keep the network as it is, or give more images.",
        )
    sha256 = hashlib.sha256(data).hexdigest()
    card["sha256"] = about["files"][onnx_model.NETWORK] = sha256
    about["provenance"]["precision"] = "int8, static"
    _write(
        folder,
        {
            onnx_model.NETWORK: data,
            CARD: yaml.safe_dump(card, sort_keys=False).encode(),
            exported.ABOUT: (json.dumps(about, indent=2) + "\n").encode(),
        },
    )
    return agreement


def _class_agreement(network: bytes, other: bytes, images: np.ndarray) -> float:
    """Share of images `(n, 3, size, size)` in which two networks have the same class."""
    import onnxruntime

    classes = []
    for data in (network, other):
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        parts = [session.run(["logits"], {"images": images[i : i + 64]})[0] for i in range(0, len(images), 64)]
        classes.append(np.concatenate(parts).argmax(axis=1))
    return float((classes[0] == classes[1]).mean())


def export(source: str | Path, *, out: Path | None = None) -> Path:
    """Export the network of one checkpoint to ONNX; returns the file.

    Args:
        source: checkpoint folder, or a shipped name. out: folder to write to; by default the checkpoint's.

    Raises:
        ConfigError: `source` is no checkpoint, the extra `mien[export]` is not installed, or the ONNX network differs
            from the torch network.
        OutputError: the folder cannot be written.
    """
    own = locate(source)
    onnx_graph.require_exporter()
    checkpoint, folder = load(source), out or own
    if checkpoint.model.input_kind == "images":
        network = _image_network(checkpoint)
        weights = read_json(own / ABOUT)["sha256"]
        files = {
            CARD: _card(checkpoint, folder.resolve().name, network, weights),
            exported.ABOUT: _describe_stage(checkpoint, folder.resolve().name, network, weights),
        }
    else:
        network = _stream_network(checkpoint)
        files = {onnx_model.ABOUT: onnx_model.describe(checkpoint.settings, read_json(own / ABOUT)["sha256"], network)}
    try:
        _write(folder, {onnx_model.NETWORK: network, **files})
    except OSError as error:
        raise OutputError(
            f"checkpoint {folder}: {onnx_model.NETWORK} cannot be written: {error.strerror or error}",
            follows="The network was not exported.",
            remedy="Free some space, or give another folder, and try again.",
        ) from error
    return folder / onnx_model.NETWORK


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write exported files, in a checkpoint folder under its digest and in one step. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / ABOUT).is_file():
        saved_state.update(folder, ABOUT, files)
    else:
        for name, data in files.items():
            write_bytes(folder / name, data)


class _PositionalNetwork(nn.Module):
    """The network with positional tensors, as ONNX needs them: values and validity of each modality in turn."""

    def __init__(self, model: nn.Module, names: list[str], *, has_embedding: bool = False) -> None:
        super().__init__()
        self.model, self.names, self.has_embedding = model, names, has_embedding

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        values, valid = (dict(zip(self.names, inputs[i::2], strict=True)) for i in (0, 1))
        out = self.model(values, valid)
        embedding = cast(StreamSystem, self.model).embed(values, valid) if self.has_embedding else ()
        return out.logits, out.valence_arousal, *out.score_logits.values(), *embedding


def _stream_network(checkpoint: Checkpoint) -> bytes:
    """The network of a stream system as an ONNX file. The number of windows is dynamic; so is that of tokens, unless
    padding changes nothing."""
    settings, model = checkpoint.settings, cast(StreamSystem, checkpoint.model.cpu())
    has_embedding = model.embedding_dim is not None
    shapes = {name: (3, settings.tokens, feature.dim) for name, feature in settings.network_features.items()}
    inputs = [x for shape in shapes.values() for x in (torch.zeros(shape), torch.ones(shape[:2], dtype=torch.bool))]
    any_length = torch.export.Dim.DYNAMIC
    axes = {0: torch.export.Dim("window")} if model.is_padding_neutral else {0: any_length, 1: any_length}
    network = _PositionalNetwork(model, list(shapes), has_embedding=has_embedding).eval()
    embedding = ["embedding", "embedding_valid"] if has_embedding else []
    data: bytes = onnx_graph.to_onnx(
        network,
        inputs,
        [name for modality in shapes for name in (modality, f"{modality}_valid")],
        ["logits", "valence_arousal", *(f"{task}_logits" for task in settings.scores), *embedding],
        [axes] * len(inputs),
    ).SerializeToString(deterministic=True)
    _check_streams(checkpoint, onnx_model.OnnxSession(data, settings))
    return data


@torch.inference_mode()
def _check_streams(checkpoint: Checkpoint, session: onnx_model.OnnxSession) -> None:
    """Compare random windows with many missing tokens: a long one, a short one, and with each modality left out.

    Raises ConfigError if they differ from torch.
    """
    settings, model, generator = checkpoint.settings, cast(StreamSystem, checkpoint.model), torch.Generator()
    generator.manual_seed(0)
    statistics = model.normalisation()
    cases: list[tuple[int, int, str | None]] = [(1, settings.tokens, None), (2, max(1, settings.tokens // 3), None)]
    names = list(settings.network_features)
    cases += [(2, settings.tokens, name) for name in names if len(names) > 1]
    for windows, tokens, left_out in cases:
        values, valid = {}, {}
        for name in (n for n in names if n != left_out):
            mean, deviation = statistics[name]
            values[name] = mean + deviation * torch.randn(windows, tokens, len(mean), generator=generator)
            valid[name] = torch.rand(windows, tokens, generator=generator) < 0.6
        arrays = ({n: v.numpy() for n, v in values.items()}, {n: v.numpy() for n, v in valid.items()})
        out = model(values, valid)
        expected, found = [out.logits, out.valence_arousal, *out.score_logits.values()], [*session(*arrays)]
        if session.has_embedding:
            expected += model.embed(values, valid)
            found += session.embed(*arrays)
        onnx_graph.check_outputs(
            checkpoint.recipe.model.name,
            [e.numpy().astype(np.float32) for e in expected],
            [f.astype(np.float32) for f in found],
        )


class _ImageNetwork(nn.Module):
    """An image system on `(n, 3, size, size)` float32 of 0 to 255: logits, valence and arousal if they are trained, and
    the embedding."""

    def __init__(self, model: ImageSystem) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        logits, valence_arousal = self.model.predict(images)
        predictions = (logits,) if valence_arousal is None else (logits, valence_arousal)
        return *predictions, self.model.embed(images)


def _image_size(checkpoint: Checkpoint) -> int:
    """Side of the images in pixels."""
    return next(iter(checkpoint.recipe.features.values())).dim or 112


def _image_network(checkpoint: Checkpoint, *, halves: bool = True) -> bytes:
    """The network of an image system as an ONNX file; the number of images is dynamic. halves: see
    `onnx_graph.to_onnx`."""
    import onnxruntime

    model = cast(ImageSystem, checkpoint.model.cpu())
    names = ["logits", *(["valence_arousal"] if model.predicts_valence_arousal else []), EMBEDDING]
    network, size = _ImageNetwork(model).eval(), _image_size(checkpoint)
    images = torch.randint(0, 256, (2, 3, size, size), generator=torch.Generator().manual_seed(0)).float()
    axes = {0: torch.export.Dim("image")}
    model_proto = onnx_graph.to_onnx(network, [images], ["images"], names, [axes], halves=halves)
    data: bytes = model_proto.SerializeToString(deterministic=True)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        expected = [out.numpy() for out in network(images)]
    found = session.run(names, {"images": images.numpy()})
    onnx_graph.check_outputs(checkpoint.recipe.model.name, expected, found)
    return data


def _card(checkpoint: Checkpoint, name: str, network: bytes, weights: str) -> bytes:
    """The card of an image system, see `mien.encoders.cards`. Its input is the pixels as they are, 0 to 255. weights:
    sha256 of the checkpoint's weights."""
    margin, down = crop_framing(checkpoint.recipe)
    classes = len(checkpoint.labels)
    card: dict[str, Any] = {
        "name": name,
        "file": onnx_model.NETWORK,
        "sha256": hashlib.sha256(network).hexdigest(),
        "licence": TRAINED_LICENCE,
        "size": _image_size(checkpoint),
        "mean": [0.0],
        "std": [1 / 255],
        "margin": margin,
        "down": down,
        "labels": checkpoint.labels,
        "own_classes": not set(checkpoint.labels) <= set(EXPRESSIONS),
        "scores": "logits",
        "exported_from": weights,
    }
    if checkpoint.model.predicts_valence_arousal:
        card |= {"valence": classes, "arousal": classes + 1}
    return yaml.safe_dump(card, sort_keys=False).encode()


def _describe_stage(checkpoint: Checkpoint, name: str, network: bytes, weights: str) -> bytes:
    """encoder.json of an image system as a face encoder, see `mien.encoders.exported`."""
    margin, down = crop_framing(checkpoint.recipe)
    size = _image_size(checkpoint)
    about = {
        "format": exported.FORMAT,
        "name": name,
        "modality": FACE,
        "dim": checkpoint.model.embedding_dim,
        "rate_hz": None,
        "receptive_field_s": 0.0,
        "licence": TRAINED_LICENCE,
        "provenance": image_stage_provenance(checkpoint.recipe, weights),
        "kind": "image",
        "batch_size": 32,
        "output": EMBEDDING,
        "image": {
            "input_size": size,
            "output_size": size,
            "scale": [1.0] * 3,
            "shift": [0.0] * 3,
            "margin": margin,
            "down": down,
        },
        "files": {onnx_model.NETWORK: hashlib.sha256(network).hexdigest()},
    }
    return (json.dumps(about, indent=2) + "\n").encode()


def _export_encoders(checkpoint: Checkpoint, own: Path, folder: Path, int8: bool, done: Exported) -> None:
    """Export the pretrained encoders of a checkpoint's inputs to `folder/encoders`, and record them in `done`.

    own: folder of the checkpoint; an encoder that is one of its stages is exported with that.
    """
    if checkpoint.model.input_kind == "images":
        return  # its input is pixels
    wanted: dict[str, tuple[str, Mapping[str, Any]]] = {}
    inputs = encoder_inputs(own, checkpoint.features)
    for feature in (inputs[name] for name in checkpoint.features if name in inputs):
        encoder = feature.encoder
        if reason := _reason_to_leave_out(encoder):
            if not (own / STAGES / encoder / ABOUT).is_file():
                done.left_out[encoder] = reason
            continue
        if encoder not in registry.NETWORKS or registry.NETWORKS[encoder].kind == "onnx":
            continue  # needs no torch as it is
        options = {key: value for key, value in feature.options.items() if key != "precision"}
        name = str(options.get("name", encoder))
        if wanted.setdefault(name, (encoder, options)) != (encoder, options):
            raise ConfigError(
                f"two inputs read the encoder {name} with different options",
                follows="No encoder was exported.",
                remedy="Give one of them another name in the recipe, with the option `name`, and train again.",
            )
    for encoder, chosen in wanted.values():
        made = registry.create(registry.format_spec(encoder, chosen), precision="float32")
        done.files.append(export_encoder(made, folder / ENCODERS / made.name, int8=int8))


def _reason_to_leave_out(encoder: str) -> str:
    """Why an encoder cannot be exported although it may need torch; empty if it can, or needs no torch."""
    network = registry.NETWORKS.get(encoder)
    if network is None:
        return "" if encoder in registry.ENCODERS else "only encoders with a name in mien's registry are exported"
    known = (*_EXPORTED_KINDS, "onnx")
    return "" if network.kind in known else f"encoders of the kind {network.kind} are not exported"
