"""The base installation: what works without the packages of the extras, and what a command says that needs one.

Packages are hidden from a child process by a finder that raises ModuleNotFoundError, as if they were not installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mien import extras, hub
from mien.errors import ConfigError
from tests.tiny_checkpoint import save_tiny

HIDDEN = sorted({module for modules in extras.MODULES.values() for module in modules} | {"silero_vad", "pandas", "PIL"})
CODE = """
import sys
hidden = {hidden!r}
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hide())
from mien.cli.main import main
sys.argv = ["mien", *{arguments!r}]
main()
"""


def mien(*arguments: str | Path, hidden: list[str] = HIDDEN) -> subprocess.CompletedProcess[str]:
    """Run the command without the hidden packages."""
    code = CODE.format(hidden=hidden, arguments=[str(argument) for argument in arguments])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not all(hub.available(name) for name in hub.NEEDED):
        pytest.skip(f"networks are not here: mien hub pull {' '.join(hub.NEEDED)}")
    from mien.synthetic.demo_clip import render_demo_clip

    path = tmp_path_factory.mktemp("light") / "clip.mp4"
    render_demo_clip(path, seconds=4.0)
    return path


def test_prediction_report_overlay_and_people_need_no_extra(clip: Path, tmp_path: Path) -> None:
    done = mien("predict", clip, "--report", "--overlay", "--format", "parquet", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "clip"
    assert {p.name for p in folder.iterdir()} >= {"timeline.parquet", "report.html", "overlay.mp4"}
    from mien import Timeline

    evidence = set(Timeline.read(folder / "timeline.parquet").table["evidence"])
    assert evidence & {"face", "both"}, "the face was read"
    assert evidence & {"voice", "both"}, "the voice was read, and speech detected"
    compared = mien("people", tmp_path)
    assert compared.returncode == 0, compared.stderr
    assert "person 1" in (tmp_path / "people.csv").read_text(encoding="utf-8")


def test_doctor_lists_each_extra_with_its_command() -> None:
    done = mien("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert not [check for check in checks.values() if check["state"] == "bad" and check["name"] not in hub.NEEDED]
    for extra in extras.MODULES:
        assert checks[extra]["state"] == "note"
        assert f'pip install "mien[{extra}]"' in checks[extra]["detail"]
    assert checks["starter"]["state"] == "ok"


@pytest.mark.parametrize("arguments", [("models",), ("recipes",), ("hub", "list"), ("train", "--help")])
def test_what_only_lists_needs_no_extra(arguments: tuple[str, ...]) -> None:
    done = mien(*arguments)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (("train", "custom_data", "--out", "{tmp}/run"), "train"),
        (("evaluate", "starter", "{tmp}/index.jsonl", "--store", "{tmp}"), "train"),
        (("demo", "{tmp}/demo", "--seconds", "2"), "synthetic"),
        (("export", "{tmp}/run"), "export"),
        (("hub", "pull", "someone/something"), "encoders"),
    ],
)
def test_a_command_names_the_extra_it_lacks(arguments: tuple[str, ...], extra: str, tmp_path: Path) -> None:
    done = mien(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "which is not installed" in done.stderr
    assert f'pip install "mien[{extra}]"' in done.stderr


def test_a_checkpoint_without_an_onnx_network_names_the_extra(clip: Path, tmp_path: Path) -> None:
    run = save_tiny(tmp_path / "run")
    done = mien("predict", clip, "--model", run, "--out", tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "has no ONNX network" in done.stderr
    assert 'pip install "mien[encoders]"' in done.stderr
    assert "mien export" in done.stderr


def test_a_device_of_torch_names_the_extra(clip: Path, tmp_path: Path) -> None:
    done = mien("predict", clip, "--device", "cuda", "--out", tmp_path)
    assert done.returncode == 2
    assert "--device cuda needs the package torch" in done.stderr
    assert 'pip install "mien[encoders]"' in done.stderr


def test_a_module_that_belongs_to_no_extra_is_not_explained_away() -> None:
    done = mien("doctor", hidden=["rich"])
    assert done.returncode == 1
    assert "ModuleNotFoundError: No module named 'rich" in done.stderr


def test_the_extra_that_a_command_prefers_is_named_where_several_bring_a_module() -> None:
    assert extras.extra_of("torch") == "encoders"
    assert extras.extra_of("torch.nn", "train") == "train"
    assert extras.extra_of("scipy.signal", "encoders") == "train"
    assert extras.extra_of("wandb") == ""
    error = extras.missing("skimage", "rendering a face", follows="Nothing was rendered.")
    assert str(error).splitlines() == [
        "rendering a face needs the package skimage, which is not installed",
        "Nothing was rendered.",
        'Run `pip install "mien[synthetic]"`.',
    ]


def test_a_package_that_is_broken_is_told_apart_from_one_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pylsl.py").write_text("raise ImportError('liblsl.so was not found')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pylsl", raising=False)
    with pytest.raises(ConfigError, match=r"LSL needs the package pylsl, which cannot be imported: liblsl\.so"):
        extras.require("pylsl", "LSL")
    monkeypatch.setitem(sys.modules, "pylsl", None)
    with pytest.raises(ConfigError, match=r'is not installed\nNothing was done\.\nRun `pip install "mien\[live\]"`\.'):
        extras.require("pylsl", "LSL")
