"""Encoders by name: what `mien extract --encoder NAME[=SOURCE][,OPTION=VALUE...]` and recipes say.

`beit-large`, `wavlm-large,layer=-1,last=4`, `pdem=/models/pdem,head=true`. A factory is called as
`factory(source, device=device, **options)`; source is None, or the folder, file or hub id that stands after
`=`. It returns an encoder of one of the kinds in `mien.encoders.protocol`.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from mien.config import nearest
from mien.encoders.protocol import Encoder
from mien.errors import ConfigError

#: Name -> "module:factory", beside `NETWORKS`. Nothing is imported before it is asked for.
ENCODERS: dict[str, str] = {
    "face-geometry": "mien.encoders.face_geometry:create",
    "voice-prosody": "mien.encoders.voice_prosody:create",
    "log-mel": "mien.encoders.audio_features:mel",
    "waveform": "mien.encoders.audio_features:waveform",
}
#: What every encoder declares (`Encoder`).
DECLARED = ("name", "modality", "dim", "rate_hz", "receptive_field_s", "licence", "provenance")


def names() -> list[str]:
    """Every encoder that has a name."""
    return sorted([*ENCODERS, *NETWORKS])


def split_spec(spec: str) -> tuple[str, str | None, dict[str, Any]]:
    """`NAME[=SOURCE][,OPTION=VALUE...]` -> name, source (None without `=`), options. Values are read as YAML:
    numbers, true and false, null, words. A source with a comma cannot be written; options of a recipe can hold
    anything."""
    head, *rest = spec.split(",")
    name, _, source = head.partition("=")
    options = {}
    for part in rest:
        key, equals, value = part.partition("=")
        if not key or not equals:
            raise ConfigError(
                f"{part!r} in {spec!r} is no option of an encoder.",
                remedy="After the first comma comes OPTION=VALUE, with more commas between more of them.",
            )
        options[key.strip()] = yaml.safe_load(value)
    return name, source or None, options


def spec_of(name: str, options: Mapping[str, Any]) -> str:
    """The spec of an encoder and its options in a recipe, `source` among them. The other way of `split_spec`.

    Raises ConfigError for a value that a spec cannot hold.
    """
    said = [
        f"{key}={yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}"
        for key, value in options.items()
        if key != "source"
    ]
    source = options.get("source")
    spec = ",".join([name if source is None else f"{name}={source}", *said])
    if split_spec(spec) != (
        name,
        None if source is None else str(source),
        {k: v for k, v in options.items() if k != "source"},
    ):
        raise ConfigError(
            f"options of {name} cannot be written in one line: {dict(options)}",
            follows="no encoder was made",
            remedy="numbers, words, true, false and null can; a comma cannot",
        )
    return spec


def factory(name: str) -> Callable[..., Encoder]:
    """A name of `names()`, or `package.module:factory` of your own (importable in every worker process).

    Raises ConfigError, which names the nearest name.
    """
    if name in NETWORKS:
        return functools.partial(_create_network, name)
    target = ENCODERS.get(name, name)
    if ":" not in target:
        near = difflib.get_close_matches(name.lower(), names(), 1)
        raise ConfigError(
            f"no encoder is called {name!r}; known are {', '.join(names())}",
            follows="nothing was extracted",
            remedy=f"did you mean {near[0]!r}?" if near else "your own is named package.module:factory",
        )
    module, _, attribute = target.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"encoder {name!r} cannot be imported: {error}",
            follows="nothing was extracted",
            remedy="it is written package.module:factory and must be importable from here",
        ) from error
    return found


def create(spec: str, *, device: str = "cpu", **options: Any) -> Encoder:
    """The encoder that `NAME[=SOURCE][,OPTION=VALUE...]` means, on a device (`cpu`, `cuda`, `cuda:1`). `options`
    go before those of the spec.

    Raises:
        ConfigError: an unknown name, or an encoder without one of its declarations.
        ArtefactError: its weights are not here and cannot be fetched.
    """
    name, source, said = split_spec(spec)
    encoder = factory(name)(source, device=device, **{**said, **options})
    if not isinstance(encoder, Encoder):
        missing = [a for a in DECLARED if not hasattr(encoder, a)]
        raise ConfigError(
            f"encoder {name!r} does not declare {', '.join(missing)}",
            remedy="see mien.encoders.protocol for what an encoder declares",
        )
    return encoder


@dataclass(frozen=True, slots=True)
class PretrainedNetwork:
    """kind: which class reads it (`_KINDS`). source: hub id, or the name of a card. size: bytes. options: what
    the class is told beside what the user says."""

    kind: str
    source: str
    size: int | None = None
    licence: str = "unknown"
    options: Mapping[str, Any] = field(default_factory=dict)


_CLIP = {"types": ("clip", "clip_vision_model")}
NETWORKS: dict[str, PretrainedNetwork] = {
    "beit-large": PretrainedNetwork(
        "image", "microsoft/beit-large-patch16-224-pt22k-ft22k", 1_310_000_000, "Apache-2.0", {"types": ("beit",)}
    ),
    "clip-vit-b32": PretrainedNetwork("image", "openai/clip-vit-base-patch32", 605_000_000, "MIT", _CLIP),
    "clip-vit-l14": PretrainedNetwork("image", "openai/clip-vit-large-patch14", 1_710_000_000, "MIT", _CLIP),
    "vit-b16": PretrainedNetwork(
        "image", "google/vit-base-patch16-224-in21k", 346_000_000, "Apache-2.0", {"types": ("vit",)}
    ),
    "resnet50": PretrainedNetwork("image", "microsoft/resnet-50", 103_000_000, "Apache-2.0", {"types": ("resnet",)}),
    "efficientnet-b1": PretrainedNetwork(
        "image", "google/efficientnet-b1", 32_000_000, "Apache-2.0", {"types": ("efficientnet",)}
    ),
    "efficientnet-b4": PretrainedNetwork(
        "image", "google/efficientnet-b4", 78_000_000, "Apache-2.0", {"types": ("efficientnet",)}
    ),
    "hsemotion": PretrainedNetwork("onnx", "hsemotion", licence="Apache-2.0"),
    "fer": PretrainedNetwork("onnx", "fer", 259_069, "MIT"),
    "onnx-face": PretrainedNetwork("onnx", ""),
    "clip-text-b32": PretrainedNetwork("text", "openai/clip-vit-base-patch32", 605_000_000, "MIT"),
    "clip-text-l14": PretrainedNetwork("text", "openai/clip-vit-large-patch14", 1_710_000_000, "MIT"),
    "wavlm-large": PretrainedNetwork(
        "waveform", "microsoft/wavlm-large", 1_260_000_000, "CC-BY-SA-3.0", {"types": ("wavlm",)}
    ),
    "wav2vec2-base": PretrainedNetwork(
        "waveform", "facebook/wav2vec2-base-960h", 378_000_000, "Apache-2.0", {"types": ("wav2vec2",)}
    ),
    "wav2vec2-large": PretrainedNetwork(
        "waveform", "facebook/wav2vec2-large-960h", 1_260_000_000, "Apache-2.0", {"types": ("wav2vec2",)}
    ),
    "pdem": PretrainedNetwork(
        "waveform",
        "audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim",
        661_000_000,
        "CC-BY-NC-SA-4.0",
        {"types": ("wav2vec2",)},
    ),
    "qwen3-vl-4b": PretrainedNetwork("behaviour", "Qwen/Qwen3-VL-4B-Instruct", 8_900_000_000, "Apache-2.0"),
}


#: kind -> module, class.
_KINDS = {
    "image": ("mien.encoders.images", "ImageEncoder"),
    "waveform": ("mien.encoders.speech", "SpeechEncoder"),
    "text": ("mien.encoders.text", "PromptEncoder"),
    "behaviour": ("mien.encoders.vision_language", "VisionLanguageEncoder"),
    "onnx": ("mien.encoders.onnx_face", "OnnxFace"),
}


def _create_network(name: str, source: str | None, /, *, device: str = "cpu", **options: Any) -> Encoder:
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
    from mien.encoders.pretrained import WeightSource

    # What is known of the published weights is not known of another source.
    known = (network.size, network.licence) if source == network.source else ()
    return kind(called, WeightSource(source, *known), device=device, **{**network.options, **options})


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
