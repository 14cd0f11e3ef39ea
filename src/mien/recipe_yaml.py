"""Recipes as YAML text: reading with strict keys, overrides of single keys, and writing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml

from mien.errors import ConfigError


class Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-4 is a number and a key given twice is an error."""


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f'key "{key}" given twice', key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
# YAML 1.1 requires a dot and a signed exponent in a float, so it reads 1e-4 as text.
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


class Dumper(yaml.SafeDumper):
    """YAML dumper that writes lists of scalars in one line, as recipes written by hand do."""


def _sequence(dumper: yaml.SafeDumper, data: list[Any]) -> yaml.SequenceNode:
    flat = all(not isinstance(item, (dict, list)) for item in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flat)


Dumper.add_representer(list, _sequence)


def parse(text: str, origin: str, sections: Iterable[str]) -> dict[str, Any]:
    """The mapping in a recipe's text. origin, sections: for errors.

    Raises ConfigError for invalid YAML, a key given twice, or text that is no mapping.
    """
    try:
        raw = yaml.load(text, Loader=Loader)  # a SafeLoader: builds plain values only
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(
            f"{origin}: not valid YAML: {place}{error.problem}",
            follows="Nothing was started.",
            remedy="Correct that line.",
        ) from error
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{origin}: a recipe is a mapping of sections, got {type(raw).__name__}",
            follows="Nothing was started.",
            remedy=f"Write the sections {', '.join(sections)}.",
        )
    return raw


def override(raw: dict[str, Any], text: str) -> str | None:
    """Apply one `key.path=value` in place; a message if it cannot be."""
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        return f"override {text!r}: write it as key.path=value, for example train.lr=1e-4"
    try:
        parsed = yaml.load(value, Loader=Loader)
    except yaml.YAMLError:
        return f"override {text!r}: {value!r} is not a YAML value"
    node: Any = raw
    for i, part in enumerate(parts[:-1]):
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            return f"override {text!r}: {'.'.join(parts[: i + 1])} is a value, not a section"
    node[parts[-1]] = parsed
    return None
