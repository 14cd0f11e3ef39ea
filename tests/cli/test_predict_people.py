"""`mien predict --max-faces` and `--no-reid`: faces that are passed over, and people who are seen again after a cut."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
import pytest
from tiny_checkpoint import save_tiny
from typer.testing import CliRunner

from mien import hub
from mien.cli.main import app
from mien.media.video import write_video
from mien.synthetic.render import Scene
from mien.synthetic.scenario import draw_scenario

pytestmark = pytest.mark.skipif(
    not (hub.available("blazeface") and hub.available("facemesh")),
    reason="the face networks are not here: mien hub pull blazeface facemesh",
)
RATE, SIDE = 25, 200


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    """A rendered face, `(SIDE, SIDE, 3)` uint8 RGB."""
    scenario = draw_scenario("test", 0, seconds=1.0, seed=50, impairments=False)
    (picture,) = islice(Scene(scenario).frames(), 1)
    height, width = picture.shape[:2]
    left = (width - height) // 2
    return cv2.resize(picture[:, left : left + height], (SIDE, SIDE), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("run") / "tiny")


def picture(face: np.ndarray, *lefts: int, grey: int = 90) -> np.ndarray:
    """A frame of 640 × 360 with the face at these places."""
    frame = np.full((360, 640, 3), grey, np.uint8)
    for left in lefts:
        frame[80 : 80 + SIDE, left : left + SIDE] = face
    return frame


def predict(media: Path, run: Path, out: Path, *options: str) -> tuple[dict[str, Any], pl.DataFrame]:
    """The result as JSON, and the timeline."""
    words = ("predict", media, "--model", run, "--device", "cpu", "--format", "parquet", "--out", out, "--json")
    result = CliRunner().invoke(app, [*map(str, words), *options])
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    (record,) = json.loads(result.stdout)["results"]
    return record, pl.read_parquet(out / media.stem / "timeline.parquet")


@pytest.mark.parametrize(
    ("limit", "note"),
    [
        (
            1,
            "at least 2 more faces were in the picture at once than --max-faces 1, and passed over; give a larger "
            "--max-faces to read them",
        ),
        (
            2,
            "at least 1 more face was in the picture at once than --max-faces 2, and passed over; give a larger "
            "--max-faces to read them",
        ),
        (3, None),
    ],
)
def test_a_note_says_how_many_faces_were_passed_over(
    limit: int, note: str | None, face: np.ndarray, run: Path, tmp_path: Path
) -> None:
    media = tmp_path / "three.mp4"
    write_video(media, (picture(face, 10, 220, 430) for _ in range(RATE)), rate=RATE)
    record, table = predict(media, run, tmp_path / "out", "--max-faces", str(limit))
    assert table["subject"].n_unique() == limit
    assert [n for n in record["notes"] if "passed over" in n] == ([note] if note else [])
    assert json.loads((tmp_path / "out/three/timeline.json").read_text())["notes"] == record["notes"]


def test_someone_seen_again_after_a_cut_keeps_the_number_unless_no_reid(
    face: np.ndarray, run: Path, tmp_path: Path
) -> None:
    media = tmp_path / "cut.mp4"
    frames = [picture(face, 20)] * RATE + [picture(face, 420, grey=170)] * RATE
    write_video(media, iter(frames), rate=RATE)
    _, table = predict(media, run, tmp_path / "kept")
    assert table["subject"].unique().to_list() == [0]
    assert table["x1"].null_count() == 0
    _, table = predict(media, run, tmp_path / "new", "--no-reid")
    seen = table.filter(pl.col("x1").is_not_null()).group_by("subject").agg(pl.col("frame").max()).sort("subject")
    assert seen["subject"].to_list() == [0, 1]
    assert seen["frame"].to_list() == [RATE - 1, 2 * RATE - 1]
