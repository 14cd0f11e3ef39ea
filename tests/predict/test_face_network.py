"""Prediction with a pretrained face network on real clips."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import mien
from mien.errors import ArtefactError, ConfigError
from mien.media.mp4_writer import write_video
from mien.predict import Predictor, face_network
from mien.predict.face_with_voice import VOICE_WEIGHT


@pytest.fixture(scope="module")
def fer(shared: Path) -> Iterator[Predictor]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIEN_HUB", str(shared / "hub"))
        yield mien.load("fer")


def test_a_smile_is_predicted_as_happiness(fer: Predictor, shared: Path) -> None:
    timeline = fer.predict(shared / "clips" / "single_face.mp4")
    table = timeline.table
    assert len(table) == 72
    assert (table["expression"][20:64] == "Happiness").mean() > 0.95
    assert (table["evidence"] == "face").all()
    assert table["valence"].null_count() == len(table), "the network predicts no valence"
    assert timeline.info["model"] == "fer"
    assert isinstance(fer, mien.Predictor)


def test_a_talking_face_has_a_prediction_in_every_frame(fer: Predictor, shared: Path) -> None:
    table = fer.predict(shared / "clips" / "bbaf2n.mpg", voice=False).table
    assert len(table) == 75
    seen = table.filter(pl.col("evidence") == "face")
    assert len(seen) >= 0.95 * 75
    p = seen.select(pl.col("^p_.*$")).to_numpy()
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-4)
    assert (seen["p_other"] == 0).all(), "a class that the network lacks"


def test_outputs_are_averaged_over_a_third_of_a_second(fer: Predictor, shared: Path) -> None:
    """Compared with the network run frame by frame."""
    from mien.encoders.onnx_face import OnnxFace
    from mien.faces.align import align
    from mien.faces.tracker import FaceTracker
    from mien.media.video import frames

    tracker, network = FaceTracker(max_faces=4), OnnxFace("fer")
    crops, times = [], []
    for frame in frames(shared / "clips" / "single_face.mp4"):
        face = tracker(frame)[0]
        crops.append(align(frame.image, face.mesh, network.crop.size, network.crop.margin or 0.0))
        times.append(frame.time_s)
    outputs, at = network.predict(np.stack(crops))[0], np.array(times)
    near = np.abs(at[:, None] - at) <= face_network.SMOOTH_S / 2 + 1e-9
    expected = near @ outputs / near.sum(axis=1, keepdims=True)
    found = fer.predict(shared / "clips" / "single_face.mp4").table.select(pl.col("^p_.*$")).to_numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_without_a_face_nothing_is_predicted(fer: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "grey.mp4"
    write_video(path, (np.full((120, 160, 3), 90, np.uint8) for _ in range(10)), rate=25)
    timeline = fer.predict(path)
    assert timeline.table["expression"].null_count() == len(timeline) == 10
    assert any("no face was detected" in note for note in timeline.notes)


def test_the_voice_is_that_of_the_starter(fer: Predictor, shared: Path) -> None:
    """Where there are both, the prediction is the weighted product; alone, the voice is the starter's voice network."""
    path = shared / "clips" / "bbaf2n.mpg"
    both, face, voice = fer.predict(path), fer.predict(path, voice=False), fer.predict(path, face=False)
    assert any("the voice is that of the starter, with weight" in note for note in both.notes)
    assert not any("starter" in note for note in face.notes)
    p, p_face, p_voice = (t.table.select(pl.col("^p_.*$")).to_numpy() for t in (both, face, voice))
    rows = (both.table["evidence"] == "both").to_numpy()
    assert rows.sum() > 20
    product = p_face[rows] * np.maximum(p_voice[rows], 1e-4) ** VOICE_WEIGHT
    np.testing.assert_allclose(p[rows], product / product.sum(axis=1, keepdims=True), atol=1e-2)
    stage = mien.load(Path(mien.__file__).parent / "starter" / "stages" / "voice_expression").predict(path, face=False)
    spoken = (voice.table["evidence"] == "voice").to_numpy()
    np.testing.assert_allclose(p_voice[spoken], stage.table.select(pl.col("^p_.*$")).to_numpy()[spoken], atol=1e-4)


def test_a_sound_file_is_predicted_from_the_voice(fer: Predictor, shared: Path) -> None:
    timeline = fer.predict(sorted((shared / "emodb").glob("*.wav"))[0])
    assert timeline.table["expression"].null_count() < len(timeline) / 2
    assert set(timeline.table["evidence"]) <= {"voice", "none"}


def test_a_missing_network_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIEN_HUB", str(tmp_path))
    monkeypatch.setenv("MIEN_OFFLINE", "1")
    with pytest.raises((ArtefactError, ConfigError), match=r"fer"):
        mien.load("fer")
    with pytest.raises((ArtefactError, ConfigError), match=r"no-such"):
        mien.load(str(tmp_path / "no-such.onnx"))
