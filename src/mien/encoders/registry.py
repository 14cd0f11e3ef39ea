"""Encoders by name: what `mien extract --encoder NAME[=SOURCE]` and recipes say.

A factory is called as `factory(source, device=device, **options)`; source is None, or the folder, file or hub
id that stands after `=`. It returns an encoder of one of the kinds in `mien.encoders.protocol`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from typing import Any

from mien.encoders.protocol import Encoder
from mien.errors import ConfigError

#: Name -> "module:factory". Nothing is imported before it is asked for.
ENCODERS: dict[str, str] = {
    "face-geometry": "mien.encoders.starter:face",
    "voice-prosody": "mien.encoders.starter:voice",
}
#: What every encoder declares (`Encoder`).
DECLARED = ("name", "modality", "dim", "rate_hz", "receptive_field_s", "licence", "provenance")


def split_spec(spec: str) -> tuple[str, str | None]:
    """`NAME=SOURCE` -> name, source; source is None without `=`."""
    name, _, source = spec.partition("=")
    return name, source or None


def factory(name: str) -> Callable[..., Encoder]:
    """A name of `ENCODERS`, or `package.module:factory` of your own (importable in every worker process).

    Raises ConfigError, which names the nearest name.
    """
    target = ENCODERS.get(name, name)
    if ":" not in target:
        near = difflib.get_close_matches(name.lower(), ENCODERS, 1)
        raise ConfigError(
            f"no encoder is called {name!r}; known are {', '.join(sorted(ENCODERS))}",
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
    """The encoder that `NAME[=SOURCE]` means, on a device (`cpu`, `cuda`, `cuda:1`).

    Raises:
        ConfigError: an unknown name, or an encoder without one of its declarations.
        ArtefactError: its weights are not here and cannot be fetched.
    """
    name, source = split_spec(spec)
    encoder = factory(name)(source, device=device, **options)
    if not isinstance(encoder, Encoder):
        missing = [a for a in DECLARED if not hasattr(encoder, a)]
        raise ConfigError(
            f"encoder {name!r} does not declare {', '.join(missing)}",
            remedy="see mien.encoders.protocol for what an encoder declares",
        )
    return encoder
