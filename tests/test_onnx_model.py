"""The network without torch: the same numbers as in torch, whatever is missing, and never a stale one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from mien import checkpoint, ensemble_folder, hub, onnx_export, onnx_graph, onnx_model
from mien.encoders import face_geometry
from mien.encoders.voice_prosody import ProsodyExtractor
from mien.errors import ConfigError, OutputError
from mien.records import Stream
from tests.earlier_version import without_digests
from tests.tiny_checkpoint import save_tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = save_tiny(tmp_path_factory.mktemp("portable") / "run")
    onnx_export.export(made)
    return made


def loaded(folder: Path) -> onnx_model.OnnxModel:
    found = onnx_model.load(folder, json.loads((folder / checkpoint.ABOUT).read_text())["sha256"])
    assert found is not None
    return found


def stream(dim: int, seconds: float, rate: float, share: float, seed: int) -> Stream:
    rng = np.random.default_rng(seed)
    times = np.arange(0, seconds, 1 / rate)
    return Stream(rng.normal(size=(len(times), dim)).astype(np.float32) * 3, times, rng.random(len(times)) < share)


@pytest.mark.parametrize("seconds", [0.05, 1.3, 2.0, 17.2])
@pytest.mark.parametrize(("face_share", "voice_share"), [(1.0, 1.0), (0.4, 0.5), (0.0, 0.7), (0.6, None), (None, 1.0)])
def test_the_numbers_are_those_of_torch(
    folder: Path, seconds: float, face_share: float | None, voice_share: float | None
) -> None:
    streams = {}
    if face_share is not None:
        streams["face"] = stream(face_geometry.DIM, seconds, 30, face_share, 1)
    if voice_share is not None:
        streams["voice"] = stream(ProsodyExtractor.DIM, seconds, 25, voice_share, 2)
    ours = loaded(folder).predict_streams(streams, 0.0, seconds, batch=5)
    theirs = checkpoint.load(folder).predict_streams(streams, 0.0, seconds)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert np.isfinite(ours[1]).any() == any(s.valid.any() for s in streams.values())


def test_the_file_names_no_path_and_is_the_same_wherever_it_is_written(folder: Path, tmp_path: Path) -> None:
    here = (folder / onnx_model.NETWORK).read_bytes()
    for place in (sys.prefix, str(Path(checkpoint.__file__).parent), str(Path.home()) + "/"):
        assert place.encode() not in here, place
    assert b"stack_trace" not in here
    assert onnx_export.export(folder, out=tmp_path / "again").read_bytes() == here


def test_what_stands_at_invalid_places_changes_nothing(folder: Path) -> None:
    seen = stream(face_geometry.DIM, 5.0, 30, 0.5, 3)
    spoilt = Stream(np.where(seen.valid[:, None], seen.values, np.float32(1e6)), seen.times, seen.valid)
    network = loaded(folder)
    assert np.array_equal(
        network.predict_streams({"face": seen}, 0, 5)[1], network.predict_streams({"face": spoilt}, 0, 5)[1]
    )


def test_predicting_imports_no_torch(folder: Path) -> None:
    code = (
        "import sys, mien\n"
        f"model = mien.load({str(folder)!r}).model.network\n"
        "assert type(model).__name__ == 'OnnxModel', model\n"
        "print([m for m in ('torch', 'scipy', 'pydantic', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_predicting_a_picture_with_the_starter_imports_no_module_that_it_does_not_need(tmp_path: Path) -> None:
    if not all(hub.available(name) for name in hub.NEEDED):
        pytest.skip(f"networks are not here: mien hub pull {' '.join(hub.NEEDED)}")
    picture = tmp_path / "grey.png"
    cv2.imwrite(str(picture), np.full((64, 64, 3), 128, np.uint8))
    code = (
        "import sys, mien\n"
        f"mien.load('starter').predict({str(picture)!r})\n"
        "heavy = ('torch', 'scipy', 'pydantic', 'yaml', 'transformers', 'rich', 'typer', 'requests')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_mien_imports_nothing_outside_the_standard_library() -> None:
    code = (
        "import sys, mien\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'numpy', 'polars', 'av', 'cv2', 'onnxruntime'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_ensemble_of_exported_networks_imports_no_torch(folder: Path, tmp_path: Path) -> None:
    both = ensemble_folder.write(tmp_path / "both", [folder, folder])
    code = (
        "import sys, mien\n"
        f"predictor = mien.load({str(both)!r})\n"
        "assert sorted(predictor._features) == ['0.face', '0.voice', '1.face', '1.voice']\n"
        "assert [type(m.network).__name__ for m in predictor.model.members] == ['OnnxModel'] * 2\n"
        "print([m for m in ('torch', 'scipy', 'pydantic', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_other_weights_make_it_stale_and_it_is_not_used(folder: Path) -> None:
    assert onnx_model.load(folder, "0" * 64) is None
    assert onnx_model.load(folder / "nowhere", "0" * 64) is None


def test_a_damaged_network_is_refused(folder: Path, tmp_path: Path) -> None:
    for name in (onnx_model.NETWORK, onnx_model.ABOUT, checkpoint.ABOUT):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    without_digests(tmp_path)
    data = (folder / onnx_model.NETWORK).read_bytes()
    (tmp_path / onnx_model.NETWORK).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ConfigError, match=r"network.onnx is not the file that network.json describes"):
        loaded(tmp_path)


def test_where_it_cannot_be_written_is_said(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").write_text("")
    exported = onnx.load(folder / onnx_model.NETWORK)  # instead of exporting it once more
    monkeypatch.setattr(onnx_graph, "to_onnx", lambda *_, **__: exported)
    with pytest.raises(OutputError, match=r"network.onnx cannot be written"):
        onnx_export.export(folder, out=tmp_path / "taken")


def test_the_shipped_network_is_made_of_the_shipped_weights() -> None:
    starter = Path(onnx_model.__file__).with_name("starter")
    network = loaded(starter)
    assert network.settings == checkpoint.load("starter").settings
