"""docker/: what the image is made of exists, and its commands run with the packages of `mien[serve]` alone.

Docker itself is not needed: the commands of the Dockerfile run here, in processes that cannot import other packages.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from running_server import TOKEN, until

import mien

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENTS = [
    requirement.name
    for requirement in map(Requirement, PROJECT["dependencies"] + PROJECT["optional-dependencies"]["serve"])
    if requirement.marker is None or requirement.marker.evaluate()
]
#: Lets a process import only the modules named in a variable, as if nothing else were installed.
ONLY = """
import os
from importlib.machinery import PathFinder
known, find = set(os.environ["ONLY_MODULES"].split()), PathFinder.find_spec
def limited(cls, name, path=None, target=None):
    spec = find(name, path, target)
    outside = spec and "site-packages" in (spec.origin or str(spec.submodule_search_locations or ""))
    return None if outside and name.split(".")[0] not in known else spec
PathFinder.find_spec = classmethod(limited)
"""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_with(names: list[str]) -> set[str]:
    """The packages that pip installs for these, with their dependencies."""
    found: set[str] = set()
    waiting = [normal(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            needed = [Requirement(text) for text in requires(name) or ()]
        except PackageNotFoundError:
            continue
        waiting += [normal(r.name) for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def test_copied_paths_exist_and_are_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = [
        path for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, flags=re.M) for path in line.split()
    ]
    assert len(copied) >= 4
    for path in copied:
        assert (ROOT / path).exists(), path
        assert f"!{path}" in ignored


def test_versions_are_pinned() -> None:
    pinned = {normal(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert not [name for name in REQUIREMENTS if normal(name) not in pinned]
    assert "torch" not in installed_with(REQUIREMENTS)
    assert "'.[serve]'" in DOCKERFILE


def test_container_has_no_rights_beyond_its_folder() -> None:
    service = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]["mien"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert (ROOT / "docker" / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    last_stage = DOCKERFILE.rpartition("FROM ")[2]
    assert re.search(r"^USER (?!root)", last_stage, flags=re.M)


def test_commands_of_the_image_run_with_its_packages_alone(shared: Path, tmp_path: Path) -> None:
    packages = installed_with(REQUIREMENTS) | {"mien"}
    modules = [module for module, owners in packages_distributions().items() if {normal(o) for o in owners} & packages]
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "sitecustomize.py").write_text(ONLY)
    path = [str(tmp_path / "only"), str(ROOT / "src")]
    environment = {
        **os.environ, "ONLY_MODULES": " ".join(modules), "PYTHONPATH": os.pathsep.join(path), "MIEN_TOKEN": TOKEN,
        "MIEN_OFFLINE": "1",
    }  # fmt: skip

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, check=False)

    assert run("-c", "import torch").returncode == 1
    pull = re.search(r"mien (hub pull [\w -]+)", DOCKERFILE)
    assert pull
    assert run("-m", "mien", *pull[1].split()).returncode == 0

    entry = json.loads(re.search(r"^ENTRYPOINT (.+)$", DOCKERFILE, flags=re.M)[1])  # type: ignore[index]
    check = json.loads(re.search(r"^HEALTHCHECK .*CMD (.+)$", DOCKERFILE, flags=re.M)[1])  # type: ignore[index]
    assert entry[0] == "mien"
    words = [word.replace("/data", str(tmp_path / "data")) for word in entry[1:]]
    server = subprocess.Popen(
        [sys.executable, "-m", "mien", *words, "--port", "0"], env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        assert server.stderr is not None
        first = server.stderr.readline()
        port = first.rpartition(":")[2].strip()
        assert port.isdigit(), first + server.stderr.read()
        assert TOKEN not in first
        timeline = mien.Client(f"http://127.0.0.1:{port}", TOKEN).predict(shared / "clips" / "single_face.mp4")
        assert len(timeline) == 72
        assert run("-c", check[2].replace("8642", port)).returncode == 0
    finally:
        server.terminate()
        server.wait(60)
    assert server.returncode == 0
    assert run("-c", check[2].replace("8642", port)).returncode != 0  # an unhealthy server is found
    del environment["MIEN_TOKEN"]
    refused = run("-m", "mien", *words)
    assert refused.returncode == 2
    assert "no token protects the server" in refused.stderr
    until(lambda: not any((tmp_path / "data" / "jobs").iterdir()))
