"""`mien predict --features`: the second table of a rendered clip, its rows, and what later runs do with it."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tiny_checkpoint import save_tiny
from typer.testing import CliRunner

from mien import hub
from mien.cli.main import app
from mien.media.video import write_video
from mien.synthetic.mesh_tracks import simulate_head_pose
from mien.synthetic.puppet import TURN_LIMIT
from mien.synthetic.render import Scene
from mien.synthetic.scenario import draw_scenario

pytestmark = pytest.mark.skipif(
    not (hub.available("blazeface") and hub.available("facemesh")),
    reason="the face networks are not here: mien hub pull blazeface facemesh",
)
SCENARIO = replace(draw_scenario("test", 3, seconds=2.0, seed=50, impairments=False), rate=Fraction(20))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("run") / "tiny")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("media") / "clip.mp4"
    sound = 0.01 * np.random.default_rng(0).standard_normal(32_000).astype(np.float32)
    write_video(path, Scene(SCENARIO).frames(), rate=SCENARIO.rate, audio=sound)
    return path


def predict(media: Path, run: Path, out: Path, *options: str) -> dict[str, Any]:
    """The object that --json prints."""
    words = ("predict", media, "--model", run, "--device", "cpu", "--out", out, "--json", *options)
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    printed: dict[str, Any] = json.loads(result.stdout)
    return printed


def test_features_have_the_rows_of_the_timeline(clip: Path, run: Path, tmp_path: Path) -> None:
    (result,) = predict(clip, run, tmp_path, "--features", "--format", "parquet")["results"]
    assert Path(result["features"]).name == "features.parquet"
    timeline, features = pl.read_parquet(result["timeline"]), pl.read_parquet(result["features"])
    keys = ("time_s", "frame", "subject")
    assert features.select(keys).equals(timeline.select(keys))
    assert "pose_Rx" not in timeline.columns
    truth = TURN_LIMIT * np.tanh(simulate_head_pose(SCENARIO, SCENARIO.times()) / TURN_LIMIT)
    error = features.select("pose_Rx", "pose_Ry", "pose_Rz").to_numpy() - truth * (1, -1, 1)
    assert np.degrees(np.abs(error).mean(axis=0)).max() < 8.0
    assert features["AU45_c"].null_count() == 0
    assert features["level_db"].null_count() == 0


def test_rate_thins_both_tables(clip: Path, run: Path, tmp_path: Path) -> None:
    (result,) = predict(clip, run, tmp_path, "--features", "--rate", "5", "--format", "eaf")["results"]
    timeline, features = pl.read_csv(result["timeline"]), pl.read_csv(result["features"])
    assert len(timeline) == 10
    assert features["time_s"].to_list() == timeline["time_s"].to_list()


def test_a_run_without_features_replaces_one_with_them(clip: Path, run: Path, tmp_path: Path) -> None:
    predict(clip, run, tmp_path, "--features")
    assert predict(clip, run, tmp_path, "--features", "--skip-done")["skipped"]
    (tmp_path / "clip" / "features.csv").unlink()
    assert not predict(clip, run, tmp_path, "--features", "--skip-done")["skipped"]
    (result,) = predict(clip, run, tmp_path)["results"]
    assert any("features=True, which this run replaced; features.csv removed" in note for note in result["notes"])
    assert not (tmp_path / "clip" / "features.csv").exists()


def test_pictures_alone_have_no_voice_and_seldom_read_faces_no_blinks(clip: Path, run: Path, tmp_path: Path) -> None:
    (result,) = predict(clip, run, tmp_path, "--features", "--no-voice", "--face-rate", "5")["results"]
    features = pl.read_csv(result["features"])
    assert features["level_db"].null_count() == features["blinks"].null_count() == len(features)
    assert features["pose_Rx"].null_count() == 0
    assert any("blinks are not counted" in note for note in result["notes"])
    (result,) = predict(clip, run, tmp_path / "heard", "--features", "--no-face")["results"]
    assert pl.read_csv(result["features"])["pose_Rx"].null_count() == len(features)
