"""Reader of Hume-Vidmimic2: tables, splits, labels of whole clips, and every problem with its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mien.datasets.index import Index, build_index
from mien.errors import CorpusError
from mien.labels import MIMICRY
from tests.datasets.test_affwild2 import write_clip

HEADER = "Filename,Admiration,Amusement,Determination,Empathic Pain,Excitement,Joy"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(6):
        write_clip(tmp_path / f"videos/{number:05d}.mp4", 6)
    write_clip(tmp_path / "audio/00000.mp4", 6)
    train = ("00000,0.5,0,0,0.25,1,0", "00001.mp4,0,0.333,0,0,0,0.1", "00004,1.5,0,0,0,0,0", "00009,0,0,0,0,0,0")
    (tmp_path / "train_split.csv").write_text("\n".join((HEADER, *train)) + "\n")
    (tmp_path / "valid_split.csv").write_text(f"{HEADER}\n00002,0,0,0,0,0,1\n00000,0,0,0,0,0,1\n")
    (tmp_path / "test_split.csv").write_text("Filename\n00003\n")
    return tmp_path


def test_clips_have_the_splits_and_intensities_of_the_tables(root: Path) -> None:
    index = build_index("vidmimic2", root)
    assert {e.id: e.splits["emi"] for e in index.entries} == {
        "00000": "train", "00001": "train", "00004": "train", "00002": "val", "00003": "test",
    }  # fmt: skip
    assert index.tasks == ("emi",)
    assert index.task_of(expression=False, scores=["au", "emi"]) == "emi"
    index.save(root / "index.jsonl")
    clips = {c.id: c for c in Index.load(root / "index.jsonl").clips("emi")}
    labels = clips["00000"].labels
    assert labels is not None
    assert labels.scores["emi"].shape == (len(labels.times), len(MIMICRY))
    np.testing.assert_array_equal(labels.scores["emi"][-1], [0.5, 0, 0, 0.25, 1, 0])
    assert (labels.expression == -1).all()
    assert np.isnan(labels.valence_arousal).all()
    assert [clips[name].labels for name in ("00003", "00004")] == [None, None], "a test clip, and a value above 1"
    assert [c.id for c in index.clips("emi", "test")] == ["00003"]


def test_problems_name_their_line(root: Path) -> None:
    found = {(p.kind, p.file, p.line) for p in build_index("vidmimic2", root).problems}
    assert found == {
        ("bad label", "train_split.csv", 4),
        ("no recording", "train_split.csv", 5),
        ("listed twice", "valid_split.csv", 3),
    }


def test_a_root_without_tables_and_a_table_without_names_are_errors(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="holds no table of Hume-Vidmimic2"):
        build_index("vidmimic2", tmp_path)
    (tmp_path / "train_split.csv").write_text("video,Joy\na,1\n")
    with pytest.raises(CorpusError, match="has no column 'Filename'; its header is video, Joy"):
        build_index("vidmimic2", tmp_path)
