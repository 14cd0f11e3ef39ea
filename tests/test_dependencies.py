"""The dependencies that pyproject.toml declares are those that the code imports, at the versions that are tested."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import mien
from mien import extras

ROOT = Path(mien.__file__).parent
PROJECT = Path(__file__).parents[1]
FACTS = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
GROUPS: dict[str, list[str]] = FACTS["optional-dependencies"]
TESTED = dict(re.findall(r"^([\w.-]+)==(\S+)$", (PROJECT / "constraints.txt").read_text(encoding="utf-8"), re.M))
#: Modules that are used where they are installed, and that no extra brings.
UNDECLARED = {"mamba_ssm": "CUDA kernels, which have to be compiled"}
#: Distributions that the code needs and does not import by a statement.
NOT_IMPORTED = {
    "tensorboard": "imported by name in training/loggers.py, because torch's writer needs it",
    "websockets": "uvicorn imports it",
}
#: Extras of parts that are folders of src/mien: without the folder, nothing imports them.
PARTS = ("serve", "live")


def requirements(texts: list[str]) -> dict[str, Requirement]:
    """Distribution -> requirement on this platform, with the extras of mien itself replaced by what they list."""
    found: dict[str, Requirement] = {}
    for text in texts:
        one = Requirement(text)
        if one.name == "mien":
            for extra in one.extras:
                found |= requirements(GROUPS[extra])
        elif one.marker is None or one.marker.evaluate():
            found[canonicalize_name(one.name)] = one
    return found


@cache
def imported() -> dict[str, set[str]]:
    """Top-level module -> files of src/mien that import it, except for type checking alone."""
    found: dict[str, set[str]] = {}
    for path in ROOT.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for block in [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]:
            block.body = [ast.Pass()]
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                found.setdefault(name.split(".")[0], set()).add(str(path.relative_to(ROOT)))
    return {name: files for name, files in found.items() if name not in (*sys.stdlib_module_names, "mien")}


@cache
def installed() -> Mapping[str, list[str]]:
    """Top-level module -> distributions that bring it here; reading them takes a second."""
    return packages_distributions()


def distributions(module: str) -> set[str]:
    """Distributions that bring a module here."""
    return {canonicalize_name(name) for name in installed().get(module, [])}


BASE = requirements(FACTS["dependencies"])
USED_BY_EXTRAS = requirements([f"mien[{','.join(extras.MODULES)}]"])


@pytest.mark.parametrize("module", sorted(imported()))
def test_every_imported_module_is_declared(module: str) -> None:
    if module in UNDECLARED:
        return
    declared = distributions(module) & {*BASE, *USED_BY_EXTRAS}
    assert declared, (
        f"{module} is imported by {sorted(imported()[module])} and no dependency of pyproject.toml brings it"
    )
    if not declared & {*BASE}:
        assert extras.extra_of(module), f"mien.extras.MODULES does not say which extra brings {module}"


def test_every_declared_distribution_is_imported() -> None:
    absent = {*BASE, *USED_BY_EXTRAS} - {name for module in imported() for name in distributions(module)}
    of_parts = {name for part in PARTS if not (ROOT / part).is_dir() for name in requirements(GROUPS[part])}
    assert absent - of_parts == {*NOT_IMPORTED} - of_parts


@pytest.mark.parametrize("extra", sorted(extras.MODULES))
def test_the_table_of_modules_agrees_with_the_extras(extra: str) -> None:
    listed = {name for module in extras.MODULES[extra] for name in distributions(module)}
    assert {*requirements(GROUPS[extra])} <= listed, f"mien.extras.MODULES[{extra!r}] lacks a module"
    for module in extras.MODULES[extra]:
        assert distributions(module) & {*requirements(GROUPS[extra])}, f"the extra {extra} does not bring {module}"


def test_the_base_installation_has_no_large_framework() -> None:
    assert not {"torch", "transformers", "scipy", "scikit-learn", "scikit-image", "pyarrow", "silero-vad"} & {*BASE}


def test_all_holds_every_extra_of_users() -> None:
    (everything,) = map(Requirement, GROUPS["all"])
    assert everything.extras == {*extras.MODULES}
    assert {*extras.USES} == {*extras.MODULES}


def test_lower_bounds_are_the_tested_versions() -> None:
    wrong = []
    for name, one in (requirements(["mien[dev]"]) | BASE).items():
        bounds = {s.operator: Version(s.version) for s in one.specifier}
        if name not in TESTED or ">=" not in bounds:
            continue
        release = Version(TESTED[name])
        if bounds[">="].release[:2] != release.release[:2] or bounds[">="] > release:
            wrong.append(f"{one}: tested with {release}")
    assert not wrong


def test_every_upper_bound_has_its_reason() -> None:
    lines = (PROJECT / "pyproject.toml").read_text(encoding="utf-8").split("[project.urls]")[0].splitlines()
    bounded = [line for line in lines if re.search(r",<\d", line)]
    assert bounded
    assert [line for line in bounded if not re.search(r'",\s+# \w+', line)] == []
