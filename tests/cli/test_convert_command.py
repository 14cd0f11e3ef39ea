"""`mien convert` and the annotation formats of `mien predict`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pympi
import pytest
from tiny_checkpoint import save_tiny
from typer.testing import CliRunner, Result

from mien.cli.main import app
from mien.cli.predict_jobs import Format
from mien.media.video import write_video
from mien.timeline.formats import FORMATS
from mien.timeline.table import Timeline
from tests.timeline_rows import rows


def mien(*words: object) -> Result:
    return CliRunner().invoke(app, [str(w) for w in words])


def test_every_annotation_format_is_a_format_of_predict() -> None:
    assert {f.value for f in Format if f.annotations_name} == set(FORMATS)


def test_predict_writes_annotations_beside_the_table(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "tiny")
    hum = (0.01 * np.sin(np.arange(9600) / 50)).astype(np.float32)
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        pictures = (np.full((48, 64, 3), 90, np.uint8) for _ in range(15))
        write_video(tmp_path / "in" / f"{name}.mp4", pictures, times=[i / 25 for i in range(15)], audio=hum)
    words = ("predict", tmp_path / "in", "--model", model, "--out", tmp_path / "out", "--no-face", "--device", "cpu")
    done = mien(*words, "--format", "eaf", "--skip-done")
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in (tmp_path / "out" / "a").iterdir()) == [
        "timeline.csv",
        "timeline.eaf",
        "timeline.json",
    ]
    assert pympi.Eaf(str(tmp_path / "out" / "a" / "timeline.eaf")).get_linked_files()
    assert (tmp_path / "out" / "timelines.csv").is_file()
    assert mien("convert", tmp_path / "out" / "a" / "timeline.csv", tmp_path / "again.eaf").exit_code == 0
    (link,) = pympi.Eaf(str(tmp_path / "again.eaf")).get_linked_files()
    assert link["MEDIA_URL"].endswith("/in/a.mp4"), "the recording is named by timeline.json"
    assert "2 inputs skipped" in mien(*words, "--format", "eaf", "--skip-done").stdout
    (tmp_path / "out" / "a" / "timeline.eaf").unlink()
    assert "1 input skipped" in mien(*words, "--format", "eaf", "--skip-done").stdout, "a missing file is made again"


def test_convert_goes_both_ways(tmp_path: Path) -> None:
    timeline = Timeline(rows())
    timeline.write(tmp_path / "t.csv")
    done = mien("convert", tmp_path / "t.csv", tmp_path / "t.TextGrid")
    assert done.exit_code == 0, done.output
    assert "1 person, 40 rows" in done.stdout
    assert mien("convert", tmp_path / "t.TextGrid", tmp_path / "back.parquet").exit_code == 0
    back = Timeline.read(tmp_path / "back.parquet")
    assert back.table["expression"].to_list() == timeline.table["expression"].to_list()
    assert mien("convert", tmp_path / "t.TextGrid", tmp_path / "slow.csv", "--rate", "5").exit_code == 0
    assert len(Timeline.read(tmp_path / "slow.csv")) == 8


@pytest.mark.parametrize(
    ("words", "message"),
    [(("t.csv", "t.docx"), "cannot be written as .docx"), (("none.eaf", "t.csv"), "there is no such file")],
)
def test_convert_says_what_failed(words: tuple[str, str], message: str, tmp_path: Path) -> None:
    Timeline(rows()).write(tmp_path / "t.csv")
    done = mien("convert", tmp_path / words[0], tmp_path / words[1])
    assert done.exit_code == 1
    assert message in done.stderr.replace("\n", " ")
