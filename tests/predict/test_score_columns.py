"""Scores of action units and mimicry intensity in the Timeline: columns, missing values, files, summary."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from rich.console import Console
from tiny_checkpoint import save_tiny

import mien
from mien import checkpoint
from mien.encode import encode_media
from mien.encoders import face_geometry
from mien.labels import ACTION_UNITS, MIMICRY, SCORE_TASKS, score_columns, score_tasks
from mien.media.video import write_video
from mien.onnx_export import export
from mien.records import Face, Frame
from mien.timeline.table import Timeline
from tests.timeline_rows import rows

UNITS = [name.lower() for name in ACTION_UNITS]
INTENSITIES = ["emi_admiration", "emi_amusement", "emi_determination", "emi_empathic_pain", "emi_excitement", "emi_joy"]
#: Logits that the heads of the test give at every token.
LOGITS = {"au": np.linspace(-3, 3, len(ACTION_UNITS)), "emi": np.linspace(-1, 2, len(MIMICRY))}


class Tracker:
    """One face, out of view in the frames 30 to 59."""

    def __init__(self, **_: object) -> None:
        self.seconds = {"detect": 0.0, "mesh": 0.0}

    def __call__(self, frame: Frame) -> list[Face]:
        rng = np.random.default_rng(frame.index)
        mesh = face_geometry.load_canonical_face()["vertices"] * 60 + [160, 90, 0] + rng.normal(0, 0.3, (468, 3))
        return [] if 30 <= frame.index < 60 else [Face(0, np.array([100.0, 30, 220, 150]), mesh, 0.99)]


def saved(folder: Path, **objective: float) -> Path:
    """A checkpoint whose heads of score tasks give `LOGITS` for every input."""
    loaded = checkpoint.load(save_tiny(folder, objective=objective))
    with torch.no_grad():
        for task, logits in LOGITS.items():
            for name, parameter in loaded.model.named_parameters():
                if f"heads.{task}." in name:
                    parameter.copy_(torch.from_numpy(logits) if name.endswith("bias") else torch.zeros(()))
    return checkpoint.save(folder, loaded.model, loaded.recipe)


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(encode_media, "FaceTracker", Tracker)
    path = tmp_path / "clip.mp4"
    write_video(path, (np.full((180, 320, 3), 90, np.uint8) for _ in range(90)), times=[i / 25 for i in range(90)])
    return path


@pytest.mark.parametrize("onnx", [False, True])
def test_a_checkpoint_of_score_tasks_gives_a_column_for_each_score(onnx: bool, clip: Path, tmp_path: Path) -> None:
    folder = saved(tmp_path / "run", action_units=1.0, mimicry=1.0)
    if onnx:
        export(folder)
    timeline = mien.load(folder, device="cpu").predict(clip)
    assert timeline.scores == ("au", "emi")
    assert timeline.table.columns[-18:] == [*UNITS, *INTENSITIES]
    seen, absent = timeline.table[:30], timeline.table[42:48]  # more than 0.4 s from any face
    for task, logits in LOGITS.items():
        columns = score_columns(task)
        np.testing.assert_allclose(
            seen.select(columns).to_numpy(), np.tile(1 / (1 + np.exp(-logits)), (30, 1)), atol=1e-5
        )
        assert absent.select(columns).null_count().row(0) == (6,) * len(columns)
    assert seen["expression"].null_count() == 0
    (summary,) = timeline.summaries()
    assert summary.scores["au1"] == pytest.approx(1 / (1 + np.exp(3)), abs=1e-5)
    for suffix in (".csv", ".jsonl", ".parquet"):
        read = Timeline.read(timeline.write(tmp_path / f"t{suffix}"))
        assert read.scores == ("au", "emi")
        assert read.table.schema == timeline.table.schema
        np.testing.assert_allclose(
            read.table["emi_joy"].to_numpy(), timeline.table["emi_joy"].to_numpy(), atol=1e-5, equal_nan=True
        )


def test_a_checkpoint_of_score_tasks_alone_has_a_timeline_and_views(clip: Path, tmp_path: Path) -> None:
    folder = saved(tmp_path / "run", expression=0.0, valence_arousal=0.0, action_units=1.0)
    timeline = mien.load(folder, device="cpu").predict(clip)
    assert timeline.scores == ("au",)
    assert timeline.table["expression"].null_count() == len(timeline)
    assert timeline.table["au12"].null_count() < len(timeline)
    assert timeline.table["uncertain"][:30].null_count() == 0, "there is an estimate"
    text = io.StringIO()
    Console(file=text, width=250).print(timeline.summary())
    assert "mean action units" in text.getvalue()
    assert f"AU26 {1 / (1 + np.exp(-3)):.2f}" in text.getvalue()
    assert "no face or voice evidence" not in text.getvalue()
    timeline.report(tmp_path / "report.html")
    timeline.overlay(tmp_path / "overlay.mp4")
    timeline.plot(tmp_path / "plot.svg")


def test_other_checkpoints_have_no_columns_of_scores(clip: Path, tmp_path: Path) -> None:
    timeline = mien.load(save_tiny(tmp_path / "run"), device="cpu").predict(clip)
    assert timeline.scores == ()
    assert timeline.table.columns[-1] == "uncertain"


def test_names_of_columns() -> None:
    assert list(score_columns("au")) == UNITS
    assert list(score_columns("emi")) == INTENSITIES
    names = [name for task in SCORE_TASKS for name in score_columns(task)]
    assert len(names) == len(set(names)) == 25
    assert score_tasks(["time_s", "emi_joy"]) == ("emi",)


def test_a_table_with_some_columns_of_a_task_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lacks the column.*au2"):
        Timeline(rows().with_columns(au1=pl.lit(0.5)))
