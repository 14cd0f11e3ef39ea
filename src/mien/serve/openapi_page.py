"""The page `/docs`: the routes of the server, as /openapi.json describes them, in plain HTML without a script."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any


def render(description: dict[str, Any]) -> str:
    """The page. description: the content of /openapi.json."""
    about = description["info"]
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(about['title'])}: routes</title>",
            '<link rel="stylesheet" href="/base.css"></head><body><main>',
            f"<h1>{escape(about['title'])} {escape(about['version'])}</h1><p>{escape(about['description'])}</p>",
            '<p>The same for programs: <a href="/openapi.json">/openapi.json</a>. Where the server has a token, each '
            "request needs the header <code>Authorization: Bearer TOKEN</code>.</p>",
            *_routes(description["paths"]),
            "</main></body></html>",
        ]
    )


def _routes(paths: dict[str, Any]) -> Iterator[str]:
    for path, methods in paths.items():
        for method, route in methods.items():
            yield f"<h2><code>{method.upper()} {escape(path)}</code></h2>"
            yield f"<p><b>{escape(route['summary'])}.</b> {escape(route.get('description', ''))}</p>"
            options = [one for one in route.get("parameters", ()) if one["in"] == "query"]
            if options:
                yield "<table><thead><tr><th>Option</th><th>Default</th><th>Meaning</th></tr></thead><tbody>"
                yield from map(_option, options)
                yield "</tbody></table>"


def _option(option: dict[str, Any]) -> str:
    default = option["schema"].get("default", "")
    shown = str(default).lower() if isinstance(default, bool) else str(default)
    cells = (f"<code>{escape(option['name'])}</code>", escape(shown), escape(option.get("description", "")))
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
