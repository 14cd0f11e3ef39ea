"""YAML of recipes: 1e-4 is a number, a key given twice is an error, and lists of scalars take one line."""

from __future__ import annotations

import re
from typing import Any

import yaml


class RecipeLoader(yaml.SafeLoader):
    """Safe YAML in which 1e-4 is a number and a key given twice is an error."""


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f'key "{key}" given twice', key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


RecipeLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
# YAML 1.1 requires a dot and a signed exponent in a float, so it reads 1e-4 as text.
RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


class RecipeDumper(yaml.SafeDumper):
    """YAML dumper that writes lists of scalars in one line, as recipes written by hand do."""


def _sequence(dumper: yaml.SafeDumper, data: list[Any]) -> yaml.SequenceNode:
    flat = all(not isinstance(item, (dict, list)) for item in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flat)


RecipeDumper.add_representer(list, _sequence)
