"""Registry of encoders: create one from a spec such as `wavlm-large,layer=-1,last=4`.

A spec is `NAME[=SOURCE][,OPTION=VALUE...]`, as in `mien extract --encoder SPEC` and in recipes: `beit-large`,
`pdem=/models/pdem,head=true`. NAME is one of `encoder_names()`, or `package.module:factory` of your own. SOURCE takes
the place of the published weights: a folder, a file or a Hub id.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from mien.config import nearest
from mien.encoders.protocol import Encoder
from mien.errors import ConfigError

#: Encoders without weights of torch: name -> "module:class or function". Nothing is imported before it is used.
ENCODERS: dict[str, str] = {
    "face-geometry": "mien.encoders.face_geometry:FaceGeometry",
    "mouth-opening": "mien.encoders.mouth_opening:MouthOpening",
    "voice-prosody": "mien.encoders.voice_prosody:VoiceProsody",
    "voice-embedding": "mien.encoders.voice_embedding:VoiceEmbedding",
    "smart-turn": "mien.encoders.smart_turn:SmartTurn",
    "voice-speech": "mien.encoders.voice_speech:VoiceSpeech",
    "log-mel": "mien.encoders.audio_features:create_log_mel",
    "waveform": "mien.encoders.audio_features:create_waveform",
}

#: Those of them that read sound.
SOUND_ENCODERS = ("voice-prosody", "voice-embedding", "smart-turn", "voice-speech", "log-mel", "waveform")

#: Kinds of pretrained encoders: kind -> "module:class".
KINDS: dict[str, str] = {
    "image": "mien.encoders.images:ImageEncoder",
    "waveform": "mien.encoders.speech:SpeechEncoder",
    "text": "mien.encoders.text:PromptEncoder",
    "behaviour": "mien.encoders.vision_language:VisionLanguageEncoder",
    "onnx": "mien.encoders.onnx_face:OnnxFace",
}


@dataclass(frozen=True, slots=True)
class PretrainedNetwork:
    """Published network that has a name.

    kind: key of `KINDS`.
    source: Hub id, or name of a card; "" if the user must give it.
    size: bytes of the weights, None if unknown.
    licence: of the published weights.
    options: fixed options of the class, beside the user's.
    """

    kind: str
    source: str
    size: int | None = None
    licence: str = "unknown"
    options: Mapping[str, Any] = field(default_factory=dict)


def _transformers(kind: str, source: str, size: int, licence: str, *types: str) -> PretrainedNetwork:
    """A network of transformers; `types` are the values of `model_type` that it accepts."""
    return PretrainedNetwork(kind, source, size, licence, {"types": types} if types else {})


_CLIP = ("clip", "clip_vision_model")
#: Encoders with pretrained weights.
NETWORKS: dict[str, PretrainedNetwork] = {
    "beit-large": _transformers(
        "image", "microsoft/beit-large-patch16-224-pt22k-ft22k", 1_310_000_000, "Apache-2.0", "beit"
    ),
    "clip-vit-b32": _transformers("image", "openai/clip-vit-base-patch32", 605_000_000, "MIT", *_CLIP),
    "clip-vit-l14": _transformers("image", "openai/clip-vit-large-patch14", 1_710_000_000, "MIT", *_CLIP),
    "dinov2-base": _transformers("image", "facebook/dinov2-base", 346_000_000, "Apache-2.0", "dinov2"),
    "dinov2-large": _transformers("image", "facebook/dinov2-large", 1_220_000_000, "Apache-2.0", "dinov2"),
    "vit-b16": _transformers("image", "google/vit-base-patch16-224-in21k", 346_000_000, "Apache-2.0", "vit"),
    "resnet50": _transformers("image", "microsoft/resnet-50", 103_000_000, "Apache-2.0", "resnet"),
    "efficientnet-b1": _transformers("image", "google/efficientnet-b1", 32_000_000, "Apache-2.0", "efficientnet"),
    "efficientnet-b4": _transformers("image", "google/efficientnet-b4", 78_000_000, "Apache-2.0", "efficientnet"),
    "hsemotion": PretrainedNetwork("onnx", "hsemotion", licence="Apache-2.0"),
    "fer": PretrainedNetwork("onnx", "fer", 259_069, "MIT"),
    "face-api": PretrainedNetwork("onnx", "face-api", 1_298_483, "MIT"),
    "onnx-face": PretrainedNetwork("onnx", ""),
    "clip-text-b32": _transformers("text", "openai/clip-vit-base-patch32", 605_000_000, "MIT"),
    "clip-text-l14": _transformers("text", "openai/clip-vit-large-patch14", 1_710_000_000, "MIT"),
    "wavlm-large": _transformers("waveform", "microsoft/wavlm-large", 1_260_000_000, "CC-BY-SA-3.0", "wavlm"),
    "wav2vec2-base": _transformers("waveform", "facebook/wav2vec2-base-960h", 378_000_000, "Apache-2.0", "wav2vec2"),
    "wav2vec2-large": _transformers(
        "waveform", "facebook/wav2vec2-large-960h", 1_260_000_000, "Apache-2.0", "wav2vec2"
    ),
    "pdem": _transformers(
        "waveform",
        "audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim",
        661_000_000,
        "CC-BY-NC-SA-4.0",
        "wav2vec2",
    ),
    "qwen3-vl-4b": _transformers("behaviour", "Qwen/Qwen3-VL-4B-Instruct", 8_900_000_000, "Apache-2.0"),
}


#: Names of the attributes of `Encoder`.
_ENCODER_ATTRIBUTES = ("name", "modality", "dim", "rate_hz", "receptive_field_s", "licence", "provenance")


def encoder_names() -> list[str]:
    """Names of all registered encoders, sorted."""
    return sorted([*ENCODERS, *NETWORKS])


def reads_sound(spec: str) -> bool | None:
    """Whether the encoder of a spec reads sound (True) or pictures (False), without creating it.

    None for a factory of one's own that is no class: only the encoder itself can say.

    Raises:
        ConfigError: an unknown name, or a factory that cannot be imported.
    """
    name, _, _ = parse_spec(spec)
    if name in NETWORKS:
        return NETWORKS[name].kind == "waveform"
    if name in ENCODERS:
        return name in SOUND_ENCODERS
    factory = find_factory(name)
    return hasattr(factory, "encode_audio") if inspect.isclass(factory) else None


def create(spec: str, *, device: str = "cpu", source: str | None = None, **options: Any) -> Encoder:
    """Create the encoder of a spec.

    Args:
        spec: `NAME[=SOURCE][,OPTION=VALUE...]`.
        device: `cpu`, `cuda` or `cuda:N`.
        source: takes the place of the SOURCE of the spec; unlike that, it may contain a comma.
        options: further options; they take precedence over those of the spec.

    Raises:
        ConfigError: an unknown name or option, a wrong value, or an encoder that lacks an attribute of `Encoder`.
        ArtefactError: the weights are missing, unreachable or damaged.
    """
    name, spec_source, spec_options = parse_spec(spec)
    encoder = find_factory(name)(source or spec_source, device=device, **{**spec_options, **options})
    if not isinstance(encoder, Encoder):
        missing = [a for a in _ENCODER_ATTRIBUTES if not hasattr(encoder, a)]
        raise ConfigError(
            f"Encoder {name!r} does not declare {', '.join(missing)}.",
            follows="No encoder was created.",
            remedy="Declare the attributes of mien.encoders.protocol.Encoder.",
        )
    return encoder


def parse_spec(spec: str) -> tuple[str, str | None, dict[str, Any]]:
    """Split `NAME[=SOURCE][,OPTION=VALUE...]` into name, source (None without `=`) and options.

    Values are read as YAML: numbers, true, false, null, words, and lists of these in brackets (`scales=[1.0,1.3]`). A
    source or another value cannot contain a comma.

    Raises:
        ConfigError: a part after the first comma is not OPTION=VALUE.
    """
    head, *parts = re.split(r",(?![^\[]*\])", spec)  # not at the commas of a list
    name, _, source = head.partition("=")
    options = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not key or not equals:
            raise ConfigError(
                f"{part!r} in {spec!r} is not an option of an encoder.",
                follows="No encoder was created.",
                remedy="Write options as OPTION=VALUE, separated by commas.",
            )
        options[key.strip()] = yaml.safe_load(value)
    return name, source or None, options


def format_spec(name: str, options: Mapping[str, Any]) -> str:
    """Write an encoder of a recipe as a spec, the inverse of `parse_spec`. `options` may include `source`.

    Raises:
        ConfigError: a spec cannot hold one of the values.
    """
    source = options.get("source")
    others = {key: value for key, value in options.items() if key != "source"}
    spec = name if source is None else f"{name}={source}"
    for key, value in others.items():
        spec += f",{key}={yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}"
    try:
        is_exact = parse_spec(spec) == (name, None if source is None else str(source), others)
    except ConfigError:
        is_exact = False
    if not is_exact:
        raise ConfigError(
            f"The options of {name} cannot be written in one line: {dict(options)}.",
            follows="No encoder was created.",
            remedy="Use numbers, words, true, false or null, without commas, or lists of these.",
        )
    return spec


def find_factory(name: str) -> Callable[..., Encoder]:
    """Find the factory of an encoder: `factory(source, device=device, **options)` returns the encoder.

    Args:
        name: one of `encoder_names()`, or `package.module:factory`, importable in every worker process.

    Raises:
        ConfigError: an unknown name (the nearest is suggested), or a factory that cannot be imported.
    """
    if name in NETWORKS:
        return functools.partial(_create_pretrained, name)
    if name in ENCODERS:
        return functools.partial(_create_without_weights, name)
    if ":" not in name:
        near = difflib.get_close_matches(name.lower(), encoder_names(), 1)
        raise ConfigError(
            f"There is no encoder {name!r}. Known are {', '.join(encoder_names())}.",
            follows="No encoder was created.",
            remedy=f"Did you mean {near[0]!r}?" if near else "Name one of your own as package.module:factory.",
        )
    return _import(name, name)


def _create_without_weights(name: str, source: str | None, /, *, device: str = "cpu", **options: Any) -> Encoder:
    """Create an encoder of `ENCODERS`; it has neither source nor options and runs on the CPU."""
    if source:
        raise ConfigError(
            f"{name} takes no source, got {source!r}.",
            follows="No encoder was created.",
            remedy=f"Use --encoder {name}.",
        )
    _check_names(name, options, ())
    return _import(name, ENCODERS[name])()


def _create_pretrained(name: str, source: str | None, /, *, device: str = "cpu", **options: Any) -> Encoder:
    """Create an encoder of `NETWORKS`.

    The option `name` sets the name in the feature store, for two variants of one network. The others are those of the
    class.
    """
    network = NETWORKS[name]
    source = source or network.source
    if not source:
        raise ConfigError(
            f"{name} needs the file of a network.",
            follows="No encoder was created.",
            remedy=f"Use {name}=PATH/TO/NETWORK.onnx.",
        )
    factory = _import(name, KINDS[network.kind])
    store_name = options.pop("name", name if network.source else None)
    options = _convert_options(name, factory, options)
    if network.kind == "onnx":
        return factory(source, name=store_name, device=device, **options)
    from mien.encoders.pretrained import WeightSource

    # Size and licence of the published weights say nothing about another source.
    published = (network.size, network.licence) if source == network.source else ()
    return factory(store_name, WeightSource(source, *published), device=device, **{**network.options, **options})


def _import(name: str, target: str) -> Callable[..., Encoder]:
    """Import the factory `module:attribute` of the encoder `name`."""
    module, _, attribute = target.partition(":")
    try:
        factory: Callable[..., Encoder] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"Encoder {name!r} cannot be imported: {error}.",
            follows="No encoder was created.",
            remedy="Write it as package.module:factory, importable from here.",
        ) from error
    return factory


def _convert_options(name: str, factory: Callable[..., Encoder], options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with the types of their annotations: a mapping of a recipe becomes a record, `4` a float."""
    parameters = inspect.signature(factory, eval_str=True).parameters.values()
    types = {p.name: p.annotation for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in ("device", "types")}
    _check_names(name, options, types)
    converted = {}
    for option, value in options.items():
        try:
            converted[option] = TypeAdapter(types[option]).validate_python(value)
        except ValidationError as error:
            raise ConfigError(
                f"{name}: option {option} is {value!r}: {error.errors()[0]['msg'].lower()}.",
                follows="No encoder was created.",
                remedy=f"Correct the value of {option}.",
            ) from error
    return converted


def _check_names(name: str, options: Mapping[str, Any], known: Collection[str]) -> None:
    for option in options:
        if option not in known:
            raise ConfigError(
                f"{name} has no option {option!r}{nearest(option, known)}",
                follows="No encoder was created.",
                remedy=f"Its options are {', '.join(sorted(known))}." if known else "Omit it: the encoder has none.",
            )
