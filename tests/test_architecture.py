"""docs/ARCHITECTURE.md and the imports agree with the tree: imports point down, and every path named exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import mien

ROOT = Path(mien.__file__).parent
PROJECT = Path(__file__).parents[1]
PAGE = (PROJECT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")

#: Bottom to top. A folder or file of src/mien imports only itself and what stands on a lower layer. No exceptions.
LAYERS = (
    ("errors", "labels", "memory", "network_lock", "printable", "processes", "results", "telemetry", "json_object"),
    ("recipe_yaml", "downloads", "extras", "scratch", "folder_lock", "csv_rows"),
    ("records", "config", "atomic", "hub_artefacts"),
    ("clock", "losses", "hub", "onnx_graph", "onnx_session", "recipe_facts", "saved_state"),
    ("faces", "media", "store", "soft_vote", "mouth_filter", "hub_repository"),
    ("encoders", "layers", "views", "data", "inference"),
    ("synthetic", "timeline", "models", "onnx_model", "ensemble"),
    ("datasets", "checkpoint"),
    ("trained_model",),
    ("checkpoint_encoder", "zero_shot", "ensemble_folder"),
    ("model_listing",),
    ("encode", "onnx_export", "model_card"),
    ("extract", "evaluation", "predict", "client"),
    ("training", "submission", "benchmark", "live", "compare", "people"),
    ("reproduce", "custom_data", "serve"),
    ("cli",),
)
#: Files and folders that know tensors and no files must not import what reads the world.
WORLD = {"media", "faces", "store", "hub", "datasets", "encoders", "encode", "extract"}
NO_WORLD = {"layers", "models"}
LEVEL = {name: i for i, layer in enumerate(LAYERS) for name in layer}
FILES = sorted(p for p in ROOT.rglob("*.py") if p.parent != ROOT or p.stem not in ("__init__", "__main__"))
#: A module of mien named in a string: a registry entry is an import too.
MODULE_STRING = re.compile(r"mien\.([a-z_]+)(?:\.[a-z_]+)*(?::\w+)?")


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> set[tuple[str, int]]:
    """What a file imports of mien, in statements and in strings (docstrings aside), with the line."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write it from mien"
            if node.module == "mien":
                found |= {(a.name, node.lineno) for a in node.names if a.name != "__version__"}
            elif node.module and node.module.startswith("mien."):
                found.add((node.module.split(".")[1], node.lineno))
        elif isinstance(node, ast.Import):
            found |= {(a.name.split(".")[1], node.lineno) for a in node.names if a.name.startswith("mien.")}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            match = MODULE_STRING.fullmatch(node.value)
            found |= {(match[1], node.lineno)} if match and match[1] in LEVEL else set()
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    part = part_of(path)
    assert part in LEVEL, f"{path} is on no layer; give it one here and in docs/ARCHITECTURE.md"
    for other, line in imports(path):
        assert other in LEVEL, f"{path}:{line} imports mien.{other}, which is on no layer"
        assert other == part or LEVEL[other] < LEVEL[part], (
            f"{path}:{line}: {part} is below {other} and may not import it"
        )
        if part in NO_WORLD:
            assert other not in WORLD, f"{path}:{line}: {part} knows tensors and no files; it imports {other}"


def test_no_file_imports_itself_in_a_circle() -> None:
    """Inside a folder too: module level imports, `if TYPE_CHECKING` aside."""
    modules = {
        "mien." + ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in FILES
    }
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        targets = set()
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mien"):
                full = [f"{node.module}.{a.name}" for a in node.names]
                targets |= {each if each in modules else node.module for each in full}
        graph[name] = targets
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"import circle: {' -> '.join((*path[path.index(name) :], name))}"
        if name not in done:
            for target in sorted(graph[name] & graph.keys() - {name}):
                walk(target, (*path, name))
            done.add(name)

    for name in graph:
        walk(name, ())


def test_no_file_over_400_lines() -> None:
    long = {str(p.relative_to(ROOT)): n for p in ROOT.rglob("*.py") if (n := len(p.read_text().splitlines())) > 400}
    assert not long, f"split these: {long}"


def test_every_path_on_the_page_exists() -> None:
    named = set(re.findall(r"`((?:src|tests|bench|docs|experiments)/[\w./-]+|[\w-]+/(?:[\w-]+/)*[\w.-]*)`", PAGE))
    assert len(named) > 30
    for name in named:
        assert (PROJECT / name).exists() or (ROOT / name).exists(), (
            f"docs/ARCHITECTURE.md names {name}, which is not there"
        )


def test_every_folder_and_file_of_the_package_is_named_on_the_page() -> None:
    for path in sorted(ROOT.iterdir()):
        if path.name.startswith("__") or path.name == "py.typed":
            continue
        name = f"{path.name}/" if path.is_dir() else path.name
        assert re.search(rf"^  {re.escape(name)}\s", PAGE, flags=re.M), f"docs/ARCHITECTURE.md does not describe {name}"


def test_the_page_draws_the_layers_of_this_test() -> None:
    block = re.search(r"<!-- layers -->\n```\n(.*?)```", PAGE, flags=re.S)
    assert block
    drawn = [tuple(line.split()) for line in block[1].splitlines()]
    assert drawn == [tuple(layer) for layer in reversed(LAYERS)]


def test_where_does_it_live_names_real_symbols() -> None:
    """Each row of the table: a question, a path, and the names to look for there."""
    table = PAGE.split("## Where does it live?")[1].split("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("|")][2:]
    assert len(rows) >= 16
    for question, where, names in rows:
        paths = re.findall(r"`([^`]+)`", where)
        assert paths, f"no path for: {question}"
        texts = ""
        for name in paths:
            path = next((base / name for base in (ROOT, PROJECT) if (base / name).exists()), None)
            assert path, f"{question}: {name} is not there"
            files = [path] if path.is_file() else sorted(path.rglob("*.*"))
            texts += "".join(f.read_text(encoding="utf-8") for f in files if f.suffix in (".py", ".yaml", ".md"))
        for name in re.findall(r"`([^`]+)`", names):
            assert re.search(rf"\b{re.escape(name.split('.')[-1])}\b", texts), f"{question}: {name} is not in {paths}"
