"""The house's arrows: a room imports only rooms below it. Reads every import, lazy ones too, and names the fault."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import mien

ROOT = Path(mien.__file__).parent

#: Bottom to top. A room may import rooms on lower floors, its own room, and rooms named in BRIDGES.
FLOORS = (
    ("errors", "labels"),
    ("records", "config"),
    ("clock", "losses", "growing", "heap"),
    ("media", "store", "hub"),
    ("corpora", "encoders", "layers"),
    ("data", "extract"),
    ("models",),
    ("evaluation", "views", "portable"),
    ("checkpoint", "timeline"),
    ("predict", "training", "challenge"),
    ("benchmarks", "own"),
    ("app",),
)
#: (importer, imported): the exceptions, each with its reason.
BRIDGES = {
    ("media", "hub"),  # the small face networks come through the hub, which lies beside media
    ("checkpoint", "hub"),
    ("corpora", "encoders"),  # the theatre hands out encoded recordings without a picture in between
}
#: Rooms that know tensors and no files must not see the world.
WORLD = {"media", "store", "hub", "corpora", "encoders", "extract"}
NO_WORLD = {"layers", "models"}
LEVEL = {room: i for i, floor in enumerate(FLOORS) for room in floor}
FILES = sorted(p for p in ROOT.rglob("*.py") if p.parent != ROOT or p.stem not in ("__init__", "__main__"))


def room_of(path: Path) -> str:
    part = path.relative_to(ROOT).parts[0]
    return part.removesuffix(".py")


def imported_rooms(path: Path) -> set[tuple[str, int]]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write it from mien"
            if node.module == "mien":
                found |= {(a.name, node.lineno) for a in node.names}
            elif node.module and node.module.startswith("mien."):
                found.add((node.module.split(".")[1], node.lineno))
        elif isinstance(node, ast.Import):
            found |= {(a.name.split(".")[1], node.lineno) for a in node.names if a.name.startswith("mien.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    room = room_of(path)
    assert room in LEVEL, f"{path} lies in no room of FLOORS; give it one here and in docs/ARCHITECTURE.md"
    for other, line in imported_rooms(path):
        if other == "__version__" and room in ("app", "checkpoint", "views", "benchmarks"):
            continue
        assert other in LEVEL, f"{path}:{line} imports mien.{other}, which is no room"
        allowed = other == room or LEVEL[other] < LEVEL[room] or (room, other) in BRIDGES
        assert allowed, f"{path}:{line}: {room} may not import {other} (the arrow points the other way)"
        if room in NO_WORLD:
            assert other not in WORLD, f"{path}:{line}: {room} knows tensors and no files; found {other}"


def test_no_file_over_400_lines() -> None:
    long = {str(p.relative_to(ROOT)): n for p in ROOT.rglob("*.py") if (n := len(p.read_text().splitlines())) > 400}
    assert not long, f"split these: {long}"
