"""Recipes as YAML text: reading with strict keys, overrides of single keys, and writing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml

from mien.errors import ConfigError

#: Levels of nesting that a recipe may have. Our choice: recipes have five.
_MAX_DEPTH = 50


class Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-4 is a number, and a key given twice or nesting beyond 50 levels is an error."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """A node of the document; counts the levels."""
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self._too_deep()
        try:
            node: yaml.Node | None = super().compose_node(parent, index)
            return node
        finally:
            self._depth -= 1

    def fetch_flow_collection_start(self, token: Any) -> None:
        """Read a bracket. The scanner is ahead of the nodes, and its time grows with the square of open brackets."""
        if self.flow_level > _MAX_DEPTH:
            raise self._too_deep()
        super().fetch_flow_collection_start(token)

    def _too_deep(self) -> yaml.MarkedYAMLError:
        return yaml.composer.ComposerError(None, None, f"more than {_MAX_DEPTH} levels of nesting", self.get_mark())


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if not isinstance(key, str | int | float | bool | None):
            kind = type(key).__name__
            raise yaml.constructor.ConstructorError(None, None, f"a key is a {kind}, not text", key_node.start_mark)
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


def parse(data: bytes, origin: str, sections: Iterable[str]) -> dict[str, Any]:
    """The mapping in a recipe's text. origin, sections: for errors.

    Raises ConfigError for text that is not UTF-8, invalid YAML, a key given twice or that is no text, nesting beyond
    50 levels, or text that is no mapping.
    """
    try:
        raw = yaml.load(data.decode(), Loader=Loader)  # a SafeLoader: builds plain values only
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{origin}: cannot be read as a recipe: {error}",
            follows="Nothing was started.",
            remedy="Save the file as UTF-8 text.",
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(
            f"{origin}: not valid YAML: {place}{error.problem}",
            follows="Nothing was started.",
            remedy="Correct that line.",
        ) from error
    except yaml.reader.ReaderError as error:  # has a position, but no mark
        raise ConfigError(
            f"{origin}: not valid YAML: the character at position {error.position} is not allowed: "
            f"{chr(error.character)!r}",
            follows="Nothing was started.",
            remedy="Remove it, or copy the file again.",
        ) from error
    except ValueError as error:  # such as a day of 2026-02-30
        raise ConfigError(
            f"{origin}: not valid YAML: {error}", follows="Nothing was started.", remedy="Correct that value."
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
    except (yaml.YAMLError, ValueError):
        return f"override {text!r}: {value!r} is not a YAML value"
    node: Any = raw
    for i, part in enumerate(parts[:-1]):
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            return f"override {text!r}: {'.'.join(parts[: i + 1])} is a value, not a section"
    node[parts[-1]] = parsed
    return None
