"""The pretrained networks mien knows by name: where each comes from, what it weighs, under which licence.

Licences are those of the weights as their publishers state them; sizes are of the files, rounded.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from mien.config import nearest
from mien.encoders.protocol import Encoder
from mien.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Network:
    """kind: which class reads it (`_KINDS`). source: hub id, or the name of a card. size: bytes. options: what
    the class is told beside what the user says."""

    kind: str
    source: str
    size: int | None = None
    licence: str = "unknown"
    options: Mapping[str, Any] = field(default_factory=dict)


_CLIP = {"types": ("clip", "clip_vision_model")}
NETWORKS: dict[str, Network] = {
    "beit-large": Network(
        "image", "microsoft/beit-large-patch16-224-pt22k-ft22k", 1_310_000_000, "Apache-2.0", {"types": ("beit",)}
    ),
    "clip-vit-b32": Network("image", "openai/clip-vit-base-patch32", 605_000_000, "MIT", _CLIP),
    "clip-vit-l14": Network("image", "openai/clip-vit-large-patch14", 1_710_000_000, "MIT", _CLIP),
    "vit-b16": Network("image", "google/vit-base-patch16-224-in21k", 346_000_000, "Apache-2.0", {"types": ("vit",)}),
    "resnet50": Network("image", "microsoft/resnet-50", 103_000_000, "Apache-2.0", {"types": ("resnet",)}),
    "efficientnet-b1": Network(
        "image", "google/efficientnet-b1", 32_000_000, "Apache-2.0", {"types": ("efficientnet",)}
    ),
    "efficientnet-b4": Network(
        "image", "google/efficientnet-b4", 78_000_000, "Apache-2.0", {"types": ("efficientnet",)}
    ),
    "hsemotion": Network("onnx", "hsemotion", licence="Apache-2.0"),
    "fer": Network("onnx", "fer", 259_069, "MIT"),
    "onnx-face": Network("onnx", ""),
    "clip-text-b32": Network("text", "openai/clip-vit-base-patch32", 605_000_000, "MIT"),
    "clip-text-l14": Network("text", "openai/clip-vit-large-patch14", 1_710_000_000, "MIT"),
    "wavlm-large": Network("waveform", "microsoft/wavlm-large", 1_260_000_000, "CC-BY-SA-3.0", {"types": ("wavlm",)}),
    "wav2vec2-base": Network(
        "waveform", "facebook/wav2vec2-base-960h", 378_000_000, "Apache-2.0", {"types": ("wav2vec2",)}
    ),
    "wav2vec2-large": Network(
        "waveform", "facebook/wav2vec2-large-960h", 1_260_000_000, "Apache-2.0", {"types": ("wav2vec2",)}
    ),
    "pdem": Network(
        "waveform",
        "audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim",
        661_000_000,
        "CC-BY-NC-SA-4.0",
        {"types": ("wav2vec2",)},
    ),
    "qwen3-vl-4b": Network("behaviour", "Qwen/Qwen3-VL-4B-Instruct", 8_900_000_000, "Apache-2.0"),
}


#: kind -> module, class.
_KINDS = {
    "image": ("mien.encoders.images", "ImageEncoder"),
    "waveform": ("mien.encoders.waveform", "WaveformEncoder"),
    "text": ("mien.encoders.text", "PromptEncoder"),
    "behaviour": ("mien.encoders.behaviour", "BehaviourEncoder"),
    "onnx": ("mien.encoders.onnx_face", "OnnxFace"),
}


def create(name: str, source: str | None, /, *, device: str = "cpu", **options: Any) -> Encoder:
    """The encoder called `name`, from `source` in the place of its published weights, with options of its class
    (and `name`: what the store calls it, where two variants of one network are wanted).

    Raises:
        ConfigError: an option its class does not have (the nearest is named), or one with a wrong value.
        ArtefactError: see `mien.encoders.pretrained`.
    """
    network = NETWORKS[name]
    source = source or network.source
    if not source:
        raise ConfigError(f"{name} is read from a file: say which.", remedy=f"{name}=PATH/TO/NETWORK.onnx")
    module, attribute = _KINDS[network.kind]
    kind = getattr(importlib.import_module(module), attribute)
    called = options.pop("name", name if network.source else None)
    options = _checked(name, kind, options)
    if network.kind == "onnx":
        return kind(source, name=called, device=device, **options)
    from mien.encoders.pretrained import About

    # What is known of the published weights is not known of another source.
    known = (network.size, network.licence) if source == network.source else ()
    return kind(called, About(source, *known), device=device, **{**network.options, **options})


def _checked(name: str, kind: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, each as its annotation has it: a recipe's mapping becomes a record, `4` a float."""
    hints = get_type_hints(kind.__init__)
    parameters = inspect.signature(kind).parameters.values()
    known = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - {"device", "types"}
    made = {}
    for option, value in options.items():
        if option not in known:
            raise ConfigError(
                f"{name} has no option {option!r}{nearest(option, known)}",
                follows="No encoder was made.",
                remedy=f"Its options are {', '.join(sorted(known))}.",
            )
        try:
            made[option] = TypeAdapter(hints[option]).validate_python(value)
        except ValidationError as error:
            raise ConfigError(
                f"{name}: option {option} is {value!r}: {error.errors()[0]['msg'].lower()}.",
                follows="No encoder was made.",
            ) from error
    return made
