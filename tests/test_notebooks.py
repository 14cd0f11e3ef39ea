"""docs/notebooks: every cell runs, in order, in an empty folder; outputs are stripped; links resolve. The Python of the
pages beside them runs, too."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import polars as pl
import pytest

from mien import hub

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
needs_faces = pytest.mark.skipif(
    not (hub.available("blazeface") and hub.available("facemesh")),
    reason="the face networks are not here: mien hub pull blazeface facemesh",
)


def cells(path: Path, kind: str) -> list[str]:
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == kind]


def run(path: Path, displayed: list[Any]) -> dict[str, Any]:
    """Run the code cells as Jupyter does: the last expression of a cell is displayed."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, source in enumerate(cells(path, "code"), start=1):
        tree = ast.parse(source, filename=f"{path.name}, code cell {number}")
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"{path.name}, code cell {number}", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), f"{path.name}, code cell {number}", "eval"), names)
            if value is not None:
                displayed.append(value)
                getattr(value, "_repr_html_", value.__repr__)()
    return names


@pytest.fixture
def displayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A notebook's folder and display; gets what the cells display."""
    values: list[Any] = []
    module, display = ModuleType("IPython"), ModuleType("IPython.display")
    module.__spec__ = SimpleNamespace()  # type: ignore[assignment]
    module.get_ipython = lambda: SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    display.HTML, display.display = str, values.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.chdir(tmp_path)
    return values


def test_each_notebook_has_a_test() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["compare_conditions", "first_clip", "own_classes"]


@needs_faces
def test_first_clip(displayed: list[Any], tmp_path: Path) -> None:
    names = run(FOLDER / "first_clip.ipynb", displayed)
    table = names["timeline"].table
    assert (table["expression"] == "Happiness").mean() > 0.5, "the rendered face smiles"
    assert names["of_bytes"].table.equals(table)
    assert names["of_array"].table["expression"].to_list() == table["expression"].to_list()
    assert len(names["of_picture"].table) == 1
    assert any(isinstance(value, str) and value.startswith("<iframe") for value in displayed), "timeline.show()"
    assert any(isinstance(value, pl.DataFrame) for value in displayed)
    made = {"timeline.csv", "timeline.eaf", "report.html", "clip.mp4"}
    assert made <= {path.name for path in tmp_path.iterdir()}


@needs_faces
def test_compare_conditions(displayed: list[Any], tmp_path: Path) -> None:
    names = run(FOLDER / "compare_conditions.ipynb", displayed)
    contrasts: Mapping[str, Any] = names["contrasts"]
    valence = contrasts["valence"]
    assert valence["difference"] > 0.2, "smiles are more pleasant than pouts"
    assert valence["p"] == pytest.approx(0.25), "the least that three pairs can give, as the text says"
    assert (tmp_path / "comparison.html").is_file()


@needs_faces
def test_own_classes(displayed: list[Any], tmp_path: Path) -> None:
    pytest.importorskip("torch")
    names = run(FOLDER / "own_classes.ipynb", displayed)
    for recording in names["held_out"]:
        labels = names["custom_data"].predict(names["run"], recording)["label"]
        assert labels.mode().to_list() == [recording.clip.id.split("-")[0]], "most moments have the clip's class"
    assert {recording.clip.subject for recording in names["held_out"]} < {f"person{k}" for k in range(3)}
    assert (tmp_path / "run" / "checkpoint.json").is_file()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped_and_links_resolve(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], "strip the outputs: they may hold pictures of people"
            assert cell["execution_count"] is None
    for text in cells(path, "markdown"):
        for target in re.findall(r"\]\(([^)#]+)", text):
            assert target.startswith("https://") or (path.parent / target).is_file(), f"{path.name} links to {target}"


@needs_faces
@pytest.mark.parametrize("name", ["NOTEBOOKS.md", "COMING_FROM.md"])
def test_python_of_the_pages_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import av

    from mien.synthetic.demo_clip import render_expression

    render_expression(tmp_path / "clip.mp4", "smile", seconds=1.0, rate=10)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        next(container.decode(video=0)).to_image().save(tmp_path / "still.png")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    blocks = re.findall(r"^(<!-- not run -->\n)?```python\n(.*?)^```$", text, flags=re.M | re.S)
    own = [body for skipped, body in blocks if not skipped]
    assert len(own) >= 2
    assert all("import mien" in body or "predictor." in body for body in own)
    names: dict[str, Any] = {}
    for body in own:
        exec(compile(body, name, "exec"), names)
    if name == "COMING_FROM.md":
        assert names["faces"][0]["expression"] == "Happiness"
        assert names["same"].table.to_dicts() == names["faces"]
