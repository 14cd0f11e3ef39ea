"""Encoders by name: what `mien extract --encoder NAME[=SOURCE][,OPTION=VALUE...]` and recipes say.

`beit-large`, `wavlm-large,layer=-1,last=4`, `pdem=/models/pdem,head=true`. A factory is called as
`factory(source, device=device, **options)`; source is None, or the folder, file or hub id that stands after
`=`. It returns an encoder of one of the kinds in `mien.encoders.protocol`.
"""

from __future__ import annotations

import difflib
import functools
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from mien.encoders import networks
from mien.encoders.protocol import Encoder
from mien.errors import ConfigError

#: Name -> "module:factory", beside `networks.NETWORKS`. Nothing is imported before it is asked for.
ENCODERS: dict[str, str] = {
    "face-geometry": "mien.encoders.starter:face",
    "voice-prosody": "mien.encoders.starter:voice",
    "log-mel": "mien.encoders.sound_rows:mel",
    "waveform": "mien.encoders.sound_rows:waveform",
}
#: A folder of a trained run in place of a name: what looks at its pictures. Named, not imported: it lies above.
TRAINED = "mien.training.face_encoder:create"
#: What every encoder declares (`Encoder`).
DECLARED = ("name", "modality", "dim", "rate_hz", "receptive_field_s", "licence", "provenance")


def names() -> list[str]:
    """Every encoder that has a name."""
    return sorted([*ENCODERS, *networks.NETWORKS])


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
    if name in networks.NETWORKS:
        return functools.partial(networks.create, name)
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
    if source is None and (Path(name) / "checkpoint.json").is_file():
        name, source = TRAINED, name
    encoder = factory(name)(source, device=device, **{**said, **options})
    if not isinstance(encoder, Encoder):
        missing = [a for a in DECLARED if not hasattr(encoder, a)]
        raise ConfigError(
            f"encoder {name!r} does not declare {', '.join(missing)}",
            remedy="see mien.encoders.protocol for what an encoder declares",
        )
    return encoder
