"""The page `/docs`: the routes of the server, as /openapi.json describes them, in plain HTML without a script."""

from __future__ import annotations

import re
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
            '<link rel="icon" href="/icon.svg" type="image/svg+xml"><script src="/theme.js"></script>',
            '<link rel="stylesheet" href="/base.css"><link rel="stylesheet" href="/page.css"></head>',
            '<body><main class="wrap routes">',
            f"<h1>{escape(about['title'])} {escape(about['version'])}</h1><p>{escape(about['description'])}</p>",
            '<p>The same for programs: <a href="/openapi.json">/openapi.json</a>. Where the server has a token, each '
            "request needs the header <code>Authorization: Bearer TOKEN</code>, and this link has none: "
            "<code>curl -H 'Authorization: Bearer TOKEN' ADDRESS/openapi.json</code>.</p>",
            *_routes(description["paths"]),
            "</main></body></html>",
        ]
    )


def _routes(paths: dict[str, Any]) -> Iterator[str]:
    for path, methods in paths.items():
        for method, route in methods.items():
            yield f'<section class="card"><h2><code>{method.upper()} {escape(path)}</code></h2>'
            about = re.sub("`(.+?)`", r"<code>\1</code>", escape(route.get("description", "")))
            yield f"<p><b>{escape(route['summary'])}.</b> {about}</p>"
            options = [one for one in route.get("parameters", ()) if one["in"] == "query"]
            if options:
                yield "<table><thead><tr><th>Option</th><th>Default</th><th>Meaning</th></tr></thead><tbody>"
                yield from map(_option, options)
                yield "</tbody></table>"
            yield "</section>"


def _option(option: dict[str, Any]) -> str:
    default = option["schema"].get("default", "")
    shown = str(default).lower() if isinstance(default, bool) else str(default)
    cells = (f"<code>{escape(option['name'])}</code>", escape(shown), escape(option.get("description", "")))
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
