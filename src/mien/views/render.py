"""Jinja templates of the views and the text files inside them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

#: Templates, style sheets and scripts.
FOLDER = Path(__file__).parent / "templates"


@cache
def load_template(name: str, **filters: Callable[..., str]) -> jinja2.Template:
    """Template `name` of `views/templates`, with HTML escaping and the given filters."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= filters
    return environment.get_template(name)


def read_source(*names: str) -> Markup:
    """Style sheets or scripts of `views/templates`, concatenated, to put into a page without escaping."""
    return Markup("".join((FOLDER / name).read_text(encoding="utf-8") for name in names))
