"""Somebody else's face network on real clips, through mien's own reading of frames and people."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

import mien
from mien.errors import ArtefactError, ConfigError, MediaError
from mien.media.mp4_writer import write_video
from mien.predict import pretrained_face
from mien.predict.pretrained_face import PretrainedFacePredictor


@pytest.fixture(scope="module")
def fer(shared: Path) -> PretrainedFacePredictor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIEN_HUB", str(shared / "hub"))
        return pretrained_face.load("fer")


def test_a_smile_is_happiness(fer: PretrainedFacePredictor, shared: Path) -> None:
    timeline = fer.predict(shared / "clips" / "single_face.mp4")
    table = timeline.table
    assert len(table) == 72
    assert (table["expression"][20:64] == "Happiness").mean() > 0.95
    assert (table["evidence"] == "face").all()
    assert table["valence"].null_count() == len(table), "this network has none"
    assert any("sound was not used" in note for note in timeline.notes)
    assert timeline.info["model"] == "fer"


def test_talking_faces_have_a_row_a_frame(fer: PretrainedFacePredictor, shared: Path) -> None:
    table = fer.predict(shared / "clips" / "bbaf2n.mpg", voice=False).table
    assert len(table) == 75
    seen = table.filter(pl.col("evidence") == "face")
    assert len(seen) >= 0.95 * 75
    p = seen.select(pl.col("^p_.*$")).to_numpy()
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-4)
    assert (seen["p_other"] == 0).all(), "a class that the network does not know"


def test_what_one_frame_says_is_averaged_over_a_third_of_a_second(fer: PretrainedFacePredictor, shared: Path) -> None:
    """Against the network asked frame by frame, by hand."""
    from mien.faces.align import align
    from mien.faces.tracker import FaceTracker
    from mien.media.video import frames

    reader, network = FaceTracker(max_faces=4), fer.network
    crops, times = [], []
    for frame in frames(shared / "clips" / "single_face.mp4"):
        face = reader(frame)[0]
        crops.append(align(frame.image, face.mesh, network.crop.size, network.crop.margin or 0.0))
        times.append(frame.time_s)
    said, at = network.predict(np.stack(crops))[0], np.array(times)
    near = np.abs(at[:, None] - at) <= pretrained_face.SMOOTH_S / 2 + 1e-9
    expected = near @ said / near.sum(axis=1, keepdims=True)
    found = fer.predict(shared / "clips" / "single_face.mp4").table.select(pl.col("^p_.*$")).to_numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_nobody_seen_says_nothing(fer: PretrainedFacePredictor, tmp_path: Path) -> None:
    path = tmp_path / "grey.mp4"
    write_video(path, (np.full((120, 160, 3), 90, np.uint8) for _ in range(10)), rate=25)
    timeline = fer.predict(path)
    assert timeline.table["expression"].null_count() == len(timeline) == 10
    assert "no face was seen: nothing can be said" in timeline.notes


def test_what_it_cannot_do_is_said(fer: PretrainedFacePredictor, shared: Path) -> None:
    with pytest.raises(ConfigError, match=r"'fer' reads faces only, and --no-face"):
        fer.predict(shared / "clips" / "single_face.mp4", face=False)
    with pytest.raises(MediaError, match=r"has sound only, and the model 'fer' reads faces"):
        fer.predict(next((shared / "emodb").glob("*.wav")))


def test_a_network_that_is_not_here_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIEN_HUB", str(tmp_path))
    monkeypatch.setenv("MIEN_OFFLINE", "1")
    with pytest.raises((ArtefactError, ConfigError), match=r"fer"):
        mien.load("fer")
    with pytest.raises((ArtefactError, ConfigError), match=r"no-such"):
        mien.load(str(tmp_path / "no-such.onnx"))
