"""README.md and docs/: links resolve, commands and options exist, no page is outside the site's navigation."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from experiments.__main__ import app as experiments_app
from mien.cli.main import app as mien_app

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [ROOT / name for name in ("README.md", "AGENTS.md", "CONTRIBUTING.md", "SECURITY.md")]
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", flags=re.M | re.S)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
#: Commands and metaphors of earlier versions.
FORBIDDEN = re.compile(r"theatre|troupe|wardrobe|mien own|mien\.own\b|own_data", flags=re.I)
#: The command line of a program in a page: the words before its subcommand, and its command tree.
PROGRAMS: dict[tuple[str, ...], Any] = {
    ("mien",): typer.main.get_command(mien_app),
    ("python", "-m", "experiments"): typer.main.get_command(experiments_app),
}
#: A key of a recipe, alone or as an override `key=value`.
RECIPE_KEY = re.compile(r"(?:corpus|windows|model|objective|train|vote)\.([a-z_.]+)(?:=.*)?")
#: Files that define recipe keys.
KEY_FILES = [
    ROOT / "src" / "mien" / "config.py",
    *sorted((ROOT / "src" / "mien" / "models").glob("*.py")),
    *sorted((ROOT / "src" / "mien" / "datasets").glob("*.py")),
    *sorted((ROOT / "src" / "mien" / "recipes").glob("*.yaml")),
]
MAKE_TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(text: str) -> str:
    """The page without fenced code."""
    return FENCE.sub("", text)


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as the site and GitHub make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page.read_text(encoding="utf-8")), flags=re.M)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def command_lines(text: str) -> list[list[str]]:
    """Words of each simple command in shell blocks and in inline code."""
    lines = [line for language, body in FENCE.findall(text) if language in ("bash", "") for line in body.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", prose(text))
    commands = []
    for line in lines:
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # inline code that is no shell
            continue
        parts = re.split(r"&&|;|\bdo\b", " ".join(words))
        commands += [part.split() for part in parts if part.strip()]
    return commands


def unknown_parts(words: list[str], command: Any) -> list[str]:
    """Subcommands and options among the words that the command tree does not have."""
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        if words[0].isupper():  # a placeholder, as in `mien COMMAND --help`
            return []
        if words[0] not in command.commands:
            return [words[0]]
        command, words = command.commands[words[0]], words[1:]
    known = {"--help", "-h"} | {flag for param in command.params for flag in (*param.opts, *param.secondary_opts)}
    return [word for word in words if word.startswith("--") and word.split("=")[0] not in known]


@pytest.mark.parametrize("page", [*TEXTS, *PAGES], ids=name_of)
def test_links_and_images_resolve(page: Path) -> None:
    for target in LINK.findall(prose(page.read_text(encoding="utf-8"))):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name_of(page)} links to {target}, which does not exist"
        if page in PAGES:
            assert file.is_relative_to(DOCS), f"{name_of(page)} links to {target}, which is outside the site"
        if anchor:
            assert anchor in anchors(file), f"{name_of(page)} links to {target}, which has no such heading"


@pytest.mark.parametrize("page", [*TEXTS, *PAGES], ids=name_of)
def test_commands_and_options_exist(page: Path) -> None:
    for words in command_lines(page.read_text(encoding="utf-8")):
        line = " ".join(words)
        if words[0] == "make" and len(words) > 1:
            unknown = [word for word in words[1:] if re.fullmatch("[a-z-]+", word) and word not in MAKE_TARGETS]
            assert not unknown, f"{name_of(page)} has '{line}'; the Makefile has no target {unknown}"
        elif words[0] == "python" and words[1:2] and words[1].endswith(".py"):
            script = ROOT / words[1]
            assert script.exists(), f"{name_of(page)} has '{line}'; {words[1]} does not exist"
            unknown = [w for w in words if w.startswith("--") and f'"{w}"' not in script.read_text(encoding="utf-8")]
            assert not unknown, f"{name_of(page)} has '{line}'; {words[1]} has no option {unknown}"
        for program, command in PROGRAMS.items():
            if tuple(words[: len(program)]) == program:
                unknown = unknown_parts(words[len(program) :], command)
                assert not unknown, f"{name_of(page)} has '{line}', but there is no {unknown}"


def test_recipe_keys_exist() -> None:
    defined = "".join(path.read_text(encoding="utf-8") for path in KEY_FILES)
    for page in (*TEXTS, *PAGES):
        for words in command_lines(page.read_text(encoding="utf-8")):
            for key in (match[1].split(".")[-1] for word in words if (match := RECIPE_KEY.fullmatch(word))):
                assert re.search(rf"\b{key}\b", defined), (
                    f"{name_of(page)} has '{' '.join(words)}'; no recipe has {key}"
                )


def test_unknown_commands_and_options_are_detected() -> None:
    text = (
        "```bash\nmien forecast clip.mp4\nfor s in a; do mien train $s --speed 3; done\n```\n`mien predict --report`\n"
    )
    found = [unknown_parts(words[1:], PROGRAMS["mien",]) for words in command_lines(text) if words[0] == "mien"]
    assert found == [["forecast"], ["--speed"], []]


@pytest.mark.parametrize("page", [*TEXTS, *PAGES], ids=name_of)
def test_no_retired_names(page: Path) -> None:
    found = FORBIDDEN.findall(page.read_text(encoding="utf-8"))
    assert not found, f"{name_of(page)} still says {sorted(set(found))}"


def nav_pages(entries: list[Any]) -> list[str]:
    """Paths in a navigation of mkdocs.yml, sections opened."""
    pages: list[str] = []
    for entry in entries:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        pages += nav_pages(value) if isinstance(value, list) else [value]
    return pages


def test_navigation_names_every_page_once() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(nav_pages(site["nav"])) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES)
