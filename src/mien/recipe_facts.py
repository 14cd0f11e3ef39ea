"""Tables of every setting of the published systems and where its value comes from, read from the recipes' comments.

In the sections `SECTIONS` of a recipe, every line that sets a value ends with a comment in one of these forms:

    # as published                     the publication, or its authors' public code, has this value
    # as published: DETAIL
    # ours, because REASON             the publication has another value
    # not known; ours, because REASON  the publication does not say
    # not used by this system

`paper.differs` names each setting of the form `ours, because` by its key in brackets at the end of an entry, for
example `windows begin anywhere (windows.jitter)`, unless it is about the machine (`MACHINE`). A key names all settings
below it: `(features, model.clamp)`. `problems` checks both; `python bench/pages.py` writes the tables.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import yaml

from mien import config

#: Sections of a recipe whose values are explained, in the order of the tables.
SECTIONS = ("features", "windows", "model", "objective", "train", "vote")
#: Recipes of systems that are not published elsewhere.
OWN = ("custom_data", "face_expression", "starter", "synthetic", "voice_expression")
#: Settings of the machine that trains, not of the method: they need no entry in `paper.differs`.
MACHINE = ("train.threads", "train.workers", "train.logger")
#: A comment's form, and what the table calls it.
FORMS = {
    re.compile(r"as published(?:: (?P<why>.+))?"): "as published",
    re.compile(r"ours, because (?P<why>.+)"): "**ours**",
    re.compile(r"not known; ours, because (?P<why>.+)"): "not known; ours",
    re.compile(r"not used by this system"): "not used",
}
#: Longest text of a value in a table.
_WIDTH = 60
_KEY = rf"(?:{'|'.join(SECTIONS)})(?:\.\w+)*"
_KEYS = re.compile(rf"\(({_KEY}(?:, {_KEY})*)\)$")


class Setting(NamedTuple):
    """One line of a recipe. key: dotted. value: as written. comment: without the mark; empty if there is none."""

    key: str
    value: str
    comment: str

    @property
    def source(self) -> tuple[str, str] | None:
        """What the table calls the comment's form, and its detail or reason; None if it has no such form."""
        for form, name in FORMS.items():
            if match := form.fullmatch(self.comment):
                return name, match.groupdict().get("why") or ""
        return None


def published() -> list[str]:
    """Recipes that the tables explain."""
    return [name for name in config.names() if name not in OWN]


def settings(text: str) -> list[Setting]:
    """The lines of a recipe's YAML that set a value in `SECTIONS`, in their order; without `model.name`."""
    lines = text.splitlines()
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    sections = {key.value: node for key, node in root.value}
    found = [setting for name in SECTIONS if name in sections for setting in _walk(sections[name], name, lines)]
    return [setting for setting in found if setting.key != "model.name"]


def problems(name: str, text: str) -> list[str]:
    """What is wrong with the comments and `paper.differs` of a recipe, a line each; empty if nothing is."""
    found, explained = [], settings(text)
    for setting in explained:
        if setting.source is None:
            found.append(f"{name}: {setting.key}: the comment {setting.comment!r} has none of the known forms")
    ours = {s.key for s in explained if s.source and s.source[0] == "**ours**" and s.key not in MACHINE}
    changed = {s.key for s in explained if s.source and s.source[0] in ("**ours**", "not known; ours")}
    differs = yaml.safe_load(text)["paper"].get("differs") or []
    named = {key for entry in differs if (keys := _KEYS.search(entry)) for key in keys[1].split(", ")}
    for key in sorted(ours):
        if not any(_is_below(key, known) for known in named):
            found.append(f"{name}: paper.differs does not name {key}, which is ours")
    for key in sorted(named):
        if not any(_is_below(known, key) for known in changed):
            found.append(f"{name}: paper.differs names {key}, which is no setting that is ours")
    return found


def tables() -> str:
    """The tables of all `published` recipes in Markdown, each under its heading."""
    parts = []
    for name in published():
        path = config.locate(name)
        text, recipe = path.read_text(encoding="utf-8"), config.load(name)
        paper = recipe.paper
        cited = "" if paper.arxiv in paper.title else f" (arXiv {paper.arxiv})"
        head = f"## {name}\n\n{paper.title}{cited}"
        rows = ["| setting | value | what it is |", "|---|---|---|"]
        for setting in settings(text):
            source = ": ".join(part for part in setting.source or (setting.comment,) if part)
            rows.append(f"| `{setting.key}` | `{_short(setting.value)}` | {_cell(source)} |")
        differs = [f"* {entry}" for entry in paper.differs]
        parts.append("\n".join([head, "", *rows, "", "Differences from the publication:", "", *differs, ""]))
    return "\n".join(parts)


def _is_below(key: str, other: str) -> bool:
    """Whether a dotted key is another one, or lies below it."""
    return f"{key}.".startswith(f"{other}.")


def _walk(node: yaml.Node, path: str, lines: list[str]) -> Iterator[Setting]:
    """The settings of a node; a value in one line, flow collections included, is one setting."""
    if isinstance(node, yaml.MappingNode) and not node.flow_style:
        for key, value in node.value:
            yield from _walk(value, f"{path}.{key.value}", lines)
    elif isinstance(node, yaml.SequenceNode) and not node.flow_style:
        for number, value in enumerate(node.value):
            yield from _walk(value, f"{path}.{number}", lines)
    else:
        yield Setting(path, *_value_and_comment(node, lines))


def _value_and_comment(node: yaml.Node, lines: list[str]) -> tuple[str, str]:
    start, end = node.start_mark, node.end_mark
    if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):  # its comment stands beside the mark
        value, rest = node.value, lines[start.line][start.column :].lstrip("|>+-0123456789")
    else:
        written = lines[start.line : end.line + 1]
        written[-1] = written[-1][: end.column]
        written[0] = written[0][start.column :]
        value, rest = "\n".join(written), lines[end.line][end.column :]
    before, mark, comment = rest.partition("#")
    return " ".join(value.split()), comment.strip() if mark and not before.strip() else ""


def _short(value: str) -> str:
    cut = value if len(value) <= _WIDTH else value[: _WIDTH - 1].rstrip() + "…"
    return _cell(cut.replace("`", "'"))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
